"""Slipway builds and launches servers: what is true without Prefect."""

__version__ = "0.1.0"
