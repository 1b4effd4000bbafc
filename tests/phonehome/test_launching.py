"""Launches of servers that nobody can log in to: their agents call us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

import slipway.remote.agent
from flows.bringing_up import bring_up
from flows.decommission_server import decommission_server
from flows.run_operational_script import run_operational_script
from slipway.clouds.local import Faults
from slipway.launches.operations import OperationRequest
from slipway.records import Launch, LaunchStatus
from tests.launches.world import World, counted, until
from tests.phonehome.serving import Api, JumpingClock

#: Inbound SSH is closed: the machine runs and refuses every connection.
CLOSED = Faults(ssh_never=True)

SECRET = "correct-horse-battery-staple"

SERVES = """\
# A service that answers, bound to the address of this server alone.
cd "$SLIPWAY_ROOT/srv"
setsid python3 -m http.server 8099 --bind "$SLIPWAY_ADDRESS" </dev/null >/dev/null 2>&1 &
"""

USES_SECRET = counted("two", 'echo "the password is $PASSWORD"; seq 3000').replace(
    "# ---\n", "# ---\n# inputs: {PASSWORD: {type: secret}}\n", 1
)


def agents_of(launch: Launch) -> list[psutil.Process]:
    """The agent's processes on the machine of a launch, not the shell that looks after it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if not any(word.endswith("/slipway_agent.py") for word in words) or words[-1] != "run":
                continue
            if process.environ().get("SLIPWAY_MACHINE_ID") == launch.instance_id:
                found.append(process)
        except psutil.Error:
            continue
    return found


def texts_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


def test_the_life_of_a_server_that_calls_us(calling: tuple[World, Api]) -> None:
    """Nobody can log in, and everything is as ever: gates, scripts with secrets, health seen from
    the server itself, an operational script, decommission; then the agent has removed itself, and
    its secret is worth nothing."""
    world, api = calling
    world.template(
        {"one": counted("one", SERVES), "two": USES_SECRET},
        faults=CLOSED,
        connect="agent",
        operational={"greet": counted("greet", "umask; cd; pwd")},
        decommission={"drain": counted("drain", "echo drained")},
        health=[{"http": "/", "port": 8099}],
    )
    launch, outcome = world.launch(secrets={"PASSWORD": SECRET})
    assert outcome.status == "operational", outcome
    assert world.runs(launch) == ["one", "two"]
    world.check_invariants(launch)
    output = b"".join(world.outputs_on_record(launch).values())
    assert output.startswith(b"the password is <hidden input PASSWORD>\n1\n2\n")
    assert output.endswith(b"\n3000\n")
    result = world.steps(launch)["wait-for-boot"].result
    assert result["agent"].startswith("slipway-agent SHA256:")
    assert world.now(launch).host_key is None
    check_no_secret(world, launch)

    request = OperationRequest(server=launch.server_name, script="greet", key="k")
    world.run(run_operational_script.fn(request))
    assert world.runs(launch)[-1] == "greet"
    [said] = [d for run, d in world.outputs_on_record(launch).items() if "operational" in run]
    assert said.decode().split() == ["0022", str(world.machine(launch) / "home/admin")], "a login"

    folder = world.machine(launch) / "var/lib/slipway/agent"
    secret = (folder / "secret").read_text()
    assert "token" not in json.loads((folder / "config.json").read_text())
    headers = {
        "Authorization": f"Bearer {launch.id}.1.{secret}",
        "Slipway-Instance": launch.instance_id or "",
    }
    url = f"http://127.0.0.1:{api.port}/agent/v1/next"
    assert httpx.post(url, json={"after": 999}, headers=headers, trust_env=False).is_success

    world.run(decommission_server.fn(launch.server_name))
    assert world.now(launch).status == LaunchStatus.TERMINATED
    said = world.summaries(launch)
    drained = next(n for n, each in enumerate(said) if each.startswith("script drain finished"))
    assert said.index("the agent has removed itself") > drained
    refused = httpx.post(url, json={"after": 0}, headers=headers, trust_env=False)
    assert (refused.status_code, refused.json()["status"]) == (410, 410)
    assert not agents_of(launch)
    world.verify(launch)


