"""The dashboard: pages for people, rendered here, in the API's process.

`install` adds them to the application. A module for each area has its routes; `queries`
asks the records, `web` and `sessions` say who may see what, `output` makes what strangers wrote fit
to be shown, `live` keeps open pages up to date.
"""

from slipway.api.pages.router import install, pages_router

__all__ = ["install", "pages_router"]
