"""An agent in this process, in a directory of its own, and the real API without a network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from slipway.agent import slipway_agent
from slipway.agent.slipway_agent import Agent, Folder, Refused
from slipway.api.app import create_app
from slipway.clock import Clock
from slipway.database import Database
from slipway.launches.services import Services
from slipway.phonehome.identity import token_of
from slipway.phonehome.instructions import Kind, Progress, Stream
from slipway.settings import Settings
from slipway.testing.fake_clock import FakeClock
from tests.api.conftest import make_services
from tests.api.world import FakeStarter
from tests.records.rows import add_launch

INSTANCE = "i-1"


@contextlib.contextmanager
def asking(app: FastAPI) -> Iterator[Line]:
    """The application in an event loop of its own, and a line to it from this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Line(app, loop)
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


class Line:
    """The agent's way to the API: calls the application itself, or is cut."""

    host, port = "127.0.0.1", 80

    def __init__(self, app: FastAPI, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = httpx.ASGITransport(app)
        self._loop = loop
        #: Asked before each call and after its answer; raises what goes wrong there.
        self.before: Callable[[str], None] = lambda _path: None
        self.after: Callable[[str], None] = lambda _path: None
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    def call(self, path: str, body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
        self.calls.append(path)
        self.bodies.append(body)
        self.before(path)
        answer = self.request("POST", path, json=body, headers=dict(headers))
        self.after(path)
        if answer.status_code >= 300:
            raise Refused(answer.status_code, answer.json())
        found: dict[str, Any] = answer.json()
        return found

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, whatever comes of it."""

        async def ask() -> httpx.Response:
            base = "http://127.0.0.1/agent/v1/"
            async with httpx.AsyncClient(transport=self._transport, base_url=base) as client:
                return await client.request(method, path, **options)

        return asyncio.run_coroutine_threadsafe(ask(), self._loop).result(60)


class Room:
    """One launch whose agent is expected, and everything a test needs of it."""

    def __init__(self, settings: Settings, database: Database, root: Path, clock: Clock) -> None:
        self.clock = clock
        services: Services = make_services(settings, database)
        self.services = replace(services, clock=clock)
        self.launch = add_launch(database, instance_id=INSTANCE)
        with database.transaction() as connection:
            self.services.identities.expect(
                connection,
                self.launch,
                1,
                api_url="http://127.0.0.1:1",
                program=b"program",
                ca="",
            )
        self.app: FastAPI = create_app(self.services, FakeStarter())
        self.root = root
        self.write("var/lib/cloud/data/instance-id", INSTANCE)
        self.write("proc/sys/kernel/random/boot_id", "boot-1")
        self.folder = Folder(str(root))
        token = token_of(self.services.vault, self.launch, 1).get_secret_value()
        config = {"api": "http://127.0.0.1:1", "launch": self.launch, "generation": 1}
        self.write(
            "var/lib/slipway/agent/config.json", json.dumps({**config, "ca": "", "token": token})
        )

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def agent(self, line: Line) -> Agent:
        """An agent as it is after its start, on what is on the disk."""
        return Agent(
            self.folder,
            api=line,
            clock=self.clock if isinstance(self.clock, FakeClock) else slipway_agent.Clock(),
            chance=lambda: 0.5,
            poll_s=0.0,
        )

    def put(self, command: str, *, stdin: str = "", timeout_s: float = 30.0) -> int:
        """Leave a command; ``stdin`` in base 64."""
        body = {"command": command, "stdin": stdin, "timeout_s": timeout_s}
        return self.services.instructions.put(self.launch, 1, Kind.RUN, body)

    def look(self, seq: int) -> Progress:
        found = self.services.instructions.look(self.launch, 1, seq)
        assert found is not None
        return found

    def output(self, seq: int) -> tuple[bytes, Mapping[str, Any] | None]:
        """What has come to standard output, and how it ended."""
        found = self.look(seq)
        return b"".join(d for stream, d in found.pieces if stream is Stream.OUT), found.result
