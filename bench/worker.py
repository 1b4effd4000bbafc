"""What a launch costs in Slipway's worker and in Prefect's own; and a thousand that wait in one.

Everything runs as in production: Prefect's server and Slipway on PostgreSQL, started by
`slipway up`, the deployment ``launch-server`` with a flow run for each launch, and one worker at a
time:

* ``slipway-inprocess``: Slipway's worker, in whose process all runs share an event loop.
* ``process``: the worker that comes with Prefect, which starts a process for each run. It gets
  fewer launches, because each costs seconds; its rate is that of these few.
* ``fleet``: Slipway's worker with ``launch-servers``, a hundred launches to a flow run.
* ``waiting``: Slipway's worker with launches whose machines boot so slowly that all of them wait
  at once. They have to come up afterwards.

The cloud is the local one, with SSH and scripts as they are. Launches per minute are those between
the first request and the last server that is operational; the worker stands by before that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

from bench import stage

ROOT = Path(__file__).parents[1]

#: How many launches each mode makes.
COUNTS = {"slipway-inprocess": 100, "process": 12, "fleet": 100, "waiting": 1000}
#: In which work pool each mode's runs are.
POOLS = {"process": "processes"}
FLEET = 100
#: Bring up imports and connections before memory is measured.
WARM = 10

#: A launch that waits is booting for as long as it takes to begin all of them, and half of that
#: again.
BEGUN_PER_S = 2.0
#: No launch takes so long, wherever it is run.
AT_MOST_S = 600.0
#: The server's recorders write in batches, a little later.
RECORDED_AFTER_S = 5.0
LOOK_S = 0.5


def main() -> None:
    """Run all modes and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=tuple(COUNTS), action="append", help="only these")
    for mode, count in COUNTS.items():
        parser.add_argument(f"--{mode}", type=int, default=count, metavar="COUNT", dest=mode)
    parser.add_argument("--sqlite", action="store_true", help="both databases on SQLite")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON only")
    options = parser.parse_args()
    modes = {mode: getattr(options, mode) for mode in options.mode or COUNTS}
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as directory:
        found = _measure(Path(directory), modes, sqlite=options.sqlite)
    print(json.dumps(found, indent=2) if options.json else table(found))


def _measure(directory: Path, modes: Mapping[str, int], *, sqlite: bool) -> dict[str, Any]:
    found = {}
    with _installation(directory, sqlite=sqlite) as here:
        for mode, count in modes.items():
            print(f"{mode}: {count} launches …", file=sys.stderr, flush=True)
            found[mode] = _waiting(here, count) if mode == "waiting" else _rate(here, mode, count)
    return found


# --- What is measured -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Prefect's server, the databases and the deployments; workers come and go."""

    directory: Path
    services: Any
    api: Any
    environment: Mapping[str, str]
    #: By name: Prefect's server, and PostgreSQL.
    servers: Mapping[str, psutil.Process]


def _rate(here: Installation, mode: str, count: int) -> dict[str, Any]:
    """How fast they come up, and at what price."""
    with _worker(here, "process" if mode == "process" else "slipway-inprocess", count) as worker:
        memory_bytes = _memory_bytes(worker)
        before = _cpu(here, worker)
        began = time.monotonic()
        runs = _start(here, mode, mode, count)
        looks = list(_until_operational(here, worker, mode, count))
        wall_s = time.monotonic() - began
        _until_over(here, runs)
        time.sleep(RECORDED_AFTER_S)
        after = _cpu(here, worker)
    return {
        "count": count,
        "wall_s": wall_s,
        "per_minute": count / wall_s * 60,
        "cpu_ms": {name: (after[name] - before[name]) / count * 1000 for name in after},
        "memory_bytes": (max(look.memory_bytes for look in looks) - memory_bytes) / count,
    }


