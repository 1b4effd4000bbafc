"""Remove what was left behind in the clouds, after somebody has seen the list."""

from __future__ import annotations

import re
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import BaseModel, ConfigDict, Field

from flows.approval import ask
from flows.driving import actor
from flows.pictures import publish_table
from slipway.launches.sweeping import Look, Swept, rows
from tasks.sweeping import look_for_leftovers, remove_leftovers

#: As many as a form can show; the artifact has all of them.
SHOWN = 50


class SweepRequest(BaseModel):
    """Whether to remove anything, and who has to agree."""

    model_config = ConfigDict(extra="forbid", title="Sweep")

    dry_run: bool = Field(
        default=True,
        title="Dry run",
        description="Only list what would be removed.",
    )
    approval: Literal["ask", "no"] = Field(
        default="ask",
        title="Approval",
        description="ask: pause until somebody agrees to the list. no: remove it at once.",
    )
    within_h: float = Field(
        default=12.0,
        title="Hours to answer",
        description="When nobody has answered by then, nothing is removed.",
        gt=0,
        le=168,
    )


@flow(
    name="sweep-orphans",
    flow_run_name="sweep",
    description="Remove what launches left behind in the clouds: ours, expired, used by nobody.",
    persist_result=False,
)
async def sweep_orphans(request: SweepRequest = SweepRequest()) -> State[Any]:  # noqa: B008
    """Look, show, ask, remove: exactly what was shown, each looked at again just before. The
    default changes nothing."""
    found = await look_for_leftovers()
    table = rows(found.leftovers)
    await publish_table(table, key="leftovers", description=f"What {found.id} found")
    if not found.leftovers:
        return _state("Clean", "nothing is left behind", found)
    count = _count(len(found.leftovers))
    if request.dry_run:
        return _state("WouldRemove", f"{count} would be removed", found)
    because = "without asking, as requested"
    if request.approval == "ask":
        answer = await ask(question(found, table), within_s=request.within_h * 3600)
        because = answer.words
        if not answer.approved:
            return _state("NotApproved", f"{count} kept: {because}", found)
    swept = await remove_leftovers(found, actor=actor(), because=because)
    await publish_table(_outcomes(swept), key="swept", description=f"What {found.id} did")
    return _state("Swept", _summary(swept), found, failed=swept.count("failed") > 0)


def question(found: Look, table: list[dict[str, str]]) -> str:
    """What somebody has to agree to, as Markdown. A list, because the form of a paused run is too
    narrow for the table."""
    lines = [f"**{_count(len(table))} will be removed for good.**", ""]
    lines += [
        f"- {row['kind']} `{row['id']}` in {row['cloud']}: {_plain(row['what'])}; expired "
        f"{row['expired']}, {_plain(row['why'])}"
        for row in table[:SHOWN]
    ]
    if len(table) > SHOWN:
        lines += ["", f"… and {len(table) - SHOWN} more: see the artifact `leftovers` of this run."]
    lines += ["", *(f"Not looked at: {problem}" for problem in found.problems)]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is: names and tags are what others have written."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", " ".join(text.split()))


def _state(name: str, message: str, found: Look, *, failed: bool = False) -> State[Any]:
    """Failed also when a place could not be looked at: somebody should know."""
    if failed or found.problems:
        return Failed(name="Incomplete", message="; ".join([message, *found.problems]))
    return Completed(name=name, message=message)


def _outcomes(swept: Swept) -> list[dict[str, str]]:
    return [
        {"outcome": each.outcome, "what": each.leftover.name, "why": each.why}
        for each in swept.removals
    ]


def _summary(swept: Swept) -> str:
    words = [f"{_count(swept.count('removed'))} removed"]
    words += [f"{found} {word}" for word in ("kept", "failed") if (found := swept.count(word))]
    return ", ".join(words)


def _count(number: int) -> str:
    return "1 leftover" if number == 1 else f"{number} leftovers"
