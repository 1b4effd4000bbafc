"""The one poller of a region: it lists for everybody who waits there, in whichever process.

It holds the lease ``watch/<cloud>/<region>``. Everything it writes checks the lease in the same
transaction, so one that was taken for dead and comes back writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from slipway import audit, steps
from slipway.audit import Note
from slipway.changes import Wanted, note_change, since
from slipway.clouds.base import Instance, InstanceState, Notice
from slipway.errors import Conflict
from slipway.lifecycle import subject_of
from slipway.records import AuditKind, Launch, LaunchStatus
from slipway.watch.board import Board, chunks
from slipway.watch.waiting import Answer, Known, News, Wish

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

#: How long the region stays with a poller that went silent. One whose process is seen to be dead is
#: followed at once.
LEASE_S = 10.0

ACTOR = "watch"

#: How many notices of some hundred instances are remembered.
NOTICES_TOLD = 10_000

#: Launches that are about to end their instance, or have: what becomes of it is no surprise.
_ENDING = (LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED)

#: What no launch asks for while its server is to be up.
_UNASKED = frozenset({"stopping", "stopped", "terminated", "retagged", "moved"})
#: What befalls it, and comes to an end by itself or not.
_MISHAPS = frozenset({"failed", "lost", "found", "notice"})


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What one listing has brought."""

    #: By the id of the wish: those whose wait is over.
    answers: Mapping[str, Answer]
    news: Sequence[News]


