"""Asking a person before something cannot be taken back: the run pauses, with a form.

Pausing and not suspending: a paused run is one waiting coroutine of the worker, next to nothing.
It does not outlive its worker; then nothing was approved and nothing is done, and whoever runs
next looks anew and asks again. A suspended run would start over too, with an answer to a question
that may have changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import apause_flow_run
from prefect.input import RunInput
from pydantic import Field

#: How soon an answer is noticed.
LOOK_S = 5

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
    try:
        given = await apause_flow_run(form, timeout=int(within_s), poll_interval=LOOK_S)
    except FlowPauseTimeout:
        return Answer(approved=False, words=f"nobody answered within {within_s / 3600:g} h")
    approved = given.decision == "go ahead"
    who = given.who.strip() or "somebody who gave no name"
    words = f"{'approved' if approved else 'refused'} by {who}"
    comment = " ".join(given.comment.split())
    return Answer(approved=approved, words=f"{words}: {comment}" if comment else words)
