"""Slipway on many machines, on this one: real servers and processes, each with the command and the
environment that `slipway up` would give it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from deployments.child_processes import HttpProbe, probing_client
from deployments.deployment_engine import DeploymentEngine
from deployments.planning import make_plan
from deployments.prefect_api import PrefectApi
from deployments.prefect_server import free_port
from deployments.service_table import TABLE, services
from deployments.supervisor import Service
from slipway import tokens
from slipway.cli.wiring import StackRequest
from slipway.clouds.local import LocalCloud
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.processes import identity
from slipway.records import Launch, LaunchStatus, Lease
from slipway.settings import Settings
from slipway.testing.forwarder import Forwarder
from tests.launches.world import World, make_world
from tests.postgres import PrivateServer

#: Longer than anything here takes, also on a busy machine.
WITHIN_S = 120.0

REDIS = "redis-server"
WORKERS = ("worker-1", "worker-2", "worker-3")

_TIED = Path(__file__).parents[2] / "deployments" / "tied.py"


@dataclass
class Part:
    """One process of the cluster, which may be killed and started again."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] | None = None
    #: It is ready once it has printed this …
    says_when_up: str = ""
    #: … and this address answers 200, where there is one.
    health: str = ""
    process: subprocess.Popen[bytes] | None = None
    #: What it had printed before this start is not looked at.
    log_from: int = 0

    def start(self) -> None:
        assert self.process is None, f"{self.name} runs"
        self.log_from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                # It ends with us, however we end.
                (sys.executable, "-I", "-S", str(_TIED), str(os.getpid()), *self.command),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def is_ready(self, client: httpx.Client) -> bool:
        assert self.process is not None, f"{self.name} was not started"
        assert self.process.poll() is None, f"{self.name} ended:\n{self.said()[-3000:]}"
        if self.says_when_up not in self.said():
            return False
        if not self.health:
            return True
        with contextlib.suppress(httpx.HTTPError):
            return client.get(self.health).status_code == 200
        return False

    def kill(self) -> None:
        """kill -9, as the kernel does to whoever takes too much memory."""
        assert self.process is not None, f"{self.name} does not run"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def said(self) -> str:
        """What it has printed since its last start."""
        return self.log.read_bytes()[self.log_from :].decode(errors="replace")


