"""The life of a launch as bars on a time axis: every attempt at every step.

Pure functions from rows to places in percent of the width; the template draws what they answer.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slipway.records import Step, StepStatus

#: A pause in which nothing ran is drawn this wide, in percent …
BREAK_WIDTH = 4.0
#: … when it is longer than this share of the time in which something ran, and than this.
BREAK_SHARE, BREAK_S = 0.5, 20.0
#: The narrowest bar, in percent: a step of a millisecond is seen too.
NARROWEST = 0.6

#: The steps that end a server.
_ENDING = ("terminate-instance", "wait-for-terminated", "terminated")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a step."""

    began: datetime
    #: None while it runs.
    ended: datetime | None
    #: ``succeeded``, ``failed``, ``running``, or ``cut`` when its driver was lost.
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """An attempt's place."""

    x: float
    width: float
    outcome: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A step with its bars."""

    step: Step
    bars: Sequence[Bar]
    #: How long the last attempt took; None while it runs.
    duration_s: float | None


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Steps that share an axis: the launch, one operational script, the end."""

    #: ``launch``, ``operational`` or ``end``.
    kind: str
    title: str
    rows: Sequence[Row]
    #: Places where time was left out, and how much.
    breaks: Sequence[tuple[float, float]]
    #: From the first beginning to the last end, pauses included.
    total_s: float


def attempts(
    steps: Sequence[Step], entries: Sequence[Mapping[str, Any]]
) -> dict[str, list[Attempt]]:
    """The attempts at each step by its key: earlier ones from the audit, the last from its row."""
    found: dict[str, list[Attempt]] = {}
    open_since: dict[str, datetime] = {}
    for entry in entries:
        key, at = str(entry["step"]), entry["at"]
        if entry["kind"] == "section":
            if key in open_since:
                # Nobody wrote how it ended, so whoever drove it did not live to see it.
                found.setdefault(key, []).append(
                    Attempt(began=open_since[key], ended=at, outcome="cut")
                )
            open_since[key] = at
            continue
        outcome = json.loads(entry["detail"]).get("outcome")
        if outcome is not None and key in open_since:
            began = open_since.pop(key)
            found.setdefault(key, []).append(Attempt(began=began, ended=at, outcome=outcome))
    for step in steps:
        last = Attempt(began=step.started_at, ended=step.ended_at, outcome=step.status)
        earlier = [each for each in found.get(step.key, []) if each.began < step.started_at]
        found[step.key] = [*earlier, last]
    return found


def chapters(
    steps: Sequence[Step], entries: Sequence[Mapping[str, Any]], now: datetime
) -> list[Chapter]:
    """The steps in chapters, each with an axis of its own: what took place long after the launch
    would leave no room for it on one."""
    tries = attempts(steps, entries)
    grouped: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        grouped.setdefault(_chapter(step), []).append(step)
    found = []
    for (kind, key), chosen in grouped.items():
        mine = {step.key: tries[step.key] for step in chosen}
        axis = Axis([each for several in mine.values() for each in several], now)
        title = {"launch": "Launch", "end": "Decommission"}.get(kind) or key.split(":")[1]
        found.append(
            Chapter(
                kind=kind,
                title=title,
                rows=[
                    Row(
                        step=step,
                        bars=[axis.bar(each) for each in mine[step.key]],
                        duration_s=_took(step),
                    )
                    for step in chosen
                ],
                breaks=axis.breaks,
                total_s=axis.total_s,
            )
        )
    return found


class Axis:
    """Where a moment is, in percent. Long pauses, as before a resume, are cut short."""

    def __init__(self, attempts: Sequence[Attempt], now: datetime) -> None:
        self._now = now
        busy = _merged([(each.began, each.ended or now) for each in attempts])
        begin, end = busy[0][0], busy[-1][1]
        self.total_s = (end - begin).total_seconds()
        worked_s = sum((stop - start).total_seconds() for start, stop in busy)
        longest_s = max(BREAK_SHARE * worked_s, BREAK_S)
        pauses = [
            (stop, start)
            for (_, stop), (start, _) in itertools.pairwise(busy)
            if (start - stop).total_seconds() > longest_s
        ]
        left_out_s = sum((start - stop).total_seconds() for stop, start in pauses)
        width = 100.0 - BREAK_WIDTH * len(pauses)
        scale = width / max(self.total_s - left_out_s, 0.001)
        #: Pieces of the axis: from when, to when, where it begins, percent a second.
        self._pieces: list[tuple[datetime, datetime, float, float]] = []
        self.breaks: list[tuple[float, float]] = []
        x, at = 0.0, begin
        for stop, start in pauses:
            self._pieces.append((at, stop, x, scale))
            x += (stop - at).total_seconds() * scale
            paused_s = (start - stop).total_seconds()
            self._pieces.append((stop, start, x, BREAK_WIDTH / paused_s))
            self.breaks.append((round(x + BREAK_WIDTH / 2, 2), paused_s))
            x, at = x + BREAK_WIDTH, start
        self._pieces.append((at, end, x, scale))

    def place(self, moment: datetime) -> float:
        """From 0 to 100."""
        for start, stop, x, scale in self._pieces:
            if moment <= stop:
                return x + max((moment - start).total_seconds(), 0.0) * scale
        return 100.0

    def bar(self, attempt: Attempt) -> Bar:
        """An attempt's bar, wide enough to be seen and inside the picture."""
        x = self.place(attempt.began)
        width = max(self.place(attempt.ended or self._now) - x, NARROWEST)
        return Bar(
            x=round(min(x, 100.0 - NARROWEST), 2),
            width=round(min(width, 100.0 - min(x, 100.0 - NARROWEST)), 2),
            outcome=attempt.outcome,
        )


def _chapter(step: Step) -> tuple[str, str]:
    if step.key.startswith("operational:"):
        # Each run of a script is for itself.
        return "operational", step.key
    if step.key.startswith("decommission:") or step.key in _ENDING:
        return "end", ""
    return "launch", ""


def _took(step: Step) -> float | None:
    if step.status == StepStatus.RUNNING or step.ended_at is None:
        return None
    return max((step.ended_at - step.started_at).total_seconds(), 0.0)


def _merged(spans: Sequence[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Spans of time in order, those that touch made one."""
    merged: list[tuple[datetime, datetime]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], stop))
        else:
            merged.append((start, max(start, stop)))
    return merged
