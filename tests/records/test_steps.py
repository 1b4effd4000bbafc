"""Steps and leases: done once, whoever drives, and never by two at a time."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from slipway import audit, processes
from slipway.audit import Masker, Note
from slipway.database import Database
from slipway.errors import (
    Conflict,
    DatabaseUnavailable,
    LeaseLost,
    NotCommitted,
    SlipwayError,
)
from slipway.records import AuditKind, Lease, StepStatus
from slipway.steps import Driver, acquire, is_driven, steps_of
from slipway.testing.fake_clock import FakeClock

SUBJECT = "launch/one"
LEASE_S = 60.0
_LEASES = Lease.__table__  # type: ignore[attr-defined]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def take(database: Database, clock: FakeClock, actor: str = "tests") -> Driver:
    return acquire(database, clock, SUBJECT, actor=actor, lease_s=LEASE_S)


@pytest.fixture
def driver(any_database: Database, clock: FakeClock) -> Driver:
    return take(any_database, clock)


# --- Steps ----------------------------------------------------------------------------------------


def test_a_step_that_succeeded_is_skipped(
    any_database: Database, clock: FakeClock, driver: Driver
) -> None:
    """Whoever drives next finds it finished, with its result; nothing is written for it."""
    run = driver.begin("create", "Create it")
    assert (run.finished, run.attempt) == (False, 1)
    clock.advance(1.5)
    run.succeed("created", result={"id": "i-1"})
    driver.release()
    other = take(any_database, clock, "other")
    before = audit.entries(any_database, SUBJECT)
    again = other.begin("create", "Create it")
    assert (again.finished, again.result) == (True, {"id": "i-1"})
    assert audit.entries(any_database, SUBJECT) == before
    [step] = steps_of(any_database, SUBJECT)
    assert (step.status, step.attempt) == (StepStatus.SUCCEEDED, 1)
    assert step.ended_at is not None
    assert (step.ended_at - step.started_at).total_seconds() == 1.5


def test_attempts_are_counted(any_database: Database, driver: Driver) -> None:
    """A failed step and one whose driver died are tried again, as the next attempt, with what an
    earlier one has saved."""
    driver.begin("create", "Create it").fail(SlipwayError("no room"))
    [step] = steps_of(any_database, SUBJECT)
    assert (step.status, step.error, step.attempt) == (StepStatus.FAILED, "no room", 1)
    second = driver.begin("create", "Create it")
    second.save({"token": "t"})
    # Its driver dies here.
    third = driver.begin("create", "Create it")
    assert (third.attempt, third.result, third.finished) == (3, {"token": "t"}, False)
    third.succeed(result={"id": "i-1"})
    [step] = steps_of(any_database, SUBJECT)
    assert (step.attempt, step.error, step.status) == (3, "", StepStatus.SUCCEEDED)
    assert step.result == {"token": "t", "id": "i-1"}
    said = [entry.summary for entry in audit.entries(any_database, SUBJECT)]
    assert said[:3] == ["Create it", "no room", "Create it (attempt 2)"]


def test_steps_keep_the_order_they_were_first_started_in(
    any_database: Database, driver: Driver
) -> None:
    """A step that is tried again stays where it was."""
    driver.begin("b", "B").fail(SlipwayError("no"))
    driver.begin("a", "A").succeed()
    driver.begin("b", "B").succeed()
    assert [(step.key, step.position) for step in steps_of(any_database, SUBJECT)] == [
        ("b", 1),
        ("a", 2),
    ]


@pytest.mark.parametrize("call", ["begin", "save", "succeed"])
def test_what_goes_along_with_a_step_is_in_its_transaction(
    any_database: Database, driver: Driver, call: str
) -> None:
    """If it breaks, the step is where it was and the record says nothing."""

    def breaks(_: sa.Connection) -> None:
        raise RuntimeError("stop")

    driver.begin("other", "Other").succeed()
    run = None if call == "begin" else driver.begin("create", "Create it")
    steps_before = steps_of(any_database, SUBJECT)
    entries_before = audit.entries(any_database, SUBJECT)
    calls: dict[str, Callable[[], object]] = {
        "begin": lambda: driver.begin("create", "Create it", also=breaks),
        "save": lambda: run and run.save({"id": "i-1"}, also=breaks),
        "succeed": lambda: run and run.succeed(result={"id": "i-1"}, also=breaks),
    }
    with pytest.raises(RuntimeError, match="stop"):
        calls[call]()
    assert steps_of(any_database, SUBJECT) == steps_before
    assert audit.entries(any_database, SUBJECT) == entries_before


def test_secrets_are_masked_in_all_that_is_recorded(any_database: Database, driver: Driver) -> None:
    """Titles, notes, details, errors: nothing of a driver's record holds a secret of its launch."""
    from pydantic import SecretStr

    secret = "hunter2-hunter2"
    driver.masker = Masker({"TOKEN": SecretStr(secret)})
    run = driver.begin("create", f"Create with {secret}")
    run.note(f"said {secret}", detail={"deep": [secret]})
    driver.note(Note(kind=AuditKind.INFO, summary=secret, detail={"a": secret}))
    run.fail(SlipwayError(f"refused: {secret}"))
    for entry in audit.entries(any_database, SUBJECT):
        assert secret not in entry.summary
        assert secret not in entry.detail
    [step] = steps_of(any_database, SUBJECT)
    assert step.error == "refused: <hidden input TOKEN>"


