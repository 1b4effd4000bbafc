"""What holds for every request: it is measured, it is not too large, its answer is not stored."""

from __future__ import annotations

import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipway.api.metrics import Metrics
from slipway.api.problems import problem_response

#: The largest body that is read. Nothing we take is nearly as large.
MAX_BODY_BYTES = 1024 * 1024


class Measured:
    """Counts and times requests by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def measured(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The path as it was declared: what people put into it would be labels without end.
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if route != "none" else "any"
                self._metrics.requests.labels(method, route, message["status"]).inc()
                taken_s = time.perf_counter() - began
                self._metrics.seconds.labels(method, route).observe(taken_s)
            await send(message)

        await self._app(scope, receive, measured)


class Bounded:
    """Refuses bodies that are too large, and keeps answers out of caches."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Cache-Control", "no-store")
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length) > MAX_BODY_BYTES:
            refusal = problem_response(413, "too-large", _too_large())
            await refusal(scope, receive, guarded)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > MAX_BODY_BYTES:
                    raise HTTPException(413, _too_large())
            return message

        await self._app(scope, counted, guarded)


def _too_large() -> str:
    return f"a body has {MAX_BODY_BYTES} bytes at most"
