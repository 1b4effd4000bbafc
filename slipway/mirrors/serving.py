"""Sending files without reading them: uvicorn with ASGI's zero-copy send.

The system copies a file to the socket itself (``sendfile``), which takes a fraction of the time of
reading it here. The extension is ``http.response.zerocopysend`` of
https://asgi.readthedocs.io/en/latest/extensions.html; uvicorn does not have it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: The name of the extension, in a scope and as the type of a message.
ZERO_COPY = "http.response.zerocopysend"
#: Holds a socket's packets back until they are full or it is let go (Linux).
_CORK: int | None = getattr(socket, "TCP_CORK", None)


class FileProtocol(HttpToolsProtocol):
    """What ``http`` of a `uvicorn.Config` is to be for applications that send files."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Through TLS every byte has to pass by here.
        if self.scheme == "http":
            app = _WithFiles(app, self, cycle)
        super()._start_asgi_task(cycle, app)


class _WithFiles:
    """An application for one request, which may send files."""

    def __init__(self, app: ASGIApp, protocol: FileProtocol, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._protocol = protocol
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None

        async def with_files(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                # Until it is known whether a file follows.
                start = message
                return
            if message["type"] != ZERO_COPY:
                if start is not None:
                    await send(start)
                    start = None
                await send(message)
                return
            with self._corked():
                if start is not None:
                    await send(start)
                    start = None
                await self._send_file(message["file"], message["offset"], message["count"])
                more = message.get("more_body", False)
                await send({"type": "http.response.body", "body": b"", "more_body": more})

        scope["extensions"] = {**scope.get("extensions", {}), ZERO_COPY: {}}
        await self._app(scope, receive, with_files)
        if start is not None:
            await send(start)

    async def _send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        protocol, cycle = self._protocol, self._cycle
        if cycle.disconnected or protocol.transport.is_closing():
            return
        try:
            sent = await protocol.loop.sendfile(
                protocol.transport, file, offset, count, fallback=True
            )
        except ConnectionError:
            # Whoever asked went away, as clients do that found what they were looking for.
            cycle.disconnected = True
            protocol.transport.abort()
            return
        if sent != count:
            raise OSError(f"{file.name} ended after {offset + sent} bytes")
        cycle.expected_content_length -= sent

    @contextlib.contextmanager
    def _corked(self) -> Iterator[None]:
        """Put the head and the beginning of the file into one packet."""
        opened = self._protocol.transport.get_extra_info("socket")
        if _CORK is None or opened is None or opened.family == socket.AF_UNIX:
            yield
            return
        opened.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                # It may be closed by now.
                opened.setsockopt(socket.IPPROTO_TCP, _CORK, 0)
