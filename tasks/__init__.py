"""One step each, as Prefect tasks: retried, timed out and seen in the UI. The steps themselves are
in `slipway`."""
