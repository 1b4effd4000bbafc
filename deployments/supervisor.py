"""Keeps processes running: starts them in order, sees whether they serve, starts again what dies,
and stops them in the opposite order.

What is run, and how a process is started, is the caller's: see `deployments.up` and
`deployments.child_processes`. Time is the event loop's, so tests bring a loop of their own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class State(StrEnum):
    """How a service is."""

    #: What it needs is not ready yet.
    WAITING = "waiting"
    #: It runs and does not serve yet.
    STARTING = "starting"
    READY = "ready"
    #: It runs and does not serve any more, or not within the time it was given; or it died more
    #: often than may be put down to bad luck.
    UNHEALTHY = "unhealthy"
    #: It died and is started again after a pause.
    RESTARTING = "restarting"
    #: It was to run once, and did.
    DONE = "done"
    STOPPING = "stopping"
    STOPPED = "stopped"


#: Whoever needs a service may begin when it is in one of these.
SETTLED = frozenset({State.READY, State.DONE})


class Probe(Protocol):
    """Asks a service whether it serves."""

    async def __call__(self) -> str:
        """Empty when it does, else what is wrong, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One row of the table: a process to keep running."""

    name: str
    #: Services of one part are stopped at the same time.
    part: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Without one, it is ready when it runs.
    probe: Probe | None = None
    #: It is asked only after it has printed this.
    says_when_up: str = ""
    #: Where people find it.
    url: str = ""
    #: Names of services that have to be ready before its first start.
    needs: tuple[str, ...] = ()
    #: It is killed if it has not ended this long after it was told to.
    stop_within_s: float = 15.0
    #: It runs to its end, once.
    once: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """How one service is now."""

    name: str
    state: State
    pid: int | None = None
    url: str = ""
    #: How often it was started again.
    restarts: int = 0
    #: What is wrong; empty when nothing is.
    problem: str = ""


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> int:
        """Its exit code, once it has ended and nothing of it is left."""

    def terminate(self) -> None:
        """Tell it to end."""

    def kill(self) -> None:
        """End it, and all it started."""


#: Starts a service; every line it prints goes to the second argument. Raises `OSError`.
Launch = Callable[[Service, Callable[[str], None]], Awaitable[Process]]


class Listener(Protocol):
    """Who is told what happens."""

    def line(self, service: str, text: str) -> None:
        """A service printed this."""

    def event(self, service: str, event: str, text: str) -> None:
        """Something happened to a service. ``event`` is one word for programs."""

    def changed(self, reports: Sequence[Report]) -> None:
        """How all services are, after each change."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When what dies is started again, and what counts as healthy."""

    first_pause_s: float = 1.0
    longest_pause_s: float = 60.0
    #: A service that was ready for so long begins with the first pause again.
    proven_after_s: float = 60.0
    #: So many deaths in a row are no accident.
    unhealthy_after: int = 3
    #: A service that is not ready by then is reported; it is not given up.
    slow_after_s: float = 120.0
    probe_starting_every_s: float = 0.25
    probe_ready_every_s: float = 5.0
    probe_timeout_s: float = 5.0
    #: So many failed probes in a row make a ready service unhealthy.
    failed_probes: int = 3

    def pause_s(self, deaths: int) -> float:
        """How long to wait after this many deaths in a row: 1, 2, 4 … 60 s."""
        # The exponent is bounded because a float is: after a year of deaths it would not be.
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** min(deaths - 1, 32)))


@dataclass
class _Kept:
    """A service and what is known about its process."""

    service: Service
    report: Report
    #: Set when it is ready for the first time: what needs it may start.
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when its present process has printed what it says when it is up.
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    process: Process | None = None
    task: asyncio.Task[None] | None = None
    told_to_end: bool = False
    deaths: int = 0
    ready_since_s: float | None = None


