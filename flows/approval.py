"""Asking a person before something cannot be taken back: the run pauses, with a form.

Pausing and not suspending: a paused run is one waiting coroutine of the worker, next to nothing.
It does not outlive its worker; then nothing was approved and nothing is done, and whoever runs
next looks anew and asks again. A suspended run would start over too, with an answer to a question
that may have changed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import Field

#: How soon an answer is noticed.
LOOK_S = 5

#: How much longer Prefect holds a pause open than we wait.
SPARE_S = 3600

Decision = Literal["keep everything", "go ahead"]


class Approval(RunInput):
    """The form of a paused run. Resuming it as it is does no harm."""

    decision: Decision = Field(
        default="keep everything",
        title="Decision",
        description="Only 'go ahead' does what is listed above.",
    )
    who: str = Field(
        default="",
        title="Your name",
        description="For the audit: Prefect does not tell us who answers.",
        max_length=64,
    )
    comment: str = Field(default="", title="Comment", description="For the audit.", max_length=1000)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a person said, or that nobody did."""

    approved: bool
    #: In words, for the audit: ``approved by jo: the load test is over``.
    words: str


async def ask(question: str, *, within_s: float) -> Answer:
    """Pause the flow run until somebody answers. ``question`` is Markdown and stands above the
    form. No answer in time is a no."""
    form = Approval.with_initial_data(description=question)
    # Prefect fails a run whose pause has run out, whatever it answers; so ours runs out earlier.
    patience_s = int(within_s) + SPARE_S
    try:
        async with asyncio.timeout(within_s):
            given = await apause_flow_run(form, timeout=patience_s, poll_interval=LOOK_S)
    except TimeoutError:
        return Answer(approved=False, words="nobody answered in time")
    approved = given.decision == "go ahead"
    who = given.who.strip() or "somebody who gave no name"
    words = f"{'approved' if approved else 'refused'} by {who}"
    comment = " ".join(given.comment.split())
    return Answer(approved=approved, words=f"{words}: {comment}" if comment else words)
