"""Drivers that are killed: forked from a process that has everything imported, because importing
takes ten times as long as most of these drivers live.

``python -m tests.launches.killing`` is that process: it has one thread, reads one job per line and
answers each with one line. A driver is killed by SIGKILL: nothing it could do about it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import faulthandler
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

#: A driver that takes longer than this hangs.
HUNG_AFTER_S = 60.0

#: Given what happens there, and where it is if that is not where the caller is.
Point = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a driver ended."""

    killed: bool
    #: Where it was killed, if it killed itself.
    point: str
    #: What it says of each launch, if it came to its end.
    statuses: list[str]


class Drivers:
    """Client of the forking process."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.launches.killing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=Path(__file__).parents[2],
        )

    def __enter__(self) -> Drivers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(HUNG_AFTER_S)
        self._process.stdout.close()
        self._log.close()

    def drive(self, **job: Any) -> Ended:
        """Have launches driven by a new process.

        With ``seen``, the driver kills itself at the first point that is not in this list; with
        ``nth``, at the nth point; with ``after_s``, it is killed from outside then.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the forking process has ended; see {self._log.name}"
        found = json.loads(answer)
        assert found["signal"] in (0, signal.SIGKILL), found
        assert found["exit"] == 0, f"the driver failed; see {self._log.name}"
        return Ended(
            killed=found["signal"] == signal.SIGKILL,
            point=found["point"],
            statuses=found["statuses"],
        )


# --- In the forking process -----------------------------------------------------------------------


def main() -> None:
    """Fork a driver per job, one after the other."""
    import flows.bringing_up
    import slipway.gates.linux
    import slipway.launches.creating
    import slipway.launches.scripts

    # The two probes of the boot gate need not be seconds apart for what is tested here.
    slipway.gates.linux.LINUX = dataclasses.replace(
        slipway.gates.linux.LINUX, spacing_s=0.05, first_pause_s=0.05
    )
    # What the scripts printed stays on the machine, to be compared with the record.
    slipway.launches.scripts.forget_outputs = lambda _work: None
    # Nor the looks for an instance that was perhaps made and is not listed yet.
    slipway.launches.creating.ABSENT_PAUSE_S = 0.1
    assert flows.bringing_up
    _read_once_what_boto3_reads()
    assert threading.active_count() == 1, "only a process with one thread can be forked safely"
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            _child(job, tell)
        os.close(tell)
        print(json.dumps(_watch(pid, told, job.get("after_s"))), flush=True)


def _read_once_what_boto3_reads() -> None:
    """The description of EC2 is a megabyte, and each new session reads it again."""
    import boto3
    import botocore.loaders
    import botocore.session

    loader = botocore.loaders.create_loader()

    class Session(botocore.session.Session):
        def _register_data_loader(self) -> None:
            self._components.register_component("data_loader", loader)

    botocore.session.Session = Session
    boto3.session.Session().client("ec2", region_name="eu-central-1")


