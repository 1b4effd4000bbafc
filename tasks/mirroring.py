"""The steps of looking after mirrors: take a repository's day, verify, repair, prune."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun

from slipway.errors import Conflict, SlipwayError, SuitesNotTaken
from slipway.launches import mirroring
from slipway.mirrors.care import Broken, Pruned
from slipway.mirrors.progress import Progress
from tasks.services import current_services
from tasks.stepping import TaskOptions
from tasks.threads import mirrors


def _is_worth_another(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whoever is at work on it will have ended; of several failures one that may pass is enough."""
    error = getattr(state.data, "exception", state.data)
    if isinstance(error, SuitesNotTaken):
        return any(failure.retryable for failure in error.failures.values())
    return isinstance(error, Conflict) or (isinstance(error, SlipwayError) and error.retryable)


#: An upstream that is in the middle of a change, or away, is better off in half an hour.
MIRROR_STEP: TaskOptions = {
    "retries": 3,
    "retry_delay_seconds": [60, 300, 1200],
    "retry_condition_fn": _is_worth_another,
    "persist_result": False,
}


@task(task_run_name="snapshot {name}", **MIRROR_STEP)
async def snapshot_repository(
    name: str, *, since: datetime, actor: str, progress: Progress
) -> None:
    """Take the day of a repository: of those of its suites that have none since then."""
    services = current_services()
    await mirrors(mirroring.take_day, services, name, since=since, actor=actor, progress=progress)


@task(task_run_name="verify every file", **MIRROR_STEP)
async def verify_files(*, progress: Progress) -> list[Broken]:
    """Read every file of every day; answers those that are damaged or missing."""
    return await mirrors(current_services().mirror.verify, progress=progress)


@task(task_run_name="repair what is damaged", **MIRROR_STEP)
async def repair_files(*, actor: str, progress: Progress) -> list[Broken]:
    """Fetch what is damaged or missing again; answers all that was."""
    return await mirrors(mirroring.repair, current_services(), actor=actor, progress=progress)


@task(task_run_name="look for days to remove", **MIRROR_STEP)
async def look_for_old_days(*, actor: str) -> Pruned:
    """Say which days would be removed, and how many files with them."""
    return await mirrors(
        mirroring.prune, current_services(), actor=actor, dry_run=True, progress=Progress()
    )


@task(task_run_name="remove {count} days", **MIRROR_STEP)
async def remove_old_days(shown: Pruned, *, count: int, actor: str) -> Pruned:  # noqa: ARG001  (of the name)
    """Remove the days that were shown, unless somebody has pinned them since, and the files that
    no day names."""
    return await mirrors(
        mirroring.prune, current_services(), actor=actor, shown=shown, progress=Progress()
    )
