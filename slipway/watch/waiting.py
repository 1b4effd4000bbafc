"""What listings say of instances, absence included, and what follows for whoever waits.

Pure: it never calls a cloud, never sleeps and knows no database. Whoever lists hands each listing
to `Known.observe`, asks each `Wish` whether it is settled, and pauses as `Pace` says. A listing
that failed is simply not handed in: it changes nothing.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from slipway.clouds.base import TAG_LAUNCH, Instance, InstanceState, Notice

#: A listing may miss an instance for a while: only this many in a row …
LOST_AFTER_LISTINGS = 3
#: … over at least this long mean that it is lost.
LOST_AFTER = timedelta(seconds=300)

#: States an instance does not come back from.
HOPELESS = frozenset({InstanceState.TERMINATED, InstanceState.FAILED})

#: So many boots tell how long one usually takes: the newest of its image and type …
BOOTS = 50
#: … at least this many …
FEWEST_BOOTS = 5
#: … of which the quickest twentieth counts.
QUICKEST = 0.05
#: The first look comes a little earlier: else nobody would ever see that boots have become quicker.
EARLY = 0.8

#: How many sightings of one instance are kept: one that is stopped every night has many.
SIGHTINGS_KEPT = 20


class Seen(StrEnum):
    """What the listings say of an instance, absence included."""

    #: Never listed so far: too new, or never made.
    UNKNOWN = "unknown"
    LISTED = "listed"
    #: Listed once and missing long enough; reversible, and a reason to destroy nothing.
    LOST = "lost"


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """An instance was first seen in a state."""

    state: InstanceState
    at: datetime
    #: In the cloud's words.
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class News:
    """Something a listing shows for the first time."""

    #: The state it is seen in, or ``lost``, ``found``, ``retagged``, ``moved``, ``notice``.
    kind: str
    instance_id: str
    launch_id: str | None
    at: datetime
    #: In words.
    summary: str
    #: JSON values.
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What somebody who waited is told: the instance as it was listed last."""

    instance_id: str
    seen: Seen = Seen.UNKNOWN
    last: Instance | None = None
    sightings: tuple[Sighting, ...] = ()
    #: It has been missing often and long enough to count as not there, seen before or not.
    is_absent: bool = False
    #: Why the newest listing failed; empty when it did not.
    problem: str = ""


@dataclass(eq=False, kw_only=True)
class Known:
    """What is known of one instance."""

    instance_id: str
    seen: Seen = Seen.UNKNOWN
    last: Instance | None = None
    sightings: tuple[Sighting, ...] = ()
    boot_s: float | None = None
    #: How many listings in a row did not show it, and since when.
    missed: int = 0
    missing_since: datetime | None = None
    ended_at: datetime | None = None
    #: Something is not on record yet.
    changed: bool = False

    @property
    def launch_id(self) -> str | None:
        """The launch it was made for, by its tag."""
        return None if self.last is None else self.last.tags.get(TAG_LAUNCH)

    def is_absent(self, now: datetime) -> bool:
        """Whether it has been missing often and long enough to count as not there."""
        return (
            self.missed >= LOST_AFTER_LISTINGS
            and self.missing_since is not None
            and now - self.missing_since >= LOST_AFTER
        )

    def observe(self, found: Instance | None, now: datetime) -> list[News]:
        """Take in what a complete listing says of it."""
        if found is None:
            return self._miss(now)
        before, was_lost = self.last, self.seen is Seen.LOST
        self.changed |= before != found or self.missed > 0
        self.seen, self.last = Seen.LISTED, found
        self.missed, self.missing_since = 0, None
        if found.state is not InstanceState.TERMINATED:
            self.ended_at = None
        news = []
        if was_lost:
            news.append(self._news("found", now, f"instance {found.id} is listed again"))
        if before is None or before.state is not found.state:
            news.append(self._sight(before, found, now))
        if before is not None and found.state not in HOPELESS:
            news += self._compare(before, found, now)
        return news

    def warn(self, notice: Notice, now: datetime) -> News:
        """What the cloud announces for it."""
        at = notice.not_before
        when = f", not before {at:%Y-%m-%d %H:%M} UTC" if at is not None else ""
        said = f": {notice.description}" if notice.description else ""
        return self._news(
            "notice",
            now,
            f"the cloud announces {notice.code} for instance {self.instance_id}{when}{said}",
            code=notice.code,
            description=notice.description,
            not_before=at.isoformat() if at is not None else None,
        )

    def answer(self, now: datetime, *, problem: str = "") -> Answer:
        """For whoever waits for it."""
        return Answer(
            instance_id=self.instance_id,
            seen=self.seen,
            last=self.last,
            sightings=self.sightings,
            is_absent=self.is_absent(now),
            problem=problem,
        )

    def _sight(self, before: Instance | None, found: Instance, now: datetime) -> News:
        sighting = Sighting(state=found.state, at=now, reason=found.state_reason)
        self.sightings = (*self.sightings, sighting)[-SIGHTINGS_KEPT:]
        because = f": {found.state_reason}" if found.state_reason else ""
        return self._news(
            found.state.value,
            now,
            f"instance {found.id} is {found.state}{because}",
            before=None if before is None else before.state.value,
            reason=found.state_reason,
        )

    def _compare(self, before: Instance, found: Instance, now: datetime) -> list[News]:
        news = []
        if tags := _changed_tags(before.tags, found.tags):
            said = (f"{k} is gone" if v is None else f"{k}={v}" for k, v in tags.items())
            text = f"the tags of instance {found.id} were changed: {', '.join(said)}"
            news.append(self._news("retagged", now, text, tags=tags))
        if before.address is not None and before.address != found.address:
            text = f"instance {found.id} has moved from {before.address} to {found.address}"
            addresses = {"private_ip": found.private_ip, "public_ip": found.public_ip}
            news.append(self._news("moved", now, text, **addresses))
        return news

    def _miss(self, now: datetime) -> list[News]:
        if self.is_absent(now) and (self.seen is Seen.LOST or self.ended_at is not None):
            # Writing the same again at every listing would be for nothing.
            return []
        self.changed = True
        self.missed += 1
        self.missing_since = self.missing_since or now
        if not self.is_absent(now):
            return []
        if self.last is None or self.last.state is InstanceState.TERMINATED:
            # Never made, or over: clouds stop listing what has ended.
            self.ended_at = now
            return []
        self.seen = Seen.LOST
        text = (
            f"instance {self.instance_id} is lost: the cloud has not listed it since "
            f"{self.missing_since:%Y-%m-%d %H:%M:%S} UTC"
        )
        return [self._news("lost", now, text)]

    def _news(self, kind: str, now: datetime, summary: str, **detail: Any) -> News:
        return News(
            kind=kind,
            instance_id=self.instance_id,
            launch_id=self.launch_id,
            at=now,
            summary=summary,
            detail=detail,
        )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Somebody's wish: this instance, one of these states."""

    id: str
    instance_id: str
    wanted: frozenset[InstanceState]
    #: States it cannot get from to a wanted one.
    hopeless: frozenset[InstanceState] = HOPELESS
    #: It is to go away: being absent for long enough settles it, also when it was never listed.
    gone: bool = False
    #: When the cloud was asked for it, where boot times are learned from that.
    begun_at: datetime | None = None
    #: Before this no listing is needed.
    look_from: datetime
    #: After this nobody waits any more.
    until: datetime

    def is_settled(self, known: Known, now: datetime) -> bool:
        """Whether it has come true, or cannot any more."""
        if known.last is not None and known.seen is Seen.LISTED:
            state = known.last.state
            if state in self.wanted or state in self.hopeless:
                return True
        return self.gone and known.is_absent(now)


