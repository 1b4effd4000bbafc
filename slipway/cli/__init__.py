"""The command line. It is wired to an engine from outside: see `slipway.cli.wiring`."""

from slipway.cli.main import app

__all__ = ["app"]
