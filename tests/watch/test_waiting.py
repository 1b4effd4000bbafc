"""The rules of waiting: what listings say, and what they do not say."""

from __future__ import annotations

from datetime import timedelta

import pytest

from slipway.clouds.base import InstanceState
from slipway.watch.waiting import (
    LOST_AFTER,
    LOST_AFTER_LISTINGS,
    SIGHTINGS_KEPT,
    Known,
    Pace,
    Seen,
    first_look_s,
)
from tests.watch.listed import NOW, instance, wish

LOST_AFTER_S = LOST_AFTER.total_seconds()


class Listings:
    """An instance about which one listing after the other is told."""

    def __init__(self) -> None:
        self.known = Known(instance_id="i-1")
        self.now = NOW

    def tell(
        self, state: InstanceState | None, *, after_s: float = 1.0, reason: str = ""
    ) -> list[str]:
        """The kinds of news of a listing with the instance in this state, or without it."""
        self.now += timedelta(seconds=after_s)
        found = None if state is None else instance(state=state, reason=reason)
        return [each.kind for each in self.known.observe(found, self.now)]

    def settles(self, **fields: object) -> bool:
        return wish(**fields).is_settled(self.known, self.now)


@pytest.fixture
def listings() -> Listings:
    return Listings()


def test_an_instance_that_was_never_listed_is_unknown(listings: Listings) -> None:
    """However long it is missing: it may be too new, so nothing follows from it."""
    for _ in range(10):
        assert listings.tell(None, after_s=LOST_AFTER_S) == []
    assert listings.known.seen is Seen.UNKNOWN
    assert not listings.settles()


def test_a_wish_comes_true(listings: Listings) -> None:
    """Each state is news when it is first seen, and then no more."""
    told = [
        listings.tell(state)
        for state in (InstanceState.PENDING, InstanceState.PENDING, InstanceState.RUNNING)
    ]
    assert told == [["pending"], [], ["running"]]
    assert [each.state for each in listings.known.sightings] == ["pending", "running"]
    assert listings.known.sightings[0].at == NOW + timedelta(seconds=1)
    assert listings.settles()


@pytest.mark.parametrize("state", [InstanceState.FAILED, InstanceState.TERMINATED])
def test_a_hopeless_wish_ends(listings: Listings, state: InstanceState) -> None:
    """What cannot come true any more is not waited for; the reason is kept."""
    listings.tell(state, reason="kernel panic")
    assert listings.settles()
    assert listings.known.answer(listings.now).sightings[0].reason == "kernel panic"


def test_two_listings_without_it_mean_nothing(listings: Listings) -> None:
    """However far apart they are: nothing is told, and the count begins anew when it is back."""
    listings.tell(InstanceState.RUNNING)
    for _ in range(3):
        assert listings.tell(None) == []
        assert listings.tell(None, after_s=2 * LOST_AFTER_S) == []
        assert listings.known.seen is Seen.LISTED
        assert listings.tell(InstanceState.RUNNING) == []
    assert listings.known.missed == 0


def test_lost_takes_several_listings_and_time(listings: Listings) -> None:
    """Both together, neither alone; it is told once, and coming back is always possible."""
    listings.tell(InstanceState.PENDING)
    for _ in range(LOST_AFTER_LISTINGS + 5):
        assert listings.tell(None) == []
    assert listings.known.seen is Seen.LISTED, "not long enough"
    assert listings.tell(None, after_s=LOST_AFTER_S) == ["lost"]
    assert listings.tell(None, after_s=LOST_AFTER_S) == []
    assert listings.known.seen is Seen.LOST
    assert not listings.settles()
    assert listings.tell(InstanceState.RUNNING) == ["found", "running"]
    assert listings.settles()


def test_what_is_to_be_gone_may_be_absent(listings: Listings) -> None:
    """Whoever waits for its end is told when it has been missing for long enough, listed before or
    not."""
    for seen_before in (False, True):
        if seen_before:
            listings.tell(InstanceState.RUNNING)
        for _ in range(LOST_AFTER_LISTINGS):
            assert not listings.settles(gone=True, wanted=frozenset())
            listings.tell(None, after_s=LOST_AFTER_S / 2)
        assert listings.settles(gone=True, wanted=frozenset())
        assert listings.known.answer(listings.now).is_absent


