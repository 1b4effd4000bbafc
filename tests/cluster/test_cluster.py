"""Slipway on many machines: launches through either API, and whatever is killed, the work goes on.

One test, because the cluster costs most of the time, and tests of one module may run in several
processes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.clouds.local import Faults
from slipway.records import LaunchStatus
from tests.cluster.cluster import REDIS, Cluster, cluster
from tests.launches.world import counted
from tests.postgres import PostgresUnavailable

OPERATIONAL, STRANDED = LaunchStatus.OPERATIONAL, LaunchStatus.STRANDED
CANCELLED, TERMINATED = LaunchStatus.CANCELLED, LaunchStatus.TERMINATED

#: Goes on until the test says so.
WAITS = 'until [ -e "$SLIPWAY_ROOT/var/go" ]; do sleep 0.1; done'
FAILS = '[ -e "$SLIPWAY_ROOT/var/mended" ] || { echo no such luck >&2; exit 7; }'


@pytest.fixture
def the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    if shutil.which(REDIS) is None:
        pytest.skip("Debian's package redis-server is not installed")
    for name in [name for name in os.environ if name.startswith(("SLIPWAY_", "PREFECT_"))]:
        monkeypatch.delenv(name)
    try:
        with cluster(tmp_path) as made:
            yield made
    except PostgresUnavailable as error:
        pytest.skip(f"no PostgreSQL that Prefect can use: {error}")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster(the_cluster: Cluster) -> None:
    """With PostgreSQL, Redis, two Prefect servers, three workers and two APIs, launches through
    either API do all that launches do; and when a Prefect server, a worker, an API, Redis or
    PostgreSQL is killed in the middle of them, each comes up with one instance and no script run
    twice."""
    it = the_cluster
    it.world.template({"held": counted("held", WAITS)}, name="held")
    it.world.template({"quick": counted("quick")}, name="quick")
    launches_through_both(it)
    killed(it, "prefect-a")
    it.restart("prefect-a")
    a_worker_dies(it)
    an_api_dies_with_what_it_promised(it)
    redis_dies(it)
    killed(it, "postgres")


def launches_through_both(it: Cluster) -> None:
    """The essence of the launch tests, on a cluster where nothing is wrong."""
    it.world.template({"fails": counted("fails", FAILS)}, name="broken")
    it.world.template(
        {"calls": counted("calls")}, name="agent", faults=Faults(ssh_never=True), connect="agent"
    )
    quick = [it.launch(api, "quick") for api in ("a", "b")]
    # A request that is repeated at the other API is the same launch.
    first, second = (it.launch(api, "quick", key="twice", server="twice") for api in ("a", "b"))
    assert first == second
    agent = it.launch("a", "agent")
    broken = it.launch("a", "broken")
    cancelled = it.launch("b", "held")
    fleet = it.launch_fleet("quick", [f"fleet-{number}" for number in range(3)])

    # What fails is stranded with the cause, and resumed through the other API once it is mended.
    it.become([broken], STRANDED)
    shown = it.ask("b", "GET", f"/v1/launches/{broken}")
    assert shown["failed_step"] == "run-script:10-fails"
    assert shown["reason"].endswith("script fails ended with exit code 7")
    it.touch([broken], "mended")
    it.act("b", broken, "resume")
    # What is cancelled through one is cancelled for the other, and its server is kept.
    it.run_script([cancelled], "held")
    it.act("a", cancelled, "cancel")
    it.become([cancelled], CANCELLED)
    it.become([*quick, first, agent, broken, *fleet], OPERATIONAL)
    it.check([*quick, first, *fleet], ["quick"])
    it.check([agent], ["calls"])
    it.check([broken], ["fails", "fails"])
    # Both APIs tell the same, and servers go as they came.
    seen = [it.ask(api, "GET", "/v1/servers")["items"] for api in ("a", "b")]
    assert [each["name"] for each in seen[0]] == [each["name"] for each in seen[1]]
    for api, launch in (("b", quick[0]), ("a", agent), ("b", cancelled)):
        it.act(api, launch, "decommission")
    it.become([quick[0], agent, cancelled], TERMINATED)


def killed(it: Cluster, name: str) -> None:
    """With launches in the middle of a script, and new ones asked for right after it."""
    held = [it.launch(api, "held") for api in ("a", "b")]
    it.run_script(held, "held")
    since = time.monotonic()
    if name == "postgres":
        it.postgres.crash()
        it.postgres.start()
    else:
        it.kill(name)
    fresh = [it.launch(api, "quick") for api in ("a", "b")]
    it.touch(held, "go")
    it.become([*held, *fresh], OPERATIONAL)
    print(f"{name} killed: all are operational after {time.monotonic() - since:.1f} s")
    it.check(held, ["held"])
    it.check(fresh, ["quick"])


def a_worker_dies(it: Cluster) -> None:
    """With some of these launches; the others take them over."""
    held = [it.launch(api, "held") for api in "abab"]
    it.run_script(held, "held")
    since = time.monotonic()
    it.kill(it.busiest_worker(held))
    it.touch(held, "go")
    it.become(held, OPERATIONAL)
    print(f"a worker killed: all are operational after {time.monotonic() - since:.1f} s")
    it.check(held, ["held"])


def an_api_dies_with_what_it_promised(it: Cluster) -> None:
    """It has taken a launch and could not reach Prefect yet, and a server's agent talks to it: the
    other one hands over, and hears the agent."""
    agent = it.launch("b", "agent")
    with it.prefect.cut():
        promised = [it.launch("a", "quick") for _ in range(2)]
        it.kill("api-a")
        since = time.monotonic()
    it.become([*promised, agent], OPERATIONAL)
    print(f"an API killed: all are operational after {time.monotonic() - since:.1f} s")
    it.check(promised, ["quick"])
    it.check([agent], ["calls"])
    it.restart("api-a")


def redis_dies(it: Cluster) -> None:
    """Launches that are under way come up without it; others begin when it is back. Prefect's
    servers do not always hear of tasks again before they are started anew; then they do."""
    held = [it.launch(api, "held") for api in ("a", "b")]
    it.run_script(held, "held")
    it.kill("redis")
    since = time.monotonic()
    fresh = [it.launch(api, "quick") for api in ("a", "b")]
    it.touch(held, "go")
    it.become(held, OPERATIONAL)
    print(f"Redis killed: held ones are operational after {time.monotonic() - since:.1f} s")
    it.restart("redis")
    since = time.monotonic()
    it.become(fresh, OPERATIONAL)
    print(f"Redis is back: new ones are operational after {time.monotonic() - since:.1f} s")
    it.check(held, ["held"])
    it.check(fresh, ["quick"])
    for server in ("prefect-a", "prefect-b"):
        it.kill(server)
        it.restart(server)
    later = [it.launch(api, "quick") for api in ("a", "b")]
    it.become(later, OPERATIONAL)
    it.until(lambda: it.tasks_are_recorded(later), "Prefect has recorded their tasks")
