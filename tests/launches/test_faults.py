"""Everything that can go wrong on a stand-in machine, and what a launch makes of it.

Either the launch survives and the record says what happened, or it strands with one sentence that
names the step and the cause. A new fault without a test here fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import ModuleType

import pytest

import slipway.launches.booting
import slipway.launches.clocking
import slipway.launches.connecting
import tasks.launching
from slipway.clouds.base import InstanceState
from slipway.clouds.local import FOR_EVER, CloudInitError, Faults, TimeService
from slipway.records import Launch, LaunchStatus
from tests.launches.world import World, counted

HOUR_S = 3600.0

#: What is waited for in vain is given up after this.
SHORT_S = 2.0

#: The deadlines that a fault that never ends may run into.
RUNNING = (tasks.launching, "RUNNING_LIMIT_S")
BOOTING = (slipway.launches.booting, "DEADLINE_S")
CLOCKING = (slipway.launches.clocking, "DEADLINE_S")
REACHABLE = (tasks.launching, "REACHABLE_AGAIN_S")

NOT_PASSED = "Wait until the system is ready: gate linux-ready did not pass"
RUNS = "Wait until the instance runs: instance i-[0-9a-f]+"
UNREACHABLE = f"{NOT_PASSED} within 2 s: the server could not be reached, at last because: "


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault and what a launch makes of it."""

    faults: Faults
    #: A pattern that the reason of the stranded launch matches as a whole; None: it survives.
    strands: str | None = None
    #: The deadline that is made short.
    limit: tuple[ModuleType, str] | None = None
    #: Patterns that entries of the record match, in this order.
    audited: tuple[str, ...] = ()
    #: How often steps were tried, where that is not once.
    attempts: Mapping[str, int] = field(default_factory=dict)


ONCE, NEVER_ENDS = "once", "never ends"