def test_what_has_ended_is_not_lost(listings: Listings) -> None:
    """Clouds stop listing what is terminated; that is its end and no news."""
    listings.tell(InstanceState.TERMINATED)
    told = [listings.tell(None, after_s=LOST_AFTER_S) for _ in range(LOST_AFTER_LISTINGS + 1)]
    assert told == [[]] * len(told)
    assert listings.known.ended_at is not None
    assert listings.settles(), "whoever comes late is told that it cannot come true"


def test_only_the_newest_sightings_are_kept(listings: Listings) -> None:
    """A server that is stopped every night does not grow without end."""
    for _ in range(SIGHTINGS_KEPT):
        listings.tell(InstanceState.RUNNING)
        listings.tell(InstanceState.STOPPED)
    assert len(listings.known.sightings) == SIGHTINGS_KEPT
    assert listings.known.sightings[-1].state is InstanceState.STOPPED


def test_changed_tags_and_addresses_are_news() -> None:
    """Each with what is new; an address that comes with the first boot is none."""
    known = Known(instance_id="i-1")
    listed = [
        instance(tags={"a": "1", "b": "2"}),
        instance(state=InstanceState.RUNNING, tags={"a": "1", "b": "2"}, private_ip="192.0.2.1"),
        instance(state=InstanceState.RUNNING, tags={"a": "3", "c": "4"}, private_ip="192.0.2.1"),
        instance(state=InstanceState.RUNNING, tags={"a": "3", "c": "4"}, private_ip="192.0.2.9"),
    ]
    told = [known.observe(each, NOW) for each in listed]
    assert [[each.kind for each in news] for news in told] == [
        ["pending"],
        ["running"],
        ["retagged"],
        ["moved"],
    ]
    assert told[2][0].detail == {"tags": {"a": "3", "c": "4", "b": None}}
    assert "a=3, c=4, b is gone" in told[2][0].summary
    assert "from 192.0.2.1 to 192.0.2.9" in told[3][0].summary


def test_pauses_grow_while_nothing_happens() -> None:
    """By a factor up to a limit; a change makes them short again."""
    pace = Pace(shortest_s=0.5, random=lambda _, high: high)
    pauses = []
    for _ in range(12):
        pace.quiet()
        pauses.append(pace.pause_s())
    # 0.5 * 1.5 = 0.75, 0.75 * 1.5 = 1.125, …
    assert pauses[:2] == [0.75, 1.125]
    assert pauses[-1] == Pace.LONGEST_S
    pace.hurry()
    assert pace.pause_s() == 0.5


def test_pauses_are_not_in_step() -> None:
    """Each is a little shorter than the one of another poller, and none is longer than it says."""
    drawn: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    assert Pace(shortest_s=2.0, random=lowest).pause_s() == pytest.approx(1.8)
    assert drawn == [(0.9, 1)]


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.4, 1.6), (1.0, 1.0), (30.0, 1.0)])
def test_what_reading_takes_is_taken_off_the_pause(took_s: float, pause_s: float) -> None:
    """So that a change is told within the pause: half of it is left at least. The slowest of the
    newest three counts; what failed tells nothing of it."""
    pace = Pace(shortest_s=2.0, random=lambda _, high: high)
    for each in (1000.0, took_s, 0.1, 0.1):
        pace.took(each)
    assert pace.pause_s() == pytest.approx(pause_s)
    pace.failed()
    assert pace.pause_s() == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("boots_s", "expected"),
    [
        ([], 0.0),
        # Four are too few to tell.
        ([30.0, 31.0, 32.0, 33.0], 0.0),
        # The quickest of five is the quickest twentieth: 30 * 0.8
        ([33.0, 30.0, 31.0, 32.0, 90.0], 24.0),
        # Of forty, the two quickest are exceptions: (10 + 2) * 0.8
        ([10.0 + n for n in range(40)], 9.6),
    ],
)
def test_the_first_look_is_learned(boots_s: list[float], expected: float) -> None:
    """A little before the quickest twentieth of what was seen; at once where little was."""
    assert first_look_s(boots_s) == pytest.approx(expected)
