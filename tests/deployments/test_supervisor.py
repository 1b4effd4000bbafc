"""The supervisor with processes that are objects, in time that costs nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.supervisor import Policy, Report, Service, State, Supervisor
from slipway.testing import virtual_time

POLICY = Policy(
    first_pause_s=1,
    longest_pause_s=60,
    proven_after_s=100,
    unhealthy_after=3,
    slow_after_s=120,
    probe_timeout_s=5,
    failed_probes=3,
)


@dataclass
class FakeProcess:
    """A process that ends when it is told to, or after a while."""

    pid: int
    #: It takes so long to end after it was told to; None means that it never does.
    ends_in_s: float | None = 0.0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    code: int = 0
    signals: list[str] = field(default_factory=list)

    async def wait(self) -> int:
        await self.ended.wait()
        return self.code

    def end(self, code: int) -> None:
        self.code = code
        self.ended.set()

    def terminate(self) -> None:
        self.signals.append("TERM")
        if self.ends_in_s is not None:
            asyncio.get_running_loop().call_later(self.ends_in_s, self.end, -15)

    def kill(self) -> None:
        self.signals.append("KILL")
        self.end(-9)


@dataclass
class FakeService:
    """What a test decides about one service."""

    #: What its probe answers.
    problem: str = ""
    #: It dies with code 1 so long after each start; None means never.
    dies_after_s: float | None = None
    ends_in_s: float | None = 0.0
    cannot_start: bool = False
    processes: list[FakeProcess] = field(default_factory=list)
    started_at_s: list[float] = field(default_factory=list)

    async def probe(self) -> str:
        if self.problem == "silent":
            await asyncio.Event().wait()
        return self.problem


@dataclass
class Scene:
    """A supervisor of fake services, and what it said and did, in order."""

    services: dict[str, FakeService] = field(default_factory=dict)
    table: list[Service] = field(default_factory=list)
    said: list[tuple[float, str, str, str]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)
    seen: list[list[Report]] = field(default_factory=list)
    print_line: dict[str, Callable[[str], None]] = field(default_factory=dict)
    supervisor: Supervisor = None  # type: ignore[assignment]

    def add(self, name: str, **row: Any) -> FakeService:
        made = self.services[name] = FakeService()
        probe = None if row.pop("unasked", False) else made.probe
        self.table.append(
            Service(name=name, part=row.pop("part", name), command=(name,), probe=probe, **row)
        )
        return made

    async def launch(self, service: Service, line: Callable[[str], None]) -> FakeProcess:
        made = self.services[service.name]
        made.started_at_s.append(now_s())
        if made.cannot_start:
            raise FileNotFoundError("no such program")
        self.print_line[service.name] = line
        process = FakeProcess(pid=100 + len(made.processes), ends_in_s=made.ends_in_s)
        made.processes.append(process)
        if made.dies_after_s is not None:
            asyncio.get_running_loop().call_later(made.dies_after_s, process.end, 1)
        return process

    # -- the listener

    def line(self, service: str, text: str) -> None:
        self.lines.append((service, text))

    def event(self, service: str, event: str, text: str) -> None:
        self.said.append((now_s(), service, event, text))

    def changed(self, reports: Sequence[Report]) -> None:
        self.seen.append(list(reports))

    # -- what tests ask

    def run(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the story beside the supervisor, and stop at its end."""

        async def main() -> None:
            self.supervisor = Supervisor(self.table, self.launch, self, POLICY)
            running = asyncio.create_task(self.supervisor.run())
            # Of virtual time: what is waited for and never comes is not waited for here.
            async with asyncio.timeout(100_000):
                await story()
            self.supervisor.stop()
            await running

        virtual_time.run(main())
        for name, service in self.services.items():
            assert all(each.ended.is_set() for each in service.processes), f"{name} is left"

    def state(self, name: str) -> State:
        return self.report(name).state

    def report(self, name: str) -> Report:
        return next(each for each in self.supervisor.reports if each.name == name)

    def events(self, *kinds: str) -> list[str]:
        return [f"{name} {event}" for _, name, event, _ in self.said if event in kinds]

    def texts(self, name: str) -> list[str]:
        return [text for _, who, _, text in self.said if who == name]


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_services_start_when_what_they_need_is_ready(scene: Scene) -> None:
    """A worker does not start before Prefect answers and the deployments are made."""
    prefect = scene.add("prefect")
    scene.add("deploy", needs=("prefect",), once=True)
    worker = scene.add("worker", needs=("prefect", "deploy"))
    prefect.problem = "refused"

    async def story() -> None:
        await asyncio.sleep(10)
        assert (scene.state("prefect"), scene.state("deploy")) == (State.STARTING, State.WAITING)
        prefect.problem = ""
        await asyncio.sleep(1)
        assert (scene.state("prefect"), scene.state("deploy")) == (State.READY, State.STARTING)
        await asyncio.sleep(9)
        assert not worker.processes
        scene.services["deploy"].processes[0].end(0)
        await scene.supervisor.all_ready.wait()
        assert (scene.state("deploy"), scene.state("worker")) == (State.DONE, State.READY)

    scene.run(story)


