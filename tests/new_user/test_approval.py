"""A run that asks before it removes something, and is answered in Prefect's UI."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from playwright.sync_api import ViewportSize, expect
from prefect import tags

import flows.approval
from flows.sweep_orphans import SweepRequest
from slipway import audit
from slipway.clouds.base import InstanceState
from tests.browser import chromium, picture
from tests.engine import ENGINE, Api
from tests.flows.sweeps import left, state_of, sweep
from tests.launches.world import World
from tests.new_user.prefect_pages import fill, open_menu, open_run, pick, prefect_window, state

__all__ = ["left"]

pytestmark = ENGINE

TALL: ViewportSize = {"width": 1120, "height": 900}


@pytest.mark.slow
def test_a_sweep_is_answered(
    world: World, api: Api, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of a paused sweep says what would go and has a form; what somebody answers there is
    done, and is on record with the name they gave."""
    monkeypatch.setattr(flows.approval, "LOOK_S", 0.1)
    # Other tests have runs of theirs on the same server.
    paused = {"state": {"type": {"any_": ["PAUSED"]}}, "tags": {"all_": [left]}}
    with tags(left):
        here = contextvars.copy_context()
    with (
        chromium() as browser,
        prefect_window(browser) as page,
        ThreadPoolExecutor(1) as beside,
    ):
        swept = beside.submit(here.run, sweep, world, SweepRequest(dry_run=False))

        def runs() -> list[dict[str, Any]]:
            return api.filter("flow_runs", flow_runs=paused)

        [run] = api.until(runs, bool)
        open_run(page, api.url.removesuffix("/api"), run["id"])
        open_menu(page, "Resume")
        form = page.get_by_role("dialog")
        expect(form).to_contain_text("1 leftover will be removed for good")
        expect(form).to_contain_text(left)
        assert pick(page, "Decision", "go ahead") == ["keep everything", "go ahead"]
        fill(page, "Your name", "jo")
        fill(page, "Comment", "the load test is over")
        page.set_viewport_size(TALL)  # The question and the form are in one picture.
        picture(page, "prefect-approval")
        assert state_of(world, left) is InstanceState.RUNNING
        form.get_by_role("button", name="Resume").click()
        ended = swept.result()
        assert (ended.name, ended.message) == ("Swept", "1 leftover removed")
        expect(state(page)).to_have_text("Swept")
    assert state_of(world, left) in (InstanceState.STOPPING, InstanceState.TERMINATED)
    [subject] = [s for s in audit.subjects(world.services.database) if s.startswith("sweep/")]
    [first, *_] = audit.entries(world.services.database, subject)
    assert first.summary.endswith("; approved by jo: the load test is over")
