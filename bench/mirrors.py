"""What keeping an apt repository by day costs, beside aptly, reprepro and debmirror; and serving it
beside nginx.

The upstream is `slipway.testing.deb_archive.DebArchive`: packages made up from a seed, served by
nginx (by Python's own web server where there is none).

* ``tools``: the first sync, a night on which nothing changed, and a night on which some packages
  did, until clients can install from it, each as the whole commands that a person would run.
* ``day``: an unchanged day in a process that runs already: time, rows and bytes.
* ``year``: a day of changes after the other; disk and inodes.
* ``serve``: the same files by `slipway mirror serve` and by nginx with ``sendfile``, to the same
  clients: packages as large as Debian's are, and small files alone.

What is not installed is left out, and said. CPU seconds are of all processes of a command; memory
is that of its largest process. Run without arguments, it does all four.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from slipway.clock import SystemClock
from slipway.database import Database
from slipway.mirrors.repository import AptRepository
from slipway.mirrors.store import Store
from slipway.mirrors.sync import Mirror
from slipway.testing.deb_archive import DebArchive, Package
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web

MODES = ("tools", "day", "year", "serve")
PACKAGES = 20_000
CHANGED = 200
#: Debian's packages in bytes, roughly: most are small, and most bytes are in large ones.
SIZES = (20_000, 60_000, 120_000, 400_000, 1_500_000, 12_000_000)
SERVE_S = 8.0
CLIENTS = 8

_SPAWNED = multiprocessing.get_context("spawn")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table or the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mode", choices=MODES)
    parser.add_argument("--packages", type=int, default=PACKAGES)
    parser.add_argument("--changed", type=int, default=CHANGED, help="packages that change a night")
    parser.add_argument("--days", type=int, default=365, help="of the mode year")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON only")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for mode in [options.mode] if options.mode else MODES:
        with tempfile.TemporaryDirectory(prefix="slipway-bench-") as root:
            found[mode] = _MEASURES[mode](Path(root), options)
        if not options.json:
            print(f"{mode}: {json.dumps(found[mode], indent=2)}", flush=True)
    if options.json:
        print(json.dumps(found, indent=2))


# --- The upstream ---------------------------------------------------------------------------------


def _archive(root: Path, options: argparse.Namespace) -> DebArchive:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    return DebArchive(root / "upstream", packages=options.packages, seed=options.seed, start=start)


@contextlib.contextmanager
def _served(directory: Path) -> Iterator[str]:
    """The directory over HTTP; yields its address."""
    if shutil.which("nginx") is None:
        print("nginx is not installed: Python's own web server takes its place", file=sys.stderr)
        with Web(directory) as web:
            yield web.url
        return
    with _nginx(directory) as url:
        yield url


@contextlib.contextmanager
def _nginx(directory: Path) -> Iterator[str]:
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="slipway-nginx-") as work:
        config = Path(work, "nginx.conf")
        config.write_text(
            f"daemon off; pid {work}/pid; error_log {work}/error.log; worker_processes 1;\n"
            "events {}\nhttp {\n access_log off; sendfile on; tcp_nopush on;\n"
            # As much as one of our own connections gets; the default closes them after 1,000.
            " keepalive_requests 1000000;\n"
            f" server {{ listen 127.0.0.1:{port}; root {directory}; }}\n}}\n"
        )
        # The workers of a master that is root are somebody else, who may not look into /tmp/…
        if os.getuid() == 0:
            config.write_text(f"user root;\n{config.read_text()}")
        process = subprocess.Popen(["nginx", "-p", work, "-c", str(config)])
        try:
            _until_it_listens(port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def _until_it_listens(port: int) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens at {port}")


# --- Commands -------------------------------------------------------------------------------------


#: Runs a command and says what it cost. A process of its own and a small one: what is forked from a
#: large one counts as large itself.
_MEASURING = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, used = os.wait4(process.pid, 0)
wall = time.perf_counter() - began
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _run(*commands: Sequence[str], env: Mapping[str, str] | None = None) -> dict[str, float]:
    """What these commands cost, one after the other."""
    costs = []
    for command in commands:
        done = subprocess.run(  # noqa: PLW1510  (its words are wanted)
            [sys.executable, "-I", "-S", "-c", _MEASURING, *command],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr[-2000:]}")
        costs.append(json.loads(done.stdout))
    walls, cpus, peaks = zip(*costs, strict=True)
    found = {"wall_s": sum(walls), "cpu_s": sum(cpus), "peak_mib": max(peaks)}
    return {name: round(value, 2) for name, value in found.items()}


class _Ours:
    program = sys.executable

    def __init__(self, root: Path, archive: DebArchive, url: str) -> None:
        self._env = {"SLIPWAY_STATE_DIR": str(root / "ours")}
        file = root / "mirrors.yaml"
        file.write_text(
            "schema: slipway-mirrors/1\nmirrors:\n  debian:\n    kind: apt\n"
            f"    urls: ['{url}']\n    suites: [stable]\n    components: [main]\n"
            f"    keyring: {archive.keyring}\n"
        )
        _run(self._slipway("add", str(file)), env=self._env)

    def _slipway(self, *arguments: str) -> list[str]:
        program = "from deployments.main import main; main()"
        return [self.program, "-c", program, "mirror", *arguments]

    def first(self) -> dict[str, float]:
        return self.night()

    def night(self, _changed: bool = True) -> dict[str, float]:
        return _run(self._slipway("sync"), env=self._env)


class _Aptly:
    program = "aptly"

    def __init__(self, root: Path, _archive: DebArchive, url: str) -> None:
        self._config = root / "aptly.json"
        self._nights = 0
        self._config.write_text(
            json.dumps({"rootDir": str(root / "aptly"), "gpgDisableVerify": True})
        )
        _run(
            self._aptly(
                *("mirror", "create", "-architectures=amd64", "debian", url, "stable", "main")
            )
        )

    def _aptly(self, *arguments: str) -> list[str]:
        return [self.program, f"-config={self._config}", *arguments]

    def first(self) -> dict[str, float]:
        return _run(
            self._aptly("mirror", "update", "debian"),
            self._aptly("snapshot", "create", "s0", "from", "mirror", "debian"),
            self._aptly("publish", "snapshot", "-skip-signing", "-distribution=stable", "s0"),
        )

    def night(self, changed: bool = True) -> dict[str, float]:
        update = self._aptly("mirror", "update", "debian")
        if not changed:
            return _run(update)
        self._nights += 1
        name = f"s{self._nights}"
        return _run(
            update,
            self._aptly("snapshot", "create", name, "from", "mirror", "debian"),
            self._aptly("publish", "switch", "-skip-signing", "stable", name),
        )


class _Reprepro:
    program = "reprepro"

    def __init__(self, root: Path, _archive: DebArchive, url: str) -> None:
        self._base = root / "reprepro"
        (self._base / "conf").mkdir(parents=True)
        (self._base / "conf/distributions").write_text(
            "Codename: stable\nArchitectures: amd64\nComponents: main\nUpdate: upstream\n"
        )
        (self._base / "conf/updates").write_text(
            f"Name: upstream\nMethod: {url}\nSuite: stable\nVerifyRelease: blindtrust\n"
        )

    def first(self) -> dict[str, float]:
        return self.night()

    def night(self, _changed: bool = True) -> dict[str, float]:
        return _run([self.program, "-b", str(self._base), "update"])


class _Debmirror:
    program = "debmirror"

    def __init__(self, root: Path, _archive: DebArchive, url: str) -> None:
        self._directory = root / "debmirror"
        self._host = url.removeprefix("http://")

    def first(self) -> dict[str, float]:
        return self.night()

    def night(self, _changed: bool = True) -> dict[str, float]:
        return _run(
            [
                *(self.program, str(self._directory), "--method=http", f"--host={self._host}"),
                *("--root=/", "--dist=stable", "--section=main", "--arch=amd64", "--nosource"),
                *("--no-check-gpg", "--rsync-extra=none", "--diff=none"),
            ]
        )


_TOOLS: Mapping[str, Callable[[Path, DebArchive, str], Any]] = {
    "slipway": _Ours,
    "aptly": _Aptly,
    "reprepro": _Reprepro,
    "debmirror": _Debmirror,
}


def _tools(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    archive = _archive(root, options)
    found: dict[str, Any] = {"packages": options.packages, "changed": options.changed}
    with _served(archive.root) as url:
        tools: dict[str, Any] = {}
        for name, make in _TOOLS.items():
            if shutil.which(make.program) is None:  # type: ignore[attr-defined]
                print(f"{name} is not installed: left out", file=sys.stderr)
                continue
            tools[name] = make(root, archive, url)
        found["first"] = {name: tool.first() for name, tool in tools.items()}
        found["unchanged"] = {name: tool.night(False) for name, tool in tools.items()}
        archive.advance(change=options.changed)
        found["changed"] = {name: tool.night() for name, tool in tools.items()}
    for what in ("first", "unchanged", "changed"):
        ours = found[what]["slipway"]
        found[f"times ours, {what}"] = {
            name: {key: round(cost[key] / ours[key], 2) for key in ("wall_s", "cpu_s")}
            for name, cost in found[what].items()
            if name != "slipway"
        }
    return found


# --- Our own time ---------------------------------------------------------------------------------


class _InProcess:
    """A mirror in this process, and its upstream."""

    def __init__(self, root: Path, archive: DebArchive, url: str, clock: Any = None) -> None:
        self.database_file = root / "slipway.db"
        self.database = Database(f"sqlite:///{self.database_file}")
        self.database.migrate()
        self.store = Store(root / "store")
        self.mirror = Mirror(self.store, self.database, clock or SystemClock(), reserve_bytes=0)
        self.repository = AptRepository(
            name="debian",
            urls=(url,),
            suites=("stable",),
            components=("main",),
            keyring=archive.keyring.read_bytes(),
            signed_by=str(archive.keyring),
        )

    def sync(self) -> int:
        done = self.mirror.sync(self.repository, actor="bench")
        if done.failures:
            raise RuntimeError(str(done.failures))
        return done.requests

    def database_bytes(self) -> int:
        """With what is still in its log."""
        with sqlite3.connect(self.database_file) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return self.database_file.stat().st_size


def _disk(directory: Path) -> tuple[int, int]:
    """Bytes on disk and inodes below a directory."""
    size = count = 0
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            status = Path(parent, name).lstat()
            size, count = size + status.st_blocks * 512, count + 1
    return size, count


def _day(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    archive = _archive(root, options)
    with _served(archive.root) as url:
        ours = _InProcess(root, archive, url)
        ours.sync()
        before, rows = _disk(ours.store.root), ours.database_bytes()
        walls, cpus, requests = [], [], 0
        for _ in range(50):
            wall, cpu = time.perf_counter(), time.process_time()
            requests += ours.sync()
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        after = _disk(ours.store.root)
        grown = ours.database_bytes() - rows
        ours.database.close()
    return {
        "packages": options.packages,
        "requests": requests / 50,
        "wall_ms": round(sorted(walls)[25] * 1000, 1),
        "cpu_ms": round(sorted(cpus)[25] * 1000, 1),
        "store_bytes": (after[0] - before[0]) / 50,
        "store_inodes": (after[1] - before[1]) / 50,
        "database_bytes": grown / 50,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _year(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    archive = _archive(root, options)
    with _served(archive.root) as url:
        clock = FakeClock(archive.now)
        ours = _InProcess(root, archive, url, clock)
        ours.sync()
        first = _disk(ours.store.root)
        wall = cpu = 0.0
        for _ in range(options.days - 1):
            archive.advance(change=options.changed)
            archive.clean()
            clock.advance(24 * 3600)
            began, used = time.perf_counter(), time.process_time()
            ours.sync()
            wall += time.perf_counter() - began
            cpu += time.process_time() - used
        last = _disk(ours.store.root)
        ours.database.close()
    nights = options.days - 1
    return {
        "packages": options.packages,
        "changed": options.changed,
        "days": options.days,
        "night_wall_s": round(wall / nights, 3),
        "night_cpu_s": round(cpu / nights, 3),
        "first_day_bytes": first[0],
        "further_day_bytes": (last[0] - first[0]) // nights,
        "further_day_inodes": (last[1] - first[1]) / nights,
        "database_bytes": ours.database_file.stat().st_size,
    }


# --- Serving --------------------------------------------------------------------------------------


def _serve(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    if shutil.which("nginx") is None:
        print("nginx is not installed: nothing to compare with", file=sys.stderr)
        return {}
    chosen = random.Random(options.seed)
    archive = DebArchive(root / "upstream", packages=0, seed=options.seed, start=datetime.now(UTC))
    for number in range(300):
        package = archive._invent(number)
        size = chosen.choices(SIZES, weights=(40, 25, 15, 12, 6, 2))[0]
        archive.packages[package.name] = _sized(package, size)
    archive.publish()
    paths = {
        "packages": [f"/{package.path}" for package in archive.packages.values()],
        "small files": [
            f"/{package.path}"
            for package in archive.packages.values()
            if package.payload_bytes == min(SIZES)
        ],
    }
    found: dict[str, Any] = {}
    with _nginx(archive.root) as theirs:
        ours = _Ours(root, archive, theirs)
        ours.first()
        with _slipway_serving(ours) as url:
            for what, chosen_paths in paths.items():
                rows = {
                    # Twice: whoever is first warms the memory for both.
                    name: [_load(address, chosen_paths) for _ in range(2)][-1]
                    for name, address in (
                        ("nginx", theirs),
                        ("slipway", f"{url}/snapshots/latest/debian"),
                    )
                }
                rows["ratio"] = {
                    key: round(rows["slipway"][key] / rows["nginx"][key], 2)
                    for key in ("mb_per_s", "answers_per_s")
                }
                found[what] = rows
    return found


def _sized(package: Package, size: int) -> Package:
    return replace(package, payload_bytes=size, depends="")


@contextlib.contextmanager
def _slipway_serving(ours: _Ours) -> Iterator[str]:
    port = _free_port()
    process = subprocess.Popen(
        ours._slipway("serve", "--port", str(port)),
        env={**os.environ, **ours._env},
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_it_listens(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _load(url: str, paths: Sequence[str]) -> dict[str, float]:
    """What a server answers to so many clients that each ask for one file after the other."""
    host, _, prefix = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    with _SPAWNED.Pool(1) as pool:
        size, answers, took = pool.apply(_ask, (name, int(port), f"/{prefix}".rstrip("/"), paths))
    return {"mb_per_s": round(size / took / 1e6, 1), "answers_per_s": round(answers / took, 1)}


def _ask(host: str, port: int, prefix: str, paths: Sequence[str]) -> tuple[int, int, float]:
    """Bytes, answers and seconds; in a process of its own."""
    ended = threading.Event()
    totals: list[tuple[int, int]] = []

    def client(number: int) -> None:
        order = random.Random(number)
        size = answers = 0
        buffer = memoryview(bytearray(1 << 18))
        with socket.create_connection((host, port)) as connection:
            while not ended.is_set():
                path = order.choice(paths).replace("+", "%2b")
                request = f"GET {prefix}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
                connection.sendall(request.encode())
                size += _body(connection, buffer)
                answers += 1
        totals.append((size, answers))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(SERVE_S)
    ended.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return sum(size for size, _ in totals), sum(count for _, count in totals), took


def _body(connection: socket.socket, buffer: memoryview) -> int:
    """Read one answer; how many bytes its body had."""
    got = connection.recv_into(buffer)
    head = bytes(buffer[:got])
    while b"\r\n\r\n" not in head:
        more = connection.recv(1 << 16)
        if not more:
            raise RuntimeError("the server hung up")
        head += more
    top, _, body = head.partition(b"\r\n\r\n")
    lines = top.lower().split(b"\r\n")
    if b" 200 " not in lines[0]:
        raise RuntimeError(lines[0].decode())
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    left = length - len(body)
    while left:
        got = connection.recv_into(buffer, min(left, len(buffer)))
        if not got:
            raise RuntimeError("the server hung up")
        left -= got
    return length


_MEASURES: Mapping[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "tools": _tools,
    "day": _day,
    "year": _year,
    "serve": _serve,
}


if __name__ == "__main__":
    main()