def test_ready_is_said_with_the_time_it_took_and_where(scene: Scene) -> None:
    """Each service is announced once, with its address."""
    scene.add("api", url="http://127.0.0.1:1").problem = "refused"

    async def story() -> None:
        await asyncio.sleep(4)
        scene.services["api"].problem = ""
        await asyncio.sleep(60)

    scene.run(story)
    assert [text for text in scene.texts("api") if "ready" in text] == [
        "ready after 4.0 s: http://127.0.0.1:1"
    ]


def test_stopping_goes_from_the_last_to_the_first_and_workers_go_together(scene: Scene) -> None:
    """Nobody is told to end before all that came after it in the table have ended."""
    for name, part in (("prefect", "prefect"), ("api", "api"), ("w-1", "w"), ("w-2", "w")):
        scene.add(name, part=part, stop_within_s=30).ends_in_s = 10

    async def story() -> None:
        await scene.supervisor.all_ready.wait()

    scene.run(story)
    stops = [(at, name) for at, name, event, _ in scene.said if event == "stopping"]
    assert stops == [(0, "w-2"), (0, "w-1"), (10, "api"), (20, "prefect")]
    assert not scene.events("killed")


def test_what_does_not_end_in_time_is_killed(scene: Scene) -> None:
    """A service has its own limit, after which it is killed, and the next one's turn comes."""
    scene.add("prefect")
    scene.add("worker", stop_within_s=50).ends_in_s = None

    async def story() -> None:
        await scene.supervisor.all_ready.wait()

    scene.run(story)
    assert scene.services["worker"].processes[0].signals == ["TERM", "KILL"]
    assert "killed: it did not end within 50 s" in scene.texts("worker")
    assert scene.services["prefect"].processes[0].signals == ["TERM"]


def test_a_second_stop_kills_at_once(scene: Scene) -> None:
    """Whoever presses Ctrl-C twice does not wait for the drain, of no service."""
    for name in ("prefect", "api", "worker"):
        scene.add(name, stop_within_s=1000).ends_in_s = None

    async def story() -> None:
        await scene.supervisor.all_ready.wait()
        scene.supervisor.stop()
        await asyncio.sleep(3)
        scene.supervisor.stop()
        await asyncio.sleep(0.1)
        assert all(each.processes[0].ended.is_set() for each in scene.services.values())

    scene.run(story)


def test_what_dies_is_started_again_later_each_time(scene: Scene) -> None:
    """The pauses double up to the longest: 1 + 2 + 4 + 8 + 16 + 32 + 60 + 60 s."""
    scene.add("api").dies_after_s = 0

    async def story() -> None:
        await asyncio.sleep(200)

    scene.run(story)
    starts = scene.services["api"].started_at_s
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(starts)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "ended with exit code 1; starts again in 1 s" in scene.texts("api")
    assert "ended with exit code 1; starts again in 2 s (death 2 in a row)" in scene.texts("api")


def test_a_service_that_proved_itself_begins_with_a_short_pause_again(scene: Scene) -> None:
    """One death a day is not a loop of deaths."""
    scene.add("api").dies_after_s = 101

    async def story() -> None:
        await asyncio.sleep(1000)

    scene.run(story)
    starts = scene.services["api"].started_at_s
    assert {round(b - a) for a, b in itertools.pairwise(starts)} == {102}
    assert scene.report("api").restarts == len(starts) - 1
    assert State.UNHEALTHY not in {each[0].state for each in scene.seen}


def test_a_loop_of_deaths_is_unhealthy_until_it_serves(scene: Scene) -> None:
    """It is never given up; it counts as unhealthy from the third death on, also while it is
    being started."""
    api = scene.add("api")
    api.dies_after_s, api.problem = 1, "refused"

    async def story() -> None:
        await asyncio.sleep(4.5)
        assert scene.state("api") is State.RESTARTING
        await asyncio.sleep(2)
        assert scene.state("api") is State.UNHEALTHY
        # Deaths at 1, 3 and 6 s; the pause is 4 s now.
        await asyncio.sleep(4)
        assert (scene.state("api"), scene.report("api").pid) == (State.UNHEALTHY, 103)
        api.dies_after_s, api.problem = None, ""
        await asyncio.sleep(60)
        assert scene.state("api") is State.READY
        assert scene.supervisor.all_ready.is_set()

    scene.run(story)


