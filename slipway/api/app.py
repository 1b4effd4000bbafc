"""The application: which routes there are, and what holds for all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import APIRouter, Depends, FastAPI

import slipway
from slipway.api import (
    agent_routes,
    audits,
    clouds,
    environments,
    events,
    health,
    launches,
    metrics,
    mirrors,
    openapi,
    pages,
    problems,
    secrets,
    servers,
    templates,
)
from slipway.api.background import Background
from slipway.api.feed import Feed
from slipway.api.metrics import Metrics
from slipway.api.middleware import Bounded, Measured
from slipway.api.state import ApiState
from slipway.api.words import known_query
from slipway.launches.engine import FlowStarter
from slipway.launches.services import Services
from slipway.mirrors.asgi import PREFIX, MirrorSite

#: Handlers run in this many threads, each with at most one database connection: fewer than there
#: are connections, so that background work always finds one.
THREADS = 24

ROUTERS = (
    health.router,
    metrics.router,
    servers.router,
    launches.router,
    environments.router,
    templates.router,
    audits.router,
    events.router,
    clouds.router,
    mirrors.router,
    secrets.router,
)


def let_go(app: FastAPI) -> None:
    """Answer everybody who only waits for news: the process is about to stop, and would wait for
    them. To be called in the event loop."""
    state: ApiState = app.state.slipway
    state.feed.close()
    agent_routes.let_go()


def create_app(
    services: Services, starter: FlowStarter, *, routers: Sequence[APIRouter] = ()
) -> FastAPI:
    """The API on these services. ``starter`` is who runs the flows; ``routers`` are further routes
    that the same process serves. Its background work runs between start-up and shutdown."""
    background = Background(services, starter)
    feed = Feed(services.database)
    measurements = Metrics(services, feed)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        async with background.running():
            yield

    app = FastAPI(
        title="Slipway",
        version=slipway.__version__,
        # Their pages load scripts from elsewhere; the document itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.slipway = ApiState(
        services=services,
        feed=feed,
        metrics=measurements,
        hand_over_soon=background.hand_over_soon,
    )
    problems.install(app)
    app.add_middleware(Bounded)
    app.add_middleware(Measured, metrics=measurements)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(known_query)])
    for router in (agent_routes.router, *routers):
        app.include_router(router)
    app.mount(PREFIX, MirrorSite(services.mirror.site()))
    openapi.install(app)
    pages.install(app)
    return app
