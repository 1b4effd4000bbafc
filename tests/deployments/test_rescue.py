"""Who is looked after, when, and how often: the rescuer with a server made of paper."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelling, Pending, Running

from deployments import rescue
from deployments.rescue import MAX_TRIES, RESCUING, Rescue
from slipway.errors import Conflict
from slipway.workers import Gone
from tests.deployments.test_worker_inside import OTHER, WORKER, flow_run


@pytest.fixture
def rescuer() -> Rescue:
    """Flows without hooks; what its server is told is on record in its client."""
    shelf = mock.AsyncMock()
    shelf.flow_of.return_value.on_cancellation_hooks = []
    client = mock.AsyncMock()
    client.read_flow_runs.return_value = []
    return Rescue(client, mock.Mock(), shelf)


def told(rescuer: Rescue) -> list[tuple[str, str]]:
    """The states that runs were put into: name and message."""
    calls = rescuer._client.set_flow_run_state.call_args_list  # type: ignore[attr-defined]
    return [(call.args[1].name, call.args[1].message) for call in calls]


@pytest.mark.parametrize(
    ("tries", "states"),
    [
        (MAX_TRIES - 1, [(RESCUING, "it died"), ("AwaitingRetry", "it died; it goes on")]),
        (MAX_TRIES, [("Crashed", "it died; given up after 5 tries")]),
    ],
)
async def test_what_ends_its_worker_each_time(
    rescuer: Rescue, tries: int, states: list[tuple[str, str]]
) -> None:
    """A run is begun five times at most; then its launch is stranded, with the reason."""
    run = flow_run(Running()).model_copy(update={"run_count": tries})
    rescuer._client.read_flow_run.return_value = run  # type: ignore[attr-defined]
    with mock.patch.object(rescue, "give_up") as given_up:
        await rescuer.reschedule(run, "it died", crashed=True)
    assert told(rescuer) == states
    reasons = [call.args[1] for call in given_up.await_args_list]
    assert reasons == ["its flow run was begun 5 times, and it died"] * (tries == MAX_TRIES)


@pytest.mark.parametrize("certain", [True, False])
async def test_who_was_only_silent_is_given_another_look(rescuer: Rescue, certain: bool) -> None:
    """After an outage of the database everybody has been silent for too long, once; whoever is seen
    to be dead is taken over at once."""
    found = [Gone(id=WORKER, certain=certain)]
    with (
        mock.patch.object(rescue.workers, "gone", return_value=found),
        mock.patch.object(rescue.workers, "take_over", side_effect=Conflict("taken")) as taken,
    ):
        await rescuer.look()
        assert taken.call_count == (1 if certain else 0)
        await rescuer.look()
        assert taken.call_count == (2 if certain else 1)


async def test_a_rescuer_that_fails_half_way(rescuer: Rescue) -> None:
    """It leaves the dead worker's lease to whoever comes next, and does not remove it."""
    rescuer._client.read_flow_runs.side_effect = RuntimeError("500")  # type: ignore[attr-defined]
    with (
        mock.patch.object(rescue.workers, "gone", return_value=[Gone(id=WORKER, certain=True)]),
        mock.patch.object(rescue.workers, "take_over") as taken,
        pytest.raises(RuntimeError, match="500"),
    ):
        await rescuer.look()
    duty = taken.return_value
    assert (duty.leave.call_count, duty.remove.call_count) == (1, 0)


def cancelling(owner: str | None, asked: timedelta) -> FlowRun:
    """A run that somebody wanted to end so long ago."""
    state: State[Any] = Cancelling(timestamp=datetime.now(UTC) - asked)
    return flow_run(state).model_copy(update={"infrastructure_pid": owner})


@pytest.mark.parametrize(
    ("owner", "asked", "ended"),
    [
        (WORKER, timedelta(), True),
        (OTHER, timedelta(hours=1), False),
        # Between a claim and the naming of its owner.
        (None, timedelta(seconds=30), False),
        (None, timedelta(seconds=90), True),
    ],
)
async def test_who_ends_a_cancelled_run(
    rescuer: Rescue, owner: str | None, asked: timedelta, ended: bool
) -> None:
    """Its worker, and nobody else's; one that belongs to nobody for a minute, whoever sees it."""
    await rescuer.cancel_unattended(cancelling(owner, asked), WORKER)
    assert told(rescuer) == ([("Cancelled", "cancelled")] if ended else [])


async def test_a_run_that_is_scheduled_already(rescuer: Rescue) -> None:
    """Another rescuer was faster, or it is over: nothing is changed."""
    for state in (State(type="SCHEDULED"), State(type="COMPLETED")):
        run = flow_run(state)
        rescuer._client.read_flow_run.return_value = run  # type: ignore[attr-defined]
        await rescuer.reschedule(flow_run(Pending()), "it died", crashed=True)
    assert told(rescuer) == []
