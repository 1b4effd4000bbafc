"""Instances as listings show them, and a board to put them on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from slipway.changes import Wanted, since
from slipway.clouds.base import TAG_LAUNCH, Instance, InstanceState
from slipway.database import Database
from slipway.records import Change
from slipway.testing.fake_clock import FakeClock
from slipway.watch.board import Board
from slipway.watch.polling import Observed, Poller, take_over
from slipway.watch.waiting import Wish

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING = frozenset({InstanceState.RUNNING})


def instance(
    instance_id: str = "i-1",
    state: InstanceState = InstanceState.PENDING,
    *,
    reason: str = "",
    launch: str | None = None,
    **fields: Any,
) -> Instance:
    """An instance, of a launch if one is named."""
    made = Instance(
        id=instance_id,
        state=state,
        region="r",
        image_id="image",
        instance_type="small",
        token=None,
        tags={} if launch is None else {TAG_LAUNCH: launch},
        created_at=NOW,
        state_reason=reason,
    )
    return replace(made, **fields)


def wish(instance_id: str = "i-1", **fields: Any) -> Wish:
    """Somebody waits for it to run, for an hour."""
    values: dict[str, Any] = {
        "id": f"wait-{instance_id}",
        "instance_id": instance_id,
        "wanted": RUNNING,
        "look_from": NOW,
        "until": NOW + timedelta(hours=1),
    }
    return Wish(**values | fields)


class Region:
    """A board, whoever polls for it, and a clock."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.clock = FakeClock(NOW)
        self.board = Board(database, self.clock, "c", "r")
        self.poller = self.take_over()

    def take_over(self) -> Poller:
        found = take_over(self.board)
        assert found is not None
        return found

    def tell(self, *listing: Instance, after_s: float = 1.0) -> Observed:
        """One more listing, after a while."""
        self.clock.advance(after_s)
        self.poller.look()
        return self.poller.observe(listing)

    def miss(self, times: int, *, after_s: float) -> list[str]:
        """So many listings without it; the news of them all."""
        return [each.kind for _ in range(times) for each in self.tell(after_s=after_s).news]

    def changes(self, kinds: Iterable[str] = ("instance",)) -> list[Change]:
        with self.database.reading() as connection:
            return since(connection, 0, limit=100, wanted=Wanted(kinds=tuple(kinds)))

    def rows(self, table: str) -> list[dict[str, Any]]:
        with self.database.reading() as connection:
            found = connection.execute(sa.text(f"SELECT * FROM {table}"))
            return [dict(row) for row in found.mappings()]
