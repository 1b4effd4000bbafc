"""The poller: one for everybody, everything it sees on record once, under a lease."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from unittest import mock

import pytest

from slipway import audit
from slipway.clouds.base import Instance, InstanceState, Notice
from slipway.database import Database
from slipway.errors import CloudThrottled, LeaseLost
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus
from slipway.watch.board import Board, forget_ended
from slipway.watch.polling import LEASE_S, take_over
from slipway.watch.waiting import EARLY, FEWEST_BOOTS, LOST_AFTER_LISTINGS, Seen
from tests.records.rows import add_launch
from tests.watch.listed import NOW, Region, instance, wish

LONG_S = 200.0


@pytest.fixture
def region(any_database: Database) -> Region:
    return Region(any_database)


def test_a_wait_is_a_row_until_it_is_over(region: Region) -> None:
    """Whoever waits in another process finds the row gone, the counter moved, and the answer."""
    region.board.ask(wish("i-1"))
    region.board.ask(wish("i-2"))
    asked = region.board.counters()
    assert asked.asked == 2
    region.tell(instance("i-1", InstanceState.RUNNING), instance("i-2"))
    assert [each.instance_id for each in region.board.wishes()] == ["i-2"]
    assert region.board.counters().told == asked.told + 1
    found = region.board.settled({"wait-i-1": "i-1", "wait-i-2": "i-2"})
    assert list(found) == ["wait-i-1"]
    assert found["wait-i-1"].last == instance("i-1", InstanceState.RUNNING)


def test_a_listing_answers_only_who_came_before_it(region: Region) -> None:
    """It may be older than what came later: a server that is started is listed as it was before."""
    region.poller.look()
    region.board.ask(wish("i-1"))
    assert region.poller.observe([instance("i-1", InstanceState.RUNNING)]).answers == {}
    assert list(region.tell(instance("i-1", InstanceState.RUNNING)).answers) == ["wait-i-1"]


def test_a_sighting_is_on_record_once(region: Region) -> None:
    """With the time of the first; the next poller goes on from there, and tells nothing twice."""
    for after_s in (1.0, 2.0):
        region.tell(instance("i-1"), after_s=after_s)
    region.poller.leave()
    region.poller = region.take_over()
    region.tell(instance("i-1"))
    region.tell(instance("i-1", InstanceState.RUNNING))
    [change, running] = region.changes()
    assert (change.kind, change.subject) == ("instance.pending", "instance/i-1")
    assert change.at == NOW + timedelta(seconds=1)
    assert running.kind == "instance.running"
    answer = region.board.answer("i-1")
    assert [each.state for each in answer.sightings] == ["pending", "running"]


def test_nothing_is_written_while_nothing_changes(region: Region) -> None:
    """A thousand servers that run cost no rows: what is known of them stays as it is."""
    listing = [instance(f"i-{n}", InstanceState.RUNNING) for n in range(1000)]
    region.tell(*listing)
    with mock.patch.object(region.board, "keep") as keep:
        region.tell(*listing)
        region.tell(*listing[1:])
    assert [len(call.args[1]) for call in keep.call_args_list] == [0, 1]


def test_one_polls_and_another_follows_when_it_leaves(region: Region) -> None:
    """Nobody else is let in before, and everybody is told then."""
    assert take_over(region.board) is None
    told = region.board.counters().told
    region.poller.leave()
    assert region.board.counters().told == told + 1
    assert take_over(region.board) is not None


def test_a_silent_poller_is_followed_and_shut_out(region: Region) -> None:
    """Its lease runs out within seconds; when it comes back, it writes nothing."""
    before = region.poller
    region.clock.advance(LEASE_S + 1)
    region.poller = region.take_over()
    before.look()
    with pytest.raises(LeaseLost):
        before.observe([instance("i-1")])
    with pytest.raises(LeaseLost):
        before.failed(CloudThrottled())
    assert region.changes() == []
    before.leave()
    region.tell(instance("i-1"))


def test_listing_keeps_the_lease(region: Region) -> None:
    """One that lists every few seconds polls for ever."""
    for _ in range(5):
        region.tell(after_s=LEASE_S - 1)
    assert take_over(region.board) is None


def test_a_failed_listing_changes_nothing(region: Region) -> None:
    """Nobody's wait is over and nothing is missing; why it failed is there to be told."""
    region.tell(instance("i-1"))
    region.board.ask(wish("i-1"))
    for _ in range(LOST_AFTER_LISTINGS + 1):
        region.clock.advance(LEASE_S / 2)
        region.poller.failed(CloudThrottled("slow down"))
    assert len(region.board.wishes()) == 1
    answer = region.board.answer("i-1")
    assert (answer.seen, answer.problem) == (Seen.LISTED, "slow down")
    region.tell(instance("i-1"))
    assert region.board.answer("i-1").problem == ""


