"""Runs of operational scripts whose flow ends before their first step do not wait for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Cancelled, Crashed

from flows.run_operational_script import run_operational_script
from flows.runs import give_up, script_ended
from slipway import audit
from slipway.errors import Conflict
from slipway.launches import asking
from slipway.launches.handover import Dispatcher, script_not_begun
from slipway.launches.operations import OperationRequest
from slipway.lifecycle import subject_of
from slipway.records import HandOver, LaunchStatus
from tasks.services import use_services
from tests.api.world import ApiWorld
from tests.engine import no_engine


async def test_a_script_that_nobody_begins_with(world: ApiWorld) -> None:
    """A run whose flow ends before its first step has failed, with the reason, also when the flow
    is quicker than whoever notes that it was started; one that has begun tells by its step."""
    made = await world.launch(LaunchStatus.OPERATIONAL)
    path = f"/v1/launches/{made['id']}/runs"
    services, start = world.services, world.starter.start

    def give_up(run_id: str, why: str) -> bool:
        return script_not_begun(services, run_id, why, actor="engine")

    class FailsAtOnce:
        def start(self, *given: Any, idempotency_key: str, **more: Any) -> str:
            found = start(*given, idempotency_key=idempotency_key, **more)
            assert give_up(idempotency_key, "server web-1 is gone")
            return found

    async with world.client("launch") as client:
        runs = [(await client.post(path, json={"script": "greet"})).json() for _ in range(3)]
        world.dispatcher.tick()
        world.dispatcher.tick()
        Dispatcher(services, FailsAtOnce()).tick()
        assert give_up(runs[0]["id"], "its flow run was cancelled")
        assert not give_up(runs[0]["id"], "and once more")
        world.run_step(made["id"], runs[1]["step"])
        assert not give_up(runs[1]["id"], "too late")
        assert not give_up("run-of-nobody", "unknown")
        found = [(await client.get(f"{path}/{run['id']}")).json() for run in runs]
    assert [(run["status"], run["error"]) for run in found] == [
        ("failed", "its flow run was cancelled"),
        ("succeeded", ""),
        ("failed", "server web-1 is gone"),
    ]
    assert {run["hand_over"]["state"] for run in found} == {"handed"}
    told = [entry.summary for entry in audit.entries(services.database, subject_of(made["id"]))]
    assert [line for line in told if "not begun" in line] == [
        "script greet was not begun: server web-1 is gone",
        "script greet was not begun: its flow run was cancelled",
    ]


async def ask(world: ApiWorld, server: str) -> tuple[HandOver, str]:
    """A run that was asked for, and the address it is shown at."""
    made = await world.launch(LaunchStatus.OPERATIONAL, server=server)
    row = asking.ask_script(world.services, made["id"], "greet", {}, actor="me")
    return row, f"/v1/launches/{made['id']}/runs/{row.id}"


async def shown(world: ApiWorld, address: str) -> tuple[str, str]:
    """A run's status and error."""
    async with world.client("read") as client:
        found = (await client.get(address)).json()
    return found["status"], found["error"]


async def test_a_flow_that_finds_its_server_gone(world: ApiWorld) -> None:
    """The script waited for its turn, and the server was taken down meanwhile: the run has failed
    for that reason."""
    row, address = await ask(world, "web-1")
    world.drive(row.launch_id, LaunchStatus.TERMINATED)
    request = OperationRequest(**row.parameters["request"])
    with use_services(world.services), no_engine(), pytest.raises(Conflict):
        await run_operational_script.fn(request)
    status, error = await shown(world, address)
    assert status == "failed"
    assert error == ("server web-1 is terminated: operational scripts run on operational servers")


async def _cancelled(run: Any) -> None:
    await script_ended(run_operational_script, run, Cancelled(message="by ada"))


async def _crashed(run: Any) -> None:
    await script_ended(run_operational_script, run, Crashed(message="its process ended"))


async def _given_up(run: Any) -> None:
    await give_up(run, "its flow run was begun 5 times, and its worker died")


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (_cancelled, "its flow run was cancelled: by ada"),
        (_crashed, "its flow run was crashed: its process ended"),
        (_given_up, "its flow run was begun 5 times, and its worker died"),
    ],
)
async def test_a_flow_run_that_is_ended_from_outside(
    world: ApiWorld, end: Callable[[Any], Awaitable[None]], why: str
) -> None:
    """Whoever ends it, the run has failed, and says who. A flow run of something else, or of a
    script that nobody waits for, ends as before."""
    row, address = await ask(world, "web-1")
    assert await shown(world, address) == ("requested", "")
    given: list[Any] = [row.parameters, {"request": {"key": None}}, {"launch": "x"}, None]
    with use_services(world.services):
        for parameters in given:
            await end(SimpleNamespace(id="a-flow-run", parameters=parameters or {}))
    assert await shown(world, address) == ("failed", why)


def test_the_flow_asks_for_it() -> None:
    """Prefect calls what the flow names when a run of it is ended, on every kind of work pool."""
    assert script_ended in run_operational_script.on_cancellation_hooks
    assert script_ended in run_operational_script.on_crashed_hooks
