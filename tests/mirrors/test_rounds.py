"""Rounds over mirrors: what is tried again, and who is not held up by whom."""

from __future__ import annotations

import threading

import pytest

from flows.prune_mirrors import PruneRequest, prune_mirrors
from flows.snapshot_mirrors import SnapshotRequest, snapshot_mirrors
from flows.verify_mirrors import VerifyRequest, verify_mirrors
from slipway import changes
from slipway.changes import Wanted
from slipway.launches.mirroring import prune
from slipway.mirrors import leases, manifest
from slipway.mirrors.progress import Progress
from slipway.testing.web import Exchange, missing
from tests.launches.world import DEADLINE_S
from tests.mirrors.rounds import Mirrors, mirrors

__all__ = ["mirrors"]


def test_what_fails_is_tried_again_alone(mirrors: Mirrors) -> None:
    """A suite that could be taken keeps the day it got first; the change log has both ends."""
    web = mirrors.webs["debian"]
    web.fault("dists/updates/*", missing, times=2)
    state = mirrors.run_without_engine(snapshot_mirrors, SnapshotRequest(repositories=["debian"]))
    assert state.name == "Taken"
    assert sorted(day.suite for day in mirrors.days("debian")) == ["stable", "updates"]
    assert mirrors.days("tools") == []
    with mirrors.services.database.reading() as connection:
        found = changes.since(
            connection, 0, limit=9, wanted=Wanted(kinds=("mirror.day-taken", "mirror.day-failed"))
        )
    assert [(each.kind, each.subject) for each in found] == [
        ("mirror.day-taken", "mirror/debian"),
        ("mirror.day-failed", "mirror/debian"),
        ("mirror.day-taken", "mirror/debian"),
    ]
    assert list(found[0].detail["changes"]) == ["stable"]
    assert "neither dists/updates/InRelease nor" in found[1].detail["failures"]["updates"]


def test_whoever_is_at_work_on_a_repository_is_waited_for(mirrors: Mirrors) -> None:
    """For the pauses of three tries; then it is named, and the other repository has its day."""
    services = mirrors.services
    driver = leases.take_for_sync(services.database, services.clock, "tools", actor="somebody")
    state = mirrors.run_without_engine(snapshot_mirrors, SnapshotRequest())
    driver.release()
    assert (state.name, len(mirrors.days("debian"))) == ("Incomplete", 2)
    assert state.message is not None
    assert "1 of 2 repositories not taken: tools: mirror/" in state.message
    assert "tools is being driven by process" in state.message


def test_a_cancelled_run_ends_soon_and_lets_go(
    mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not fetch the rest, and the repository is free for the next."""
    stopped = threading.Event()
    stop = Progress.stop

    def stop_and_tell(progress: Progress) -> None:
        stop(progress)
        stopped.set()

    def until_stopped(exchange: Exchange) -> None:
        assert stopped.wait(DEADLINE_S)
        exchange.answer()

    monkeypatch.setattr(Progress, "stop", stop_and_tell)
    web = mirrors.webs["debian"]
    web.fault("pool/*", until_stopped, times=100)
    mirrors.cancelled(
        snapshot_mirrors,
        SnapshotRequest(repositories=["debian"]),
        lambda: any(path.endswith(".deb") for path in list(web.requests)),
    )
    assert mirrors.days("debian") == []
    services = mirrors.services
    leases.take_for_sync(services.database, services.clock, "debian", actor="next").release()


def test_damage_is_shown_and_healed(mirrors: Mirrors) -> None:
    """Without a repair it is named and the run has failed; with one, the file is fetched."""
    mirrors.run_without_engine(snapshot_mirrors, SnapshotRequest())
    assert mirrors.run_without_engine(verify_mirrors, VerifyRequest()).name == "Sound"
    store = mirrors.services.mirror.store
    state = manifest.load(store, mirrors.days("tools")[0].manifest)
    path = "dists/stable/main/binary-amd64/Packages.xz"
    store.path(state.files[path].sha256).unlink()
    found = mirrors.run_without_engine(verify_mirrors, VerifyRequest())
    assert (found.name, f"tools: {path} is missing" in str(found.message)) == ("Damaged", True)
    healed = mirrors.run_without_engine(verify_mirrors, VerifyRequest(repair=True))
    assert (healed.name, str(healed.message).endswith("1 of them repaired")) == ("Sound", True)
    assert mirrors.run_without_engine(verify_mirrors, VerifyRequest()).name == "Sound"


def test_no_other_days_go_than_were_shown(mirrors: Mirrors) -> None:
    """A day that was pinned after the look stays; nothing goes by default."""
    for _ in range(3):
        mirrors.run_without_engine(snapshot_mirrors, SnapshotRequest(repositories=["tools"]))
        mirrors.next_day(change=1)
    default = mirrors.run_without_engine(prune_mirrors, PruneRequest())
    assert (default.name, len(mirrors.days("tools"))) == ("WouldRemove", 3)
    services = mirrors.services
    shown = prune(services, actor="tests", dry_run=True)
    kept, gone = (day for _, day in shown.days)
    services.mirror.pins.add("tools", kept.taken_at.date(), "wanted", services.clock.now())
    mirrors.run_without_engine(snapshot_mirrors, SnapshotRequest(repositories=["tools"]))
    removed = prune(services, actor="tests", shown=shown)
    assert removed.days == (("tools", gone),)
    assert len(mirrors.days("tools")) == 3