# --- Leases ---------------------------------------------------------------------------------------


def test_one_driver_at_a_time(any_database: Database, clock: FakeClock, driver: Driver) -> None:
    """The second is refused, by the name of the process that drives."""
    with pytest.raises(Conflict, match=f"{SUBJECT} is being driven by process {os.getpid()} on"):
        take(any_database, clock)
    assert is_driven(any_database, clock, SUBJECT)


def test_a_lease_that_was_given_back_is_free(
    any_database: Database, clock: FakeClock, driver: Driver
) -> None:
    """At once, without waiting for it to run out."""
    driver.release()
    assert not is_driven(any_database, clock, SUBJECT)
    take(any_database, clock)


def test_a_lease_that_ran_out_can_be_taken(
    any_database: Database, clock: FakeClock, driver: Driver
) -> None:
    """A driver that went silent loses it; one that renews keeps it."""
    clock.advance(LEASE_S - 1)
    driver.renew()
    clock.advance(LEASE_S - 1)
    with pytest.raises(Conflict):
        take(any_database, clock)
    clock.advance(2)
    assert not is_driven(any_database, clock, SUBJECT)
    take(any_database, clock)


def test_a_driver_that_lost_its_lease_writes_nothing(
    any_database: Database, clock: FakeClock, driver: Driver
) -> None:
    """Every write of it is refused, and nothing of it is there afterwards."""
    run = driver.begin("create", "Create it")
    clock.advance(LEASE_S + 1)
    other = take(any_database, clock)
    steps_before = steps_of(any_database, SUBJECT)
    entries_before = audit.entries(any_database, SUBJECT)
    for write in (
        lambda: driver.begin("next", "Next"),
        lambda: driver.note(Note(kind=AuditKind.INFO, summary="x")),
        lambda: run.note("x"),
        lambda: run.save({"id": "i-2"}),
        lambda: run.succeed(result={"id": "i-2"}),
        lambda: run.fail(SlipwayError("x")),
        driver.renew,
    ):
        with pytest.raises(LeaseLost, match=f"{SUBJECT}: another process has taken over"):
            write()
    run.fail(LeaseLost("it says so itself"))
    driver.release()
    assert steps_of(any_database, SUBJECT) == steps_before
    assert audit.entries(any_database, SUBJECT) == entries_before
    other.begin("create", "Create it").succeed()


