"""The HTTP API: `slipway.api.app.create_app` makes the application."""