def check_no_secret(world: World, launch: Launch) -> None:
    """The secret's value is in no file of the agent, in no log, and nowhere in our records."""
    machine = world.machine(launch)
    places = [machine / "var/lib/slipway/agent", machine / "var/log", machine / "var/lib/cloud"]
    found = [
        path for place in places for path, text in texts_below(place) if SECRET.encode() in text
    ]
    database = world.services.database.url.database
    assert database is not None
    found += [
        path
        for path in Path(database).parent.glob(f"{Path(database).name}*")
        if SECRET.encode() in path.read_bytes()
    ]
    assert found == []


REBOOTS_ONCE = """\
if [ ! -e "$SLIPWAY_ROOT/var/rebooted-{name}" ]; then
  touch "$SLIPWAY_ROOT/var/rebooted-{name}"
  reboot
  sleep 60
fi
"""

SPEAKS = """\
for number in $(seq 40); do echo "line $number"; sleep 0.1; done
"""


@pytest.mark.slow
def test_reboots_and_an_outage_are_survived(
    calling: tuple[World, Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two reboots inside the sequence, and an API that is away for ten minutes by its clock,
    in the middle of a script: what was cut off and may be run again is, the script goes on while
    nobody can be told, and nothing of its output is missing."""
    # The driver notices the outage while the script still speaks.
    monkeypatch.setattr(slipway.remote.agent, "SILENT_S", 1.5)
    world, api = calling
    world.template(
        {
            "one": counted("one", REBOOTS_ONCE.format(name="one"), retry_safe=True),
            "two": counted("two", REBOOTS_ONCE.format(name="two"), retry_safe=True),
            "three": counted("three", SPEAKS),
            "four": counted("four"),
        },
        faults=CLOSED,
        connect="agent",
    )
    launch = world.record()
    runs = f"{launch.id}.g1.run-script."

    def ended(script: str) -> bool:
        folder = world.machine(launch) / "var/lib/slipway/runs"
        return any(folder.glob(f"{runs}{script}.*/exit"))

    async def with_an_outage() -> object:
        driving = asyncio.create_task(bring_up(launch.id))
        await until(lambda: world.now(launch).instance_id, "there is an instance")
        await until(lambda: "three" in world.runs(launch), "the third script runs")
        await asyncio.to_thread(api.stop)
        assert not ended("30-three")
        waiting = "waiting for the server to answer again: "
        await until(
            lambda: any(each.startswith(waiting) for each in world.summaries(launch)[-2:]),
            "the driver notices",
        )
        clock = world.services.clock
        assert isinstance(clock, JumpingClock)
        # The agent's own ten minutes are in test_agent.py.
        clock.jump(600)
        await until(lambda: ended("30-three"), "the script ends while nobody can be told")
        await asyncio.to_thread(api.start)
        return await driving

    outcome = world.run(with_an_outage())
    assert world.now(launch).status == LaunchStatus.OPERATIONAL, outcome
    assert world.runs(launch) == ["one", "one", "two", "two", "three", "four"]
    lines = world.outputs_on_record(launch)[f"{runs}30-three.1"].decode().split("\n")
    assert lines == [*(f"line {number}" for number in range(1, 41)), ""]
    world.check_invariants(launch)


@pytest.mark.slow
def test_an_agent_that_is_killed_changes_nothing(calling: tuple[World, Api]) -> None:
    """kill -9 of the agent in the middle of a script: the script goes on, another agent attaches to
    it, it ran once, and its output is complete."""
    world, _ = calling
    world.template({"one": counted("one", SPEAKS)}, faults=CLOSED, connect="agent")
    launch = world.record()

    async def kill_it() -> object:
        driving = asyncio.create_task(bring_up(launch.id))
        await until(lambda: world.now(launch).instance_id, "there is an instance")
        await until(lambda: "one" in world.runs(launch), "the script runs")
        [agent] = agents_of(world.now(launch))
        agent.kill()
        return await driving

    outcome = world.run(kill_it())
    assert world.now(launch).status == LaunchStatus.OPERATIONAL, outcome
    assert world.runs(launch) == ["one"]
    [output] = world.outputs_on_record(launch).values()
    assert output.decode().count("line ") == 40
    said = world.summaries(launch)
    assert any("was restarted in the middle" in each for each in said), said
    world.check_invariants(launch)
