"""Fifty launches at once, and what runs them is killed: nothing is lost and nothing done twice.

One test, because the fifty cost most of the time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from deployments.prefect_api import PrefectApi
from deployments.prefect_server import SERVER_ENVIRONMENT, free_port, server_command
from slipway import processes, tokens
from slipway.api.app import create_app
from slipway.launches.requests import list_launches
from slipway.lifecycle import subject_of
from slipway.records import Launch, LaunchStatus, Lease
from slipway.settings import Settings
from tests.deployments.crew import DEADLINE_S, Crew, crew
from tests.deployments.pretend import PretendWorld, pretend
from tests.engine import ENGINE
from tests.launches.world import counted
from tests.pages.serving import serving
from tests.postgres import PostgresUnavailable, PrivateServer

pytestmark = [*ENGINE, pytest.mark.slow, pytest.mark.timeout(600)]

OPERATIONAL = LaunchStatus.OPERATIONAL

#: The steps that run the template's scripts.
SCRIPTS = ["run-script.10-held"]


class PrefectServer:
    """A Prefect server of the test's own, to be killed and started again. It begins with a copy of
    what another has: making the tables and the deployments takes longer than all that follows."""

    def __init__(self, original: Path, home: Path) -> None:
        home.mkdir()
        with (
            contextlib.closing(sqlite3.connect(original)) as source,
            contextlib.closing(sqlite3.connect(home / "prefect.db")) as copy,
        ):
            source.backup(copy)
        port = free_port("127.0.0.1", (0,))
        self.api_url = f"http://127.0.0.1:{port}/api"
        self._command = server_command("127.0.0.1", port)
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        kept = {key: value for key, value in os.environ.items() if key[:8] != "PREFECT_"}
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={
                    **kept,
                    **SERVER_ENVIRONMENT,
                    "PREFECT_HOME": str(self._home),
                    "PREFECT_API_DATABASE_MIGRATE_ON_START": "false",
                    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
                    "PREFECT_UI_ENABLED": "false",
                    # What is shown of tasks and events is not looked at here, and costs the most.
                    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED": "false",
                    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
                    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
                },
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + DEADLINE_S
        with httpx.Client(trust_env=False) as client:
            while not self._is_healthy(client):
                assert time.monotonic() < deadline, (self._home / "server.log").read_text()
                time.sleep(0.1)

    def _is_healthy(self, client: httpx.Client) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return client.get(f"{self.api_url}/health").status_code == 200
        return False

    def kill(self) -> None:
        """Kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(kw_only=True)