def _waiting(here: Installation, count: int) -> dict[str, Any]:
    """What those cost that wait: memory when the most of them do, and CPU as long as all do."""
    from slipway.clouds.local.faults import Faults

    here.services.clouds["local"].register_image(
        "local-slow", faults=Faults(boot_delay_s=20 + 1.5 * count / BEGUN_PER_S)
    )
    stage.write_template(here.services.settings.templates_dir, "waiting", "local-slow")
    with _worker(here, "slipway-inprocess", count + WARM) as worker:
        _start(here, "slipway-inprocess", "warm", WARM)
        list(_until_operational(here, worker, "warm", WARM))
        memory_bytes, cpu_s = _memory_bytes(worker), stage.cpu_s(worker)
        began = time.monotonic()
        runs = _start(here, "waiting", "waiting", count)
        looks = list(_until_operational(here, worker, "waiting", count))
        wall_s = time.monotonic() - began
        _until_over(here, runs)
        cpu_s = stage.cpu_s(worker) - cpu_s
    most = max(looks, key=lambda look: (look.waiting, look.at))
    all_wait = [look for look in looks if look.waiting == most.waiting]
    first, last = all_wait[0], all_wait[-1]
    return {
        "count": count,
        "operational": looks[-1].operational,
        "at_once": most.waiting,
        "memory_bytes": (most.memory_bytes - memory_bytes) / most.waiting,
        "worker_bytes": most.memory_bytes,
        "waited_s": last.at - first.at,
        "cpu_share": (last.cpu_s - first.cpu_s) / max(last.at - first.at, LOOK_S),
        "cpu_ms": cpu_s / count * 1000,
        "wall_s": wall_s,
    }


@dataclass(frozen=True, kw_only=True)
class Look:
    """How it is at one moment."""

    at: float
    operational: int
    #: Launches that wait for their machines.
    waiting: int
    memory_bytes: int
    cpu_s: float


def _until_operational(
    here: Installation, worker: psutil.Process, prefix: str, count: int
) -> Iterator[Look]:
    """Look until all are operational. What fails early is cheap: it must not be taken for what a
    launch costs."""
    from slipway.records import Launch, LaunchStatus

    launch = Launch.__table__  # type: ignore[attr-defined]
    query = (
        sa.select(launch.c.status, launch.c.instance_id.is_not(None), sa.func.count())
        .where(launch.c.server_name.startswith(f"{prefix}-"))
        .group_by(launch.c.status, launch.c.instance_id.is_not(None))
    )
    progress, since = (0, 0), time.monotonic()
    while True:
        with here.services.database.reading() as connection:
            rows = [tuple(row) for row in connection.execute(query)]
        at = time.monotonic()
        operational = sum(n for status, _, n in rows if status == LaunchStatus.OPERATIONAL)
        waiting = sum(n for status, has, n in rows if has and status == LaunchStatus.PROVISIONING)
        yield Look(
            at=at,
            operational=operational,
            waiting=waiting,
            memory_bytes=_memory_bytes(worker),
            cpu_s=stage.cpu_s(worker),
        )
        if operational == count:
            return
        if (operational, waiting) != progress:
            progress, since = (operational, waiting), at
        failed = any(
            status in (LaunchStatus.STRANDED, LaunchStatus.CANCELLED) for status, *_ in rows
        )
        if failed or at - since > AT_MOST_S + count:
            raise SystemExit(f"{prefix}: {operational} of {count} launches are operational: {rows}")
        time.sleep(LOOK_S)


def _until_over(here: Installation, runs: list[str]) -> None:
    """Wait until Prefect knows the end of each of these runs."""
    query = {"flow_runs": {"id": {"any_": runs}, "state": {"type": {"any_": ["COMPLETED"]}}}}
    deadline = time.monotonic() + AT_MOST_S
    while here.api.post("/flow_runs/count", query) < len(runs):
        if time.monotonic() > deadline:
            raise SystemExit("not all flow runs have ended")
        time.sleep(LOOK_S)


