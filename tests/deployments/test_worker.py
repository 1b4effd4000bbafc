"""The in-process worker as a process of its own: what it runs, stops, hands back and survives."""

from __future__ import annotations

import signal

import pytest
from prefect.states import Suspended

from deployments.rescue import RESCUING
from slipway.lifecycle import subject_of
from slipway.steps import is_driven
from tests.deployments.crew import Crew
from tests.engine import ENGINE
from tests.launches.world import counted

pytestmark = [*ENGINE, pytest.mark.slow, pytest.mark.timeout(300)]

#: What a state is asked for with.
ASKED = {"type", "name", "message", "state_details"}

#: A script that goes on until it is let go.
HOLDS = 'while [ ! -e "$SLIPWAY_ROOT/var/go" ]; do sleep 0.05; done'


def test_a_deployed_launch(the_crew: Crew) -> None:
    """`prefect worker start --type slipway-inprocess` finds our worker, which runs the deployment
    and says who has it."""
    world = the_crew.world
    world.template({"one": counted("one"), "two": counted("two")})
    the_crew.hire()
    launch, run_id = the_crew.launch()
    run = the_crew.ended(run_id)
    assert (run["state_name"], run["state"]["message"]) == (
        "Operational",
        f"{launch.server_name} is operational",
    )
    worker_id = run["infrastructure_pid"]
    assert f"({worker_id})" in dict(the_crew.states(run_id))["Pending"]
    assert world.now(launch).flow_run_id == run_id
    assert world.runs(launch) == ["one", "two"]
    world.check_invariants(launch)
    suspended_and_resumed(the_crew)


def suspended_and_resumed(crew: Crew) -> None:
    """A run that somebody suspends stops before its next task, and goes on when it is resumed."""
    world = crew.world
    world.template({"one": counted("one", HOLDS), "two": counted("two")}, name="held")
    launch, run_id = crew.launch("held")
    crew.started(launch, "one")
    suspended = Suspended(timeout_seconds=600).model_dump(mode="json", include=ASKED)
    answer = crew.api.post(f"/flow_runs/{run_id}/set_state", {"state": suspended})
    assert answer["status"] == "ACCEPT"
    crew.until(lambda: f"{run_id} is to stop" in crew.said(), "the worker has seen it")
    (world.machine(launch) / "var/go").touch()
    services, subject = world.services, subject_of(launch.id)
    crew.until(lambda: not is_driven(services.database, services.clock, subject), "it is let go of")
    assert world.runs(launch) == ["one"]
    assert crew.api.post(f"/flow_runs/{run_id}/resume", {})["status"] == "ACCEPT"
    assert crew.ended(run_id)["state_name"] == "Operational"
    assert world.runs(launch) == ["one", "two"]
    world.check_invariants(launch)


def test_a_worker_that_is_killed(the_crew: Crew) -> None:
    """Its run is marked as crashed and goes on with another worker, which repeats nothing; no task
    run is left running. So does a run whose rescuer has died half-way."""
    world = the_crew.world
    world.template({"one": counted("one"), "two": counted("two", HOLDS)})
    first = the_crew.hire()
    launch, run_id = the_crew.launch()
    other, other_run = the_crew.launch()
    the_crew.started(launch, "two")
    the_crew.started(other, "two")
    owner = the_crew.run(other_run)["infrastructure_pid"]
    first.kill()
    crashed = {"type": "CRASHED", "name": RESCUING, "message": f"its worker {owner} died"}
    path = f"/flow_runs/{other_run}"
    the_crew.api.post(f"{path}/set_state", {"state": crashed, "force": True})
    the_crew.api.patch(path, {"infrastructure_pid": None})
    the_crew.hire()
    the_crew.until(lambda: the_crew.run(run_id)["run_count"] == 2, "it is begun again")
    for each in (launch, other):
        (world.machine(each) / "var/go").touch()
    assert the_crew.ended(run_id)["state_name"] == "Operational"
    assert the_crew.ended(other_run)["state_name"] == "Operational"
    names = [name for name, _ in the_crew.states(run_id)]
    assert names == [
        *("Scheduled", "Pending", "Running"),
        *(RESCUING, "AwaitingRetry", "Pending", "Running", "Operational"),
    ]
    the_crew.until(
        lambda: the_crew.task_states(run_id) == {"COMPLETED", "CRASHED"}, "all tasks are over"
    )
    assert [name for name, _ in the_crew.states(other_run)].count(RESCUING) == 1
    for each in (launch, other):
        assert world.runs(each) == ["one", "two"]
        world.check_invariants(each)


