"""Launches that are taken up again, given up, waited for, or wanted by two at once."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

import flows.bringing_up
import flows.decommission_server
import flows.driving
import tasks.launching
from flows.bringing_up import bring_up, see_through
from flows.decommission_server import decommission_server
from slipway import steps
from slipway.clouds.base import InstanceState
from slipway.errors import Conflict, LeaseLost, SlipwayError
from slipway.launches import asking
from slipway.launches.requests import find_launch
from slipway.launches.work import take_up
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus
from tests.launches.test_scripts import SLEEPS, started
from tests.launches.world import World, counted, until

FAILS_ONCE = """\
if [ ! -e "$SLIPWAY_ROOT/var/mended" ]; then echo broken; exit 3; fi
echo mended
"""


def test_resuming_runs_the_failed_script_only(world: World) -> None:
    """What succeeded is skipped; the script that failed runs once more, as a run of its own."""
    world.template(
        {"one": counted("one"), "two": counted("two", FAILS_ONCE), "three": counted("three")}
    )
    launch, outcome = world.launch()
    assert outcome.status == "stranded"
    (world.machine(launch) / "var/mended").touch()
    [outcome] = world.drive(launch)
    assert outcome.status == "operational", outcome
    assert world.runs(launch) == ["one", "two", "two", "three"]
    found = world.steps(launch)
    outputs = world.outputs_on_record(launch)
    runs = [f"{launch.id}.g1.run-script.20-two.{number}" for number in (1, 2)]
    assert [outputs[run] for run in runs] == [b"broken\n", b"mended\n"]
    assert found["run-script:20-two"].attempt == 2
    assert {key for key, step in found.items() if step.attempt != 1} == {"run-script:20-two"}
    assert (world.now(launch).reason, world.now(launch).failed_step) == ("", None)
    world.check_invariants(launch)


def test_resuming_an_operational_launch_changes_nothing(world: World) -> None:
    """There is nothing left to do, and nothing is done."""
    world.template({"one": counted("one")})
    launch, _ = world.launch()
    before = world.entries(launch)
    [outcome] = world.drive(launch)
    assert outcome.status == "operational"
    assert world.entries(launch) == before
    assert world.runs(launch) == ["one"]


def test_an_instance_that_is_gone_is_replaced_when_resumed(world: World) -> None:
    """Terminated behind our back: the launch strands, and resumed it gets another instance, on
    which every script runs."""
    world.template({"one": counted("one"), "two": counted("two", FAILS_ONCE)})
    launch, outcome = world.launch()
    assert outcome.status == "stranded"
    first = launch.instance_id or ""
    world.cloud.terminate("local", first)

    async def gone() -> None:
        await until(
            lambda: world.instances(launch)[0].state is InstanceState.TERMINATED, "it is gone"
        )

    world.run(gone())
    [outcome] = world.drive(launch)
    now = world.now(launch)
    assert outcome.reason == "Run script 20-two: script two ended with exit code 3"
    assert now.generation == 2
    assert now.instance_id != first
    assert world.runs(launch) == ["one", "two"], "on the new machine"
    (world.machine(launch) / "var/mended").touch()
    [outcome] = world.drive(launch)
    assert outcome.status == "operational", outcome
    assert world.now(launch).generation == 2
    states = {i.id: i.state for i in world.instances(launch)}
    assert states == {first: InstanceState.TERMINATED, now.instance_id: InstanceState.RUNNING}
    world.verify(launch)


def test_an_instance_that_vanishes_under_a_script_strands_the_launch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hangs: the sentence says that the server does not answer."""
    monkeypatch.setattr(tasks.launching, "REACHABLE_AGAIN_S", 0.5)
    world.template({"one": counted("one", SLEEPS)})
    launch = world.record()

    async def terminate() -> object:
        driving = asyncio.create_task(bring_up(launch.id))
        await until(lambda: started(world, launch, "one"), "the script runs")
        instance_id = world.now(launch).instance_id or ""
        await asyncio.to_thread(world.cloud.terminate, "local", instance_id)
        return await driving

    world.run(terminate())
    assert world.now(launch).reason.startswith("Run script 10-one: admin@")
    world.verify(launch)


