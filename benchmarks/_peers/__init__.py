"""The libraries compared: one module each, with a `Peer` that traces the same turn. Only its own process imports it."""