def test_a_worker_that_is_stopped(the_crew: Crew) -> None:
    """On SIGTERM it takes nothing new, lets runs end for a while, then hands them back: not as
    crashed, and not cancelled."""
    world = the_crew.world
    world.template({"one": counted("one", HOLDS)})
    world.template({"quick": counted("quick", "sleep 2")}, name="quick")
    first = the_crew.hire(SLIPWAY_WORKER_DRAIN_S="4")
    launch, run_id = the_crew.launch()
    quick, quick_run = the_crew.launch("quick")
    the_crew.started(launch, "one")
    the_crew.started(quick, "quick")
    first.send_signal(signal.SIGTERM)
    late, late_run = the_crew.launch("quick")
    assert first.wait(60) == 0
    assert the_crew.run(quick_run)["state_name"] == "Operational", "it had time to end"
    assert the_crew.run(run_id)["state_name"] == "AwaitingRetry"
    assert the_crew.run(late_run)["state_name"] == "Scheduled", "it was not taken any more"
    assert world.now(launch).status == "configuring"
    (world.machine(launch) / "var/go").touch()
    the_crew.hire()
    for each in (run_id, late_run):
        assert the_crew.ended(each)["state_name"] == "Operational"
    assert "Crashed" not in dict(the_crew.states(run_id))
    assert world.runs(launch) == ["one"]
    for each in (launch, quick, late):
        world.check_invariants(each)


def test_a_run_that_is_cancelled_in_prefect(the_crew: Crew) -> None:
    """The launch is cancelled as well, its instance kept, to be resumed; so is one that had not
    begun. The others go on."""
    world = the_crew.world
    world.template({"one": counted("one", HOLDS)})
    the_crew.hire(SLIPWAY_WORKER_RUNS="2")
    launch, run_id = the_crew.launch()
    other, other_run = the_crew.launch()
    the_crew.started(launch, "one")
    the_crew.started(other, "one")
    waiting, waiting_run = the_crew.launch()
    for each in (run_id, waiting_run):
        cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        the_crew.api.post(f"/flow_runs/{each}/set_state", cancelling)
    assert the_crew.ended(run_id)["state_name"] == "Cancelled"
    assert [name for name, _ in the_crew.states(run_id)][-2:] == ["Cancelling", "Cancelled"]
    assert world.now(launch).status == "cancelled"
    assert len(world.instances(launch)) == 1
    the_crew.until(lambda: world.now(waiting).status == "cancelled", "it is cancelled")
    assert world.now(other).status == "configuring"
    for each in (launch, other):
        (world.machine(each) / "var/go").touch()
    assert the_crew.ended(other_run)["state_name"] == "Operational"
    resumed = the_crew.ended(the_crew.start("resume_launch", {"launch": launch.id}))
    assert resumed["state_name"] == "Operational"
    assert world.runs(launch) == ["one"]
    world.check_invariants(launch)


def bad_runs(crew: Crew) -> dict[str, str]:
    """A run of each bad flow, in the crew's queue; their ids by entry point."""
    found = {}
    for entrypoint, parameters in {
        "bad_flows.exits": {},
        "bad_flows.exits_in_a_task": {},
        "bad_flows.blocks": {},
        "bad_flows.is_not_async": {},
        "bad_flows.nowhere": {},
        "bad_module.any": {},
        "bad_flows.needs": {"numbr": 3},
    }.items():
        flow = crew.api.post("/flows/", {"name": "bad"})["id"]
        body = {
            "name": f"{entrypoint}-{crew.queue}",
            "flow_id": flow,
            "entrypoint": f"tests.deployments.{entrypoint}",
            "work_pool_name": "slipway",
            "work_queue_name": crew.queue,
            "enforce_parameter_schema": False,
        }
        deployment = crew.api.post("/deployments/", body)["id"]
        path = f"/deployments/{deployment}/create_flow_run"
        found[entrypoint] = crew.api.post(path, {"parameters": parameters})["id"]
    return found


def test_bad_flows(the_crew: Crew) -> None:
    """One that exits, one that blocks, one that cannot be imported: each is its own run's mishap,
    told in its state, and a launch beside them comes up."""
    world = the_crew.world
    world.template({"one": counted("one")})
    worker = the_crew.hire()
    launch, run_id = the_crew.launch()
    runs = bad_runs(the_crew)
    assert the_crew.ended(run_id)["state_name"] == "Operational"
    ended = {entrypoint: the_crew.ended(bad) for entrypoint, bad in runs.items()}
    said = {
        entrypoint: f"{run['state_name']}: {run['state']['message']}"
        for entrypoint, run in ended.items()
    }
    for entrypoint, words in {
        "bad_flows.exits": "Crashed: ",
        "bad_flows.exits_in_a_task": "Crashed: ",
        "bad_flows.blocks": "Completed: ",
        "bad_flows.is_not_async": "deploy it to a process work pool",
        "bad_flows.nowhere": "cannot be loaded",
        "bad_module.any": "Crashed: tests.deployments.bad_module.any cannot be loaded: SystemExit",
        "bad_flows.needs": "Failed: ",
    }.items():
        assert words in said[entrypoint], said
    assert worker.poll() is None
    the_crew.until(lambda: "turns again after" in the_crew.said(), "the block is told")
    told = the_crew.said()
    assert "the flows' event loop is blocked by" in told
    assert "time.sleep(2.5)" in told, "with the place where it hangs"
    assert world.runs(launch) == ["one"]
