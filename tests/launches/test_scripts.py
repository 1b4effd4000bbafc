"""Scripts that end badly, or whose machine does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import flows.driving
import tasks.launching
from flows.bringing_up import bring_up
from flows.outcomes import Outcome
from slipway.clouds.base import InstanceState
from slipway.clouds.local import Faults
from slipway.launches import scripts
from slipway.launches.ending import request_cancel
from slipway.records import Launch, LaunchStatus
from tests.launches.world import World, counted, until

#: Longer than any test waits for it.
SLEEPS = "sleep 600"


async def while_script_runs(
    world: World, launch: Launch, name: str, then: Callable[[], Any]
) -> Any:
    """Drive the launch and do something as soon as a script has begun."""
    driving = asyncio.create_task(bring_up(launch.id))
    await until(lambda: started(world, launch, name), f"script {name} runs")
    then()
    return await driving


def started(world: World, launch: Launch, name: str) -> bool:
    return world.now(launch).instance_id is not None and name in world.runs(launch)


def test_a_script_that_fails_strands_the_launch(world: World) -> None:
    """The sentence names the script and its exit code; nothing after it runs, its output stays."""
    world.template(
        {
            "one": counted("one"),
            "two": counted("two", "echo the cause >&2\nexit 3"),
            "three": counted("three"),
        }
    )
    launch, outcome = world.launch()
    assert outcome.status == "stranded"
    assert launch.reason == "Run script 20-two: script two ended with exit code 3"
    assert launch.failed_step == "run-script:20-two"
    assert world.runs(launch) == ["one", "two"]
    assert b"the cause\n" in world.outputs_on_record(launch).values()
    world.check_invariants(launch)
    [instance] = world.instances(launch)
    assert instance.state is InstanceState.RUNNING, "it is kept for a look"


def test_a_script_that_takes_too_long_is_ended(world: World) -> None:
    """The machine itself keeps the limit; the sentence names it."""
    text = counted("one", "echo begun\n" + SLEEPS).replace("timeout: 60", "timeout: 1")
    world.template({"one": text})
    launch, _ = world.launch()
    assert launch.reason == ("Run script 10-one: script one did not end within 1 s and was stopped")
    world.check_invariants(launch)


def test_a_script_whose_supervisor_was_killed_is_not_run_again(world: World) -> None:
    """Nobody knows how it would have ended; unless it is retry-safe, that strands the launch."""
    world.template({"one": counted("one", "kill -KILL $PPID\n" + SLEEPS)})
    launch, _ = world.launch()
    assert launch.reason == (
        "Run script 10-one: script one was cut off: the server rebooted or its process was killed"
    )
    assert world.runs(launch) == ["one"]
    world.verify(launch)


REBOOT = """\
if [ ! -e "$SLIPWAY_ROOT/var/rebooted" ]; then
  touch "$SLIPWAY_ROOT/var/rebooted"
  reboot
  sleep 600
fi
echo after the reboot
"""

#: Told to end before the machine goes down, this one waits until it is made to.
STUBBORN = "trap '' TERM\n" + REBOOT


def test_a_retry_safe_script_may_reboot_its_machine(world: World) -> None:
    """It is run again after the reboot, and the record says why."""
    world.template({"one": counted("one", STUBBORN, retry_safe=True), "two": counted("two")})
    launch, outcome = world.launch()
    assert outcome.status == "operational", outcome
    assert world.runs(launch) == ["one", "one", "two"]
    assert "script one was cut off and is run again: it is retry-safe" in world.summaries(launch)
    world.check_invariants(launch)
    streams = sorted(world.outputs_on_record(launch))
    assert [stream.rpartition(".")[2] for stream in streams] == ["2"], "a run id of its own"


def test_another_script_that_reboots_its_machine_strands_the_launch(world: World) -> None:
    """It is not run again: half of its work may be done."""
    world.template({"one": counted("one", STUBBORN)})
    launch, outcome = world.launch()
    assert outcome.reason == (
        "Run script 10-one: script one was cut off: the server rebooted or its process was killed"
    )
    assert world.runs(launch) == ["one"]
    world.check_invariants(launch)


def test_a_script_that_ends_when_its_machine_goes_down_was_cut_off(world: World) -> None:
    """Ended by the signal that ends everything on a machine that reboots is not its own end."""
    world.template({"one": counted("one", REBOOT, retry_safe=True)})
    _, outcome = world.launch()
    assert outcome.status == "operational", outcome


def test_a_script_that_reboots_every_time_strands_the_launch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retry-safe is not for ever: the machine is not rebooted without end."""
    monkeypatch.setattr(scripts, "MOST_RUNS", 2)
    body = "trap '' TERM\nreboot\n" + SLEEPS
    world.template({"one": counted("one", body, retry_safe=True)})
    launch, outcome = world.launch()
    assert outcome.status == "stranded"
    assert world.runs(launch) == ["one", "one"]


