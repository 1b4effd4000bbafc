"""Identifiers sort by the time they were made, and are never the same twice."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from slipway.ids import new_id

_TIMES = st.datetimes(
    min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(2300, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(first=_TIMES, later=st.timedeltas(timedelta(milliseconds=1), timedelta(days=9999)))
def test_later_ids_sort_behind(first: datetime, later: timedelta) -> None:
    """One millisecond is enough."""
    assert new_id("launch", first) < new_id("launch", first + later)


@given(now=_TIMES)
def test_ids_have_one_form(now: datetime) -> None:
    """A prefix and 17 characters without i, l, o and u."""
    assert re.fullmatch(r"launch-[0-9a-hjkmnp-tv-z]{17}", new_id("launch", now))


def test_ids_of_one_moment_differ() -> None:
    """Random bits tell them apart."""
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert len({new_id("launch", now) for _ in range(1000)}) == 1000