class Poller:
    """Whoever polls a region now; `take_over` makes one."""

    def __init__(self, board: Board, driver: steps.Driver) -> None:
        self._board = board
        self._driver = driver
        self._known: dict[str, Known] | None = None
        self.wishes: Sequence[Wish] = ()

    def look(self) -> None:
        """See who waits, before listing for them: only they are answered by that listing, as it
        may be older than what came later."""
        self.wishes = self._board.wishes()

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits that the newest listing has not answered."""
        return bool(self.wishes)

    def wait_s(self) -> float:
        """How long no listing is needed, because everybody knows that it takes a while."""
        if not self.wishes:
            return 0.0
        earliest = min(wish.look_from for wish in self.wishes)
        return max((earliest - self._board.clock.now()).total_seconds(), 0.0)

    def observe(self, listing: Iterable[Instance]) -> Observed:
        """Take in one complete listing and put on record what it shows. Raises `LeaseLost`; after
        any error this poller knows things that are not on record, and is of no more use."""
        now = self._board.clock.now()
        listed = {instance.id: instance for instance in listing}
        with self._driver.transaction() as connection:
            known, new = self._all_known(connection, listed)
            news: list[News] = []
            for each in known.values():
                news += each.observe(listed.get(each.instance_id), now)
            self._learn(known)
            changed = [each for each in known.values() if each.changed]
            self._board.keep(connection, changed, new=new)
            self._publish(connection, news)
            answers = {
                wish.id: known[wish.instance_id].answer(now)
                for wish in self.wishes
                if wish.is_settled(known[wish.instance_id], now)
            }
            over = [wish.id for wish in self.wishes if wish.until <= now]
            if answers or over:
                self._board.tell(connection, [*answers, *over])
            self._board.listed(connection, at=now)
            self._driver.extend(connection)
        for each in changed:
            each.changed = False
        done = {*answers, *over}
        self.wishes = [wish for wish in self.wishes if wish.id not in done]
        self._known = {
            name: each for name, each in known.items() if each.ended_at is None or name in listed
        }
        return Observed(answers=answers, news=news)

    def warn(self, notices: Iterable[Notice]) -> Sequence[News]:
        """Put on record what the cloud announces for instances of ours, each once: the change log
        knows what was told. Raises `LeaseLost`."""
        known, now = self._known or {}, self._board.clock.now()
        ours = [
            known[each.instance_id].warn(each, now) for each in notices if each.instance_id in known
        ]
        if not ours:
            return ()
        with self._driver.transaction() as connection:
            told = self._told(connection, {each.instance_id for each in ours})
            news = [each for each in ours if _notice_key(each.instance_id, each.detail) not in told]
            self._publish(connection, news)
        return news

    def _told(
        self, connection: sa.Connection, instance_ids: Collection[str]
    ) -> set[tuple[str, ...]]:
        found = set()
        for some in chunks(sorted(instance_ids)):
            subjects = {f"instance/{each}": each for each in some}
            wanted = Wanted(kinds=("instance.notice",), subjects=tuple(subjects))
            for change in since(connection, 0, limit=NOTICES_TOLD, wanted=wanted):
                found.add(_notice_key(subjects[change.subject], change.detail))
        return found

    def failed(self, error: Exception) -> None:
        """Put on record why there was no listing. Raises `LeaseLost`."""
        with self._driver.transaction() as connection:
            self._board.listed(connection, at=None, problem=str(error))
            self._driver.extend(connection)

    def renew(self) -> None:
        """Keep the region for another while. Raises `LeaseLost`."""
        self._driver.renew()

    def leave(self) -> None:
        """Let somebody else poll, and let them know."""
        self._driver.release()
        with self._board.database.transaction() as connection:
            self._board.tell(connection, ())

    def _all_known(
        self, connection: sa.Connection, listed: Collection[str]
    ) -> tuple[dict[str, Known], set[str]]:
        """Everything that this listing may say something of, and what of it is not on record."""
        if self._known is None:
            self._known = self._board.known(connection)
        wanted = {*listed, *(wish.instance_id for wish in self.wishes)}
        missing = wanted - self._known.keys()
        found = self._board.known(connection, missing) if missing else {}
        new = missing - found.keys()
        made = {name: Known(instance_id=name, changed=True) for name in sorted(new)}
        return {**self._known, **found, **made}, new

    def _learn(self, known: Mapping[str, Known]) -> None:
        """How long booting took, of those that are seen running for the first time."""
        for wish in self.wishes:
            each = known[wish.instance_id]
            if wish.begun_at is None or each.boot_s is not None or each.last is None:
                continue
            if each.last.state is InstanceState.RUNNING:
                first = next(s.at for s in each.sightings if s.state is InstanceState.RUNNING)
                each.boot_s = max((first - wish.begun_at) / timedelta(seconds=1), 0.0)
                each.changed = True

    def _publish(self, connection: sa.Connection, news: Sequence[News]) -> None:
        """Each as a change, for streams; in the audit of its launch what nobody here asked for."""
        launches = self._launches(connection, {each.launch_id for each in news if each.launch_id})
        for each in news:
            launch = launches.get(each.launch_id or "")
            where = {"cloud": self._board.cloud, "region": self._board.region}
            of = {} if launch is None else {"launch": launch.id, "server": launch.server_name}
            note_change(
                connection,
                f"instance.{each.kind}",
                f"instance/{each.instance_id}",
                actor=ACTOR,
                at=each.at,
                detail={**where, **of, **each.detail},
            )
            if launch is not None and (summary := _surprise(each, launch)):
                detail = {"observed": each.kind, **each.detail}
                note = Note(kind=AuditKind.INFO, summary=summary, detail=detail)
                audit.append(connection, subject_of(launch.id), [note], actor=ACTOR, at=each.at)

    def _launches(
        self, connection: sa.Connection, launch_ids: Collection[str]
    ) -> dict[str, sa.Row[Any]]:
        columns = (
            _LAUNCHES.c.id,
            _LAUNCHES.c.server_name,
            _LAUNCHES.c.status,
            _LAUNCHES.c.instance_id,
        )
        found = {}
        for some in chunks(sorted(launch_ids)):
            query = sa.select(*columns).where(_LAUNCHES.c.id.in_(some))
            found.update({row.id: row for row in connection.execute(query)})
        return found


def take_over(board: Board) -> Poller | None:
    """Become the poller of a region; None while there is another one."""
    subject = f"watch/{board.place}"
    if steps.is_driven(board.database, board.clock, subject):
        return None
    try:
        driver = steps.acquire(board.database, board.clock, subject, actor=ACTOR, lease_s=LEASE_S)
    except Conflict:
        # Another was faster.
        return None
    board.set_up()
    return Poller(board, driver)


def _notice_key(instance_id: str, detail: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes a notice the same one."""
    return instance_id, str(detail["code"]), str(detail["not_before"])


def _surprise(news: News, launch: sa.Row[Any]) -> str | None:
    """What the audit of a launch says of it; None for what was to be expected."""
    if launch.status in _ENDING or launch.instance_id != news.instance_id:
        return None
    started_again = news.detail.get("before") in ("stopping", "stopped")
    if news.kind in _UNASKED or (news.kind in ("pending", "running") and started_again):
        return f"{news.summary}; nobody here asked for that"
    return news.summary if news.kind in _MISHAPS else None