class Installation:
    """All of a Slipway: an API, a Prefect server, workers to be hired, and a cloud."""

    world: PretendWorld
    crew: Crew
    prefect: PrefectServer
    postgres: PrivateServer
    api: httpx.Client
    #: Every server that somebody has asked for, here or in Prefect.
    asked: list[str] = field(default_factory=list)

    def ask(self, *servers: str) -> None:
        """Ask the API for launches."""
        self.asked += servers
        for server in servers:
            answer = self.api.post("/v1/launches", json={"template": "two", "server": server})
            assert answer.status_code == 201, answer.text

    def ask_prefect(self, *servers: str) -> None:
        """Start the flow of a fleet, as Prefect's form does."""
        self.asked += servers
        requests = [{"template": "two", "name": each} for each in servers]
        self.crew.start("launch_servers", {"requests": requests})

    def launches(self) -> dict[str, Launch]:
        """All that are on record, by the server's name."""
        return {each.server_name: each for each in list_launches(self.world.services)}

    def until_driven_by(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait until this worker has every launch, each where it cannot go on by itself."""
        holder = processes.identity(worker.pid)

        def are_there() -> bool:
            launches, held = self.launches(), self._held_by(holder)
            return len(launches) == len(self.asked) and all(
                subject_of(each.id) in held and self._waits(each) for each in launches.values()
            )

        self.crew.until(are_there, f"worker {worker.pid} drives all of {Counter(self._statuses())}")

    def _held_by(self, process: str) -> set[str]:
        """The subjects of the leases that a process holds."""
        query = sa.select(Lease.subject, Lease.holder)  # type: ignore[call-overload]
        with self.world.services.database.reading() as connection:
            rows = connection.execute(query).all()
        return {subject for subject, holder in rows if holder.partition("#")[0] == process}

    def _waits(self, launch: Launch) -> bool:
        """Whether something has to happen from outside before the launch goes on."""
        if launch.status == LaunchStatus.PROVISIONING:
            is_lost = launch.server_name.startswith("unanswered-") and launch.instance_id is None
            return is_lost and len(self.world.instances(launch)) == 1
        if launch.status == LaunchStatus.BOOTING:
            return launch.server_name.startswith("dark-")
        return launch.status == OPERATIONAL or SCRIPTS[-1] in self.world.runs(launch)

    def _statuses(self) -> list[str]:
        return [each.status for each in self.launches().values()]

    def until_operational(self) -> None:
        """Wait until every server is."""
        everybody = {OPERATIONAL: len(self.asked)}
        self.crew.until(
            lambda: Counter(self._statuses()) == everybody, f"{self._statuses()} are operational"
        )

    def runs_are_over(self) -> bool:
        """Whether Prefect has heard the end of every flow run."""
        queue = {"work_pool_queues": {"name": {"any_": [self.crew.queue]}}}
        runs = self.crew.api.post("/flow_runs/filter", queue)
        ended = Counter(run["state_name"] for run in runs)
        return ended == {"Operational": len(runs)}

    def check(self) -> None:
        """Every server has one launch, one instance, and each of its scripts was run once."""
        launches = self.launches()
        assert sorted(launches) == sorted(self.asked)
        assert len(self.world.launch_ids()) == len(self.asked)
        assert len(self.world.cloud.list_instances("local", tags={})) == len(self.asked)
        for launch in launches.values():
            assert self.world.runs(launch) == SCRIPTS
            self.world.check_invariants(launch)


@pytest.fixture
def private_postgres() -> Iterator[PrivateServer]:
    """A PostgreSQL that may be killed."""
    try:
        server = PrivateServer(free_port("127.0.0.1", (0,)), for_prefect=False)
    except PostgresUnavailable as error:
        pytest.skip(f"PostgreSQL cannot be started here: {error}")
    try:
        server.start()
        yield server
    finally:
        server.end()


@pytest.fixture
def installation(
    private_postgres: PrivateServer, prefect: PrefectApi, prefect_home: Path, tmp_path: Path
) -> Iterator[Installation]:
    """All of it but the workers."""
    (tmp_path / "templates").mkdir()
    settings = Settings(
        state_dir=tmp_path / "state",
        database_url=private_postgres.url,
        templates_dir=tmp_path / "templates",
        poll_interval_s=0.3,
    )
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(pretend(settings, tmp_path / "pretend.socket"))
        world.template({"held": counted("held")}, name="two")
        server = PrefectServer(prefect_home / "prefect" / "prefect.db", tmp_path / "prefect")
        stack.callback(server.kill)
        server.start()
        api = PrefectApi(server.api_url)
        stack.callback(api.close)
        made = stack.enter_context(crew(world, api, tmp_path))
        token = tokens.create(
            world.services.database,
            world.services.clock,
            "tests",
            scopes=["launch"],
            expires_in=None,
            actor="tests",
        )
        client = httpx.Client(
            base_url=stack.enter_context(serving(create_app(world.services, made.engine))),
            headers={"Authorization": f"Bearer {token.value.get_secret_value()}"},
            trust_env=False,
        )
        stack.enter_context(client)
        yield Installation(
            world=world, crew=made, prefect=server, postgres=private_postgres, api=client
        )


def test_fifty_launches_outlive_what_runs_them(installation: Installation) -> None:
    """With fifty launches under way (in the middle of a script, of a boot, or of a call that
    creates), the worker is killed, then Prefect's server, then PostgreSQL. All fifty come up, and
    so does what was asked of the API meanwhile: one instance each, no script run twice."""
    it = installation
    socket = {"PRETEND_SOCKET": str(it.crew.home / "pretend.socket")}
    first = it.crew.hire(**socket)
    it.ask_prefect(*(f"unanswered-{n}" for n in range(5)), *(f"fleet-a-{n}" for n in range(15)))
    it.ask_prefect(*(f"dark-{n}" for n in range(10)), *(f"fleet-b-{n}" for n in range(10)))
    it.ask(*(f"single-{n}" for n in range(10)))
    it.until_driven_by(first)
    first.kill()
    since = time.monotonic()
    it.ask("no-worker-1", "no-worker-2")
    second = it.crew.hire(**socket)
    it.until_driven_by(second)
    print(f"worker killed: another has all launches after {time.monotonic() - since:.1f} s")

    it.prefect.kill()
    since = time.monotonic()
    it.ask("no-server-1", "no-server-2")
    it.world.servers.light.set()
    it.crew.until(
        lambda: all(
            SCRIPTS[-1] in it.world.runs(launch)
            for name, launch in it.launches().items()
            if name.startswith("dark-")
        ),
        "launches go on without Prefect",
    )
    it.prefect.start()
    it.until_driven_by(second)
    print(f"Prefect killed: all launches go on after {time.monotonic() - since:.1f} s")

    it.postgres.crash()
    it.world.servers.go.set()
    refused = it.api.post("/v1/launches", json={"template": "two", "server": "no-database"})
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:slipway:problem:database")
    assert int(refused.headers["Retry-After"]) > 0
    it.postgres.start()
    since = time.monotonic()
    it.ask("no-database")
    it.until_operational()
    print(f"PostgreSQL killed: all are operational after {time.monotonic() - since:.1f} s")
    it.check()
    it.crew.until(it.runs_are_over, "all flow runs have ended well")
