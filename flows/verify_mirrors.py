"""Read every file of every mirrored day, and heal what is damaged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows.driving import actor
from flows.pictures import Bar, publish_table
from slipway.launches.mirroring import broken_rows
from slipway.mirrors.care import Broken
from slipway.mirrors.events import DAMAGED
from slipway.mirrors.progress import Progress
from tasks.announcing import announce_mirror
from tasks.mirroring import repair_files, verify_files


class VerifyRequest(BaseModel):
    """Whether to heal what is found."""

    model_config = ConfigDict(extra="forbid", title="Verify")

    repair: bool = Field(
        default=False,
        title="Repair",
        description="Fetch what is damaged or missing again.",
    )


@flow(
    name="verify-mirrors",
    flow_run_name="verify mirrors",
    description="Read every file of every mirrored day and compare it with its hash.",
    persist_result=False,
)
async def verify_mirrors(request: VerifyRequest = VerifyRequest()) -> State[Any]:  # noqa: B008
    """Verify, show what is not as it should be, and repair it if asked to."""
    progress = Progress()
    async with Bar("every file of every day").following(lambda: progress.fraction):
        found = await verify_files(progress=progress)
    read = f"{progress.files} files read"
    if found and request.repair:
        healing = Progress()
        async with Bar("repair").following(lambda: healing.fraction):
            found = await repair_files(actor=actor(), progress=healing)
    await publish_table(broken_rows(found), key="mirror-damage", description=read)
    left = [each for each in found if not each.healed]
    if not left:
        healed = f", {len(found)} of them repaired" if found else ", all as they should be"
        return Completed(name="Sound", message=read + healed)
    for name, count in Counter(each.wanted.repository for each in left).items():
        announce_mirror(DAMAGED, name, files=str(count))
    return Failed(name="Damaged", message=f"{read}, {_named(left)}")


def _named(left: Sequence[Broken]) -> str:
    shown = "; ".join(str(each) for each in left[:5])
    more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
    return f"{len(left)} not as they should be: {shown}{more}"
