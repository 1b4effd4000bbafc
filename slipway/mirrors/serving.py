"""Sending files without reading them: uvicorn with ASGI's zero-copy send.

The system copies a file to the socket itself (``sendfile``), which takes a fraction of the time of
reading it here. The extension is ``http.response.zerocopysend`` of
https://asgi.readthedocs.io/en/latest/extensions.html; uvicorn does not have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        opened = transport.get_extra_info("socket")
        if opened is not None and opened.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does it for sockets that name their protocol, which those given to the server
            # from outside do not; the body would wait 40 ms for the head to be acknowledged.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
        #: The head, until it is known what follows.
        self._head: Message | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_files(message: Message) -> None:
            head, self._head = self._head, None
            if message["type"] == "http.response.start":
                self._head = message
            elif message["type"] == ZERO_COPY:
                await self._file(head, message, send)
            elif head is None:
                await send(message)
            else:
                await self._together(head, message, send)

        scope["extensions"] = {**scope.get("extensions", {}), ZERO_COPY: {}}
        await self._app(scope, receive, with_files)
        if self._head is not None:
            await send(self._head)

    async def _together(self, head: Message, body: Message, send: Send) -> None:
        """A head and what follows it at once, in one write: that is most of what a small answer
        costs."""
        cycle, transport = self._cycle, self._cycle.transport
        if transport.is_closing():
            await send(head)
            await send(body)
            return
        joined = _Joined()
        cycle.transport = joined  # type: ignore[assignment]
        try:
            await send(head)
            await send(body)
        finally:
            cycle.transport = transport
            transport.write(b"".join(joined.parts))
            if joined.closed:
                transport.close()

    async def _file(self, head: Message | None, message: Message, send: Send) -> None:
        with self._corked():
            if head is not None:
                await send(head)
            await self._send_file(message["file"], message["offset"], message["count"])
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": b"", "more_body": more})

    async def _send_file(self, file: BinaryIO, offset: int, count: int) -> None:
        protocol, cycle = self._protocol, self._cycle
        if cycle.disconnected or protocol.transport.is_closing():
            return
        try:
            sent = self._send_at_once(file, offset, count)
            if sent < count:
                sent += await protocol.loop.sendfile(
                    protocol.transport, file, offset + sent, count - sent, fallback=True
                )
        except ConnectionError:
            # Whoever asked went away, as clients do that found what they were looking for.
            cycle.disconnected = True
            protocol.transport.abort()
            return
        if sent != count:
            raise OSError(f"{file.name} ended after {offset + sent} bytes")
        cycle.expected_content_length -= sent

    def _send_at_once(self, file: BinaryIO, offset: int, count: int) -> int:
        """As much as the socket takes without waiting, which is all of most files; to have the loop
        do it takes several rounds of it."""
        transport = self._protocol.transport
        opened = transport.get_extra_info("socket")
        if opened is None or transport.get_write_buffer_size() or not hasattr(os, "sendfile"):
            return 0
        try:
            return os.sendfile(opened.fileno(), file.fileno(), offset, count)
        except BlockingIOError:
            return 0

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


class _Joined:
    """Takes a transport's place for one answer, and keeps what is written."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True