@dataclass(kw_only=True)
class Cluster:
    """PostgreSQL, Redis, two Prefect servers and two APIs behind a load balancer each, three
    workers."""

    world: World
    postgres: PrivateServer
    #: By name, in the order of `slipway up`.
    parts: dict[str, Part]
    #: Where each API is; everybody else takes the balancer.
    apis: dict[str, str]
    prefect: Forwarder
    token: SecretStr
    #: To this machine only: no proxy, no certificates.
    client: httpx.Client = field(
        default_factory=lambda: httpx.Client(verify=False, trust_env=False, timeout=60)
    )

    # -- its processes -----------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start these, all at once."""
        for name in names:
            self.parts[name].start()

    def ready(self, *names: str) -> None:
        """Wait until these serve."""
        for name in names:
            self.until(lambda part=self.parts[name]: part.is_ready(self.client), f"{name} is ready")

    def run(self, name: str) -> None:
        """Run this one to its end, which has to be a good one."""
        part = self.parts[name]
        part.start()
        assert part.process is not None, "it was started"
        code, part.process = part.process.wait(WITHIN_S), None
        assert code == 0, part.said()

    def kill(self, name: str) -> None:
        self.parts[name].kill()

    def restart(self, name: str) -> None:
        """Start a part that was killed, and wait until it serves."""
        self.start(name)
        self.ready(name)

    def end(self) -> None:
        """Kill what is left."""
        self.client.close()
        for part in reversed(self.parts.values()):
            if part.process is not None:
                part.kill()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for what other processes do; answers what it was."""
        deadline = time.monotonic() + WITHIN_S
        while not (found := condition()):
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {each.name}\n{each.said()[-3000:]}" for each in self.parts.values()
                )
                raise AssertionError(f"never came: {what}\n{logs}")
            time.sleep(0.2)
        return found

    # -- what people ask of it ---------------------------------------------------------------------

    def ask(self, api: str, method: str, path: str, body: Any = None, *, key: str = "") -> Any:
        """A call of one of the two APIs; the answer as JSON values."""
        headers = {"Authorization": f"Bearer {self.token.get_secret_value()}"}
        if method == "POST":
            headers["Idempotency-Key"] = key or uuid.uuid4().hex
        url = f"{self.apis[api]}{path}"
        answer = self.client.request(method, url, json=body, headers=headers)
        assert answer.is_success, f"{api} {method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def launch(self, api: str, template: str, *, key: str = "", server: str = "") -> str:
        """Ask an API for a server; answers the launch's id."""
        body = {"template": template, "server": server or f"s-{uuid.uuid4().hex[:8]}"}
        return str(self.ask(api, "POST", "/v1/launches", body, key=key)["id"])

    def act(self, api: str, launch_id: str, action: str) -> None:
        """Ask an API to ``resume``, ``cancel`` or ``decommission`` a launch."""
        self.ask(api, "POST", f"/v1/launches/{launch_id}/{action}")

    def launch_fleet(self, template: str, servers: Sequence[str]) -> list[str]:
        """Start the flow of many servers, as from Prefect's UI; answers the launches' ids."""
        api = PrefectApi(f"http://127.0.0.1:{self.prefect.port}/api")
        requests = [{"template": template, "name": each} for each in servers]
        with contextlib.closing(api):
            DeploymentEngine(api).submit("launch_servers", {"requests": requests})
        found = self.until(lambda: self._launches_of(servers), f"{servers} are on record")
        return [found[each] for each in servers]

    def _launches_of(self, servers: Sequence[str]) -> dict[str, str] | None:
        with self.world.services.database.reading() as connection:
            rows = connection.execute(sa.text("SELECT server_name, id FROM launch"))
            found = {name: launch_id for name, launch_id in rows if name in servers}
        return found if len(found) == len(servers) else None

    # -- what came of it ---------------------------------------------------------------------------

    def record(self, launch_id: str) -> Launch:
        return get_launch(self.world.services, launch_id)

    def tasks_are_recorded(self, launch_ids: Sequence[str]) -> bool:
        """Whether Prefect knows that all tasks of these launches have completed: it hears of them
        by way of Redis."""
        runs = [self.record(each).flow_run_id for each in launch_ids]
        wanted = {"flow_runs": {"id": {"any_": runs}}}
        with contextlib.closing(PrefectApi(f"http://127.0.0.1:{self.prefect.port}/api")) as api:
            tasks = api.post("/task_runs/filter", wanted)
        whole = {task["flow_run_id"] for task in tasks if task["name"].endswith(": operational")}
        return whole == set(runs) and {task["state_type"] for task in tasks} == {"COMPLETED"}

    def become(self, launch_ids: Sequence[str], status: LaunchStatus) -> None:
        """Wait until all launches are there."""

        def are_there() -> bool:
            seen = {each: self.record(each).status for each in launch_ids if each not in there}
            there.update(each for each, found in seen.items() if found == status)
            return len(there) == len(launch_ids)

        there: set[str] = set()
        self.until(are_there, f"{launch_ids} are {status}; only {there}")

    def run_script(self, launch_ids: Sequence[str], script: str) -> None:
        """Wait until this script runs on each of the servers."""
        self.until(
            lambda: all(
                (found := self.record(each)).instance_id and script in self.world.runs(found)
                for each in launch_ids
            ),
            f"{script} runs on all servers of {launch_ids}",
        )

    def touch(self, launch_ids: Sequence[str], name: str) -> None:
        """Make a file in ``/var`` of each of the servers."""
        for each in launch_ids:
            (self.world.machine(self.record(each)) / "var" / name).touch()

    def busiest_worker(self, launch_ids: Sequence[str]) -> str:
        """Which worker drives the most of these launches."""
        process_of = {
            name: identity(process.pid)
            for name in WORKERS
            if (process := self.parts[name].process) is not None
        }
        query = sa.select(Lease.holder).where(
            Lease.subject.in_([subject_of(each) for each in launch_ids])  # type: ignore[attr-defined]
        )
        with self.world.services.database.reading() as connection:
            holders = [holder.partition("#")[0] for holder in connection.execute(query).scalars()]
        busiest = max(process_of, key=lambda name: holders.count(process_of[name]))
        assert process_of[busiest] in holders, "a worker of ours drives them"
        return busiest

    def check(self, launch_ids: Sequence[str], scripts: Sequence[str]) -> None:
        """One instance each, no script run twice, a chain that holds."""
        for each in launch_ids:
            launch = self.record(each)
            assert self.world.runs(launch) == list(scripts), launch.server_name
            self.world.check_invariants(launch)