def test_those_who_died_waiting_are_forgotten(region: Region) -> None:
    """Their rows go when their time is over."""
    region.board.ask(wish("i-1", until=NOW + timedelta(seconds=30)))
    region.tell(after_s=20)
    assert len(region.board.wishes()) == 1
    region.tell(after_s=20)
    assert region.board.wishes() == []


def test_a_missing_instance_is_kept_over_pollers(region: Region) -> None:
    """Misses count on when another process polls: absence is a matter of the record."""
    region.tell(instance("i-1", InstanceState.RUNNING))
    assert region.miss(2, after_s=LONG_S) == []
    region.poller.leave()
    region.poller = region.take_over()
    assert region.miss(1, after_s=LONG_S) == ["lost"]
    assert region.board.answer("i-1").seen is Seen.LOST
    [back] = region.tell(instance("i-1", InstanceState.RUNNING)).news
    assert back.kind == "found"


def test_what_has_ended_is_cleared_away(region: Region) -> None:
    """A while after a cloud has stopped listing it; not before."""
    region.tell(instance("i-1", InstanceState.TERMINATED), instance("i-2", InstanceState.RUNNING))
    for _ in range(LOST_AFTER_LISTINGS):
        region.tell(instance("i-2", InstanceState.RUNNING), after_s=LONG_S)
    now = region.clock.now()
    with region.database.transaction() as connection:
        assert forget_ended(connection, now - timedelta(days=1)) == 0
        assert forget_ended(connection, now + timedelta(days=1)) == 1
    assert [row["instance_id"] for row in region.rows("seen_instance")] == ["i-2"]


def test_regions_have_nothing_to_do_with_each_other(region: Region) -> None:
    """One instance id in two regions is two instances, and each has a poller of its own."""
    other = Board(region.database, region.clock, "c", "elsewhere")
    assert take_over(other) is not None
    other.ask(wish("i-1"))
    assert region.tell(instance("i-1", InstanceState.RUNNING)).answers == {}
    assert len(other.wishes()) == 1


# --- Behind our back ------------------------------------------------------------------------------


def _up(region: Region, **columns: object) -> list[Instance]:
    """A launch whose server is up, and its instance."""
    values = {"status": LaunchStatus.OPERATIONAL.value, "instance_id": "i-1", **columns}
    add_launch(region.database, "launch-1", **values)
    running = instance("i-1", InstanceState.RUNNING, launch="launch-1", private_ip="192.0.2.1")
    region.tell(running)
    return [running]


def _audited(region: Region) -> list[str]:
    found = audit.entries(region.database, subject_of("launch-1"))
    return [entry.summary for entry in found]


