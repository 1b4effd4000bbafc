"""What a launch costs, and how much of it is ours.

Each mode runs in a process of its own, on the same template:

* ``floor``: the scripts by bare fabric, one connection per server; no engine, no gates, no records.
* ``engine``: the real thing, `launch_servers` with Prefect's server.
* ``no-engine``: the same coroutines with Prefect's tasks as plain functions: what is left is SSH
  and us. ``engine`` minus this is Prefect's client.
* ``ours``: no engine, and a server that answers at once without SSH: what is left is us.
* ``waiting``: launches on machines that do not finish booting: memory per waiting launch.

CPU seconds are those of the process that launches; Prefect's server and the local cloud are
processes of their own. Wall time depends on the machine: the ratios are what counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

from bench import stage

MODES = ("floor", "engine", "no-engine", "ours", "waiting")

#: Long enough that no machine leaves it while memory is measured.
_SLOW_BOOT_S = 600.0


def main() -> None:
    """Run every mode and print the comparison; or one mode, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--mode", choices=MODES)
    # Set by ourselves: with a state and a templates directory that are thrown away.
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON only")
    options = parser.parse_args()
    if options.mode:
        run = _run_mode if options.inside else _in_process
        print(json.dumps(run(options.mode, options.count)))
        return
    found = {mode: _in_process(mode, options.count) for mode in MODES}
    report = _report(found, options.count)
    print(json.dumps(report, indent=2) if options.json else _table(report, options.count))


