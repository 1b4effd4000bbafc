"""What every task has around its one call into `slipway`: the audited step, and the retry rule."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.events import emit_event

from slipway.errors import ConnectionFailed, ConnectionLost, DatabaseUnavailable, SlipwayError
from slipway.launches.connecting import CONNECT_TIMEOUT_S
from slipway.launches.work import Work
from slipway.records import LaunchStatus
from slipway.steps import StepRun
from tasks.threads import records

T = TypeVar("T")

#: One line a step; `PREFECT_LOGGING_EXTRA_LOGGERS` puts it on the run page. Prefect leaves such
#: loggers at its root's level, which is WARNING.
_log = logging.getLogger("slipway.steps")
_log.setLevel(logging.INFO)

#: Characters of it; the audit has all of them.
LINE = 160

#: How long a server that answered before may be away: it may be rebooting.
REACHABLE_AGAIN_S = 300.0


def _is_retryable(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help; the error's class knows."""
    error = getattr(state.data, "exception", state.data)
    return isinstance(error, SlipwayError) and error.retryable


def _is_retryable_on_server(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """The same, but for a server that cannot be reached: `patiently` has waited long enough."""
    error = getattr(state.data, "exception", state.data)
    unreachable = isinstance(error, ConnectionFailed | ConnectionLost)
    return not unreachable and _is_retryable(task, run, state)


class TaskOptions(TypedDict):
    """What `prefect.task` is given besides the names.

    No tags: Prefect asks its server about limits on them before each task, and while the server is
    away a launch has to go on.
    """

    retries: int
    retry_delay_seconds: list[float]
    retry_condition_fn: Callable[[Task[..., Any], TaskRun, State[Any]], bool]
    persist_result: bool


#: Cloud calls: throttled and lost ones come right within a minute or not at all.
CLOUD_STEP: TaskOptions = {
    "retries": 6,
    "retry_delay_seconds": [0.5, 1, 2, 5, 15, 30],
    "retry_condition_fn": _is_retryable,
    "persist_result": False,
}

#: Work on a server: `patiently` has waited inside already.
SERVER_STEP: TaskOptions = {
    "retries": 2,
    "retry_delay_seconds": [1, 5],
    "retry_condition_fn": _is_retryable_on_server,
    "persist_result": False,
}

#: Work on our own records.
RECORD_STEP: TaskOptions = {
    "retries": 0,
    "retry_delay_seconds": [],
    "retry_condition_fn": _is_retryable,
    "persist_result": False,
}


@asynccontextmanager
async def step(
    work: Work, key: str, title: str, *, phase: LaunchStatus | None = None
) -> AsyncIterator[StepRun]:
    """One audited step. Look at ``finished`` first: a step that succeeded before is skipped."""
    before = work.phase
    try:
        run = await records(work.begin, key, title, phase=phase)
    except BaseException:
        work.forget()
        raise
    if work.phase is not before:
        tell(work, work.phase)
    if run.finished:
        yield run
        return
    try:
        yield run
        said = work.driver.masker.text(run.summary)
        _log.info("%s: %s", work.server, said if len(said) <= LINE else f"{said[:LINE]}…")
    except asyncio.CancelledError:
        work.forget()
        # Whoever cancels us is obeyed: without the record it is as after a crash.
        with contextlib.suppress(DatabaseUnavailable):
            await asyncio.shield(records(run.fail, SlipwayError("cancelled")))
        raise
    except DatabaseUnavailable:
        # Nor could it be recorded; `outlasting` begins the step anew.
        work.forget()
        raise
    except Exception as error:  # noqa: BLE001  (recorded, then raised again)
        work.forget()
        await records(run.fail, error)
        raise _without_secrets(work, error) from None


def tell(work: Work, status: LaunchStatus) -> None:
    """Emit the Prefect event of a state change, where an engine listens."""
    if FlowRunContext.get() is None:
        return
    emit_event(
        f"slipway.launch.{status.value}",
        resource={
            "prefect.resource.id": f"slipway.launch.{work.launch_id}",
            "prefect.resource.name": work.server,
            "slipway.server": work.server,
        },
    )


async def patiently(
    work: Work, run: StepRun, attempt: Callable[[], Awaitable[T]], *, limit_s: float
) -> T:
    """Try until the server can be reached, for at most ``limit_s`` since it last could. Each
    outage is one audit entry, however often it was tried."""
    clock = work.services.clock
    away_since: float | None = None
    pause_s = 0.2
    while True:
        began = clock.monotonic()
        try:
            return await attempt()
        except (ConnectionFailed, ConnectionLost) as error:
            now = clock.monotonic()
            if away_since is not None and now - began > CONNECT_TIMEOUT_S + 5:
                # Longer than connecting takes: it was there in between, this is another outage.
                away_since = None
            if away_since is None:
                away_since, pause_s = now, 0.2
                await records(run.note, f"waiting for the server to answer again: {error}")
            if now - away_since >= limit_s:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 5.0)


def _without_secrets(work: Work, error: Exception) -> Exception:
    """The error as Prefect may store it: foreign libraries may quote what they were given."""
    message = str(error)
    masked = work.driver.masker.text(message)
    if masked == message:
        return error
    if not isinstance(error, SlipwayError):
        return SlipwayError(f"{type(error).__name__}: {masked}")
    # Not through its constructor: what else that wants may hold the secret too.
    clean = type(error).__new__(type(error))
    clean.args = (masked,)
    return clean
