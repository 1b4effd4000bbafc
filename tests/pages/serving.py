"""The API on a port of loopback, for a browser, with the flows run in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from flows.bringing_up import bring_up
from flows.decommission_server import decommission_server
from flows.run_operational_script import run_operational_script
from slipway.launches.operations import OperationRequest
from slipway.launches.requests import find_by_key
from slipway.launches.services import Services
from tasks.services import use_services
from tests.engine import no_engine

DEADLINE_S = 60.0


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve the application inside the block; answers its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="api")
        thread.start()
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not server.started:
                assert time.monotonic() < deadline, "the API never answered"
                assert thread.is_alive(), "the API did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)


class HereAndNow:
    """Runs flows in a thread of this process, without Prefect."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="flows")
        self._started: set[str] = set()

    def start(
        self,
        flow: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str,
        tags: Sequence[str] = (),  # noqa: ARG002 - the port has it
    ) -> str:
        """See `FlowStarter`."""
        if idempotency_key not in self._started:
            self._started.add(idempotency_key)
            asyncio.run_coroutine_threadsafe(self._flow(flow, parameters), self._loop)
        return idempotency_key

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Take flows inside the block, and wait for their end behind it."""
        self._thread.start()
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(self._rest(), self._loop).result(DEADLINE_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(DEADLINE_S)
            self._loop.close()

    def _run(self) -> None:
        with use_services(self._services), no_engine():
            self._loop.run_forever()

    async def _rest(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    def _flow(self, flow: str, parameters: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        if flow == "launch_server":
            launch = find_by_key(self._services, parameters["request"]["key"])
            assert launch is not None
            return bring_up(launch.id)
        if flow == "resume_launch":
            return bring_up(parameters["launch"], reopen_cancelled=True)
        if flow == "decommission_server":
            return decommission_server.fn(parameters["server"], parameters["reason"])
        assert flow == "run_operational_script", flow
        return run_operational_script.fn(OperationRequest(**parameters["request"]))
