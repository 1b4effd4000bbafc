"""The real flows on a real Prefect server: names, states, retries, events, pictures."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from prefect.client.schemas.objects import State

import flows.launch_server
import flows.launch_servers
import flows.run_operational_script
from flows.decommission_server import decommission_server
from flows.resume_launch import resume_launch
from flows.run_operational_script import run_operational_script
from slipway.launches.operations import OperationRequest
from slipway.launches.requests import LaunchRequest, find_active, find_launch
from slipway.records import LaunchStatus
from tasks.services import use_services
from tests.engine import ENGINE, Api
from tests.launches.world import DEADLINE_S, World, counted

pytestmark = ENGINE

MENDED = 'if [ ! -e "$SLIPWAY_ROOT/var/mended" ]; then exit 3; fi'


def run(world: World, flow: Any, *args: Any) -> State[Any]:
    """Run a flow to its final state."""

    async def limited() -> State[Any]:
        return await asyncio.wait_for(flow(*args, return_state=True), DEADLINE_S)

    with use_services(world.services):
        return asyncio.run(limited())


def request(name: str, **more: Any) -> LaunchRequest:
    return LaunchRequest(template=more.pop("template", "tiny"), name=name, **more)


def run_id(state: State[Any]) -> str:
    return str(state.state_details.flow_run_id)


def test_a_launch_on_the_run_page(world: World, api: Api) -> None:
    """The run page shows a launch step by step, by name, and its timeline; its events are out."""
    world.template({"one": counted("one"), "two": counted("two")})
    state = run(world, flows.launch_server.launch_server, request("web-1"))
    assert (state.name, state.type.value) == ("Operational", "COMPLETED")
    assert state.message == "web-1 is operational"
    launch = find_launch(world.services, "web-1")
    assert launch.flow_run_id == run_id(state)
    assert launch.idempotency_key == f"flow-run/{run_id(state)}"

    [flow_run] = api.filter("flow_runs", flow_runs={"id": {"any_": [run_id(state)]}})
    assert flow_run["name"] == "launch web-1"
    names = {
        "web-1: record the request",
        *(
            f"web-1: {step}"
            for step in (
                "resolve template",
                "resolve inputs",
                "create instance",
                "wait for running",
                "wait for boot",
                "pass clock gate",
                "freeze repositories",
                "run 10-one",
                "run 20-two",
                "check health",
                "operational",
            )
        ),
    }
    runs = api.until(
        lambda: api.task_runs(run_id(state)),
        lambda found: sum(each["state_type"] == "COMPLETED" for each in found) == len(names),
    )
    assert {each["name"] for each in runs} == names

    key = {"key": {"any_": [f"timeline-{launch.id}"]}}
    [artifact] = api.filter("artifacts", artifacts=key)
    assert artifact["flow_run_id"] == run_id(state)
    for word in ("web-1", "operational", "Run script 10-one", launch.instance_id or "none"):
        assert word in artifact["data"]

    states = ("provisioning", "booting", "gating", "configuring", "operational")
    wanted = {f"slipway.launch.{each}" for each in states}
    found = api.until(lambda: api.events(launch.id), lambda told: wanted <= set(told))
    assert sorted(found) == sorted(wanted), "each once"
    instance = f"slipway.instance.{launch.instance_id}"
    api.until(lambda: api.events_of(instance), lambda told: "slipway.instance.running" in told)
    world.check_invariants(launch)


def test_a_launch_that_strands_and_is_resumed(world: World, api: Api) -> None:
    """The first run fails with the sentence; the second is another run of the same launch."""
    world.template({"one": counted("one"), "two": counted("two", MENDED)})
    state = run(world, flows.launch_server.launch_server, request("web-1"))
    assert (state.name, state.type.value) == ("Stranded", "FAILED")
    assert state.message == "web-1: Run script 20-two: script two ended with exit code 3"
    launch = find_launch(world.services, "web-1")
    runs = api.until(
        lambda: api.task_runs(run_id(state)),
        lambda found: any(each["state_type"] == "FAILED" for each in found),
    )
    [failed] = [each for each in runs if each["state_type"] == "FAILED"]
    assert failed["name"] == "web-1: run 20-two"
    assert failed["run_count"] == 1, "a script that failed is not tried again"
    (world.machine(launch) / "var/mended").touch()
    state = run(world, resume_launch, "web-1")
    assert state.name == "Operational"
    assert world.runs(launch) == ["one", "two", "two"]
    assert world.now(launch).flow_run_id == run_id(state)
    [flow_run] = api.filter("flow_runs", flow_runs={"id": {"any_": [run_id(state)]}})
    assert flow_run["name"] == "resume web-1"
    key = {"key": {"any_": [f"timeline-{launch.id}"]}}
    assert len(api.filter("artifacts", artifacts=key)) == 2, "one history of pictures"
    wanted = {"slipway.launch.stranded", "slipway.launch.operational"}
    api.until(lambda: api.events(launch.id), lambda told: wanted <= set(told))


def test_one_of_several_fails(world: World, api: Api) -> None:
    """The others come up; the final state counts, and names the one with its cause."""
    world.template({"one": counted("one")})
    world.template({"one": counted("one", "exit 4")}, name="broken")
    requests = [request("web-1"), request("web-2", template="broken"), request("web-3")]
    state = run(world, flows.launch_servers.launch_servers, requests)
    assert (state.name, state.type.value) == ("Incomplete", "FAILED")
    assert state.message == (
        "2 operational, 1 stranded: web-2: Run script 10-one: script one ended with exit code 4"
    )
    statuses = {name: find_launch(world.services, name).status for name in ("web-1", "web-3")}
    assert set(statuses.values()) == {LaunchStatus.OPERATIONAL}
    [table] = api.filter("artifacts", flow_runs={"id": {"any_": [run_id(state)]}},
                         artifacts={"key": {"any_": ["fleet"]}})  # fmt: skip
    assert "web-2" in table["data"]
    assert table["data"].index("web-2") < table["data"].index("web-1"), "the failed one first"


def test_bad_requests_create_nothing(world: World, api: Api) -> None:
    """One bad request among several fails the run before the first launch is recorded."""
    world.template({"one": counted("one")})
    requests = [request("web-1"), request("web-2", template="tinny")]
    state = run(world, flows.launch_servers.launch_servers, requests)
    assert state.is_failed()
    assert "tinny" in (state.message or "")
    assert world.launch_ids() == []


def test_a_retried_run_finds_its_launch(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first try of a flow run recorded is what its second try drives."""
    world.template({"one": counted("one")})
    real = flows.launch_server.see_through
    tries: list[str] = []

    async def fails_once(launch_id: str, **options: Any) -> Any:
        tries.append(launch_id)
        if len(tries) == 1:
            raise RuntimeError("the worker was stopped")
        return await real(launch_id, **options)

    monkeypatch.setattr(flows.launch_server, "see_through", fails_once)
    flow = flows.launch_server.launch_server.with_options(retries=1, retry_delay_seconds=0)
    state = run(world, flow, request("web-1"))
    assert state.name == "Operational"
    assert len(tries) == 2
    assert len(set(tries)) == len(world.launch_ids()) == 1
    [flow_run] = api.filter("flow_runs", flow_runs={"id": {"any_": [run_id(state)]}})
    assert flow_run["run_count"] == 2


