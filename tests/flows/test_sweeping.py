"""The sweep on a real Prefect server: a dry run's table, and the pause that asks."""

from __future__ import annotations

import asyncio
import html
import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from markdown import markdown
from prefect import tags

import flows.approval
from flows.sweep_orphans import SweepRequest, question
from slipway import audit
from slipway.clouds.base import InstanceState
from slipway.launches.sweeping import Leftover, Look, Thing, rows
from tests.engine import ENGINE, Api
from tests.flows.sweeps import left, state_of, sweep
from tests.launches.world import World, until

pytestmark = ENGINE


__all__ = ["left"]


def test_a_dry_run_shows_and_removes_nothing(world: World, api: Api, left: str) -> None:
    """Its table lists what a real run would remove."""
    state = sweep(world, SweepRequest())
    assert (state.name, state.message) == ("WouldRemove", "1 leftover would be removed")
    flow_run = {"id": {"any_": [str(state.state_details.flow_run_id)]}}
    [table] = api.filter(
        "artifacts", artifacts={"key": {"any_": ["leftovers"]}}, flow_runs=flow_run
    )
    [row] = json.loads(table["data"])
    assert (row["id"], row["why"]) == (left, "launch launch-lost is not on record")
    assert state_of(world, left) is not InstanceState.TERMINATED


def test_nothing_left_behind(world: World, api: Api) -> None:
    """Is said, and asks nobody."""
    assert sweep(world, SweepRequest(dry_run=False)).name == "Clean"


def test_a_name_is_only_a_name() -> None:
    """What others have written into a cloud neither links nor shouts in what somebody is asked."""
    expired = datetime(2026, 11, 26, tzinfo=UTC)
    said = "[free](http://evil) <b>**all** | fine\n# x"
    thing = Thing(kind="volume", id="vol-1", what=said, tags={}, created_at=None)
    leftover = Leftover(cloud="c", region="r", thing=thing, expired_at=expired, why="`why`")
    shown = markdown(question(Look(id="sweep-1", leftovers=(leftover,)), rows([leftover])))
    assert re.findall(r"<(?!/|p>|ul>|li>)[^>]*>", shown) == ["<strong>", "<code>"]
    # This reader of Markdown knows fewer escapes than Prefect's.
    assert "[free](http://evil) <b>**all** | fine # x;" in html.unescape(shown).replace("\\", "")


@pytest.mark.parametrize("decision", ["go ahead", "keep everything", None])
def test_somebody_is_asked(
    world: World, api: Api, left: str, decision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run pauses with a form that lists what goes; only 'go ahead' removes it, resuming with
    an empty form does not. Who agreed is on record."""
    monkeypatch.setattr(flows.approval, "LOOK_S", 0.1)
    seen: dict[str, str] = {}

    async def answer(flow: asyncio.Future[Any]) -> None:
        def paused() -> Any:
            # Other tests have runs of theirs on the same server.
            query = {"state": {"type": {"any_": ["PAUSED"]}}, "tags": {"all_": [left]}}
            return flow.done() or api.filter("flow_runs", flow_runs=query)

        await until(paused, "a run that is paused")
        [flow_run] = paused()
        keys = flow_run["state"]["state_details"]["run_input_keyset"]
        for name in ("description", "schema"):
            url = f"/flow_runs/{flow_run['id']}/input/{keys[name]}"
            await until(lambda url=url: api.get(url).status_code == 200, f"its {name}")
            seen[name] = api.get(url).text
        given = {} if decision is None else {"decision": decision, "who": "jo", "comment": "ok |"}
        api.text(f"/flow_runs/{flow_run['id']}/resume", run_input=given)

    with tags(left):
        state = sweep(world, SweepRequest(dry_run=False), answer)
    assert left in seen["description"]
    assert "1 leftover will be removed for good" in seen["description"]
    assert "keep everything" in seen["schema"]
    if decision == "go ahead":
        assert (state.name, state.message) == ("Swept", "1 leftover removed")
        assert state_of(world, left) in (InstanceState.STOPPING, InstanceState.TERMINATED)
        [subject] = [s for s in audit.subjects(world.services.database) if s.startswith("sweep/")]
        entries = audit.entries(world.services.database, subject)
        assert entries[0].summary.endswith("; approved by jo: ok |")
        assert entries[0].actor.startswith("flow-run/sweep (")
    else:
        assert state.name == "NotApproved"
        assert state_of(world, left) not in (InstanceState.STOPPING, InstanceState.TERMINATED)


def test_no_answer_is_a_no(
    world: World, api: Api, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends by itself and says so."""
    monkeypatch.setattr(flows.approval, "LOOK_S", 0.1)
    state = sweep(world, SweepRequest(dry_run=False, within_h=1 / 3600))
    assert state.name == "NotApproved"
    assert state.message == "1 leftover kept: nobody answered in time"
    assert state_of(world, left) is not InstanceState.TERMINATED
