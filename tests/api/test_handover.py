"""Handing over to the engine: nothing is lost, nothing is started twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from slipway.errors import EngineRefused
from slipway.launches.handover import ATTEMPT_S, MAX_PAUSE_S, Dispatcher, backlog
from slipway.records import LaunchStatus
from slipway.testing.fake_clock import FakeClock
from tests.api.test_launches import WEB
from tests.api.world import ApiWorld


@pytest.fixture
def clock(world: ApiWorld) -> FakeClock:
    """The clock of the dispatchers, moved by hand, ahead of the API's."""
    return FakeClock(world.services.clock.now() + timedelta(hours=1))


def dispatcher(world: ApiWorld, clock: FakeClock, starter: Any = None) -> Dispatcher:
    """One more dispatcher on the same records."""
    return Dispatcher(replace(world.services, clock=clock), starter or world.starter)


async def test_an_engine_that_is_away(world: ApiWorld, clock: FakeClock) -> None:
    """While the engine is away launches are answered as ever, and say what they wait for; when it
    is back each is started, once, in the order they were asked for."""
    world.starter.away = "Prefect does not answer"
    handing = dispatcher(world, clock)
    async with world.client("launch") as client:
        made = []
        for number in range(3):
            answer = await client.post("/v1/launches", json={**WEB, "server": f"web-{number}"})
            assert answer.status_code == 201
            made.append(answer.json()["id"])
        pauses = []
        for _ in range(7):
            pauses.append(handing.tick())
            clock.sleep(pauses[-1])
        # Asked once each time, with growing pauses, whatever the number that waits.
        assert pauses == [1, 2, 4, 8, MAX_PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]
        assert len(world.starter.calls) == 7
        listed = (await client.get("/v1/launches")).json()["items"]
        assert {each["hand_over"]["error"] for each in listed} == {"Prefect does not answer"}
        assert {each["hand_over"]["state"] for each in listed} == {"waiting"}
        with world.services.database.reading() as connection:
            waiting = backlog(connection, clock.now())
        assert waiting.waiting == 3
        assert waiting.oldest_s > 3600
        world.starter.away = ""
        for _ in range(3):
            clock.sleep(handing.tick())
        clock.sleep(MAX_PAUSE_S)
        handing.tick()
        listed = (await client.get("/v1/launches")).json()["items"]
    assert {each["hand_over"]["state"] for each in listed} == {"handed"}
    assert {each["hand_over"]["error"] for each in listed} == {""}
    started = [parameters["request"]["name"] for _, parameters in world.starter.runs.values()]
    assert sorted(started) == ["web-0", "web-1", "web-2"]


async def test_killed_between_starting_and_recording(world: ApiWorld, clock: FakeClock) -> None:
    """A dispatcher that dies after the engine took a run and before that is on record leaves one
    run, not two: another goes on under the same key."""

    class Dies(BaseException):
        pass

    class Starter:
        def start(self, flow: str, parameters: Mapping[str, Any], **given: Any) -> str:
            world.starter.start(flow, parameters, **given)
            raise Dies

    async with world.client("launch") as client:
        made = (await client.post("/v1/launches", json=WEB)).json()
        with pytest.raises(Dies):
            dispatcher(world, clock, Starter()).tick()
        other = dispatcher(world, clock)
        other.tick()
        assert len(world.starter.calls) == 1, "it was taken from one who may be at work"
        clock.sleep(ATTEMPT_S)
        other.tick()
        found = (await client.get(f"/v1/launches/{made['id']}")).json()
    assert found["hand_over"]["state"] == "handed"
    assert found["hand_over"]["attempts"] == 2
    assert len(world.starter.calls) == 2
    assert len(world.starter.runs) == 1


async def test_several_dispatchers(world: ApiWorld, clock: FakeClock) -> None:
    """Of several dispatchers that see the same row one hands it over."""
    await_calls: list[str] = []
    second = dispatcher(world, clock)

    class Starter:
        def start(
            self,
            flow: str,
            parameters: Mapping[str, Any],
            *,
            idempotency_key: str,
            tags: Sequence[str] = (),
        ) -> str:
            # In the middle of it another has a look.
            second.tick()
            await_calls.append(idempotency_key)
            return world.starter.start(flow, parameters, idempotency_key=idempotency_key, tags=tags)

    async with world.client("launch") as client:
        await client.post("/v1/launches", json=WEB)
        dispatcher(world, clock, Starter()).tick()
    assert len(world.starter.calls) == len(await_calls) == 1


async def test_in_order(world: ApiWorld, clock: FakeClock) -> None:
    """What is asked of one launch is handed over in order: a decommission waits behind the launch
    that could not be handed over."""
    refused = {"launch_server"}

    class Starter:
        def start(self, flow: str, parameters: Mapping[str, Any], **given: Any) -> str:
            if flow in refused:
                raise EngineRefused("Prefect refuses the parameters")
            return world.starter.start(flow, parameters, **given)

    handing = dispatcher(world, clock, Starter())
    async with world.client("launch") as client:
        made = (await client.post("/v1/launches", json=WEB)).json()
        other = (await client.post("/v1/launches", json={**WEB, "server": "web-2"})).json()
        await client.post(f"/v1/launches/{made['id']}/decommission")
        handing.tick()
        # One that is refused holds up nobody else.
        refused.clear()
        handing.tick()
        assert [flow for flow, _ in world.starter.runs.values()] == []
        for _ in range(4):
            clock.sleep(5)
            handing.tick()
        found = (await client.get(f"/v1/launches/{made['id']}")).json()
    flows = [
        (flow, parameters.get("server") or parameters["request"]["name"])
        for flow, parameters in world.starter.runs.values()
    ]
    assert flows.index(("launch_server", "web-1")) < flows.index(
        ("decommission_server", made["id"])
    )
    assert ("launch_server", "web-2") in flows
    assert found["hand_over"]["flow"] == "decommission_server"
    assert other["id"] != made["id"]


async def test_the_hand_over_is_on_record(world: ApiWorld) -> None:
    """That the engine has it is an entry of the audit and a change."""
    made = await world.launch(LaunchStatus.REQUESTED)
    async with world.client("read") as client:
        entries = (await client.get(f"/v1/audit/launch/{made['id']}")).json()["items"]
        changes = (await client.get("/v1/changes?kind=launch.handed-over")).json()["items"]
    assert entries[-1]["summary"].startswith("handed over to the engine as flow run run-of-run-")
    assert [each["subject"] for each in changes] == [f"launch/{made['id']}"]