def test_an_operational_script_runs_once_per_request(
    world: World, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often its flow run is retried; another request runs it again."""
    world.template({"one": counted("one")}, operational={"rotate": counted("rotate")})
    launch, _ = world.launch(name="web-1")
    real = flows.run_operational_script.run_script
    tries: list[Any] = []

    async def fails_afterwards(*args: Any, **kwargs: Any) -> Any:
        found = await real(*args, **kwargs)
        tries.append(kwargs)
        if len(tries) == 1:
            raise RuntimeError("the worker was stopped")
        return found

    monkeypatch.setattr(flows.run_operational_script, "run_script", fails_afterwards)
    flow = run_operational_script.with_options(retries=1, retry_delay_seconds=0)
    asked = OperationRequest(server="web-1", script="rotate")
    state = run(world, flow, asked)
    assert state.is_completed(), state
    assert state.message == "rotate ran on web-1"
    assert len(tries) == 2
    assert world.runs(launch) == ["one", "rotate"]
    assert run(world, flow, asked).is_completed()
    assert world.runs(launch) == ["one", "rotate", "rotate"]
    keyed = asked.model_copy(update={"key": "nightly-1"})
    for _ in range(2):
        assert run(world, flow, keyed).is_completed()
    assert world.runs(launch) == ["one", "rotate", "rotate", "rotate"]
    world.check_invariants(launch)


def test_a_decommissioned_server_on_the_run_page(world: World, api: Api) -> None:
    """Its scripts, its end, its picture; a second time it is done already."""
    world.template({"one": counted("one")}, decommission={"drain": counted("drain")})
    launch, _ = world.launch(name="web-1")
    state = run(world, decommission_server, "web-1")
    assert (state.name, state.message) == ("Terminated", "web-1 is terminated")
    assert find_active(world.services, "web-1") is None
    names = {"run decommission-10-drain", "terminate instance", "wait for terminated", "terminated"}
    runs = api.until(lambda: api.task_runs(run_id(state)), lambda found: len(found) == len(names))
    assert {each["name"] for each in runs} == {f"web-1: {name}" for name in names}
    state = run(world, decommission_server, "web-1")
    assert state.message == "web-1 was terminated before"
    world.verify(launch)
