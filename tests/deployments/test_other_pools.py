"""The same flows on Prefect's own process pool: nothing in them knows where they run."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import yaml

from deployments.deploying import deploy
from slipway.launches.requests import LaunchRequest
from slipway.records import Launch
from tests.deployments.crew import Crew, kill
from tests.deployments.test_worker import HOLDS
from tests.engine import ENGINE
from tests.launches.world import counted

pytestmark = [*ENGINE, pytest.mark.slow, pytest.mark.timeout(300)]


def deploy_to_processes(crew: Crew, directory: Path) -> str:
    """The launch flow in a process pool; answers the name of pool and deployment."""
    name = f"p-{uuid.uuid4().hex[:8]}"
    file = directory / "processes.yaml"
    deployment = {
        "name": name,
        "entrypoint": "flows.launch_server.launch_server",
        "work_pool": {"name": name},
    }
    pool = {"name": name, "type": "process"}
    file.write_text(yaml.safe_dump({"work_pools": [pool], "deployments": [deployment]}))
    list(deploy(crew.api, file=file))
    return name


def launch(crew: Crew, pool: str) -> tuple[Launch, str]:
    """A launch whose flow run is in that pool."""
    found = crew.world.record("tiny", key=uuid.uuid4().hex)
    request = LaunchRequest(template="tiny", name=found.server_name, key=found.idempotency_key)
    deployment = crew.api.get(f"/deployments/name/launch-server/{pool}")
    run = crew.api.post(
        f"/deployments/{deployment['id']}/create_flow_run",
        {"parameters": {"request": request.model_dump(mode="json")}},
    )
    return found, run["id"]


def test_launches_in_processes(the_crew: Crew, tmp_path: Path) -> None:
    """A run that is cancelled in Prefect cancels its launch there as well; and one whose process is
    killed, with the worker that made it, is taken up by a worker of ours and repeats nothing."""
    world = the_crew.world
    world.template({"one": counted("one"), "two": counted("two", HOLDS)})
    pool = deploy_to_processes(the_crew, tmp_path)
    processes = the_crew.hire_process_worker(pool)
    cancelled, cancelled_run = launch(the_crew, pool)
    killed, killed_run = launch(the_crew, pool)
    for each in (cancelled, killed):
        the_crew.started(each, "two")
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    the_crew.api.post(f"/flow_runs/{cancelled_run}/set_state", cancelling)
    assert the_crew.ended(cancelled_run)["state_name"] == "Cancelled"
    the_crew.until(lambda: world.now(cancelled).status == "cancelled", "its launch is cancelled")
    kill(processes)
    the_crew.hire()
    the_crew.until(lambda: world.now(killed).flow_run_id != killed_run, "it is taken up")
    (world.machine(killed) / "var/go").touch()
    assert the_crew.ended(killed_run)["state_name"] == "Crashed"
    rescued = the_crew.ended(world.now(killed).flow_run_id or "")
    assert rescued["state_name"] == "Operational"
    assert f"rescue:{killed.id}" in rescued["tags"]
    the_crew.until(
        lambda: the_crew.task_states(killed_run) == {"COMPLETED", "CRASHED"}, "all tasks are over"
    )
    assert world.runs(killed) == ["one", "two"]
    world.check_invariants(killed)
