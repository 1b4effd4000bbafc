"""Take the next day of mirrored repositories: all side by side, each for itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows.driving import actor
from flows.pictures import Bar, publish_table
from slipway.launches.mirroring import Night, begin_round, night_rows, package_rows, what_came
from slipway.mirrors.events import DAY_FAILED, DAY_TAKEN
from slipway.mirrors.progress import Progress
from slipway.mirrors.site import when_of
from tasks.announcing import announce_mirror
from tasks.mirroring import snapshot_repository
from tasks.outages import outlast
from tasks.services import current_services
from tasks.threads import clouds, records

#: On the run page, and in the worker's log. Prefect leaves such loggers at its root's level.
_log = logging.getLogger("slipway.mirrors")
_log.setLevel(logging.INFO)


class SnapshotRequest(BaseModel):
    """Which repositories."""

    model_config = ConfigDict(extra="forbid", title="Snapshot")

    repositories: list[str] = Field(
        default=[],
        title="Repositories",
        description="By name; with none, all that are declared.",
    )


@flow(
    name="snapshot-mirrors",
    flow_run_name="snapshot mirrors",
    description="Take the next day of mirrored repositories; one that fails does not stop others.",
    persist_result=False,
)
async def snapshot_mirrors(request: SnapshotRequest = SnapshotRequest()) -> State[Any]:  # noqa: B008
    """Sync all of them side by side, show what changed, and name those that could not be taken:
    they keep the day they have."""
    services = current_services()
    turn = await outlast(records, begin_round, services, request.repositories)
    if not turn.repositories:
        return Completed(name="Nothing", message="no repository is mirrored")
    progress = {name: Progress() for name in turn.repositories}
    done: set[str] = set()

    async def one(name: str) -> Night:
        error = None
        try:
            await snapshot_repository(
                name, since=turn.began_at, actor=actor(), progress=progress[name]
            )
        except Exception as failure:  # noqa: BLE001  (told by name; it must not reach the others)
            error = failure
        done.add(name)
        night = await outlast(records, what_came, services, name, since=turn.began_at, error=error)
        _announce(night)
        return night

    def fraction() -> float:
        shares = [1.0 if name in done else each.fraction for name, each in progress.items()]
        return sum(shares) / len(shares)

    async with Bar(_count(len(progress))).following(fraction):
        nights = await asyncio.gather(*map(one, turn.repositories))
    await publish_table(night_rows(nights), key="mirrors", description=_numbers(nights))
    packages = await clouds(package_rows, services, nights)
    if packages:
        await publish_table(packages, key="mirror-packages", description="Packages that changed")
    return _state(nights)


def _announce(night: Night) -> None:
    if night.days:
        states = " ".join(sorted({when_of(day.taken_at) for day in night.days}))
        changes = _changes([night])
        _log.info("%s: %s", night.repository, changes)
        announce_mirror(DAY_TAKEN, night.repository, states=states, changes=changes)
    if night.problems:
        problem = "; ".join(_sentences(night))
        _log.error("not taken: %s", problem)
        announce_mirror(DAY_FAILED, night.repository, problem=problem)


def _state(nights: Sequence[Night]) -> State[Any]:
    failed = [night for night in nights if night.problems]
    if not failed:
        return Completed(name="Taken", message=_numbers(nights))
    causes = "; ".join(sentence for night in failed[:10] for sentence in _sentences(night))
    of = f"{len(failed)} of {_count(len(nights))} not taken"
    return Failed(name="Incomplete", message=f"{of}: {causes}")


def _sentences(night: Night) -> list[str]:
    """Each names the repository."""
    name = night.repository
    return [
        each if each.startswith(f"{name} ") else f"{name}: {each}"
        for each in night.problems.values()
    ]


def _numbers(nights: Sequence[Night]) -> str:
    return f"{_count(len(nights))}: {_changes(nights)}"


def _changes(nights: Sequence[Night]) -> str:
    sums = {key: sum(n.count(key) for n in nights) for key in ("added", "removed", "changed")}
    size = sum(night.count("new_bytes") for night in nights)
    return (
        f"{sums['added']} packages added, {sums['removed']} removed, {sums['changed']} upgraded, "
        f"{size} bytes of new files"
    )


def _count(number: int) -> str:
    return "1 repository" if number == 1 else f"{number} repositories"