@contextlib.contextmanager
def cluster(directory: Path) -> Iterator[Cluster]:
    """All of it, up and serving; nothing is left at the end. Raises `PostgresUnavailable`."""
    with contextlib.ExitStack() as stack:
        postgres = PrivateServer(free_port("127.0.0.1", (0,)), for_prefect=True)
        stack.callback(postgres.end)
        postgres.start()
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE slipway")
        made = _cluster(stack, directory, postgres)
        stack.callback(made.end)
        made.start("redis", "prefect-a", "api-a", "api-b")
        # It makes Prefect's tables; two would get into each other's way.
        made.ready("redis", "prefect-a")
        made.start("prefect-b")
        made.run("deploy")
        made.start(*WORKERS)
        made.ready(*(name for name in made.parts if name != "deploy"))
        yield made


def _cluster(stack: contextlib.ExitStack, directory: Path, postgres: PrivateServer) -> Cluster:
    database = make_url(postgres.url).set(database="slipway")
    settings = Settings(
        state_dir=directory / "state",
        database_url=database.render_as_string(hide_password=False),
        templates_dir=directory / "templates",
    )
    settings.templates_dir.mkdir()
    cloud = LocalCloud(settings)
    stack.callback(cloud.down)
    world = make_world(settings, cloud)
    stack.callback(world.end)
    token = tokens.create(
        world.services.database,
        world.services.clock,
        "tests",
        scopes=["admin"],
        expires_in=None,
        actor="tests",
    )
    redis_port = free_port("127.0.0.1", (0,))
    parts = {"redis": _redis(directory, redis_port)}
    plans = {}
    for letter in "ab":
        request = StackRequest(
            only=frozenset(TABLE),
            port=0,
            prefect_port=0,
            workers=len(WORKERS),
            postgres=SecretStr(settings.database_url),
            redis=SecretStr(f"redis://127.0.0.1:{redis_port}/0"),
        )
        plans[letter] = make_plan(request, settings, {})
    prefect = stack.enter_context(Forwarder([each.prefect_port for each in plans.values()]))
    apis = stack.enter_context(Forwarder([each.port for each in plans.values()]))
    more = {
        # What agents call.
        "SLIPWAY_API_URL": f"http://127.0.0.1:{apis.port}",
        "SLIPWAY_POLL_INTERVAL_S": "0.2",
    }
    for letter, plan in plans.items():
        balanced = dataclasses.replace(plan, prefect_api_url=f"http://127.0.0.1:{prefect.port}/api")
        for service in services(balanced, probing_client()):
            twice = service.part in ("prefect", "api")
            name = f"{service.name}-{letter}" if twice else service.name
            # There are three workers, not six: the first plan's.
            parts.setdefault(name, _part(name, service, directory, more))
    return Cluster(
        world=world,
        postgres=postgres,
        parts=parts,
        apis={letter: plan.api_url for letter, plan in plans.items()},
        prefect=prefect,
        token=token.value,
    )


def _part(name: str, service: Service, directory: Path, more: Mapping[str, str]) -> Part:
    return Part(
        name=name,
        command=service.command,
        environment={**service.environment, **more},
        log=directory / f"{name}.log",
        health=service.probe.url if isinstance(service.probe, HttpProbe) else "",
        says_when_up=service.says_when_up,
    )


def _redis(directory: Path, port: int) -> Part:
    # With its log of what was changed, as in production: what it was told outlives it.
    command = ("/usr/bin/env", REDIS, "--bind", "127.0.0.1", "--port", str(port))
    return Part(
        name="redis",
        command=(*command, "--dir", str(directory), "--appendonly", "yes", "--save", ""),
        log=directory / "redis.log",
        says_when_up="Ready to accept connections",
    )