def first_look_s(boots_s: Sequence[float]) -> float:
    """How long after a request to make an instance nobody needs to look for it, given how long
    others have taken, in seconds."""
    if len(boots_s) < FEWEST_BOOTS:
        return 0.0
    return sorted(boots_s)[int(len(boots_s) * QUICKEST)] * EARLY


class Pace:
    """How long to pause from the beginning of one listing of a region to that of the next."""

    #: The pause grows by this factor while nothing changes …
    GROWTH = 1.5
    #: … up to this.
    LONGEST_S = 15.0
    #: Pollers of several regions must not ask in step: pauses are shorter by up to this part.
    JITTER = 0.1
    #: What reading takes is taken off the pause, up to this part of it.
    MOST_OFF = 0.5

    def __init__(
        self, *, shortest_s: float, random: Callable[[float, float], float] = random.uniform
    ) -> None:
        self.shortest_s = shortest_s
        #: The last listing failed: newcomers do not bring the next one forward.
        self.failing = False
        self._random = random
        self._pause_s = shortest_s
        #: Of the newest few: one that was quick says little about the next.
        self._took_s: deque[float] = deque(maxlen=3)

    def pause_s(self) -> float:
        """How long now. Where listings are read in time, nobody hears of a change later than one
        pause after it."""
        pause_s = self._pause_s * self._random(1 - self.JITTER, 1)
        took_s = 0.0 if self.failing else max(self._took_s, default=0.0)
        return max(pause_s - took_s, pause_s * (1 - self.MOST_OFF))

    def took(self, took_s: float) -> None:
        """So long it took from the beginning of a listing until everybody was told, in seconds."""
        self._took_s.append(took_s)

    def hurry(self) -> None:
        """Something has changed, or somebody has come: look again soon."""
        self.failing, self._pause_s = False, self.shortest_s

    def quiet(self) -> None:
        """A listing has shown nothing new."""
        self.failing = False
        self._grow()

    def failed(self) -> None:
        """A listing failed."""
        self.failing = True
        self._grow()

    def _grow(self) -> None:
        self._pause_s = min(self._pause_s * self.GROWTH, self.LONGEST_S)


def _changed_tags(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str | None]:
    """The tags that are new or have another value, and with None those that are gone."""
    changed: dict[str, str | None] = {
        name: value for name, value in after.items() if before.get(name) != value
    }
    return changed | {name: None for name in before if name not in after}
