"""Bringing servers up and taking them down: everything but the engine that drives it."""