def test_a_program_that_is_not_there_is_tried_again(scene: Scene) -> None:
    """A failed start counts as a death and says why."""
    scene.add("api").cannot_start = True

    async def story() -> None:
        await asyncio.sleep(0.5)
        scene.services["api"].cannot_start = False
        await asyncio.sleep(2)
        assert scene.state("api") is State.READY

    scene.run(story)
    assert scene.texts("api")[0].startswith(
        "ended with exit code none: it could not be started: no such program; starts again in 1 s"
    )


def test_others_are_not_stopped_for_one_that_died(scene: Scene) -> None:
    """The worker and the API get over Prefect's absence, so they keep running."""
    prefect = scene.add("prefect")
    worker = scene.add("worker", needs=("prefect",))

    async def story() -> None:
        await scene.supervisor.all_ready.wait()
        prefect.processes[0].end(-9)
        await asyncio.sleep(0.1)
        assert not scene.supervisor.all_ready.is_set()
        await asyncio.sleep(10)
        assert scene.supervisor.all_ready.is_set()
        assert (len(prefect.processes), len(worker.processes)) == (2, 1)
        assert scene.report("prefect").restarts == 1

    scene.run(story)


def test_a_service_that_stops_answering_is_unhealthy_and_left_alone(scene: Scene) -> None:
    """Three failed probes in a row make it unhealthy; one good one makes it ready again; its
    process is not touched."""
    api = scene.add("api")

    async def story() -> None:
        await asyncio.sleep(100)
        api.problem = "silent"
        await asyncio.sleep(6)
        assert scene.state("api") is State.READY
        await asyncio.sleep(20)
        assert scene.state("api") is State.UNHEALTHY
        assert scene.report("api").problem == "no answer within 5 s"
        api.problem = ""
        await asyncio.sleep(10)
        assert scene.state("api") is State.READY
        assert scene.report("api").problem == ""

    scene.run(story)
    assert [each.signals for each in api.processes] == [["TERM"]]


def test_a_slow_start_is_reported_and_goes_on(scene: Scene) -> None:
    """A service that is not ready after two minutes is unhealthy, not restarted."""
    api = scene.add("api")
    api.problem = "refused"

    async def story() -> None:
        await asyncio.sleep(119)
        assert scene.state("api") is State.STARTING
        await asyncio.sleep(2)
        assert scene.state("api") is State.UNHEALTHY
        api.problem = ""
        await asyncio.sleep(1)
        assert scene.state("api") is State.READY

    scene.run(story)
    assert len(api.processes) == 1
    assert "not ready after 120 s: refused" in scene.texts("api")


def test_what_runs_once_is_tried_until_it_works(scene: Scene) -> None:
    """`slipway deploy` that fails is run again; once it worked, never more."""
    deploy = scene.add("deploy", once=True)
    worker = scene.add("worker", needs=("deploy",))

    async def story() -> None:
        await asyncio.sleep(5)
        deploy.processes[0].end(3)
        await asyncio.sleep(5)
        assert not worker.processes
        deploy.processes[1].end(0)
        await asyncio.sleep(500)
        assert len(deploy.processes) == 2
        assert (scene.state("deploy"), scene.state("worker")) == (State.DONE, State.READY)

    scene.run(story)


def test_a_service_is_asked_only_after_it_spoke(scene: Scene) -> None:
    """Where a probe is good too early, a line of output decides; that of the present process."""
    worker = scene.add("worker", says_when_up="started: ")

    async def story() -> None:
        await asyncio.sleep(3)
        assert scene.state("worker") is State.STARTING
        scene.print_line["worker"]("Worker started: w1")
        await asyncio.sleep(1)
        assert scene.state("worker") is State.READY
        worker.processes[0].end(-9)
        await asyncio.sleep(5)
        assert scene.state("worker") is State.STARTING

    scene.run(story)
    assert scene.lines == [("worker", "Worker started: w1")]


def test_stopping_while_something_waits_or_pauses_ends_at_once(scene: Scene) -> None:
    """Nobody waits for a pause, or for what will never be ready."""
    scene.add("prefect").problem = "refused"
    scene.add("worker", needs=("prefect",))
    scene.add("api").cannot_start = True

    async def story() -> None:
        # The API's pause is 32 s by now.
        await asyncio.sleep(40)

    scene.run(story)
    assert [each.state for each in scene.seen[-1]] == [State.STOPPED] * 3
    assert not scene.services["worker"].processes


def test_a_service_without_a_probe_is_ready_when_it_runs(scene: Scene) -> None:
    """No probe, no waiting."""
    scene.add("thing", unasked=True)

    async def story() -> None:
        await scene.supervisor.all_ready.wait()
        assert now_s() == 0

    scene.run(story)


def test_a_need_that_is_not_in_the_table_is_refused(scene: Scene) -> None:
    """A table that could never start is a mistake in the table."""
    scene.add("worker", needs=("prefect",))
    with pytest.raises(AssertionError, match="needs"):
        Supervisor(scene.table, scene.launch, scene)
