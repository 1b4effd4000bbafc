"""The real API on a real port, to be stopped and started again."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import uvicorn

from slipway.api.app import create_app
from slipway.clock import SystemClock
from slipway.launches.services import Services
from tests.api.world import FakeStarter
from tests.remote.waiting import until


class JumpingClock(SystemClock):
    """The clock of this machine, until a test lets time pass."""

    def __init__(self) -> None:
        self._passed_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._passed_s)

    def monotonic(self) -> float:
        return super().monotonic() + self._passed_s

    def jump(self, seconds: float) -> None:
        """So much time has passed, for everybody who asks this clock."""
        self._passed_s += seconds


@dataclass
class Api:
    """One API server of a test."""

    services: Services
    port: int
    _server: uvicorn.Server | None = None
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Serve, on the same port as before."""
        # By name, or asyncio does not see that it is TCP and leaves Nagle's delay switched on.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        config = uvicorn.Config(
            create_app(self.services, FakeStarter()),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = self._server = uvicorn.Server(config)
        # Outside the main thread it leaves signals alone.
        self._thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        until(lambda: server.started, "the API serves")

    def stop(self) -> None:
        """Break every connection and end."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._server = self._thread = None