@pytest.mark.parametrize("retry_safe", [True, False])
def test_a_power_cut_during_a_script(world: World, retry_safe: bool) -> None:
    """After a power cut a retry-safe script is run again, any other strands the launch."""
    once = 'if [ ! -e "$SLIPWAY_ROOT/var/cut" ]; then echo begun; sleep 600; fi'
    world.template({"one": counted("one", once, retry_safe=retry_safe)})
    launch = world.record()

    def cut() -> None:
        (world.machine(launch) / "var/cut").touch()
        instance_id = world.now(launch).instance_id or ""
        world.cloud.power_cut("local", instance_id)

    async def power() -> Outcome:
        driving = asyncio.create_task(bring_up(launch.id))
        await until(lambda: started(world, launch, "one"), "the script runs")
        await asyncio.to_thread(cut)
        await until(
            lambda: world.instances(launch)[0].state is InstanceState.STOPPED, "it is stopped"
        )
        await asyncio.to_thread(world.cloud.start, "local", world.now(launch).instance_id or "")
        return await driving

    outcome = world.run(power())
    if retry_safe:
        assert outcome.status == "operational", outcome
        assert world.runs(launch) == ["one", "one"]
    else:
        assert outcome.reason.endswith(
            "script one was cut off: the server rebooted or its process was killed"
        )
        assert world.runs(launch) == ["one"]
    world.check_invariants(launch)
    assert any("waiting for the server to answer again" in said for said in world.summaries(launch))


def test_no_byte_is_lost_when_connections_drop(world: World) -> None:
    """A script that goes on while its connection breaks again and again runs once, and all of its
    output is on record."""
    body = "for i in 1 2 3 4 5 6; do seq $((i * 1000)) $((i * 1000 + 400)); sleep 0.1; done"
    faults = Faults(drop_after_bytes=3000, drops=4)
    world.template({"one": counted("one", body)}, faults=faults)
    launch, outcome = world.launch()
    assert outcome.status == "operational", outcome
    assert world.runs(launch) == ["one"]
    world.check_invariants(launch)
    [output] = world.outputs_on_record(launch).values()
    numbers = [number for i in range(1, 7) for number in range(i * 1000, i * 1000 + 401)]
    assert output.split() == [str(number).encode() for number in numbers]


def test_a_launch_can_be_cancelled_while_a_script_runs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its driver notices, the launch is cancelled, the step says so, the lease is free again."""
    monkeypatch.setattr(flows.driving, "LOOK_S", 0.05)
    monkeypatch.setattr("slipway.launches.scripts.HOLD_S", 1.0)
    world.template({"one": counted("one", SLEEPS), "two": counted("two")})
    launch = world.record()

    def cancel() -> None:
        request_cancel(world.services, launch.id, actor="somebody")

    outcome = world.run(while_script_runs(world, launch, "one", cancel))
    assert outcome.status == "cancelled"
    assert world.now(launch).status == LaunchStatus.CANCELLED
    assert world.now(launch).reason == "cancelled on request"
    assert world.steps(launch)["run-script:10-one"].error == "cancelled"
    assert "asked to cancel the launch" in world.summaries(launch)
    assert world.runs(launch) == ["one"]
    world.verify(launch)


def test_on_failure_terminate_leaves_no_instance(world: World) -> None:
    """A launch that strands is taken down when it was asked to be; the record keeps the cause."""
    world.template({"one": counted("one", "exit 3")}, decommission={"drain": counted("drain")})
    launch, outcome = world.launch(on_failure="terminate")
    assert outcome.status == "terminated"
    [instance] = world.instances(launch)
    assert instance.state is InstanceState.TERMINATED
    said = world.summaries(launch)
    assert "script one ended with exit code 3" in said
    assert "stranded → decommissioning: stranded, and to be terminated then" in said
    assert not any("Run script 10-drain" in line for line in said), "it never was operational"
    world.verify(launch)


def test_health_is_checked_from_outside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that never opens strands the launch with the check in words."""
    monkeypatch.setattr(tasks.launching, "HEALTH_LIMIT_S", 0.3)
    world.template({"one": counted("one")}, health=[{"tcp": 81}])
    launch, _ = world.launch()
    assert launch.reason.startswith(
        "Check the health: not healthy after 0.3 s: port 81 accepts connections: "
    )
    assert launch.failed_step == "check-health"


def test_a_health_script_that_fails_strands_the_launch(world: World) -> None:
    """Checks that are scripts run on the server, after the boot scripts."""
    world.template({"one": counted("one")}, health=[{"script": "scripts/check.sh"}])
    folder = world.templates_dir / "tiny/scripts"
    (folder / "check.sh").write_text("#!/bin/bash\nexit 1\n")
    launch, _ = world.launch()
    assert launch.reason.endswith("script check ended with exit code 1")
    assert world.runs(launch) == ["one"]


def test_outputs_of_scripts_are_the_servers_attributes(world: World) -> None:
    """What scripts publish is on the launch, the last value counts, bad lines are noted."""
    world.template(
        {
            "one": 'echo "url=http://old" >>"$SLIPWAY_OUTPUT"',
            "two": 'printf "url=http://new\\nNot A Key=1\\n" >>"$SLIPWAY_OUTPUT"',
        }
    )
    launch, _ = world.launch()
    assert launch.outputs == {"url": "http://new"}
    notes = world.steps(launch)["run-script:20-two"].result["notes"]
    assert any("line 2 is not key=value" in note for note in notes)
