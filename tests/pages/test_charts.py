"""Bars on a time axis."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from slipway.api.pages.charts import BREAK_WIDTH, Attempt, Axis, attempts, chapters
from slipway.records import Step

BEGIN = datetime(2026, 11, 25, 18, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def step(key: str, began: float, ended: float | None, *, attempt: int = 1) -> Step:
    return Step(
        subject="launch/x",
        key=key,
        title=key,
        position=1,
        status="running" if ended is None else "succeeded",
        attempt=attempt,
        started_at=at(began),
        ended_at=None if ended is None else at(ended),
    )


def entry(key: str, seconds: float, outcome: str | None = None) -> dict[str, Any]:
    """What the audit has of a beginning, or of an end with an outcome."""
    kind = "section" if outcome is None else "info"
    detail = json.dumps({"outcome": outcome} if outcome else {})
    return {"step": key, "at": at(seconds), "kind": kind, "detail": detail, "summary": "", "seq": 1}


def attempt(began: float, ended: float | None) -> Attempt:
    outcome = "running" if ended is None else "succeeded"
    return Attempt(began=at(began), ended=None if ended is None else at(ended), outcome=outcome)


def test_steps_share_one_axis() -> None:
    """Of 100 seconds, each percent is one: bars begin and end where their steps did."""
    [chapter] = chapters([step("a", 0, 25), step("b", 25, 75), step("c", 75, None)], [], at(100))
    places = [(row.bars[0].x, row.bars[0].width) for row in chapter.rows]
    assert places == [(0, 25), (25, 50), (75, 25)]
    assert [row.duration_s for row in chapter.rows] == [25, 50, None]
    assert chapter.total_s == 100
    assert chapter.breaks == []


def test_no_attempt_is_hidden() -> None:
    """A step that failed, lost its driver and then succeeded has three bars."""
    told = [
        entry("a", 0),
        entry("a", 10, "failed"),
        entry("a", 20),  # nobody wrote how this one ended
        entry("a", 30),
        entry("a", 40, "succeeded"),
    ]
    found = attempts([step("a", 30, 40, attempt=3)], told)["a"]
    assert [(each.began, each.ended, each.outcome) for each in found] == [
        (at(0), at(10), "failed"),
        (at(20), at(30), "cut"),
        (at(30), at(40), "succeeded"),
    ]


def test_a_long_pause_is_cut_short() -> None:
    """Three hours between stranding and resuming leave room for what happened before and after."""
    hours = 3 * 3600
    axis = Axis([attempt(0, 60), attempt(60 + hours, 120 + hours)], at(120 + hours))
    [(place, left_out_s)] = axis.breaks
    assert left_out_s == hours
    # Two equal halves around the break: (100 - 4) / 2 = 48.
    assert axis.place(at(60)) == pytest.approx(48)
    assert place == pytest.approx(48 + BREAK_WIDTH / 2)
    assert axis.place(at(60 + hours)) == pytest.approx(48 + BREAK_WIDTH)
    assert axis.place(at(120 + hours)) == pytest.approx(100)


def test_every_bar_is_seen_and_inside() -> None:
    """Also one of no length at all, at the very end."""
    axis = Axis([attempt(0, 100), attempt(100, 100)], at(100))
    bar = axis.bar(attempt(100, 100))
    assert bar.width > 0
    assert bar.x + bar.width <= 100


def test_what_came_later_has_an_axis_of_its_own() -> None:
    """The launch, each run of an operational script, and the end are chapters."""
    steps = [
        step("create-instance", 0, 5),
        step("operational:greet:1", 5000, 5001),
        step("operational:greet:2", 9000, 9001),
        step("decommission:10-drain", 99000, 99001),
        step("terminate-instance", 99001, 99002),
    ]
    found = chapters(steps, [], at(99002))
    assert [(chapter.kind, chapter.title, len(chapter.rows)) for chapter in found] == [
        ("launch", "Launch", 1),
        ("operational", "greet", 1),
        ("operational", "greet", 1),
        ("end", "Decommission", 2),
    ]


def test_a_clock_that_was_set_back_breaks_nothing() -> None:
    """A step that ended before it began is a bar all the same."""
    [chapter] = chapters([step("a", 10, 5)], [], at(0))
    assert chapter.rows[0].bars[0].width > 0
    assert chapter.rows[0].duration_s == 0
