"""What waiting for instances costs at the cloud, and how late whoever waits hears of it.

N launches wait for N instances of `slipway.testing.fake_ec2.FakeEc2`, whose bucket of describe
calls holds 50 and refills by 10 a second. Boots take 20 to 50 s, evenly spread.

* ``ours``: the watch with everything beneath it (lease, rows, budget, the EC2 adapter) on SQLite,
  which has seen fifty such boots before.
* ``boto3``: N of boto3's own waiters, one for each instance, as they come: a look every 15 s. Every
  one has a thread; they share a client, which is kind: N processes would share nothing.

The stand-in is a process of its own, as a cloud is a machine of its own: CPU seconds are of those
who wait. Latency is from the moment an instance runs to the moment whoever waits for it is told.
Run without arguments, it measures both for 10, 100 and 1000 and prints a table; ``--picture FILE``
draws it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import itertools
import json
import multiprocessing
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MODES = ("ours", "boto3")
COUNTS = (10, 100, 1000)
REGION = "eu-central-1"
BOOT_S = (20.0, 50.0)
#: What the fake allows; AWS's figures for a small account.
BUCKET = {"size": 50.0, "per_s": 10.0}
#: From the beginning of one listing to that of the next, while something happens.
TICK_S = 2.0
TAG = "slipway:installation"

_SPAWNED = multiprocessing.get_context("spawn")


def main() -> None:
    """Run every mode with every count, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON only")
    parser.add_argument("--picture", type=Path, help="draw an SVG of all of them")
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(measure(options.mode, options.count)))
        return
    found = [_in_process(mode, count) for mode in MODES for count in COUNTS]
    if options.picture:
        options.picture.write_text(picture(found))
    print(json.dumps(found, indent=2) if options.json else table(found))


def measure(
    mode: str,
    count: int,
    *,
    boot_s: tuple[float, float] = BOOT_S,
    bucket: Mapping[str, float] = BUCKET,
    tick_s: float = TICK_S,
    apart: bool = True,
) -> dict[str, Any]:
    """What one mode makes of so many instances; the cloud is a process of its own, or a thread of
    this one when not ``apart``."""
    here, there = multiprocessing.Pipe()
    serving = _SPAWNED.Process if apart else threading.Thread
    cloud = serving(target=_serve, args=(there, count, boot_s, bucket), daemon=True)
    cloud.start()
    url, runs_from = here.recv()
    run = _ours if mode == "ours" else _boto3
    began, cpu = time.monotonic(), time.process_time()
    told, errors = run(url, list(runs_from), boot_s, bucket, tick_s)
    wall_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    here.send("it is over")
    seen = here.recv()
    cloud.join()
    latencies = [at - runs_from[name] for name, at in told.items()]
    return {
        "mode": mode,
        "count": count,
        "told": len(told),
        "failed": len(errors),
        "why": Counter(errors),
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "describe_calls": seen["describe_calls"],
        "throttled": seen["throttled"],
        "latency_s": {p: _percentile(latencies, p) for p in (50, 99, 100)},
        **_ticks(seen["listed_at"], latencies if mode == "ours" else None),
    }


def _serve(
    pipe: Connection, count: int, boot_s: tuple[float, float], bucket: Mapping[str, float]
) -> None:
    """Be the cloud, until told that it is over; then say what was seen. Times are those of the
    monotonic clock, which all processes of a machine share."""
    from slipway.testing.fake_ec2 import FakeEc2
    from slipway.testing.query_api import Bucket

    draw = random.Random(4)  # the same boots for everybody
    with FakeEc2(boot_s=lambda: draw.uniform(*boot_s)) as ec2:
        ec2.buckets["describe"] = Bucket(**bucket)
        instances = ec2.add(count, region=REGION, tags={TAG: "bench"})
        pipe.send((ec2.url, {each.id: each.runs_from for each in instances}))
        pipe.recv()
        seen = {
            "describe_calls": sum(each.action.startswith("Describe") for each in ec2.asked),
            "throttled": ec2.throttled,
            "listed_at": ec2.listed_at,
        }
    pipe.send(seen)


