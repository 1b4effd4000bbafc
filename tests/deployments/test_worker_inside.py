"""Parts of the in-process worker by themselves."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.states import Pending, Running, Suspended

from deployments import flow_loop, inprocess_worker, patience
from deployments.carrying_out import Fate, Run, RunEngine
from deployments.flow_loop import LoopWatch
from deployments.inprocess_worker import InProcessWorker, _end
from deployments.patience import PatientTransport
from slipway.settings import Settings
from slipway.testing.fake_clock import FakeClock

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


@pytest.mark.parametrize("by", [WORKER, OTHER])
async def test_only_what_was_claimed_is_carried_out(worker: InProcessWorker, by: str) -> None:
    """Of two workers that are shown the same run, one gets it."""
    found = claimed(by)
    run = Run(found, begun=lambda: None)
    worker._flows = mock.Mock()
    worker._shelf = mock.AsyncMock()
    with (
        mock.patch.object(inprocess_worker, "propose_state", return_value=found.state),
        mock.patch.object(run, "carry_out") as carried_out,
    ):
        await worker._attend(run)
    assert carried_out.called is (by == WORKER)


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


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_few_are_begun_at_a_time(worker: InProcessWorker) -> None:
    """Of many that are due, as many as there is room for are asked for, and the next is begun when
    one before it has been."""
    due = [flow_run() for _ in range(5)]
    answer = [{"work_pool_id": str(uuid.uuid4()), "work_queue_id": str(uuid.uuid4())}] * 5
    found = [
        each | {"flow_run": run.model_dump(mode="json")}
        for each, run in zip(answer, due, strict=True)
    ]
    worker._client.request.return_value = mock.Mock(json=lambda: found)
    worker._limit, worker._has_successfully_synced = 7, True
    worker._starting = asyncio.Semaphore(2)
    there = Run(flow_run(), begun=lambda: None)
    worker._runs[there.flow_run.id] = there
    begun: list[Run] = []

    async def attend(run: Run) -> None:
        begun.append(run)
        await asyncio.Event().wait()

    with mock.patch.object(worker, "_attend", attend):
        taking = asyncio.create_task(worker._take_scheduled())
        await turns()
        assert worker._client.request.call_args.kwargs["json"]["limit"] == 6
        assert [run.flow_run.id for run in begun] == [run.id for run in due[:2]]
        begun[0]._begun()
        begun[0]._begun()  # Saying it twice makes no more room.
        await turns()
        assert len(begun) == 3
        taking.cancel()
        await _end(worker._attending())


async def test_a_second_signal_hurries(worker: InProcessWorker) -> None:
    """The first lets runs end for a while, the second hands back what is left at once."""
    handlers = mock.Mock()
    loop = asyncio.get_running_loop()
    worker._services = SimpleNamespace(settings=Settings(worker_drain_s=3600))  # type: ignore[assignment]
    worker._duty = mock.Mock()
    worker._flows = mock.Mock()
    run = Run(flow_run(), begun=lambda: None)
    stopped = asyncio.Event()

    async def attend() -> None:
        await stopped.wait()
        del worker._runs[run.flow_run.id]

    worker._runs[run.flow_run.id] = run
    run.attending = asyncio.create_task(attend())
    with (
        mock.patch.object(loop, "add_signal_handler", handlers),
        mock.patch.object(loop, "remove_signal_handler"),
        mock.patch.object(run, "stop", side_effect=lambda *_: stopped.set()) as stop,
        worker._signals(),
    ):
        _, told, number = handlers.call_args_list[0].args
        told(number)
        assert worker._draining.is_set()
        draining = asyncio.create_task(worker._drain())
        await turns()
        assert not stop.called
        told(number)
        assert worker._hurry.is_set()
        await draining
    assert stop.call_args.args[1] is Fate.HANDED_BACK
    assert (worker._duty.remove.call_count, worker._duty.leave.call_count) == (1, 0)


async def test_a_loop_that_turns_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once, with what blocks it, and again when it turns; after two minutes the
    worker ends, so that its launches are rescued."""
    clock, ended = FakeClock(), mock.Mock()
    asked: list[Callable[[], None]] = []
    flows = mock.Mock(loop=mock.Mock(call_soon_threadsafe=asked.append))
    watch = LoopWatch(flows, clock, hopeless=lambda: ended(clock.monotonic()))
    monkeypatch.setattr(watch, "_culprit", lambda: "this")

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)
        at = clock.monotonic()
        assert at < 300, "the worker has not ended"
        # It blocks for less than a second, for a minute, and for ever.
        if not (10 < at < 10.9 or 20 < at < 80 or at > 100):
            for turn in asked:
                turn()
            asked.clear()

    monkeypatch.setattr(flow_loop.asyncio, "sleep", sleep)
    await watch.run()
    assert [record.getMessage() for record in caplog.records] == [
        "the flows' event loop is blocked by this",
        "the flows' event loop turns again after 60.0 s",
        "the flows' event loop is blocked by this",
        "the flows' event loop does not turn any more: the worker ends",
    ]
    [at] = [call.args[0] for call in ended.call_args_list]
    assert 220 < at < 222