USES_DB = counted("app", 'echo "db is $DB_HOST"').replace(
    "# ---\n", "# ---\n# inputs: {DB_HOST: {type: env}}\n", 1
)


def test_an_input_waits_for_another_server(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that needs another server's address waits until it has one, and gets it."""
    monkeypatch.setattr(tasks.launching, "ENV_POLL_S", 0.02)
    world.template({"db": counted("db")}, name="db")
    world.template({"app": USES_DB}, name="app")
    app = world.record("app", name="app-1", inputs={"DB_HOST": "db-1.private_ip"})

    async def both() -> None:
        driving = asyncio.create_task(bring_up(app.id))
        waits = "DB_HOST waits for db-1.private_ip"
        await until(lambda: waits in world.summaries(app), "it waits")
        assert not world.instances(app), "nothing is created before the inputs are known"
        db = await asyncio.to_thread(world.record, "db", name="db-1")
        assert (await bring_up(db.id)).status == "operational"
        assert (await driving).status == "operational"

    world.run(both())
    address = find_launch(world.services, "db-1").private_ip or "none"
    assert list(world.outputs_on_record(app).values()) == [f"db is {address}\n".encode()]


def test_an_input_that_never_comes_strands_the_launch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its deadline the sentence names the input and what it waits for."""
    monkeypatch.setattr(tasks.launching, "ENV_POLL_S", 0.02)
    monkeypatch.setattr(tasks.launching, "ENV_LIMIT_S", 0.3)
    world.template({"app": USES_DB}, name="app")
    launch, _ = world.launch("app", inputs={"DB_HOST": "db-1.private_ip"})
    assert launch.reason == (
        "Resolve the inputs: no value after 0.005 minutes: DB_HOST waits for db-1.private_ip"
    )
    assert not world.instances(launch)


def test_two_drivers_at_once(world: World) -> None:
    """The second is told who is at work; the first is not disturbed."""
    world.template({"one": counted("one", "sleep 0.3")})
    launch = world.record()

    async def twice() -> None:
        first = asyncio.create_task(bring_up(launch.id))
        await until(lambda: started(world, launch, "one"), "the first is at work")
        with pytest.raises(Conflict, match=f"launch/{launch.id} is being driven by process"):
            await bring_up(launch.id)
        assert (await first).status == "operational"

    world.run(twice())
    assert world.runs(launch) == ["one"]
    world.check_invariants(launch)


def test_resuming_what_its_driver_has_yet_to_let_go_of(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to resume in the moment after a launch has stranded, the run waits for the driver of
    that attempt, then makes another."""
    monkeypatch.setattr(flows.driving, "LOOK_S", 0.02)
    world.template({"one": counted("one", FAILS_ONCE)})
    launch = world.record()
    stranded, refused = asyncio.Event(), asyncio.Event()

    async def holds_on(_: object) -> None:
        stranded.set()
        await refused.wait()

    async def free(launch_id: str) -> None:
        refused.set()
        await flows.driving.until_free(launch_id)

    monkeypatch.setattr(flows.bringing_up, "publish_timeline", holds_on)
    monkeypatch.setattr(flows.bringing_up, "until_free", free)

    async def both() -> None:
        first = asyncio.create_task(bring_up(launch.id))
        await stranded.wait()
        (world.machine(launch) / "var/mended").touch()
        asking.ask_resume(world.services, launch.id, actor="tests")
        assert (await see_through(launch.id)).status == "operational"
        assert (await first).status == "stranded"

    world.run(both())
    assert refused.is_set()
    assert world.runs(launch) == ["one", "one"]
    world.check_invariants(launch)


def test_what_another_driver_ends_in_is_not_repeated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that finds the launch under way ends as that attempt does, and makes no other; nor is
    a launch resumed while it is under way."""
    monkeypatch.setattr(flows.driving, "LOOK_S", 0.02)
    gate = 'until [ -e "$SLIPWAY_ROOT/var/go" ]; do sleep 0.05; done; exit 3'
    world.template({"one": counted("one", gate)})
    launch = world.record()

    async def free(launch_id: str) -> None:
        (world.machine(launch) / "var/go").touch()
        await flows.driving.until_free(launch_id)

    monkeypatch.setattr(flows.bringing_up, "until_free", free)

    async def both() -> None:
        first = asyncio.create_task(bring_up(launch.id))
        await until(lambda: started(world, launch, "one"), "the first is at work")
        with pytest.raises(Conflict, match="is under way already"):
            asking.ask_resume(world.services, launch.id, actor="tests")
        assert (await see_through(launch.id)).status == "stranded"
        assert (await first).status == "stranded"

    world.run(both())
    assert world.runs(launch) == ["one"]


def test_a_driver_that_stalled_writes_nothing_after_it_was_replaced(world: World) -> None:
    """Every write checks the lease: what a driver of yesterday wants to record is refused."""
    world.template({"one": counted("one")})
    launch = world.record()
    # Its lease has run out as soon as it has it.
    stalled_services = dataclasses.replace(
        world.services, settings=world.services.settings.model_copy(update={"lease_s": 1e-6})
    )
    stalled = take_up(stalled_services, launch.id, actor="stalled")
    run = stalled.begin("resolve-template", "Resolve the template")
    [outcome] = world.drive(launch)
    assert outcome.status == "operational", outcome
    before, status = world.entries(launch), world.now(launch)
    for write in (
        lambda: run.note("from the grave"),
        lambda: run.save({"hash": "other"}),
        lambda: run.succeed("done"),
        lambda: stalled.begin("resolve-inputs", "Resolve the inputs"),
        lambda: stalled.strand(SlipwayError("no")),
        stalled.cancel,
        stalled.reopen,
        stalled.driver.renew,
        lambda: run.fail(SlipwayError("no")),
    ):
        with pytest.raises(LeaseLost, match="another process has taken over"):
            write()
    run.fail(LeaseLost("lost"))
    stalled.driver.release()
    assert world.entries(launch) == before
    assert world.now(launch) == status
    assert world.steps(launch)["resolve-template"].status == "succeeded"


def test_a_driver_whose_lease_was_taken_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a script it finds that another is at work: it ends as lost, without
    stranding what is not its any more."""
    monkeypatch.setattr("slipway.launches.scripts.HOLD_S", 0.5)
    gate = 'while [ ! -e "$SLIPWAY_ROOT/var/go" ]; do echo waiting; sleep 0.05; done'
    world.template({"one": counted("one", gate)})
    launch = world.record()
    monkeypatch.setattr(steps, "left_behind", lambda _: True)

    async def taken() -> None:
        first = asyncio.create_task(bring_up(launch.id))
        await until(lambda: started(world, launch, "one"), "the first is at work")
        second = asyncio.create_task(bring_up(launch.id))
        assert (await first).status == "lost"
        (world.machine(launch) / "var/go").touch()
        assert (await second).status == "operational"

    world.run(taken())
    assert world.runs(launch) == ["one"]
    world.check_invariants(launch)


def test_a_launching_server_can_be_decommissioned(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cancelled first; its instance goes, its decommission scripts do not run."""
    monkeypatch.setattr(flows.driving, "LOOK_S", 0.05)
    monkeypatch.setattr("slipway.launches.scripts.HOLD_S", 0.5)
    world.template({"one": counted("one", SLEEPS)}, decommission={"drain": counted("drain")})
    launch = world.record()

    async def both() -> str:
        driving = asyncio.create_task(bring_up(launch.id))
        await until(lambda: started(world, launch, "one"), "the script runs")
        await decommission_server.fn(launch.server_name)
        return (await driving).status

    # By the time its driver looks, the launch may be on its way down already.
    assert world.run(both()) in ("cancelled", "decommissioning", "terminated")
    assert world.now(launch).status == LaunchStatus.TERMINATED
    assert [i.state for i in world.instances(launch)] == [InstanceState.TERMINATED]
    assert "configuring → cancelled: cancelled on request" in world.summaries(launch)
    assert not any("drain" in said for said in world.summaries(launch))
    world.verify(launch)


def test_decommissioning_runs_the_scripts_then_terminates(world: World) -> None:
    """In order, with their output on record; a name is free again afterwards."""
    drain = {"drain": counted("drain", "echo drained"), "bye": counted("bye", "echo bye")}
    world.template({"one": counted("one")}, decommission=drain)
    launch, _ = world.launch(name="web-1")
    state = world.run(decommission_server.fn("web-1"))
    assert state.name == "Terminated"
    assert [i.state for i in world.instances(launch)] == [InstanceState.TERMINATED]
    assert list(world.outputs_on_record(launch).values()) == [b"drained\n", b"bye\n"]
    world.verify(launch)
    again, outcome = world.launch(name="web-1")
    assert outcome.status == "operational"
    assert again.id != launch.id
    before = world.entries(launch)
    world.run(decommission_server.fn(launch.id))
    assert world.entries(launch) == before, "one that is terminated already is fine"


def test_a_failing_decommission_script_stops_nothing(world: World) -> None:
    """It is on record, the next one runs, and the server goes all the same."""
    drain = {"drain": counted("drain", "exit 5"), "bye": counted("bye", "echo bye")}
    world.template({"one": counted("one")}, decommission=drain)
    launch, _ = world.launch()
    world.run(decommission_server.fn(launch.server_name))
    assert world.now(launch).status == LaunchStatus.TERMINATED
    said = world.summaries(launch)
    assert any("drain failed, the server is taken down all the same" in line for line in said)
    assert any("script drain ended with exit code 5" in line for line in said)
    assert b"bye\n" in world.outputs_on_record(launch).values()


def test_an_interrupted_decommissioning_does_not_run_scripts_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its scripts had done is not known: taken up again, the server just goes."""
    monkeypatch.setattr("slipway.launches.scripts.HOLD_S", 0.3)
    world.template({"one": counted("one")}, decommission={"drain": counted("drain", SLEEPS)})
    launch, _ = world.launch()

    async def interrupted() -> None:
        going = asyncio.create_task(decommission_server.fn(launch.server_name))
        await until(lambda: started(world, launch, "drain"), "the script runs")
        going.cancel()
        await asyncio.wait([going])

    world.run(interrupted())
    assert world.now(launch).status == LaunchStatus.DECOMMISSIONING
    began = [step.attempt for key, step in world.steps(launch).items() if "drain" in key]
    world.run(decommission_server.fn(launch.server_name))
    assert world.now(launch).status == LaunchStatus.TERMINATED
    after = [step.attempt for key, step in world.steps(launch).items() if "drain" in key]
    assert after == began == [1]
    world.verify(launch)


def test_an_ended_launch_cannot_be_brought_up_again(world: World) -> None:
    """The sentence says in which state it is."""
    world.template({"one": counted("one")})
    launch, _ = world.launch()
    world.run(decommission_server.fn(launch.server_name))
    [outcome] = world.drive(launch)
    assert outcome.status == "terminated"
    assert world.now(launch).status == LaunchStatus.TERMINATED
    assert not steps.is_driven(world.services.database, world.services.clock, subject_of(launch.id))


def test_a_stranded_launch_without_an_instance_can_be_decommissioned(world: World) -> None:
    """There is nothing to end, and that is fine; no instance is made only to be ended."""
    world.template({"one": counted("one")})
    world.write_image("plain", "local-boot-fails")
    launch, _ = world.launch()
    assert launch.status == LaunchStatus.STRANDED
    world.run(decommission_server.fn(launch.server_name))
    assert world.now(launch).status == LaunchStatus.TERMINATED
    world.verify(launch)


def test_the_secrets_of_a_launch_end_with_it(world: World) -> None:
    """Handed over for one launch, kept for its life, forgotten at its end."""
    script = counted("one").replace("# ---\n", "# ---\n# inputs: {TOKEN: {type: secret}}\n", 1)
    world.template({"one": script})
    launch, outcome = world.launch(secrets={"TOKEN": "swordfish-and-more"})
    assert outcome.status == "operational", outcome
    name = f"launch/{launch.id}/TOKEN"
    assert world.services.vault.get(name).get_secret_value() == "swordfish-and-more"
    world.run(decommission_server.fn(launch.server_name))
    assert not world.services.vault.has(name)
