"""A client of an event stream, in this event loop: httpx waits for the end of what has none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.api.world import ApiWorld

#: Longer than anything here takes; what is waited for after this never comes.
DEADLINE_S = 60.0


@dataclass
class Stream:
    """What a stream has said so far."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    ended: bool = False
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def events(self) -> list[dict[str, str]]:
        """The complete events with data, field by field."""
        found = []
        for block in self.text.split("\n\n")[:-1]:
            fields = dict(
                line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")
            )
            if "data" in fields:
                found.append(fields)
        return found

    def ids(self) -> list[int]:
        """The ids of the events with data."""
        return [int(event["id"]) for event in self.events()]

    def last_id(self) -> str:
        """What a client would come back with."""
        lines = [line for line in self.text.split("\n") if line.startswith("id: ")]
        return lines[-1].removeprefix("id: ")

    async def until(self, condition: Any, what: str) -> None:
        """Wait until the stream has said something."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition(self):
                assert not (self.ended and not condition(self)), f"it ended without {what}"
                self.moved.clear()
                await self.moved.wait()


@asynccontextmanager
async def following(
    world: ApiWorld, path: str, *, query: str = "", last_event_id: str = "", scope: str = "read"
) -> AsyncIterator[Stream]:
    """A stream, from its first line on; cut off at the end of the block."""
    headers = [(b"authorization", f"Bearer {world.token(scope)}".encode())]
    if last_event_id:
        headers.append((b"last-event-id", last_event_id.encode()))
    asked = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("api.test", 80),
    }
    stream, gone, sent = Stream(), asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            stream.status = message["status"]
            stream.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            stream.text += message.get("body", b"").decode()
        stream.moved.set()

    async def call() -> None:
        await world.app(asked, receive, send)
        stream.ended = True
        stream.moved.set()

    task = asyncio.create_task(call())
    try:
        await stream.until(lambda found: found.status, "an answer")
        yield stream
    finally:
        gone.set()
        await asyncio.wait_for(task, DEADLINE_S)
