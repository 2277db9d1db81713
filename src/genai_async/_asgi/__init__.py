"""The middleware's parts: where the id comes from, what a request and a connection are made of."""