def test_a_lease_that_could_not_be_given_back_is_ours_to_take(
    any_database: Database, clock: FakeClock, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, by this process, which knows that nobody of it drives; and who lost it that way
    writes nothing when it tries again to give it back."""
    away = DatabaseUnavailable("away")
    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", mock.Mock(side_effect=away))
        with pytest.raises(DatabaseUnavailable):
            driver.release()
    assert not is_driven(any_database, clock, SUBJECT)
    second = take(any_database, clock)
    driver.release()
    with pytest.raises(Conflict):
        take(any_database, clock)
    second.begin("create", "Create it").succeed()


def test_a_lease_whose_commit_was_not_answered_is_ours_to_take(
    database: Database, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone or together with others: whoever tries again gets it, though it is on record as
    taken by this very process."""
    commit = database._engine.dialect.do_commit

    def lost(connection: Any) -> None:
        commit(connection)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(database._engine.dialect, "do_commit", lost)
        with pytest.raises(DatabaseUnavailable):
            take(database, clock)
        [outcome] = database.together([lambda: take(database, clock)])
        assert isinstance(outcome.error, NotCommitted)
    with database.reading() as connection:
        assert connection.execute(sa.select(_LEASES.c.epoch)).scalar() == 2
    take(database, clock)
    with pytest.raises(Conflict):
        take(database, clock)


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is ended."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def hold_as(database: Database, process: subprocess.Popen[bytes], **other: str) -> None:
    """Make the lease that process's, or one's that differs from it in the parts given."""
    names = ("host", "boot", "namespace", "pid", "start")
    parts = dict(zip(names, processes.identity(process.pid).split("/"), strict=True))
    holder = "/".join({**parts, **other}.values()) + "#nonce"
    with database.transaction() as connection:
        connection.execute(sa.update(_LEASES).values(holder=holder))


def test_the_lease_of_a_live_process_is_not_taken(
    any_database: Database, clock: FakeClock, driver: Driver, other_process: subprocess.Popen[bytes]
) -> None:
    """As long as its holder lives, it stays its holder's until it runs out."""
    hold_as(any_database, other_process)
    with pytest.raises(Conflict, match=f"process {other_process.pid}"):
        take(any_database, clock)


def test_the_lease_of_a_dead_process_is_taken_at_once(
    any_database: Database, clock: FakeClock, driver: Driver, other_process: subprocess.Popen[bytes]
) -> None:
    """Killed, and even before anybody has waited for it, it drives nothing any more."""
    hold_as(any_database, other_process)
    other_process.kill()
    # A zombie from here on: its exit code waits to be collected.
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_driven(any_database, clock, SUBJECT)
    take(any_database, clock).release()


def test_another_process_with_the_same_number_does_not_count(
    any_database: Database, clock: FakeClock, driver: Driver, other_process: subprocess.Popen[bytes]
) -> None:
    """Process ids come round again; the time of the start tells them apart."""
    hold_as(any_database, other_process, start="1")
    take(any_database, clock)


def test_after_a_reboot_nobody_of_before_lives(
    any_database: Database, clock: FakeClock, driver: Driver, other_process: subprocess.Popen[bytes]
) -> None:
    """A holder of another boot of this host is dead, whatever has its number now."""
    hold_as(any_database, other_process, boot="another-boot")
    take(any_database, clock)


def test_a_holder_in_another_container_may_live(
    any_database: Database, clock: FakeClock, driver: Driver, other_process: subprocess.Popen[bytes]
) -> None:
    """Its number means nothing in our namespace: only the end of its lease does."""
    hold_as(any_database, other_process, namespace="4026530000", pid="1")
    with pytest.raises(Conflict):
        take(any_database, clock)


def test_the_lease_of_another_host_waits_until_it_runs_out(
    any_database: Database, clock: FakeClock, driver: Driver, other_process: subprocess.Popen[bytes]
) -> None:
    """Whether a process of another host lives cannot be seen from here."""
    hold_as(any_database, other_process, host="another-host", start="1")
    with pytest.raises(Conflict, match="on another-host"):
        take(any_database, clock)
    clock.advance(LEASE_S + 1)
    take(any_database, clock)


def test_of_many_who_want_a_lease_one_gets_it(any_database: Database, clock: FakeClock) -> None:
    """A race is decided by the database; everybody else is refused in one sentence."""
    barrier, won, lost = threading.Barrier(8), [], []

    def race() -> None:
        barrier.wait()
        try:
            won.append(take(any_database, clock))
        except Conflict as error:
            lost.append(str(error))

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_two_drivers_of_two_subjects_write_side_by_side(
    any_database: Database, clock: FakeClock
) -> None:
    """Many threads append to many records; every chain holds."""
    subjects = [f"launch/{number}" for number in range(4)]
    errors: list[BaseException] = []

    def work(subject: str) -> None:
        try:
            found = acquire(any_database, clock, subject, actor="t", lease_s=LEASE_S)
            for number in range(10):
                found.begin(str(number), str(number)).succeed()
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(subject,)) for subject in subjects]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for subject in subjects:
        assert audit.verify(any_database, subject).entries == 20


def test_a_forked_child_is_another_holder() -> None:
    """The identity of this process is not inherited."""
    here = processes.identity()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, processes.identity().encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as reader:
        child = reader.read()
    os.waitpid(pid, 0)
    assert child != here
    assert child.split("/")[3] == str(pid)


def test_a_success_stays_one(any_database: Database, driver: Driver) -> None:
    """What goes wrong after a step has succeeded changes neither its row nor the record."""
    run = driver.begin("create", "Create it")
    run.succeed("created", result={"id": "i-1"})
    before = len(audit.entries(any_database, SUBJECT))
    run.fail(RuntimeError("the answer to the commit was late"))
    (step,) = steps_of(any_database, SUBJECT)
    assert (step.status, step.error, step.result) == (StepStatus.SUCCEEDED, "", {"id": "i-1"})
    assert len(audit.entries(any_database, SUBJECT)) == before


def test_who_has_let_go_writes_nothing_any_more(any_database: Database, driver: Driver) -> None:
    """A thread of ours that is late, after the lease was given back, finds the door shut."""
    run = driver.begin("create", "Create it")
    driver.release()
    with pytest.raises(LeaseLost):
        run.succeed("too late")
    assert steps_of(any_database, SUBJECT)[0].status == StepStatus.RUNNING


def test_results_are_masked_wherever_they_are_kept(any_database: Database, driver: Driver) -> None:
    """What a script publishes may hold a secret; a step's result must not."""
    driver.masker = Masker({"KEY": SecretStr("hunter2-hunter2")})
    run = driver.begin("run-script:one", "Run it")
    run.save({"early": "hunter2-hunter2"})
    run.succeed("ran", result={"outputs": {"url": "db://app:hunter2-hunter2@db"}})
    (step,) = steps_of(any_database, SUBJECT)
    assert "hunter2" not in str(step.result)
    assert step.result["outputs"]["url"] == "db://app:<hidden input KEY>@db"
