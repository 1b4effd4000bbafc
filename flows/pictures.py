"""What the Prefect run page shows besides task runs: artifacts. Each costs a call of Prefect's
API, so a launch has one, which says everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.context import FlowRunContext

from flows.outcomes import Outcome
from slipway.launches.timeline import timeline_markdown
from slipway.launches.work import Work
from slipway.records import LaunchStatus
from tasks.threads import records

#: A picture that cannot be shown is no reason to call a launch failed.
_log = logging.getLogger("slipway.pictures")

#: A worker's client waits for a server that is away; a launch that is up does not.
LIMIT_S = 10.0


async def publish_timeline(work: Work) -> None:
    """Put the launch's steps on the run page, where there is one. The key stays the same over
    resumed runs, so the page of the artifact shows its history."""
    if FlowRunContext.get() is None:
        return
    try:
        markdown = await records(timeline_markdown, work.services, work.launch_id)
        async with asyncio.timeout(LIMIT_S):
            await acreate_markdown_artifact(
                markdown=markdown,
                key=f"timeline-{work.launch_id}",
                description=f"Steps of {work.server}",
            )
    except Exception:  # noqa: BLE001  (logged: a picture is not the launch)
        _log.exception("the timeline of %s could not be published", work.server)


async def publish_fleet(outcomes: Sequence[Outcome]) -> None:
    """Put one row per server on the run page of a fleet, the failed ones first."""
    rows = sorted(
        (
            {
                "server": outcome.server,
                "status": outcome.status,
                "reason": outcome.reason,
                "audit": f"slipway audit show {outcome.launch_id}",
            }
            for outcome in outcomes
        ),
        key=lambda row: (row["status"] == LaunchStatus.OPERATIONAL, row["server"]),
    )
    await publish_table(rows, key="fleet", description="Servers of this run")


async def publish_table(table: Sequence[Mapping[str, str]], *, key: str, description: str) -> None:
    """Put a table on the run page, where there is one."""
    if FlowRunContext.get() is None:
        return
    try:
        rows = [dict(row) for row in table]
        async with asyncio.timeout(LIMIT_S):
            await acreate_table_artifact(table=rows, key=key, description=description)
    except Exception:  # noqa: BLE001  (logged: a picture is not the work)
        _log.exception("the table %s could not be published", key)


class Bar:
    """A bar on the run page; moved at most every two seconds, as each move is a call of Prefect's
    API."""

    EVERY_S = 2.0

    def __init__(self, description: str) -> None:
        self._description = description
        self._artifact: UUID | None = None
        self._shown_at = 0.0

    async def begin(self) -> None:
        """Show an empty bar, where there is a run page."""
        if FlowRunContext.get() is None:
            return
        async with self._shown():
            self._artifact = await acreate_progress_artifact(
                progress=0.0, key="progress", description=self._description
            )
            self._shown_at = asyncio.get_running_loop().time()

    async def move(self, fraction: float) -> None:
        """So much is done, from 0 to 1."""
        now = asyncio.get_running_loop().time()
        if now - self._shown_at >= self.EVERY_S:
            self._shown_at = now
            await self.end(fraction)

    async def end(self, fraction: float) -> None:
        """So much is done, and no more will be."""
        if self._artifact is not None:
            async with self._shown():
                await aupdate_progress_artifact(self._artifact, 100.0 * fraction)

    @contextlib.asynccontextmanager
    async def following(self, fraction: Callable[[], float]) -> AsyncIterator[None]:
        """Keep the bar where ``fraction`` says, while the block runs."""
        await self.begin()
        follower = asyncio.create_task(self._follow(fraction))
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.wait([follower])
        await self.end(fraction())

    async def _follow(self, fraction: Callable[[], float]) -> None:
        while True:
            await asyncio.sleep(self.EVERY_S)
            await self.move(fraction())

    @contextlib.asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(LIMIT_S):
                yield
        except Exception:  # noqa: BLE001  (logged: a picture is not the work)
            _log.exception("the progress could not be published")


class Progress:
    """How many of several have ended, as a bar on the run page."""

    def __init__(self, total: int, what: str) -> None:
        self._total = total
        self._done = 0
        self._bar = Bar(f"{total} {what}")

    async def begin(self) -> None:
        """Show an empty bar, where there is more than one to wait for."""
        if self._total > 1:
            await self._bar.begin()

    async def one_more(self) -> None:
        """One has ended, however."""
        self._done += 1
        await self._bar.move(self._done / self._total)

    async def end(self) -> None:
        """No more will come."""
        await self._bar.end(self._done / max(self._total, 1))