def _start(here: Installation, mode: str, prefix: str, count: int) -> list[str]:
    """Ask for so many launches; answers the flow runs."""
    template = "waiting" if mode == "waiting" else "bench"
    requests = [{"template": template, "name": f"{prefix}-{number}"} for number in range(count)]
    deployment, parameters = "launch-server/launch-server", [{"request": each} for each in requests]
    if mode == "process":
        deployment = f"launch-server/{POOLS[mode]}"
    elif mode == "fleet":
        deployment = "launch-servers/launch-servers"
        parameters = [{"requests": requests[at : at + FLEET]} for at in range(0, count, FLEET)]
    found = here.api.get(f"/deployments/name/{deployment}")
    path = f"/deployments/{found['id']}/create_flow_run"
    # The forms offer the templates there were when they were made.
    more = {"enforce_parameter_schema": False}
    return [here.api.post(path, {"parameters": each, **more})["id"] for each in parameters]


def _cpu(here: Installation, worker: psutil.Process) -> dict[str, float]:
    """CPU seconds so far."""
    processes = {"worker": worker, **here.servers}
    return {name: stage.cpu_s(process) for name, process in processes.items()}


def _memory_bytes(worker: psutil.Process) -> int:
    """What a worker and its processes have for themselves alone."""
    found = 0
    for each in [worker, *worker.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found += each.memory_full_info().uss
    return found


# --- What it runs on ------------------------------------------------------------------------------


@contextlib.contextmanager
def _installation(directory: Path, *, sqlite: bool) -> Iterator[Installation]:
    """`slipway up` without workers, and a second work pool for Prefect's."""
    from tests.deployments.machine import machine_in, until

    templates = directory / "templates"
    stage.write_template(templates, "bench", "local-debian-12")
    with contextlib.ExitStack() as stack:
        servers = {}
        here = stack.enter_context(machine_in(directory))
        here.environ["SLIPWAY_TEMPLATES_DIR"] = str(templates)
        arguments = ["--only", "prefect,deploy"]
        if not sqlite:
            servers["PostgreSQL"] = _postgres(stack, here.environ)
            arguments += ["--postgres", "var:SLIPWAY_DATABASE_URL"]
        here.up(*arguments)
        until(lambda: here.is_ready("prefect", "deploy"), "prefect and deploy are ready", here)
        prefect = here.service("prefect")
        servers["Prefect's server"] = psutil.Process(prefect["pid"])
        environment = {**here.environment, "PREFECT_API_URL": f"{prefect['url']}/api"}
        environment["PREFECT_HOME"] = str(directory / "prefect-client")
        # Before Prefect is imported for the first time: it reads them then.
        os.environ.update({name: environment[name] for name in ("PREFECT_API_URL", "PREFECT_HOME")})
        yield _deployed(stack, directory, environment, servers)


def _postgres(stack: contextlib.ExitStack, environ: dict[str, str]) -> psutil.Process:
    import psycopg

    from deployments.prefect_server import free_port
    from tests.postgres import PostgresUnavailable, PrivateServer

    try:
        server = PrivateServer(free_port("127.0.0.1", (0,)), for_prefect=True)
    except PostgresUnavailable as error:
        raise SystemExit(f"no PostgreSQL ({error}); --sqlite does without") from error
    stack.callback(server.end)
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE slipway")
    url = sa.make_url(server.url).set(database="slipway", drivername="postgresql+psycopg")
    environ["SLIPWAY_DATABASE_URL"] = url.render_as_string(hide_password=False)
    return server.process


def _deployed(
    stack: contextlib.ExitStack,
    directory: Path,
    environment: Mapping[str, str],
    servers: Mapping[str, psutil.Process],
) -> Installation:
    from deployments.deploying import deploy
    from deployments.prefect_api import PrefectApi
    from deployments.prefect_server import CLIENT_ENVIRONMENT
    from slipway.launches.services import build_services
    from slipway.settings import Settings

    api = PrefectApi(environment["PREFECT_API_URL"])
    stack.callback(api.close)
    name = POOLS["process"]
    deployment = {
        "name": name,
        "entrypoint": "flows.launch_server.launch_server",
        "work_pool": {"name": name},
    }
    file = directory / "processes.yaml"  # JSON is YAML, too.
    pools = [{"name": name, "type": "process"}]
    file.write_text(json.dumps({"work_pools": pools, "deployments": [deployment]}))
    list(deploy(api, file=file))
    settings = Settings(
        state_dir=Path(environment["SLIPWAY_STATE_DIR"]),
        templates_dir=Path(environment["SLIPWAY_TEMPLATES_DIR"]),
        database_url=environment.get("SLIPWAY_DATABASE_URL", ""),
    )
    services = build_services(settings)
    stack.callback(services.clouds["local"].down)
    stack.callback(services.database.close)
    return Installation(
        directory=directory,
        services=services,
        api=api,
        environment={**CLIENT_ENVIRONMENT, **environment},
        servers=servers,
    )


@contextlib.contextmanager
def _worker(here: Installation, kind: str, limit: int) -> Iterator[psutil.Process]:
    """A worker that stands by."""
    from tests.deployments.machine import until

    pool = POOLS.get(kind, "slipway")
    command = [sys.executable, "-P", "-m", "prefect", "worker", "start"]
    command += ["--type", kind, "--pool", pool, "--name", f"bench-{kind}", "--limit", str(limit)]
    log = here.directory / f"{kind}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            # Both ask as often as under `slipway up`.
            env={**here.environment, "PREFECT_WORKER_QUERY_SECONDS": "2"},
            cwd=ROOT,
            stdout=file,
            stderr=file,
        )
    try:
        until(lambda: "started" in log.read_text(), f"the worker starts; see {log}")
        yield psutil.Process(process.pid)
    except SystemExit as error:
        raise SystemExit(f"{error}\n{log.read_text()[-5000:]}") from error
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