def _watch(pid: int, told: int, after_s: float | None) -> dict[str, Any]:
    """Wait for a driver's end, or bring it about."""
    timer = signal.SIGKILL if after_s is not None else signal.SIGABRT
    limit_s = HUNG_AFTER_S if after_s is None else after_s
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, timer))
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    _, status = os.waitpid(pid, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    with os.fdopen(told) as reader:
        lines = reader.read().splitlines()
    point = "".join(line.removeprefix("point ") for line in lines if line.startswith("point "))
    statuses = [line.removeprefix("status ") for line in lines if line.startswith("status ")]
    return {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "point": point,
        "statuses": statuses,
    }


def _child(job: dict[str, Any], tell: int) -> None:
    """Drive the launches of a job and leave, without what a normal end of Python would do."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    faulthandler.enable()
    code = 1
    try:
        _drive(job, tell)
        code = 0
    except BaseException:  # noqa: BLE001 - it is told on standard error, then the process ends
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _drive(job: dict[str, Any], tell: int) -> None:
    from flows.bringing_up import bring_up
    from flows.driving import driving
    from flows.outcomes import Outcome
    from slipway.clouds.local import LocalCloud
    from slipway.launches.services import build_services
    from slipway.settings import Settings
    from tasks.launching import create_instance
    from tasks.services import use_services
    from tests.engine import no_engine

    point = _point(job, tell)
    _watch_commits(point)
    services = build_services(Settings(**job["settings"]))
    clouds = {**services.clouds, "local": LocalCloud(Settings(state_dir=Path(job["cloud"])))}
    services = dataclasses.replace(
        services,
        clouds={name: _watched_cloud(cloud, point) for name, cloud in clouds.items()},
        connector=WatchedConnector(services.connector, point),
    )

    async def create(launch: str) -> Outcome:
        """This one step of it, and no other."""
        async with driving(launch) as (work, _):
            await create_instance(work)
            status = work.launch().status
        return Outcome(launch_id=launch, server=work.server, status=status)

    drive = create if job.get("only") == "create" else bring_up

    async def together() -> list[Any]:
        return list(await asyncio.gather(*(drive(launch) for launch in job["launches"])))

    with use_services(services), no_engine():
        for outcome in asyncio.run(together()):
            os.write(tell, f"status {outcome.status}\n".encode())
            if outcome.reason:
                print(outcome, file=sys.stderr)


def _point(job: dict[str, Any], tell: int) -> Point:
    """What is called wherever a driver may die."""
    seen, nth = job.get("seen"), job.get("nth")
    if seen is None and nth is None:
        return lambda *_: None
    known = frozenset(seen or ())
    lock = threading.Lock()
    times: Counter[str] = Counter()

    def point(what: str, place: str = "") -> None:
        with lock:
            label = f"{what} {place or _place(sys._getframe(1))}"
            times[label] += 1
            # Loops: their third round is like their tenth.
            label += f" #{min(times[label], 3)}"
            die = sum(times.values()) > nth if nth is not None else label not in known
            if die:
                os.write(tell, f"point {label}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    return point


def _place(frame: FrameType | None) -> str:
    """Where in Slipway this is, with the key of the step it is about."""
    names: list[str] = []
    key = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if "/slipway/" in file or "/tasks/" in file or "/flows/" in file:
            names.append(frame.f_code.co_name)
            held = frame.f_locals
            for name in ("run", "_step", "self"):
                key = key or getattr(held.get(name), "key", "")
                key = key or getattr(getattr(held.get(name), "_step", None), "key", "")
            if isinstance(held.get("key"), str):
                key = key or held["key"]
        frame = frame.f_back
    return f"{'<'.join(names[:5])} [{key}]"


def _watch_commits(point: Point) -> None:
    """A commit may be of many transactions; what it is called after is the last of them."""
    from slipway.database import Database

    transaction, committed = Database.transaction, Database._committed
    here = threading.local()

    @contextlib.contextmanager
    def watched_transaction(self: Database) -> Iterator[Any]:
        with transaction(self) as connection:
            yield connection
            here.place = _place(sys._getframe(1))

    @contextlib.contextmanager
    def watched_commit(self: Database) -> Iterator[Any]:
        with committed(self) as connection:
            yield connection
            point("before commit", here.place)
        point("after commit", here.place)

    Database.transaction = watched_transaction  # type: ignore[method-assign]
    Database._committed = watched_commit  # type: ignore[method-assign]


def _watched_cloud(cloud: Any, point: Point) -> Any:
    from slipway.clouds.base import Cloud

    calls = [name for name, value in vars(Cloud).items() if callable(value) and name[0] != "_"]
    for name in calls:
        setattr(cloud, name, _watched(getattr(cloud, name), f"cloud {name}", point))
    return cloud


def _watched(function: Callable[..., Any], what: str, point: Point) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        point(f"before {what}")
        found = function(*args, **kwargs)
        point(f"after {what}")
        return found

    return watched


class WatchedConnector:
    """Connections on which the driver may die before, during and after every call."""

    def __init__(self, connector: Any, point: Point) -> None:
        self._connector = connector
        self._point = point

    def connect(self, endpoint: Any, *, timeout_s: float) -> Any:
        self._point("before connect")
        remote = self._connector.connect(endpoint, timeout_s=timeout_s)
        self._point("after connect")
        return WatchedRemote(remote, self._point)


class WatchedRemote:
    """One such connection."""

    def __init__(self, remote: Any, point: Point) -> None:
        self._remote = remote
        self._point = point
        self.host_key = remote.host_key
        self.close = remote.close

    def run(self, command: Any, *, on_stdout: Any = None) -> Any:
        self._point("before run")

        def output(data: bytes) -> None:
            self._point("before output")
            on_stdout(data)
            self._point("after output")

        result = self._remote.run(command, on_stdout=None if on_stdout is None else output)
        self._point("after run")
        return result

    @contextlib.contextmanager
    def converse(self, command: str) -> Iterator[Any]:
        self._point("before converse")
        with self._remote.converse(command) as conversation:
            yield conversation
            self._point("in converse")
        self._point("after converse")


if __name__ == "__main__":
    main()
