"""Remove the days of mirrors that nobody keeps, after saying which."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from flows.driving import actor
from flows.pictures import publish_table
from slipway.launches.mirroring import pruned_rows
from slipway.mirrors.care import Pruned
from tasks.mirroring import look_for_old_days, remove_old_days


class PruneRequest(BaseModel):
    """Whether to remove anything."""

    model_config = ConfigDict(extra="forbid", title="Prune")

    dry_run: bool = Field(
        default=True, title="Dry run", description="Only list what would be removed."
    )


@flow(
    name="prune-mirrors",
    flow_run_name="prune mirrors",
    description="Remove days that are neither pinned nor to be kept, and files that no day has.",
    persist_result=False,
)
async def prune_mirrors(request: PruneRequest = PruneRequest()) -> State[Any]:  # noqa: B008
    """Look, show, remove: no other days than those that were shown."""
    found = await look_for_old_days(actor=actor())
    await publish_table(
        pruned_rows(found), key="mirror-old-days", description=f"{_words(found)} may go"
    )
    if not found.days and not found.files:
        return Completed(name="Clean", message="there is nothing to remove")
    if request.dry_run:
        return Completed(name="WouldRemove", message=f"{_words(found)} would be removed")
    removed = await remove_old_days(found, count=len(found.days), actor=actor())
    return Completed(name="Pruned", message=f"{_words(removed)} removed")


def _words(found: Pruned) -> str:
    return f"{len(found.days)} days, {found.files} files and {found.bytes} bytes"
