"""Where Slipway runs: the command line's wiring, the runner process, Prefect's server."""
