"""What the Prefect run page shows of a launch: its timeline, as an artifact."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.context import FlowRunContext

from flows.outcomes import Outcome
from slipway.launches.timeline import timeline_markdown
from slipway.launches.work import Work
from slipway.records import LaunchStatus
from tasks.threads import records

#: A picture that cannot be shown is no reason to call a launch failed.
_log = logging.getLogger("slipway.pictures")


async def publish_timeline(work: Work) -> None:
    """Put the launch's steps on the run page, where there is one. The key stays the same over
    resumed runs, so the page of the artifact shows its history."""
    if FlowRunContext.get() is None:
        return
    try:
        markdown = await records(timeline_markdown, work.services, work.launch_id)
        await acreate_markdown_artifact(
            markdown=markdown,
            key=f"timeline-{work.launch_id}",
            description=f"Steps of {work.server}",
        )
    except Exception:  # noqa: BLE001  (logged: a picture is not the launch)
        _log.exception("the timeline of %s could not be published", work.server)


async def publish_fleet(outcomes: Sequence[Outcome]) -> None:
    """Put one row per server on the run page of a fleet, the failed ones first."""
    if FlowRunContext.get() is None:
        return
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
    try:
        await acreate_table_artifact(table=rows, key="fleet", description="Servers of this run")
    except Exception:  # noqa: BLE001  (logged: a picture is not the launch)
        _log.exception("the table of the fleet could not be published")
