"""What tracing costs: `python -m benchmarks.compare`, `.parts` and `.scale`."""