CASES: dict[str, dict[str, Case]] = {
    "boot_delay_s": {
        ONCE: Case(
            faults=Faults(boot_delay_s=0.3),
            audited=("instance i-.* is pending", "instance i-.* is running"),
        ),
        NEVER_ENDS: Case(
            faults=Faults(boot_delay_s=HOUR_S),
            limit=RUNNING,
            strands=f"{RUNS} is pending instead of running",
        ),
    },
    "boot_failure": {
        NEVER_ENDS: Case(
            faults=Faults(boot_failure="kernel panic: no init found"),
            strands=f"{RUNS} is failed instead of running: kernel panic: no init found",
        )
    },
    "ssh_never": {
        NEVER_ENDS: Case(
            faults=Faults(ssh_never=True),
            limit=BOOTING,
            strands=f"{UNREACHABLE}.*refused.*; check its console.*",
        )
    },
    "ssh_banner_delay_s": {
        ONCE: Case(faults=Faults(ssh_banner_delay_s=0.4)),
        NEVER_ENDS: Case(
            faults=Faults(ssh_banner_delay_s=HOUR_S), limit=BOOTING, strands=f"{UNREACHABLE}.*"
        ),
    },
    "reboots_during_boot": {
        ONCE: Case(faults=Faults(reboots_during_boot=1)),
        NEVER_ENDS: Case(
            faults=Faults(reboots_during_boot=FOR_EVER, reboot_after_s=0.5),
            strands=f"{NOT_PASSED}: the machine rebooted 4 times, allowed are 3; read .*",
        ),
    },
    "reboot_after_s": {
        ONCE: Case(
            faults=Faults(reboots_during_boot=2, reboot_after_s=0.4),
            audited=("ready after .* and [12] reboots",),
        ),
    },
    "cloud_init_error": {
        "degraded": Case(faults=Faults(cloud_init_error=CloudInitError.DEGRADED)),
        "harmless": Case(
            faults=Faults(cloud_init_error=CloudInitError.HARMLESS),
            strands=f"{NOT_PASSED} and will not: cloud-init is error - done .*harmless.*",
        ),
        "fatal": Case(
            faults=Faults(cloud_init_error=CloudInitError.FATAL),
            strands=f"{NOT_PASSED} and will not: cloud-init is error - done .*; read /var/log.*",
        ),
    },
    "cloud_init_s": {
        ONCE: Case(faults=Faults(cloud_init_s=0.5)),
        NEVER_ENDS: Case(
            faults=Faults(cloud_init_s=HOUR_S),
            limit=BOOTING,
            strands=f"{NOT_PASSED} within 2 s: cloud-init is .*running.*: first-boot setup has.*",
        ),
    },
    "host_key_replaced_after_s": {
        ONCE: Case(
            faults=Faults(host_key_replaced_after_s=0.4),
            audited=("ready after .*; host key from the console",),
        ),
    },
    "login_refused_s": {
        ONCE: Case(faults=Faults(login_refused_s=0.4)),
        NEVER_ENDS: Case(
            faults=Faults(login_refused_s=HOUR_S), limit=BOOTING, strands=f"{UNREACHABLE}.*key.*"
        ),
    },
    "package_lock_s": {
        ONCE: Case(faults=Faults(package_lock_s=0.6)),
        NEVER_ENDS: Case(
            faults=Faults(package_lock_s=HOUR_S),
            limit=BOOTING,
            strands=f"{NOT_PASSED} within 2 s: package-lock is held: .*lock-frontend by process.*",
        ),
    },
    "clock_offset_s": {
        ONCE: Case(
            faults=Faults(clock_offset_s=-32.6),
            audited=("clock off by .* ms .*, after we corrected it; chrony follows",),
        ),
    },
    "clock_step_cures": {
        NEVER_ENDS: Case(
            faults=Faults(clock_offset_s=-32.6, clock_step_cures=False),
            limit=CLOCKING,
            strands="Check the clock: .*-32[56]\\d\\d.*",
        )
    },
    "time_service": {
        "unsynchronised": Case(
            faults=Faults(time_service=TimeService.UNSYNCHRONISED),
            limit=CLOCKING,
            strands="Check the clock: .*chrony.*",
        ),
        "none": Case(
            faults=Faults(time_service=TimeService.NONE),
            limit=CLOCKING,
            strands="Check the clock: .*time service.*",
        ),
    },
    "ssh_delay_s": {ONCE: Case(faults=Faults(ssh_delay_s=0.2))},
    "drop_after_bytes": {
        ONCE: Case(
            faults=Faults(drop_after_bytes=2500),
            audited=("waiting for the server to answer again: .*", "script one finished"),
        ),
        NEVER_ENDS: Case(
            faults=Faults(drop_after_bytes=2500, drops=FOR_EVER),
            # Each connection brings some more of the output: in the end it is all there.
            audited=("waiting for the server to answer again: .*", "script one finished"),
        ),
    },
    "drop_after_s": {
        ONCE: Case(faults=Faults(drop_after_s=0.15, drops=3)),
        NEVER_ENDS: Case(
            faults=Faults(drop_after_s=0.0, drops=FOR_EVER),
            limit=BOOTING,
            strands=f"{UNREACHABLE}.*",
        ),
    },
    "drop_on_exec": {
        # The first two commands are the probes of the boot gate, the third is the clock's.
        ONCE: Case(
            faults=Faults(drop_on_exec=3),
            audited=("waiting for the server to answer again", "clock off by"),
        ),
        NEVER_ENDS: Case(
            faults=Faults(drop_on_exec=4, drops=FOR_EVER),
            limit=REACHABLE,
            strands="Run script 10-one: .*",
        ),
    },
    "drops": {
        ONCE: Case(
            faults=Faults(drop_on_exec=4, drops=5),
            # One outage is one entry, however often it was tried.
            audited=("waiting for the server to answer again", "script one finished"),
        )
    },
    "capacity_refusals": {
        ONCE: Case(
            faults=Faults(capacity_refusals=1),
            audited=("no capacity for local.small in local now", "instance i-.* created"),
            attempts={"create-instance": 2},
        ),
        NEVER_ENDS: Case(
            faults=Faults(capacity_refusals=1000),
            strands="Create the instance: no capacity for local.small in local now",
            attempts={"create-instance": 7},
        ),
    },
    "create_replies_lost": {
        ONCE: Case(
            faults=Faults(create_replies_lost=1),
            audited=("the local cloud did not answer.*", "found, made by an earlier try"),
            attempts={"create-instance": 2},
        ),
        # Found by its tag at the second try, so nobody asks a third time.
        NEVER_ENDS: Case(
            faults=Faults(create_replies_lost=1000),
            audited=("found, made by an earlier try",),
            attempts={"create-instance": 2},
        ),
        # Not listed yet: the token brings it back.
        "and listed late": Case(
            faults=Faults(create_replies_lost=1, unlisted_s=0.5),
            attempts={"create-instance": 2},
        ),
    },
    "unlisted_s": {
        ONCE: Case(faults=Faults(unlisted_s=0.4)),
        NEVER_ENDS: Case(
            faults=Faults(unlisted_s=HOUR_S),
            limit=RUNNING,
            strands=f"{RUNS} was never listed by its cloud",
        ),
    },
    "terminate_s": {
        ONCE: Case(faults=Faults(terminate_s=0.3)),
    },
}

