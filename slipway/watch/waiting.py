"""Who waits for which instance, and what one listing means for all of them.

Pure: it never calls a cloud and never sleeps. Whoever runs it lists once per `Watch.pause_s`, hands
the listing to `Watch.observe`, and tells the settled waiters. One listing serves any number of
waiters, and a listing that failed is simply not handed in: it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from slipway.clouds.base import Instance, InstanceState

#: A listing may miss an instance for a while: only this many in a row …
LOST_AFTER_LISTINGS = 3
#: … over at least this long mean that it is lost.
LOST_AFTER_S = 300.0


#: States an instance does not come back from.
HOPELESS = frozenset({InstanceState.TERMINATED, InstanceState.FAILED})


class Seen(StrEnum):
    """What the listings say of an instance, absence included."""

    #: Never listed so far: too new, or never made.
    UNKNOWN = "unknown"
    LISTED = "listed"
    #: Listed once and missing long enough; reversible, and a reason to destroy nothing.
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Change:
    """An instance was first seen in a state."""

    instance_id: str
    state: InstanceState
    reason: str
    at: datetime


@dataclass(eq=False)
class Waiter:
    """One launch's wish: this instance, one of these states, by then."""

    instance_id: str
    wanted: frozenset[InstanceState]
    #: On the monotonic clock, seconds.
    deadline: float
    #: States it cannot get from to a wanted one.
    hopeless: frozenset[InstanceState] = HOPELESS
    #: It is to go away: being absent for long enough settles it, also when it was never listed.
    gone: bool = False
    seen: Seen = Seen.UNKNOWN
    last: Instance | None = None
    changes: list[Change] = field(default_factory=list)
    _missing_since: float | None = None
    _missed: int = 0

    @property
    def settled(self) -> bool:
        """Whether the wish has come true, or cannot any more."""
        if self.seen is Seen.LOST:
            return self.gone
        if self.last is None or self.seen is not Seen.LISTED:
            return False
        return self.last.state in self.wanted or self.last.state in self.hopeless

    def observe(self, found: Instance | None, *, now: datetime, monotonic: float) -> None:
        """Take in what a complete listing says of this instance."""
        if found is None:
            self._miss(monotonic)
            return
        self.seen, self._missing_since, self._missed = Seen.LISTED, None, 0
        if self.last is None or self.last.state is not found.state:
            self.changes.append(
                Change(instance_id=found.id, state=found.state, reason=found.state_reason, at=now)
            )
        self.last = found

    def _miss(self, monotonic: float) -> None:
        if self.last is None and not self.gone:
            return
        self._missed += 1
        if self._missing_since is None:
            self._missing_since = monotonic
        long_enough = monotonic - self._missing_since >= LOST_AFTER_S
        if self._missed >= LOST_AFTER_LISTINGS and long_enough:
            self.seen = Seen.LOST


class Watch:
    """All waiters of one cloud and region."""

    #: The pause grows by this factor while nothing changes …
    GROWTH = 1.5
    #: … up to this.
    LONGEST_PAUSE_S = 15.0

    def __init__(self, *, shortest_pause_s: float) -> None:
        self.shortest_pause_s = shortest_pause_s
        #: The last listing failed.
        self.failing = False
        self.pause_s = shortest_pause_s
        self._waiters: list[Waiter] = []

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, waiter: Waiter) -> None:
        """Take in a waiter; the next listing comes soon, unless the cloud has trouble."""
        self._waiters.append(waiter)
        if not self.failing:
            self.pause_s = self.shortest_pause_s

    def failed(self) -> None:
        """A listing failed: nothing changes for anyone, and the next one comes later."""
        self.failing = True
        self.pause_s = min(self.pause_s * self.GROWTH, self.LONGEST_PAUSE_S)

    def discard(self, waiter: Waiter) -> None:
        """Forget a waiter that gave up."""
        self._waiters = [kept for kept in self._waiters if kept is not waiter]

    def observe(
        self, listing: Iterable[Instance], *, now: datetime, monotonic: float
    ) -> list[Waiter]:
        """Hand in one complete listing; answers the waiters that are done with waiting."""
        self.failing = False
        by_id: Mapping[str, Instance] = {instance.id: instance for instance in listing}
        seen_before = sum(len(waiter.changes) for waiter in self._waiters)
        for waiter in self._waiters:
            waiter.observe(by_id.get(waiter.instance_id), now=now, monotonic=monotonic)
        seen_now = sum(len(waiter.changes) for waiter in self._waiters)
        if seen_now > seen_before:
            self.pause_s = self.shortest_pause_s
        else:
            self.pause_s = min(self.pause_s * self.GROWTH, self.LONGEST_PAUSE_S)
        return self._release(monotonic)

    def expire(self, *, monotonic: float) -> list[Waiter]:
        """The waiters whose deadline has passed, also when no listing came through."""
        return self._release(monotonic)

    def _release(self, monotonic: float) -> list[Waiter]:
        done = [w for w in self._waiters if w.settled or monotonic >= w.deadline]
        if done:
            gone = {id(waiter) for waiter in done}
            self._waiters = [waiter for waiter in self._waiters if id(waiter) not in gone]
        return done