CHANGES: dict[str, tuple[Sequence[Instance], list[str]]] = {
    "stopped": (
        [instance("i-1", InstanceState.STOPPED, reason="user", launch="launch-1")],
        ["instance i-1 is stopped: user; nobody here asked for that"],
    ),
    "terminated": (
        [instance("i-1", InstanceState.TERMINATED, launch="launch-1")],
        ["instance i-1 is terminated; nobody here asked for that"],
    ),
    "failed": (
        [instance("i-1", InstanceState.FAILED, reason="disk", launch="launch-1")],
        ["instance i-1 is failed: disk"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_happens_behind_our_back_is_audited(region: Region, name: str) -> None:
    """In the record of the launch, once, and as a change that names the server."""
    _up(region)
    listing, expected = CHANGES[name]
    for _ in range(2):
        region.tell(*listing)
    assert _audited(region)[0] == expected[0]
    [change] = region.changes([f"instance.{name}"])
    assert (change.detail["server"], change.detail["launch"]) == ("web-1", "launch-1")
    audit.verify(region.database, subject_of("launch-1"))


def test_a_restart_behind_our_back_is_audited(region: Region) -> None:
    """Also that it runs again, and where it is now."""
    _up(region)
    region.tell(instance("i-1", InstanceState.STOPPED, launch="launch-1", private_ip="192.0.2.1"))
    region.tell(instance("i-1", InstanceState.RUNNING, launch="launch-1", private_ip="192.0.2.7"))
    assert _audited(region) == [
        "instance i-1 is stopped; nobody here asked for that",
        "instance i-1 is running; nobody here asked for that",
        "instance i-1 has moved from 192.0.2.1 to 192.0.2.7; nobody here asked for that",
    ]


def test_new_tags_are_audited(region: Region) -> None:
    """Which, and with which values."""
    [running] = _up(region)
    tags = {**running.tags, "slipway:expires": "2030-01-01"}
    region.tell(instance("i-1", InstanceState.RUNNING, tags=tags, private_ip="192.0.2.1"))
    [entry] = audit.entries(region.database, subject_of("launch-1"))
    assert "slipway:expires=2030-01-01; nobody here asked for that" in entry.summary
    assert json.loads(entry.detail)["tags"] == {"slipway:expires": "2030-01-01"}


def test_lost_and_found_are_audited_and_change_nothing(region: Region) -> None:
    """The launch is as it was: nothing is terminated because a listing lacks it."""
    [running] = _up(region)
    assert region.miss(3, after_s=LONG_S) == ["lost"]
    region.tell(running)
    first, second = _audited(region)
    assert first.startswith("instance i-1 is lost: the cloud has not listed it since 2026-01-01")
    assert second == "instance i-1 is listed again"
    [row] = region.rows("launch")
    assert (row["status"], row["instance_id"]) == ("operational", "i-1")


@pytest.mark.parametrize("status", [LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED])
def test_an_end_that_was_asked_for_is_no_surprise(region: Region, status: LaunchStatus) -> None:
    """What a launch does to its own instance is in its steps already."""
    _up(region, status=status.value)
    region.tell(instance("i-1", InstanceState.TERMINATED, launch="launch-1"))
    assert _audited(region) == []
    assert len(region.changes(["instance.terminated"])) == 1


def test_the_end_of_an_earlier_instance_is_no_surprise(region: Region) -> None:
    """A launch that has made another one since has nothing to do with it."""
    _up(region, instance_id="i-2")
    region.tell(instance("i-1", InstanceState.TERMINATED, launch="launch-1"))
    assert _audited(region) == []


# --- Learned boot times ---------------------------------------------------------------------------


def _boot(region: Region, number: int, seconds: float) -> None:
    name = f"i-{number}"
    region.board.ask(wish(name, begun_at=region.clock.now()))
    region.tell(instance(name), after_s=seconds / 2)
    region.tell(instance(name, InstanceState.RUNNING), after_s=seconds / 2)


def test_boot_times_are_learned(region: Region) -> None:
    """By image and type, from those that were asked for; until then nobody waits to look."""
    same = {"image_id": "image", "instance_type": "small"}
    now = region.clock.now()
    assert region.board.first_look(now, **same) == now
    for number in range(FEWEST_BOOTS):
        _boot(region, number, 30.0 + number)
    assert region.board.first_look(now, **same) == now + timedelta(seconds=30.0 * EARLY)
    assert region.board.first_look(now, image_id="image", instance_type="large") == now


def test_nobody_looks_before_it_can_be_there(region: Region) -> None:
    """While all who wait know that it takes a while; whoever does not is looked for at once."""
    region.board.ask(wish("i-1", look_from=NOW + timedelta(seconds=24)))
    region.board.ask(wish("i-2", look_from=NOW + timedelta(seconds=30)))
    region.poller.look()
    assert region.poller.wait_s() == 24
    region.board.ask(wish("i-3"))
    region.poller.look()
    assert region.poller.wait_s() == 0


# --- Notices --------------------------------------------------------------------------------------

RETIREMENT = Notice(
    instance_id="i-1",
    code="instance-retirement",
    description="The instance runs on degraded hardware",
    not_before=NOW + timedelta(days=7),
)


def test_what_a_cloud_announces_is_told_once(region: Region) -> None:
    """In the audit and as a change, whoever polls; another date is another notice."""
    [running] = _up(region)
    foreign = replace(RETIREMENT, instance_id="i-foreign")
    [news] = region.poller.warn([RETIREMENT, foreign])
    assert news.summary == (
        "the cloud announces instance-retirement for instance i-1, not before "
        "2026-01-08 00:00 UTC: The instance runs on degraded hardware"
    )
    assert region.poller.warn([RETIREMENT]) == []
    region.poller.leave()
    region.poller = region.take_over()
    region.tell(running)
    assert region.poller.warn([RETIREMENT, foreign]) == []
    postponed = replace(RETIREMENT, not_before=NOW + timedelta(days=14))
    assert len(region.poller.warn([RETIREMENT, postponed])) == 1
    assert len(_audited(region)) == 2
    [first, _] = region.changes(["instance.notice"])
    assert first.detail["not_before"] == "2026-01-08T00:00:00+00:00"
    assert first.detail["server"] == "web-1"
