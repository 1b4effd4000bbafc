"""A load balancer of the simplest kind: a new connection goes to the next server that takes it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType


class Forwarder:
    """Listens on a port of loopback and passes connections on to other ports of loopback, in turn.

    One that refuses is left out for that connection. A connection whose server dies is closed; it
    is its client that comes again. Stands in for the proxy that production has there.
    """

    def __init__(self, upstreams: Sequence[int]) -> None:
        self._upstreams = list(upstreams)
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="forwarder")
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._is_cut = False
        #: Where it listens, once it is entered.
        self.port = 0

    def __enter__(self) -> Forwarder:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Inside the block nobody gets through, and whoever was connected is cut off."""
        self._is_cut = True
        asyncio.run_coroutine_threadsafe(self._cut_off(), self._loop).result()
        try:
            yield
        finally:
            self._is_cut = False

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._taken, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        assert self._server is not None, "it listens"
        self._server.close()
        await self._cut_off()
        # The transports close in the loop's next turn.
        await asyncio.sleep(0)

    async def _cut_off(self) -> None:
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "the server runs it in one"
        self._connections.add(task)
        try:
            # Cancelled by `_cut_off` alone, which waits for it; asyncio would report it otherwise.
            with contextlib.suppress(asyncio.CancelledError):
                await self._pass_on(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            return
        first = next(self._turn)
        for number in range(len(self._upstreams)):
            port = self._upstreams[(first + number) % len(self._upstreams)]
            try:
                from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            try:
                ways = [
                    asyncio.create_task(_copy(reader, to_server)),
                    asyncio.create_task(_copy(from_server, writer)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
            finally:
                to_server.close()
            return


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
