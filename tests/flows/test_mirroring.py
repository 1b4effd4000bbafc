"""Nights of mirrors on a real Prefect server: tasks, artifacts and events."""

from __future__ import annotations

import json
from datetime import timedelta

from flows.prune_mirrors import PruneRequest, prune_mirrors
from flows.snapshot_mirrors import SnapshotRequest, snapshot_mirrors
from tests.engine import ENGINE, Api
from tests.mirrors.rounds import Mirrors, mirrors

__all__ = ["mirrors"]

pytestmark = ENGINE


def _tables(api: Api, flow_run: str) -> dict[str, list[dict[str, str]]]:
    found = api.filter("artifacts", flow_runs={"id": {"any_": [flow_run]}})
    return {each["key"]: json.loads(each["data"]) for each in found if each["type"] == "table"}


def test_nights_on_prefect(mirrors: Mirrors, api: Api) -> None:
    """One task for each repository; one that fails is named and stops no other; a table says what
    changed, another which packages; both ends are events. A prune shows what it removes, first."""
    assert mirrors.run(snapshot_mirrors, SnapshotRequest()).name == "Taken"
    mirrors.next_day(change=2)
    mirrors.archives["tools"].write_suite("stable", date=mirrors.clock.now() + timedelta(days=1))
    state = mirrors.run(snapshot_mirrors, SnapshotRequest())
    run = str(state.state_details.flow_run_id)
    assert (state.name, len(mirrors.days("debian"))) == ("Incomplete", 4)
    assert state.message is not None
    assert state.message.startswith("1 of 2 repositories not taken: tools stable: its release is")
    assert state.message.endswith("in the future")
    tables = _tables(api, run)
    failed, *taken = tables["mirrors"]
    assert (failed["repository"], failed["suite"], failed["state"]) == ("tools", "stable", "")
    assert failed["problem"] in state.message
    assert [(row["suite"], row["upgraded"], row["added"]) for row in taken] == [
        ("stable", "2", "0"),
        ("updates", "2", "0"),
    ]
    changed = tables["mirror-packages"]
    assert len(changed) == 4
    assert {(row["before"], row["after"]) for row in changed} == {("1.1+b1", "1.2+b1")}
    names = api.until(lambda: api.task_runs(run), lambda found: len(found) == 2)
    assert sorted(each["name"] for each in names) == ["snapshot debian", "snapshot tools"]
    for name, kinds in (("debian", {"day-taken"}), ("tools", {"day-taken", "day-failed"})):
        seen = api.until(
            lambda name=name: set(api.events_of(f"slipway.mirror.{name}")),
            lambda seen, kinds=kinds: len(seen) >= len(kinds),
        )
        assert seen == {f"slipway.mirror.{kind}" for kind in kinds}
    [progress] = api.filter(
        "artifacts",
        artifacts={"type": {"any_": ["progress"]}},
        flow_runs={"id": {"any_": [run]}},
    )
    assert progress["data"] == 100

    pruned = mirrors.run(prune_mirrors, PruneRequest(dry_run=False))
    assert (pruned.name, len(mirrors.days("debian"))) == ("Pruned", 2)
    shown = _tables(api, str(pruned.state_details.flow_run_id))["mirror-old-days"]
    assert [(row["repository"], row["suite"]) for row in shown] == [
        ("debian", "stable"),
        ("debian", "updates"),
    ]