def _in_process(mode: str, count: int) -> dict[str, Any]:
    print(f"{mode}: {count} servers …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as directory:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLIPWAY_", "PREFECT_"))},
            "SLIPWAY_STATE_DIR": f"{directory}/state",
            "SLIPWAY_TEMPLATES_DIR": f"{directory}/templates",
        }
        command = [sys.executable, "-m", "bench.launches", "--inside"]
        command += ["--mode", mode, "--count", str(count)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _report(found: dict[str, dict[str, Any]], count: int) -> dict[str, float]:
    def cpu_ms(mode: str) -> float:
        return float(found[mode]["cpu_s"]) / count * 1000

    engine = found["engine"]
    return {
        "operational": engine["operational"],
        "launches_per_minute": count / engine["wall_s"] * 60,
        "floor_servers_per_minute": count / found["floor"]["wall_s"] * 60,
        "wall_ratio_to_floor": engine["wall_s"] / found["floor"]["wall_s"],
        "ours_cpu_ms": cpu_ms("ours"),
        "ssh_cpu_ms": cpu_ms("no-engine") - cpu_ms("ours"),
        "prefect_client_cpu_ms": cpu_ms("engine") - cpu_ms("no-engine"),
        "prefect_server_cpu_ms": engine["server_cpu_s"] / count * 1000,
        "floor_cpu_ms": cpu_ms("floor"),
        "memory_per_waiting_launch_kib": found["waiting"]["memory_bytes"] / count / 1024,
    }


def _table(report: dict[str, float], count: int) -> str:
    rows = [
        (f"launches that ended operational, of {count}", f"{report['operational']:.0f}", ""),
        ("launches per minute", f"{report['launches_per_minute']:.0f}", ""),
        (
            "servers per minute by bare fabric (floor)",
            f"{report['floor_servers_per_minute']:.0f}",
            f"{report['wall_ratio_to_floor']:.1f} times its wall time",
        ),
        ("CPU ms per launch, ours", f"{report['ours_cpu_ms']:.1f}", "goal: ≤ 20"),
        ("CPU ms per launch, SSH", f"{report['ssh_cpu_ms']:.1f}", ""),
        ("CPU ms per server, bare fabric (floor)", f"{report['floor_cpu_ms']:.1f}", ""),
        ("CPU ms per launch, Prefect client", f"{report['prefect_client_cpu_ms']:.1f}", ""),
        ("CPU ms per launch, Prefect server", f"{report['prefect_server_cpu_ms']:.1f}", ""),
        (
            "memory per waiting launch, KiB",
            f"{report['memory_per_waiting_launch_kib']:.0f}",
            "goal: ≤ 1024",
        ),
    ]
    return "\n".join(f"{name:<44} {value:>8}  {note}" for name, value, note in rows)


def _run_mode(mode: str, count: int) -> dict[str, Any]:
    from slipway.clouds.local import LocalCloud
    from slipway.clouds.local.faults import DEFAULT_IMAGE, Faults
    from slipway.settings import Settings

    settings = Settings()
    cloud = LocalCloud(settings)
    image = DEFAULT_IMAGE
    if mode == "waiting":
        image = "local-slow"
        cloud.register_image(image, faults=Faults(boot_delay_s=_SLOW_BOOT_S))
    stage.write_template(settings.templates_dir, "bench", image)
    try:
        if mode == "floor":
            return _floor(cloud, count)
        return _launches(mode, count)
    finally:
        cloud.down()


def _floor(cloud: Any, count: int) -> dict[str, Any]:
    """What a careful person would write by hand: connect once, run each script."""
    import fabric

    from slipway.clouds.base import InstanceSpec, InstanceState
    from slipway.launches.services import build_services
    from slipway.settings import Settings

    services = build_services(Settings())
    spec = InstanceSpec(
        name="bench",
        region="local",
        image_id=cloud.resolve_image("local", "local-debian-12").id,
        instance_type="local.small",
        ssh_public_key=services.ssh_public_key,
        login_user="admin",
    )
    for number in range(count):
        cloud.create_instance(spec, token=f"bench-{number}")
    while True:
        instances = cloud.list_instances("local", tags={})
        if all(each.state is InstanceState.RUNNING for each in instances):
            break
        time.sleep(0.2)

    def configure(instance: Any) -> None:
        arguments = {"key_filename": str(services.ssh_key_file), "look_for_keys": False}
        with fabric.Connection(
            instance.address, user="admin", port=instance.ssh_port, connect_kwargs=arguments
        ) as connection:
            for name in stage.SCRIPTS:
                with (services.settings.templates_dir / "bench" / "scripts" / name).open() as body:
                    connection.run("/bin/sh -s", in_stream=body, hide=True)

    began, cpu = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(services.settings.max_connections) as pool:
        list(pool.map(configure, instances))
    return {"wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu}


def _launches(mode: str, count: int) -> dict[str, Any]:
    from slipway.launches.requests import LaunchRequest, plan_launches, record_launch
    from slipway.launches.services import build_services
    from slipway.settings import Settings

    server = _prefect_server(Settings().state_dir) if mode in ("engine", "waiting") else None
    services = build_services(Settings())
    requests = [LaunchRequest(template="bench", name=f"b-{n}") for n in range(count)]
    plans = plan_launches(services, requests)
    launches = [record_launch(services, plan, actor="bench") for plan in plans]
    launch_ids = [launch.id for launch in launches]

    # Imported late: Prefect reads its settings from the environment at its first import. Before
    # anything is measured: importing is a cost per process, not per launch.
    import flows.launch_servers  # noqa: F401

    gc.freeze()  # as deployments/runner.py does
    from tasks.services import use_services

    with contextlib.ExitStack() as stack:
        if mode == "ours":
            services = _with_instant_servers(services)
        stack.enter_context(use_services(services))
        if server is None:
            stack.enter_context(_plain_tasks())
        if mode == "waiting":
            return asyncio.run(_memory(launch_ids))
        server_process = [psutil.Process(server.pid)] if server else []
        server_before = stage.cpu_s(*server_process)
        began, cpu = time.monotonic(), time.process_time()
        operational = asyncio.run(_bring_up(launch_ids, requests, launches, engine=bool(server)))
        wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
        if operational != count:
            # What fails early is cheap: it must not be taken for what a launch costs.
            raise SystemExit(f"{mode}: {operational} of {count} launches ended operational")
        if server_process:
            time.sleep(5)  # the server's recorders write in batches, a little later
        return {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "server_cpu_s": stage.cpu_s(*server_process) - server_before,
            "operational": operational,
        }


async def _bring_up(
    launch_ids: list[str], requests: list[Any], launches: list[Any], *, engine: bool
) -> int:
    from flows.launch_servers import bring_up_all, launch_servers
    from slipway.launches.work import get_launch
    from slipway.records import LaunchStatus
    from tasks.services import current_services

    if engine:
        keyed = [
            request.model_copy(update={"key": launch.idempotency_key})
            for request, launch in zip(requests, launches, strict=True)
        ]
        await launch_servers(keyed, return_state=True)
    else:
        await bring_up_all(launch_ids)
    services = current_services()
    statuses = [get_launch(services, launch_id).status for launch_id in launch_ids]
    return statuses.count(LaunchStatus.OPERATIONAL)


async def _memory(launch_ids: list[str]) -> dict[str, Any]:
    """Resident memory that waiting launches add to a process that has launched before."""
    from flows.launch_servers import launch_shard
    from slipway.launches.work import get_launch
    from slipway.records import LaunchStatus
    from tasks.services import current_services

    services = current_services()

    async def waiting(ids: list[str]) -> None:
        phase = LaunchStatus.PROVISIONING
        # There is no event to wait for, the change is in the database.
        while any(get_launch(services, i).status != phase for i in ids):  # noqa: ASYNC110
            await asyncio.sleep(0.5)
        await asyncio.sleep(5)

    me = psutil.Process()
    # The first ones warm up imports, pools and caches.
    warm, measured = launch_ids[:10], launch_ids[10:]
    running = [asyncio.create_task(launch_shard(warm, []))]
    await waiting(warm)
    before = me.memory_info().rss
    shards = [measured[at : at + 100] for at in range(0, len(measured), 100)]
    running += [asyncio.create_task(launch_shard(shard, [])) for shard in shards]
    await waiting(measured)
    used = me.memory_info().rss - before
    # They are cancelled on purpose; Prefect would tell of a crash for each of them.
    logging.disable()
    for each in running:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return {"memory_bytes": used * len(launch_ids) / len(measured)}


def _prefect_server(state_dir: Path) -> Any:
    from deployments.prefect_server import PrefectServer

    prefect = PrefectServer(state_dir)
    server = prefect.up()
    os.environ.update(prefect.client_environment(server))
    import atexit

    atexit.register(prefect.down)
    return server


@contextlib.contextmanager
def _plain_tasks() -> Iterator[None]:
    """Prefect's tasks as the functions they wrap."""
    from prefect.tasks import Task

    called = Task.__call__
    Task.__call__ = lambda self, *args, **named: self.fn(*args, **named)  # type: ignore[method-assign]
    try:
        yield
    finally:
        Task.__call__ = called  # type: ignore[method-assign]


def _with_instant_servers(services: Any) -> Any:
    """The same services with servers that answer everything at once, in this process."""
    import dataclasses

    return dataclasses.replace(services, connector=_InstantConnector())


class _InstantConnector:
    def connect(self, endpoint: Any, **_: Any) -> _InstantRemote:
        return _InstantRemote(endpoint.host_key or "ssh-ed25519 AAAA")


class _InstantRemote:
    """A perfect server: ready, on time, every script succeeds."""

    def __init__(self, host_key: str) -> None:
        self.host_key = host_key

    def run(self, command: Any, *, on_stdout: Any = None) -> Any:
        from slipway.remote.base import Result

        if not command.stdin:
            facts = "boot_id=1\nuptime_s=9\npackage_lock=free\nprobe=complete\n"
            return Result(exit_code=0, stdout=facts, stderr="", duration_s=0.0)
        header = command.stdin.split(b"#go\n")[1].decode().split("\n")
        nonce, digest = header[0], next(line for line in header if len(line) == 64)
        on_stdout(f"\n@{nonce}\nconfigured\n".encode())
        lines = ("state ended", f"claim {nonce} 1 {digest}", "exit finished 0 2", "end")
        said = "".join(f"@{nonce} {line}\n" for line in lines)
        return Result(exit_code=0, stdout="", stderr=said, duration_s=0.0)

    def converse(self, _command: str) -> AbstractContextManager[_InstantClock]:
        return contextlib.nullcontext(_InstantClock())

    def close(self) -> None:
        pass


class _InstantClock:
    _SERVICE = "192.0.2.1,192.0.2.1,4,1.0,0.000001,0,0,0,0,0,0,0,16.0,Normal"

    def __init__(self) -> None:
        self._lines: list[str] = []

    def send_line(self, line: str) -> None:
        said = {"s": ["chrony", f"C0000201,{self._SERVICE[10:]}", "= 0", "."]}
        self._lines += said.get(line[0], [f"{time.time():.9f}"])

    def read_line(self, **_: Any) -> str:
        return self._lines.pop(0)

    def round_trips(self, line: str, count: int, **options: Any) -> Any:
        from slipway.remote.base import time_round_trips

        return time_round_trips(self, line, count, **options)


if __name__ == "__main__":
    main()