# --- What is said ---------------------------------------------------------------------------------


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """For a terminal."""
    rates = {mode: each for mode, each in found.items() if mode != "waiting"}
    lines = []
    if rates:
        rows: dict[str, list[str]] = {"": list(rates)}
        rows["launches"] = [str(each["count"]) for each in rates.values()]
        rows["launches per minute"] = [f"{each['per_minute']:.1f}" for each in rates.values()]
        if "process" in rates:
            by = rates["process"]["per_minute"]
            name = "times Prefect's process worker (goal: 10)"
            rows[name] = [f"{each['per_minute'] / by:.1f}" for each in rates.values()]
        for part in next(iter(rates.values()))["cpu_ms"]:
            rows[f"CPU ms per launch: {part}"] = [
                f"{each['cpu_ms'][part]:,.0f}" for each in rates.values()
            ]
        rows["memory per launch under way, KiB"] = [
            f"{each['memory_bytes'] / 1024:,.0f}" for each in rates.values()
        ]
        lines += [
            f"{name:<44}" + "".join(f"{each:>19}" for each in row) for name, row in rows.items()
        ]
    if waiting := found.get("waiting"):
        each_kib = waiting["memory_bytes"] / 1024
        facts = {
            "launches that waited in one worker at once": f"{waiting['at_once']:,}",
            "ended operational": f"{waiting['operational']:,}",
            "memory per waiting launch, KiB (goal: 1,024)": f"{each_kib:,.0f}",
            "memory of the worker, MiB": f"{waiting['worker_bytes'] / 2**20:,.0f}",
            "CPU of the worker while all wait, of a core": f"{waiting['cpu_share']:.1%}",
            "CPU ms per launch, from request to end": f"{waiting['cpu_ms']:,.0f}",
        }
        lines += [f"{name:<46}{value:>17}" for name, value in facts.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