class Supervisor:
    """Keeps the services of a table running until it is told to stop."""

    def __init__(
        self,
        services: Sequence[Service],
        launch: Launch,
        listener: Listener,
        policy: Policy | None = None,
    ) -> None:
        known = {each.name for each in services}
        for each in services:
            missing = set(each.needs) - known
            assert not missing, f"{each.name} needs {missing}, which is not in the table"
        self._launch = launch
        self._listener = listener
        self._policy = policy or Policy()
        self._kept = {
            each.name: _Kept(
                service=each, report=Report(name=each.name, state=State.WAITING, url=each.url)
            )
            for each in services
        }
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        #: Set while all services are ready or done.
        self.all_ready = asyncio.Event()

    @property
    def reports(self) -> list[Report]:
        """How the services are, in the order of the table."""
        return [each.report for each in self._kept.values()]

    async def run(self) -> None:
        """Start everything and keep it running until `stop`; nothing is left at the end."""
        self._listener.changed(self.reports)
        for each in self._kept.values():
            each.task = asyncio.create_task(self._keep(each), name=each.service.name)
        tasks = [each.task for each in self._kept.values() if each.task]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            # A task of ours that ends before it was told to is a mistake in here, and shown.
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping.set()
            await self._stop_all()
            await stopping
        for task in tasks:
            task.result()

    def stop(self) -> None:
        """Stop everything, the last of the table first. Called again: kill what is left."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    # -- one service -------------------------------------------------------------------------------

    async def _keep(self, kept: _Kept) -> None:
        for name in kept.service.needs:
            await self._either(self._kept[name].settled, None)
        while not self._stopping.is_set():
            ended = await self._run_once(kept)
            if self._stopping.is_set():
                break
            if kept.service.once and ended == "0":
                self._move(kept, State.DONE, "done", "done")
                kept.settled.set()
                # Nothing is left to keep; it only has to be there until the others end.
                await self._stopping.wait()
                break
            await self._after_death(kept, ended)
        self._move(kept, State.STOPPED, "stopped", "stopped")

    async def _run_once(self, kept: _Kept) -> str:
        """Run the service until its process ends; answers the exit code, or why there was none."""
        kept.spoke.clear()
        kept.ready_since_s = None
        if kept.deaths < self._policy.unhealthy_after:
            self._move(kept, State.STARTING)
        # Else it stays unhealthy until it serves: nobody is to take a loop of deaths for a start.
        try:
            kept.process = await self._launch(kept.service, lambda text: self._heard(kept, text))
        except OSError as error:
            return f"none: it could not be started: {error}"
        if kept.told_to_end:
            # While it was being started.
            kept.process.terminate()
        said = f"started, process {kept.process.pid}"
        self._move(kept, kept.report.state, "started", said, problem=kept.report.problem)
        watching = asyncio.create_task(self._watch(kept))
        try:
            return str(await kept.process.wait())
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            kept.process = None

    async def _after_death(self, kept: _Kept, code: str) -> None:
        policy, now_s = self._policy, _now_s()
        if kept.ready_since_s is not None and now_s - kept.ready_since_s >= policy.proven_after_s:
            kept.deaths = 0
        kept.deaths += 1
        pause_s = policy.pause_s(kept.deaths)
        problem = f"ended with exit code {code}"
        said = f"{problem}; starts again in {pause_s:g} s"
        if kept.deaths > 1:
            said += f" (death {kept.deaths} in a row)"
        hopeless = kept.deaths >= policy.unhealthy_after
        self._move(
            kept, State.UNHEALTHY if hopeless else State.RESTARTING, "died", said, problem=problem
        )
        await self._either(self._stopping, pause_s)
        if not self._stopping.is_set():
            kept.report = dataclasses.replace(kept.report, restarts=kept.report.restarts + 1)

    async def _watch(self, kept: _Kept) -> None:
        """Ask the service again and again how it is, for as long as its process lives."""
        service, policy = kept.service, self._policy
        if service.once:
            return
        begun_s = _now_s()
        failed = 0
        while True:
            problem = await self._ask(kept)
            failed = failed + 1 if problem else 0
            ready = kept.report.state is State.READY
            if kept.report.state is State.STOPPING:
                return
            if not problem and not ready:
                kept.ready_since_s = _now_s()
                said = f"ready after {_now_s() - begun_s:.1f} s"
                self._move(
                    kept, State.READY, "ready", f"{said}: {service.url}" if service.url else said
                )
                kept.settled.set()
            elif problem and ready and failed >= policy.failed_probes:
                kept.ready_since_s = None
                self._move(
                    kept, State.UNHEALTHY, "unhealthy", f"unhealthy: {problem}", problem=problem
                )
            elif kept.report.state is State.STARTING and _now_s() - begun_s >= policy.slow_after_s:
                said = f"not ready after {policy.slow_after_s:.0f} s: {problem}"
                self._move(kept, State.UNHEALTHY, "unhealthy", said, problem=problem)
            if service.probe is None and kept.report.state is State.READY:
                return
            is_settled = kept.report.state is State.READY and not failed
            await asyncio.sleep(
                policy.probe_ready_every_s if is_settled else policy.probe_starting_every_s
            )

    async def _ask(self, kept: _Kept) -> str:
        service = kept.service
        if service.says_when_up and not kept.spoke.is_set():
            return f"it has not said {service.says_when_up!r} yet"
        if service.probe is None:
            return ""
        try:
            async with asyncio.timeout(self._policy.probe_timeout_s):
                return await service.probe()
        except TimeoutError:
            return f"no answer within {self._policy.probe_timeout_s:g} s"

    def _heard(self, kept: _Kept, text: str) -> None:
        self._listener.line(kept.service.name, text)
        if kept.service.says_when_up and kept.service.says_when_up in text:
            kept.spoke.set()

    # -- the end -----------------------------------------------------------------------------------

    async def _stop_all(self) -> None:
        in_reverse = reversed(self._kept.values())
        for _, part in itertools.groupby(in_reverse, key=lambda each: each.service.part):
            await asyncio.gather(*(self._stop(each) for each in part))

    async def _stop(self, kept: _Kept) -> None:
        kept.told_to_end = True
        assert kept.task is not None, "it was made before anything could be stopped"
        if kept.process is not None:
            self._move(kept, State.STOPPING, "stopping", "stopping")
            kept.process.terminate()
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait(
            [kept.task, hurry],
            timeout=kept.service.stop_within_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        hurry.cancel()
        if not kept.task.done() and kept.process is not None:
            why = (
                "as you wish"
                if self._hurry.is_set()
                else f"it did not end within {kept.service.stop_within_s:g} s"
            )
            self._listener.event(kept.service.name, "killed", f"killed: {why}")
            kept.process.kill()
        await asyncio.wait([kept.task])

    # -- small things ------------------------------------------------------------------------------

    async def _either(self, event: asyncio.Event, limit_s: float | None) -> None:
        """Wait for the event or for being told to stop, not longer than the limit."""
        waits = [asyncio.create_task(each.wait()) for each in {event, self._stopping}]
        await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    def _move(
        self, kept: _Kept, state: State, event: str = "", said: str = "", *, problem: str = ""
    ) -> None:
        pid = kept.process.pid if kept.process else None
        kept.report = dataclasses.replace(kept.report, state=state, pid=pid, problem=problem)
        if event:
            self._listener.event(kept.service.name, event, said)
        if all(each.state in SETTLED for each in self.reports):
            self.all_ready.set()
        else:
            self.all_ready.clear()
        self._listener.changed(self.reports)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
