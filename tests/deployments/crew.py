"""Workers as processes of their own, on a Slipway and a queue of the test's own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from deployments.deployment_engine import DeploymentEngine
from deployments.prefect_api import PrefectApi
from deployments.prefect_server import CLIENT_ENVIRONMENT
from slipway.clouds.local import LocalCloud
from slipway.errors import DatabaseUnavailable, EngineUnavailable
from slipway.launches.engine import FlowName
from slipway.launches.requests import LaunchRequest
from slipway.records import Launch
from slipway.settings import Settings
from tests.launches.world import World, make_world

#: Longer than anything here takes; what is waited for after this never comes. Prefect's server on
#: SQLite may wait 60 s for its own lock, more than once, before it answers anybody again.
DEADLINE_S = 240.0

#: A run that has been crashed for this long stays so.
RESCUED_WITHIN_S = 3.0

#: Variables of the environment that a worker gets from the test alone.
OURS = ("SLIPWAY", "PREFECT")

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Crew:
    """The workers of one test, the queue they work on, and what a test asks of both."""

    world: World
    api: PrefectApi
    home: Path
    queue: str = field(default_factory=lambda: f"q-{uuid.uuid4().hex[:8]}")
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.engine = DeploymentEngine(self.api, work_queue=self.queue)

    # -- workers -----------------------------------------------------------------------------------

    def hire(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker of ours."""
        name = f"w{len(self.workers)}-{self.queue}"
        command = [sys.executable, "-m", "tests.deployments.worker_process", self.queue, name]
        return self._start(command, environment)

    def hire_process_worker(self, pool: str) -> subprocess.Popen[bytes]:
        """Start Prefect's own worker, which makes a process for each run."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
        return self._start([*command, "--pool", pool], {})

    def _start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        settings = self.world.services.settings
        with (self.home / f"worker-{len(self.workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                command,
                env={
                    **{k: v for k, v in os.environ.items() if k.partition("_")[0] not in OURS},
                    **CLIENT_ENVIRONMENT,
                    "PREFECT_API_URL": self.api.api_url,
                    "PREFECT_HOME": str(self.home / "prefect-client"),
                    "PREFECT_WORKER_QUERY_SECONDS": "0.5",
                    "SLIPWAY_STATE_DIR": str(settings.state_dir),
                    "SLIPWAY_DATABASE_URL": settings.database_url,
                    "SLIPWAY_TEMPLATES_DIR": str(settings.templates_dir),
                    "SLIPWAY_POLL_INTERVAL_S": "0.1",
                    **environment,
                },
                cwd=Path(__file__).parents[2],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.workers.append(worker)
        return worker

    def said(self, number: int = -1) -> str:
        """What a worker has printed."""
        number = range(len(self.workers))[number]
        return (self.home / f"worker-{number}.log").read_text()

    def end(self) -> None:
        """End all workers at once, with the processes they have made."""
        for worker in self.workers:
            kill(worker)

    # -- runs --------------------------------------------------------------------------------------

    def start(self, flow: FlowName, parameters: dict[str, Any]) -> str:
        """Create a flow run; answers its id."""
        return self.engine.start(flow, parameters, idempotency_key=uuid.uuid4().hex)

    def launch(self, template: str = "tiny", **more: Any) -> tuple[Launch, str]:
        """A recorded launch, and the flow run that is to drive it, as the API makes them."""
        launch = self.world.record(template, key=uuid.uuid4().hex, **more)
        request = LaunchRequest(
            template=template, name=launch.server_name, key=launch.idempotency_key, **more
        )
        return launch, self.start("launch_server", {"request": request.model_dump(mode="json")})

    def run(self, run_id: str) -> dict[str, Any]:
        """A flow run as Prefect has it."""
        found: dict[str, Any] = self.api.get(f"/flow_runs/{run_id}")
        return found

    def states(self, run_id: str) -> list[tuple[str, str]]:
        """All its states, as (name, message)."""
        found = self.api.get(f"/flow_run_states/?flow_run_id={run_id}")
        found.sort(key=lambda state: state["timestamp"])
        return [(state["name"], state["message"] or "") for state in found]

    def task_states(self, run_id: str) -> set[str]:
        """The types of states that its tasks are in."""
        wanted = {"flow_runs": {"id": {"any_": [run_id]}}}
        return {task["state_type"] for task in self.api.post("/task_runs/filter", wanted)}

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for what another process does; answers what it was. A Prefect that is too busy to
        answer is asked again, and so is a database that is away."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(EngineUnavailable, DatabaseUnavailable):
                if found := condition():
                    return found
            if time.monotonic() >= deadline:
                logs = [self.said(number)[-2000:] for number in range(len(self.workers))]
                raise AssertionError("\n".join((f"never came: {what}", *logs)))
            time.sleep(0.1)

    def ended(self, run_id: str) -> dict[str, Any]:
        """The run, once it is over. One that crashed may be on its way to another worker."""
        crashed: list[float] = []

        def over() -> dict[str, Any] | None:
            run = self.run(run_id)
            if run["state_type"] != "CRASHED":
                crashed.clear()
            elif not crashed or time.monotonic() - crashed[0] < RESCUED_WITHIN_S:
                crashed.append(time.monotonic())
                return None
            return run if run["state_type"] in FINAL else None

        found: dict[str, Any] = self.until(over, f"{run_id} ends")
        return found

    def started(self, launch: Launch, script: str) -> None:
        """Wait until a script runs on the launch's machine."""
        self.until(
            lambda: self.world.now(launch).instance_id and script in self.world.runs(launch),
            f"{script} runs",
        )


def kill(worker: subprocess.Popen[bytes]) -> None:
    """Kill a worker and every process it has made."""
    if worker.poll() is None:
        found = psutil.Process(worker.pid)
        for process in [found, *found.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    worker.wait(DEADLINE_S)


@contextmanager
def world_in(directory: Path, database_url: str) -> Iterator[World]:
    """A Slipway whose parts are all below one directory, for processes to share."""
    (directory / "templates").mkdir()
    settings = Settings(
        state_dir=directory / "state",
        database_url=database_url,
        templates_dir=directory / "templates",
        poll_interval_s=0.1,
    )
    cloud = LocalCloud(settings)
    made = make_world(settings, cloud)
    try:
        yield made
    finally:
        made.end()
        cloud.down()


@contextmanager
def crew(world: World, api: PrefectApi, home: Path) -> Iterator[Crew]:
    """A crew without workers; those hired end with the block."""
    made = Crew(world, api, home)
    try:
        yield made
    finally:
        made.end()
