"""The application: which routes there are, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

import slipway
from slipway.api import agent_routes, health, problems, servers
from slipway.api.state import ApiState
from slipway.launches.engine import FlowStarter
from slipway.launches.services import Services

DESCRIPTION = """\
Builds and launches servers, with every step on record.

Lists carry full detail. A creation answers with the resource and its id at once; its state is a
field of it. Everything that changes something takes an `Idempotency-Key`. Errors are problem
details (RFC 9457).
"""


def create_app(
    services: Services, starter: FlowStarter, *, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """The API on these services. ``starter`` is who runs the flows; ``routers`` are further routes
    that the same process serves."""
    app = FastAPI(
        title="Slipway",
        version=slipway.__version__,
        description=DESCRIPTION,
        # Their pages load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.slipway = ApiState(services=services, starter=starter)
    problems.install(app)
    for router in (health.router, servers.router, agent_routes.router, *routers):
        app.include_router(router)
    return app
