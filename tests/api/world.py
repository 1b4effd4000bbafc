"""An API on records of the test's own: a cloud in memory, and an engine that remembers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI

from slipway import tokens
from slipway.errors import EngineUnavailable
from slipway.launches.handover import Dispatcher
from slipway.launches.services import Services
from slipway.launches.work import take_up
from slipway.lifecycle import PHASES, Event
from slipway.records import LaunchStatus


@dataclass
class FakeStarter:
    """Starts nothing, and remembers what it was asked; one run per idempotency key."""

    runs: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    #: Every call, also those that found a run.
    calls: list[str] = field(default_factory=list)
    #: Why it cannot be reached; empty while it can.
    away: str = ""

    def start(
        self,
        flow: str,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str,
        tags: Sequence[str] = (),  # noqa: ARG002 - the port has it
    ) -> str:
        self.calls.append(idempotency_key)
        if self.away:
            raise EngineUnavailable(self.away)
        # What travels is JSON.
        self.runs.setdefault(idempotency_key, (flow, json.loads(json.dumps(dict(parameters)))))
        return f"run-of-{idempotency_key}"


@dataclass
class ApiWorld:
    """One API and what a test asks of it."""

    services: Services
    starter: FakeStarter
    app: FastAPI
    made: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def dispatcher(self) -> Dispatcher:
        """Hands over what the API has recorded, when the test says so."""
        return Dispatcher(self.services, self.starter)

    def token(self, *scopes: str, name: str = "", expires_in: timedelta | None = None) -> str:
        """A new token's value; one per set of scopes unless it is named."""
        key = name or "-".join(sorted(scopes))
        if key not in self.made:
            issued = tokens.create(
                self.services.database,
                self.services.clock,
                key,
                scopes=scopes,
                expires_in=expires_in,
                actor="test",
            )
            self.made[key] = issued.value.get_secret_value()
        return self.made[key]

    def token_id(self, name: str) -> str:
        """The id of a token."""
        found = tokens.list_tokens(self.services.database)
        return next(token.id for token in found if token.name == name)

    def client(self, *scopes: str, name: str = "") -> httpx.AsyncClient:
        """A client with a token that has these scopes; without any when none are named."""
        headers = {}
        if scopes:
            headers["Authorization"] = f"Bearer {self.token(*scopes, name=name)}"
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, raise_app_exceptions=False),
            base_url="http://api.test",
            headers=headers,
        )

    async def launch(
        self, status: LaunchStatus = LaunchStatus.REQUESTED, **request: Any
    ) -> dict[str, Any]:
        """The resource of a new launch of ``web``, brought to a status."""
        body = {"template": "web", "server": "web-1", "cloud": "fake", **request}
        async with self.client("launch") as client:
            answer = await client.post("/v1/launches", json=body)
            assert answer.status_code == 201, answer.text
            self.dispatcher.tick()
            made: dict[str, Any] = answer.json()
            if status is not LaunchStatus.REQUESTED:
                self.drive(made["id"], status)
                made = (await client.get(f"/v1/launches/{made['id']}")).json()
        return made

    def run_step(self, launch_id: str, key: str) -> None:
        """Do one step of a launch, as its driver would."""
        work = take_up(self.services, launch_id, actor="engine")
        work.begin(key, "A step").succeed("it is done")
        work.driver.release()

    def update(self, launch_id: str, **values: Any) -> None:
        """Have a launch's driver find something out."""
        work = take_up(self.services, launch_id, actor="engine")
        with work.driver.transaction() as connection:
            work.update(connection, **values)
        work.driver.release()

    def drive(self, launch_id: str, status: LaunchStatus) -> None:
        """Bring a launch to a status, as its driver would."""
        work = take_up(self.services, launch_id, actor="engine")
        try:
            with work.driver.transaction() as connection:
                if status in PHASES:
                    work.enter(connection, status)
                elif status is LaunchStatus.STRANDED:
                    work.advance(connection, Event.STRAND, reason="it went wrong")
                elif status is LaunchStatus.CANCELLED:
                    work.advance(connection, Event.CANCEL, reason="cancelled on request")
                else:
                    work.enter(connection, LaunchStatus.OPERATIONAL)
                    work.advance(connection, Event.DECOMMISSION, reason="on request")
                    if status is LaunchStatus.TERMINATED:
                        work.advance(connection, Event.TERMINATE, reason="decommissioned")
        finally:
            work.driver.release()