EACH = [
    pytest.param(name, case, id=f"{name}-{kind}")
    for name, kinds in CASES.items()
    for kind, case in kinds.items()
]

SCRIPT = counted("one", "for i in 1 2 3 4; do seq $((i * 1000)) $((i * 1000 + 300)); done")


def test_every_fault_is_tried() -> None:
    """Each fault the local cloud knows has its case here."""
    assert set(CASES) == {each.name for each in fields(Faults)}


@pytest.mark.parametrize(("name", "case"), EACH)
def test_each_case_has_its_fault(name: str, case: Case) -> None:
    """A case sets the fault it is listed under to something other than the default."""
    assert getattr(case.faults, name) != getattr(Faults(), name)


@pytest.mark.parametrize(("name", "case"), EACH)
def test_a_fault(world: World, monkeypatch: pytest.MonkeyPatch, name: str, case: Case) -> None:
    """The launch survives with the fault on record, or strands with a sentence that names the step
    and the cause; either way there is one instance and a record that holds."""
    monkeypatch.setattr(slipway.launches.connecting, "CONNECT_TIMEOUT_S", 5.0)
    if case.limit is not None:
        monkeypatch.setattr(*case.limit, SHORT_S)
    world.template({"one": SCRIPT}, faults=case.faults)
    launch, outcome = world.launch()
    steps = world.steps(launch)
    if case.strands is None:
        assert outcome.status == "operational", outcome
        assert world.runs(launch) == ["one"]
        check_gated(world, launch)
    else:
        assert launch.status == LaunchStatus.STRANDED
        assert re.fullmatch(case.strands, launch.reason), launch.reason
        assert outcome.reason == launch.reason
        assert launch.failed_step is not None
        assert steps[launch.failed_step].status == "failed"
        assert (
            launch.reason == f"{steps[launch.failed_step].title}: {steps[launch.failed_step].error}"
        )
    said = iter(world.summaries(launch))
    for pattern in case.audited:
        assert any(re.search(pattern, summary) for summary in said), world.summaries(launch)
    for key, attempts in case.attempts.items():
        assert steps[key].attempt == attempts
    made = 0 if name == "capacity_refusals" and case.strands else 1
    if case.faults.unlisted_s < HOUR_S:
        assert len(world.instances(launch)) == made
    world.verify(launch)
    if case.strands is None:
        world.check_invariants(launch)


def check_gated(world: World, launch: Launch) -> None:
    """No script ran before the machine was ready: its last boot is the one the gate saw, its host
    key is the one that was pinned."""
    root = world.machine(launch)
    ready = world.steps(launch)["wait-for-boot"].result
    assert ready["boot_id"] == (root / "proc/sys/kernel/random/boot_id").read_text().strip()
    console = world.cloud.console_output("local", launch.instance_id or "")
    keys = [line for line in console.splitlines() if line.startswith("ssh-ed25519 ")]
    assert launch.host_key is not None
    assert keys[-1].split()[1] == launch.host_key.split()[1]
    assert ready["host_key_source"] == "console"


def test_a_slow_termination_is_waited_for(world: World) -> None:
    """A launch ends when its instance is gone, not when it was asked to go."""
    import flows.decommission_server

    world.template({"one": SCRIPT}, faults=Faults(terminate_s=0.5))
    launch, _ = world.launch()
    world.run(flows.decommission_server.decommission_server.fn(launch.server_name))
    assert world.now(launch).status == LaunchStatus.TERMINATED
    [instance] = world.instances(launch)
    assert instance.state is InstanceState.TERMINATED
    assert world.now(launch).ended_at is not None