def _ours(
    url: str,
    instance_ids: Sequence[str],
    boot_s: tuple[float, float],
    bucket: Mapping[str, float],
    tick_s: float,
) -> tuple[dict[str, float], list[str]]:
    from dataclasses import replace

    from slipway.clouds.base import InstanceState
    from slipway.clouds.budget import Bucket, Budget
    from slipway.clouds.ec2 import Ec2Cloud, Ec2Options, Ec2Region
    from slipway.launches.services import build_services
    from slipway.settings import Settings
    from tasks.services import use_services
    from tasks.watching import lookout

    told: dict[str, float] = {}
    errors: list[str] = []
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as directory:
        settings = Settings(state_dir=Path(directory), poll_interval_s=tick_s)
        services = build_services(settings)
        services.__dict__["installation_id"] = "bench"
        buckets = {"describe": Bucket(at_once=bucket["size"], per_s=bucket["per_s"])}
        cloud = Ec2Cloud(
            "bench",
            Ec2Options(regions={REGION: Ec2Region()}, endpoint_url=url),
            credentials=_keys,
            budget=Budget(services.database, services.clock, "bench", buckets),
        )
        services = replace(services, clouds={"bench": cloud})
        services.__dict__["installation_id"] = "bench"
        wanted = frozenset({InstanceState.RUNNING})
        begun_at = services.clock.now()
        look_from = _learned(services, begun_at, boot_s)

        async def wait(instance_id: str) -> None:
            watch = lookout(services, cloud, REGION)
            answer = await watch.wait(
                instance_id, wanted, limit_s=600.0, begun_at=begun_at, look_from=look_from
            )
            if answer.last is not None and answer.last.state in wanted:
                told[instance_id] = time.monotonic()
            else:
                errors.append(answer.problem or answer.seen)

        async def everybody() -> None:
            await asyncio.gather(*(wait(each) for each in instance_ids))

        # As a worker does: what was imported stays, and is not looked through again and again.
        importlib.import_module("tasks.announcing")
        gc.freeze()
        with use_services(services):
            asyncio.run(everybody())
        services.database.close()
    return told, errors


def _learned(services: Any, begun_at: datetime, boot_s: tuple[float, float]) -> datetime:
    """When to look first, with fifty boots on record."""
    from slipway.clouds.base import Instance, InstanceState
    from slipway.watch.board import Board
    from slipway.watch.waiting import BOOTS, Known, Seen

    draw = random.Random(5)
    board = Board(services.database, services.clock, "bench", REGION)
    known = [
        Known(
            instance_id=f"i-before-{number}",
            seen=Seen.LISTED,
            last=Instance(
                id=f"i-before-{number}",
                state=InstanceState.TERMINATED,
                region=REGION,
                image_id="image",
                instance_type="t3.small",
                token=None,
                tags={},
                created_at=begun_at,
            ),
            boot_s=draw.uniform(*boot_s),
            ended_at=begun_at,
        )
        for number in range(BOOTS)
    ]
    with services.database.transaction() as connection:
        board.keep(connection, known, new={each.instance_id for each in known})
    return board.first_look(begun_at, image_id="image", instance_type="t3.small")


def _boto3(
    url: str,
    instance_ids: Sequence[str],
    _boot_s: tuple[float, float],
    _bucket: Mapping[str, float],
    _tick_s: float,
) -> tuple[dict[str, float], list[str]]:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError, WaiterError

    keys = _keys()
    client = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key.get_secret_value(),
        config=Config(max_pool_connections=len(instance_ids)),
    )
    # A thousand threads at once would each read what EC2's waiters are; once is enough.
    client.get_waiter("instance_running")
    told: dict[str, float] = {}
    errors: list[str] = []

    def wait(instance_id: str) -> None:
        try:
            client.get_waiter("instance_running").wait(InstanceIds=[instance_id])
        except (ClientError, WaiterError) as error:
            errors.append(str(error).partition("(")[2].partition(")")[0] or type(error).__name__)
        else:
            told[instance_id] = time.monotonic()

    threading.stack_size(256 * 1024)
    with ThreadPoolExecutor(len(instance_ids)) as pool:
        list(pool.map(wait, instance_ids))
    return told, errors


def _keys() -> Any:
    from pydantic import SecretStr

    from slipway.clouds.ec2 import Ec2Credentials

    return Ec2Credentials(access_key_id="bench", secret_access_key=SecretStr("bench"))


