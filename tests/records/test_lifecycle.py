"""The states of a launch: one table, one writer."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

import slipway
from slipway import audit, lifecycle
from slipway.database import Database
from slipway.errors import LifecycleError, NotFound
from slipway.lifecycle import ENTER, PHASES, TRANSITIONS, Event, advance, subject_of
from slipway.records import LaunchStatus
from tests.records.rows import AT, add_launch, launch_row

UNKNOWN = sorted(set(itertools.product(LaunchStatus, Event)) - set(TRANSITIONS))


def move(database: Database, event: Event, **values: object) -> LaunchStatus:
    with database.transaction() as connection:
        return advance(connection, "launch-1", event, actor="tests", at=AT, **values)  # type: ignore[arg-type]


def test_every_state_is_reachable() -> None:
    """From requested there is a way to every state."""
    seen, todo = set(), {LaunchStatus.REQUESTED}
    while todo:
        seen |= todo
        todo = {after for (before, _), after in TRANSITIONS.items() if before in todo} - seen
    assert seen == set(LaunchStatus)


def test_every_state_but_the_last_has_a_way_to_the_end() -> None:
    """No launch can be stuck: from every state there is a way to terminated."""
    good, grew = {LaunchStatus.TERMINATED}, True
    while grew:
        more = {before for (before, _), after in TRANSITIONS.items() if after in good} - good
        good, grew = good | more, bool(more)
    assert good == set(LaunchStatus)


def test_nothing_leaves_terminated() -> None:
    """The end is the end."""
    assert not [event for before, event in TRANSITIONS if before is LaunchStatus.TERMINATED]


def test_every_phase_can_strand_and_be_cancelled() -> None:
    """Whatever is under way can fail, and can be given up."""
    for phase in PHASES[:-1]:
        assert TRANSITIONS[phase, Event.STRAND] is LaunchStatus.STRANDED
        assert TRANSITIONS[phase, Event.CANCEL] is LaunchStatus.CANCELLED


def test_the_phases_are_walked_in_order() -> None:
    """Each phase is entered from the one before, by its event."""
    for before, after in itertools.pairwise(PHASES):
        assert TRANSITIONS[before, ENTER[after]] is after


@pytest.mark.parametrize(("status", "event"), UNKNOWN)
def test_a_state_and_an_event_that_do_not_go_together_raise(
    database: Database, status: LaunchStatus, event: Event
) -> None:
    """An unknown pair changes nothing and says which it was."""
    add_launch(database, status=status.value)
    with pytest.raises(LifecycleError, match=f"launch launch-1 is {status}: it cannot {event}"):
        move(database, event)
    assert launch_row(database)["status"] == status
    with pytest.raises(NotFound):
        audit.verify(database, subject_of("launch-1"))


def test_the_status_and_its_audit_entry_are_written_together(any_database: Database) -> None:
    """Each move is on record with its reason, and the columns that go with it."""
    add_launch(any_database)
    assert move(any_database, Event.PROVISION) is LaunchStatus.PROVISIONING
    move(any_database, Event.STRAND, reason="no room", changes={"failed_step": "create-instance"})
    row = launch_row(any_database)
    assert (row["status"], row["reason"]) == ("stranded", "no room")
    assert row["failed_step"] == "create-instance"
    told = [entry.summary for entry in audit.entries(any_database, subject_of("launch-1"))]
    assert told == ["requested → provisioning", "provisioning → stranded: no room"]
    move(any_database, Event.RESUME)
    assert launch_row(any_database)["failed_step"] is None


def test_a_transaction_that_breaks_leaves_neither(any_database: Database) -> None:
    """Status and audit entry are in one transaction: both or none."""
    add_launch(any_database)
    with contextlib.suppress(ZeroDivisionError), any_database.transaction() as connection:
        advance(connection, "launch-1", Event.PROVISION, actor="tests", at=AT)
        raise ZeroDivisionError
    assert launch_row(any_database)["status"] == "requested"
    with pytest.raises(NotFound):
        audit.verify(any_database, subject_of("launch-1"))


def test_an_audit_entry_that_cannot_be_written_keeps_the_status(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its audit entry a status does not change."""
    add_launch(any_database)

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(audit, "append", fail)
    with pytest.raises(OSError, match="disk full"):
        move(any_database, Event.PROVISION)
    assert launch_row(any_database)["status"] == "requested"


def test_the_times_of_the_ends_are_kept(any_database: Database) -> None:
    """Operational and terminated launches say since when."""
    add_launch(any_database)
    for phase in PHASES[1:]:
        move(any_database, ENTER[phase])
    assert launch_row(any_database)["operational_at"] == AT
    move(any_database, Event.DECOMMISSION)
    move(any_database, Event.TERMINATE)
    assert launch_row(any_database)["ended_at"] == AT


def test_an_unknown_launch_cannot_be_moved(any_database: Database) -> None:
    """The sentence names it."""
    with pytest.raises(NotFound, match="launch launch-1 does not exist"):
        move(any_database, Event.PROVISION)


@pytest.fixture(scope="module")
def fresh(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database with all tables, to be copied."""
    path = tmp_path_factory.mktemp("fresh") / "fresh.db"
    shutil.copyfile(_sqlite_template, path)
    return path


@given(events=st.lists(st.sampled_from(Event), max_size=20))
def test_no_path_leaves_the_table(fresh: Path, events: list[Event]) -> None:
    """Any row of events leads along the table or raises, and the record tells every move."""
    path = fresh.with_name("path.db")
    shutil.copyfile(fresh, path)
    database = Database(f"sqlite:///{path}")
    try:
        add_launch(database)
        status, moves = LaunchStatus.REQUESTED, 0
        for event in events:
            after = TRANSITIONS.get((status, event))
            if after is None:
                with pytest.raises(LifecycleError):
                    move(database, event)
            else:
                assert move(database, event) is after
                status, moves = after, moves + 1
            assert launch_row(database)["status"] == status
        assert len(audit.entries(database, subject_of("launch-1"))) == moves
    finally:
        database.close()


def test_one_server_has_one_launch_at_a_time(any_database: Database) -> None:
    """The database itself refuses a second launch of a server, until the first is terminated."""
    for number, status in enumerate(set(LaunchStatus) - {LaunchStatus.TERMINATED}):
        add_launch(any_database, f"a{number}", server_name=f"web-{number}", status=status.value)
        with pytest.raises(sa.exc.IntegrityError):
            add_launch(any_database, f"b{number}", server_name=f"web-{number}")
    add_launch(any_database, "old", server_name="db", status=LaunchStatus.TERMINATED.value)
    add_launch(any_database, "older", server_name="db", status=LaunchStatus.TERMINATED.value)
    add_launch(any_database, "new", server_name="db")


def test_one_key_stands_for_one_launch(any_database: Database) -> None:
    """The database itself refuses a second launch under an idempotency key."""
    add_launch(any_database, "one", idempotency_key="k")
    with pytest.raises(sa.exc.IntegrityError):
        add_launch(any_database, "two", server_name="web-2", idempotency_key="k")


def test_nothing_else_writes_a_status() -> None:
    """`advance` alone updates a launch's status: no other statement names that column."""
    package = Path(slipway.__file__).parent
    home = Path(lifecycle.__file__)
    for file in [*package.rglob("*.py"), *package.parent.glob("tasks/*.py")]:
        text = file.read_text()
        if file == home or "_LAUNCHES" not in text:
            continue
        for statement in text.split("sa.update(_LAUNCHES)")[1:]:
            assert "status=" not in statement.split("\n\n")[0], file
