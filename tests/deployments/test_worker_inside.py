"""Parts of the in-process worker by themselves."""

from __future__ import annotations

import threading
import uuid
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.states import Pending, Running, Suspended

from deployments import inprocess_worker, patience
from deployments.carrying_out import Run, RunEngine
from deployments.inprocess_worker import InProcessWorker
from deployments.patience import PatientTransport

WORKER = "worker-1m8bey56d94b21c6x"
OTHER = "worker-1m8bey57tsxsdgn3k"


def flow_run(state: State[Any] | None = None) -> FlowRun:
    """A flow run of a deployment."""
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), deployment_id=uuid.uuid4(), state=state)


@flow
async def nothing() -> None:
    """Does nothing."""


def test_a_run_has_no_thread_of_its_own() -> None:
    """Prefect's engine would start one for each run, and wait for its connection in the flows'
    loop: with a thousand runs, or without a server, that is the end of it."""
    engine = RunEngine(flow=nothing, flow_run=flow_run(Running()))
    before = threading.active_count()
    with engine.setup_flow_run_suspension_request() as request:
        assert threading.active_count() == before
        assert inprocess_worker.mark_flow_run_suspension_requested(engine.flow_run.id, Suspended())
        with pytest.raises(Pause):
            request.raise_if_requested()


@pytest.fixture
def worker() -> InProcessWorker:
    """A worker whose server and colleagues are made of paper."""
    made = InProcessWorker(work_pool_name="slipway", name="w")
    made._client = mock.AsyncMock()
    made._rescue = mock.AsyncMock()
    made._duty = SimpleNamespace(worker_id=WORKER)  # type: ignore[assignment]
    return made


def claimed(by: str) -> FlowRun:
    return flow_run(Pending(message=f"taken by worker 'w' ({by})"))


@pytest.mark.parametrize("by", [WORKER, OTHER])
async def test_a_run_that_was_lost_sight_of(worker: InProcessWorker, by: str) -> None:
    """When Prefect breaks in the middle of a claim, nobody would run what we have taken: it is
    scheduled again, unless another has it."""
    found = claimed(by)
    worker._client.read_flow_run.return_value = found
    with mock.patch.object(inprocess_worker, "propose_state", side_effect=RuntimeError("500")):
        await worker._attend(Run(found, begun=lambda: None))
    await worker._look_for_the_lost()
    await worker._look_for_the_lost()
    expected = [mock.call(found, f"its worker {WORKER} lost sight of it", crashed=True)]
    assert worker._rescue.reschedule.mock_calls == (expected if by == WORKER else [])


async def test_a_lost_run_that_is_gone(worker: InProcessWorker) -> None:
    """Whoever deleted it wants nothing more of it."""
    worker._lost.add(uuid.uuid4())
    worker._client.read_flow_run.side_effect = ObjectNotFound(None)
    await worker._look_for_the_lost()
    assert not worker._lost


@pytest.mark.parametrize("by", [WORKER, OTHER])
async def test_a_claim_whose_answer_was_lost(worker: InProcessWorker, by: str) -> None:
    """Asked again, Prefect says that the run is taken already; it may be by us."""
    found = claimed(by)
    worker._client.read_flow_run.return_value = found
    with mock.patch.object(inprocess_worker, "propose_state", side_effect=Abort("it is pending")):
        assert await worker._claim(Run(found, begun=lambda: None)) is (by == WORKER)


async def test_a_server_that_answers_500_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have lost its Redis: it is asked for ten minutes, and then its answer counts."""
    now, asked = 0.0, 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(500)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(patience.time, "monotonic", lambda: now)
    monkeypatch.setattr(patience.asyncio, "sleep", sleep)
    transport = PatientTransport(httpx.MockTransport(answer))
    async with httpx.AsyncClient(transport=transport) as client:
        found = await client.get("http://127.0.0.1/api/")
    assert found.status_code == 500
    assert 600 <= now < 610
    assert asked > 100