def _ticks(listed_at: Sequence[float], latencies: Sequence[float] | None) -> dict[str, Any]:
    """How many listings there were and how far apart; only ours come in ticks."""
    if latencies is None:
        return {}
    gaps = [at - before for before, at in itertools.pairwise(listed_at)]
    return {"ticks": len(listed_at), "tick_s": {p: _percentile(gaps, p) for p in (50, 100)}}


def _percentile(values: Iterable[float], percent: int) -> float:
    found = sorted(values)
    return found[min(int(len(found) * percent / 100), len(found) - 1)] if found else 0.0


def _in_process(mode: str, count: int) -> dict[str, Any]:
    print(f"{mode}: {count} instances …", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "bench.waiting", "--mode", mode, "--count", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """For a terminal."""
    head = f"{'':<8}{'waiting':>8}{'failed':>8}{'calls':>8}{'per tick':>10}{'refused':>9}"
    lines = [head + f"{'p50 s':>8}{'p99 s':>8}{'CPU s':>8}"]
    for each in found:
        ticks = each.get("ticks")
        per_tick = f"{each['describe_calls'] / ticks:.2f}" if ticks else ""
        latency_s = {int(k): v for k, v in each["latency_s"].items()}
        lines.append(
            f"{each['mode']:<8}{each['count']:>8}{each['failed']:>8}{each['describe_calls']:>8}"
            f"{per_tick:>10}{each['throttled']:>9}{latency_s[50]:>8.1f}{latency_s[99]:>8.1f}"
            f"{each['cpu_s']:>8.1f}"
        )
    return "\n".join(lines)


_HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 300" role="img" aria-labelledby="t d" \
font-family="system-ui, sans-serif" font-size="13">
<title id="t">What waiting costs, by the number of those who wait</title>
<desc id="d">Describe calls, failed waits and latency of one shared poller and of one waiter of \
boto3's for each instance; the numbers are in the table beside it.</desc>
<rect width="760" height="300" fill="#ffffff"/>"""
_COLORS = {"ours": "#00796b", "boto3": "#78909c"}
_NAMES = {"ours": "one poller (Slipway)", "boto3": "a waiter each (boto3)"}


def picture(found: Sequence[Mapping[str, Any]]) -> str:
    """Calls and failures by the number of those who wait, as SVG."""
    panels: list[tuple[str, Callable[[Mapping[str, Any]], float], str]] = [
        ("describe calls", lambda each: each["describe_calls"], "{:,.0f}"),
        ("waits that failed, %", lambda each: 100 * each["failed"] / each["count"], "{:.0f}"),
        ("told after, s, at p99", lambda each: _latency(each, 99), "{:.1f}"),
    ]
    parts = [_HEAD]
    for number, (title, value, form) in enumerate(panels):
        parts += _panel(found, 10 + number * 250, title, value, form)
    for number, mode in enumerate(MODES):
        x = 20 + number * 200
        parts.append(f'<rect x="{x}" y="276" width="12" height="12" fill="{_COLORS[mode]}"/>')
        parts.append(f'<text x="{x + 18}" y="287" fill="#37474f">{_NAMES[mode]}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(
    found: Sequence[Mapping[str, Any]],
    left: int,
    title: str,
    value: Callable[[Mapping[str, Any]], float],
    form: str,
) -> list[str]:
    highest = max((value(each) for each in found), default=0.0) or 1.0
    parts = [f'<text x="{left + 10}" y="24" fill="#263238" font-weight="600">{title}</text>']
    for place, count in enumerate(COUNTS):
        for each in (each for each in found if each["count"] == count):
            height = 170 * value(each) / highest
            x = left + 14 + place * 76 + MODES.index(each["mode"]) * 34
            parts.append(
                f'<rect x="{x}" y="{240 - height:.1f}" width="30" height="{max(height, 1):.1f}" '
                f'fill="{_COLORS[each["mode"]]}"/>'
                f'<text x="{x + 15}" y="{234 - height:.1f}" text-anchor="middle" font-size="11" '
                f'fill="#37474f">{form.format(value(each))}</text>'
            )
        parts.append(
            f'<text x="{left + 46 + place * 76}" y="258" text-anchor="middle" '
            f'fill="#37474f">{count:,}</text>'
        )
    return parts


def _latency(each: Mapping[str, Any], percent: int) -> float:
    """Of those who were told; keys are numbers, or their words after a way through JSON."""
    found = each["latency_s"]
    return float(found[percent] if percent in found else found[str(percent)])


if __name__ == "__main__":
    main()
