"""Every fault of a stand-in machine, seen the way a launch would see it.

A fault that is to be seen while it lasts lasts an hour here, so that no test depends on time.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
import uuid
from dataclasses import replace
from typing import Any

import paramiko
import pytest

from slipway.clouds.base import InstanceState
from slipway.clouds.local import (
    BUILT_IN,
    DEFAULT_IMAGE,
    FOR_EVER,
    CloudInitError,
    Faults,
    TimeService,
)
from slipway.errors import CapacityUnavailable, CloudUnavailable, InvalidInput
from slipway.testing.cloud_contract import until
from tests.clouds.shell import DEADLINE_S, KEY, LocalCase, Shell
from tests.clouds.test_local_machines import BOOT_ID, pinned_key, reconnect

HOUR_S = 3600.0


def status(shell: Shell) -> tuple[int, dict[str, Any]]:
    ran = shell.run("cloud-init status --format json")
    return ran.code, json.loads(ran.out)


def test_boot_delay(case: LocalCase) -> None:
    """A machine that boots slowly is PENDING while one created later runs."""
    slow = case.create(case.with_faults(Faults(boot_delay_s=HOUR_S)))
    case.running()
    seen = case.seen(slow.id)
    assert seen is not None
    assert (seen.state, seen.address) == (InstanceState.PENDING, None)
    case.cloud.terminate("local", slow.id)
    case.until_state(slow.id, InstanceState.TERMINATED)


def test_boot_delay_range(case: LocalCase) -> None:
    """A delay drawn from a range ends."""
    case.running(case.with_faults(Faults(boot_delay_s=(0.01, 0.05))))


def test_boot_failure(case: LocalCase) -> None:
    """A machine that fails to boot is FAILED, with the reason in the listing and on the console."""
    instance = case.create(case.with_faults(Faults(boot_failure="kernel panic")))
    failed = case.until_state(instance.id, InstanceState.FAILED)
    assert failed.state_reason == "kernel panic"
    assert "kernel panic" in case.cloud.console_output("local", instance.id)


def test_ssh_never(case: LocalCase) -> None:
    """A machine without SSH runs and refuses connections."""
    instance = case.running(case.with_faults(Faults(ssh_never=True)))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((instance.address, instance.ssh_port), DEADLINE_S)


def test_ssh_banner_late(case: LocalCase) -> None:
    """A late banner: the connection is accepted and nothing is said."""
    instance = case.running(case.with_faults(Faults(ssh_banner_delay_s=HOUR_S)))

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection((instance.address, instance.ssh_port), 0.5)
        except ConnectionRefusedError:
            return None

    found = until(connect, what="TCP answers", deadline_s=DEADLINE_S, pause_s=0.02)
    with found, pytest.raises(TimeoutError):
        found.recv(1)


def test_ssh_banner_comes(case: LocalCase) -> None:
    """The banner comes in the end."""
    instance = case.running(case.with_faults(Faults(ssh_banner_delay_s=0.2)))
    reconnect(case, instance, not_boot="").close()


@pytest.mark.parametrize("reboots", [1, 2])
def test_reboots_during_boot(case: LocalCase, reboots: int) -> None:
    """SSH answers, the machine reboots as often as said, then cloud-init ends on the last boot."""
    faults = Faults(reboots_during_boot=reboots, reboot_after_s=0.2)
    instance = case.running(case.with_faults(faults))

    def boots() -> int:
        return case.cloud.console_output("local", instance.id).count("Linux version")

    def finished() -> bool:
        return "finished" in case.cloud.console_output("local", instance.id)

    until(finished, what="cloud-init ends", deadline_s=DEADLINE_S, pause_s=0.02)
    assert boots() == reboots + 1
    with case.shell(instance) as shell:
        assert status(shell)[1]["status"] == "done"


def test_reboots_for_ever(case: LocalCase) -> None:
    """A machine that never stops rebooting shows boot after boot."""
    faults = Faults(reboots_during_boot=FOR_EVER, reboot_after_s=0.3)
    instance = case.running(case.with_faults(faults))
    with reconnect(case, instance, not_boot="") as shell:
        ran = shell.run(BOOT_ID)
    with reconnect(case, instance, not_boot=ran.out.strip()):
        assert "finished" not in case.cloud.console_output("local", instance.id)


@pytest.mark.parametrize(
    ("error", "code", "said", "extended"),
    [
        (CloudInitError.NONE, 0, "done", "done"),
        (CloudInitError.DEGRADED, 2, "done", "degraded done"),
        (CloudInitError.HARMLESS, 1, "error", "error - done"),
        (CloudInitError.FATAL, 1, "error", "error - done"),
    ],
)
def test_cloud_init_errors(
    case: LocalCase, error: CloudInitError, code: int, said: str, extended: str
) -> None:
    """`cloud-init status` has the words and exit codes of the real one for each kind of error."""
    instance = case.running(case.with_faults(Faults(cloud_init_error=error)))
    with case.shell(instance) as shell:
        waited = shell.run("cloud-init status --wait")
        assert (waited.code, waited.out.split()[-1]) == (code, said)
        found, full = status(shell)
        assert (found, full["status"], full["extended_status"]) == (code, said, extended)
        assert ("locale" in str(full["errors"])) == (error is CloudInitError.HARMLESS)
        assert ("scripts_user" in str(full["errors"])) == (error is CloudInitError.FATAL)
        assert bool(full["recoverable_errors"]) == (error is CloudInitError.DEGRADED)
        assert extended in shell.run("cloud-init status --long").out


def test_cloud_init_slow(case: LocalCase) -> None:
    """While cloud-init runs, it says so with exit code 0, and the user data has not run."""
    spec = replace(
        case.with_faults(Faults(cloud_init_s=HOUR_S)), user_data="#!/bin/sh\ntouch $HOME/ran\n"
    )
    with case.shell(case.running(spec)) as shell:
        code, full = status(shell)
        assert (code, full["status"], full["extended_status"]) == (0, "running", "running")
        assert shell.run("ls ran").code != 0


def test_host_key_replaced(case: LocalCase) -> None:
    """The key shown early is not the one on the console; later connections see that one."""
    instance = case.running(case.with_faults(Faults(host_key_replaced_after_s=1.0)))
    with case.shell(instance) as shell:
        early = shell.host_key
    final = until(
        lambda: pinned_key(case, instance),
        what="the console shows a key", deadline_s=DEADLINE_S, pause_s=0.02,
    )  # fmt: skip
    assert final != early
    with case.shell(instance) as shell:
        assert shell.host_key == final
        boot = shell.say(BOOT_ID)
        shell.run("reboot")
    with reconnect(case, instance, not_boot=boot) as shell:
        assert shell.host_key == final


def test_login_refused(case: LocalCase) -> None:
    """The right key is refused while the account does not exist, and accepted later."""
    never = case.running(case.with_faults(Faults(login_refused_s=HOUR_S)))
    with pytest.raises(paramiko.AuthenticationException):
        case.shell(never)
    late = case.running(case.with_faults(Faults(login_refused_s=0.3)))
    reconnect(case, late, not_boot="").close()


_TRY_LOCK = """python3 -c '
import fcntl, os
with open(os.environ["SLIPWAY_ROOT"] + "/var/lib/dpkg/lock-frontend", "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
'"""


def test_package_lock(case: LocalCase) -> None:
    """The package lock is really held, from before SSH answers; on other machines it is free."""
    held = case.running(case.with_faults(Faults(package_lock_s=HOUR_S)))
    with case.shell(held) as shell:
        ran = shell.run(_TRY_LOCK)
        assert ran.code != 0
        assert re.search(r"BlockingIOError|PermissionError", ran.err)
        if sys.platform == "linux":
            # What a probe without root sees: ``POSIX ADVISORY WRITE pid device:inode``.
            lock = '"$SLIPWAY_ROOT/var/lib/dpkg/lock-frontend"'
            line = shell.say(f'grep POSIX /proc/locks | grep ":$(stat -c %i {lock}) "')
            assert "WRITE" in line
    with case.shell(case.running()) as shell:
        shell.say(_TRY_LOCK)


def test_package_lock_ends(case: LocalCase) -> None:
    """The package lock is free in the end."""
    instance = case.running(case.with_faults(Faults(package_lock_s=0.5)))
    with case.shell(instance) as shell:
        until(
            lambda: shell.run(_TRY_LOCK).code == 0,
            what="the lock is free", deadline_s=DEADLINE_S, pause_s=0.05,
        )  # fmt: skip


def tracking(shell: Shell) -> list[str]:
    return shell.say("chronyc -n -c tracking").split(",")


def behind_s(shell: Shell) -> float:
    """How far the machine's clock is behind ours, give or take the time it takes to ask."""
    return time.time() - float(shell.say("date +%s.%N"))


def test_clock_offset_that_makestep_cures(case: LocalCase) -> None:
    """A slow clock: date and chrony agree on it, everything else looks perfect, makestep cures."""
    faults = Faults(clock_offset_s=-HOUR_S)
    with case.shell(case.running(case.with_faults(faults))) as shell:
        assert behind_s(shell) == pytest.approx(HOUR_S, abs=600)
        fields = tracking(shell)
        assert len(fields) == 14
        assert float(fields[4]) == HOUR_S
        assert (fields[0], fields[-1]) == ("C000027B", "Normal")
        assert "3600.000000000 seconds slow of NTP time" in shell.say("chronyc tracking")
        assert shell.run("chronyc waitsync 1").code == 0
        assert shell.run("chronyc waitsync 2 0.1 0 0.01").code == 1
        assert shell.say("date -u +%Y") == shell.say("date -u -d @$(date +%s) +%Y")
        assert shell.say("chronyc makestep") == "200 OK"
        assert float(tracking(shell)[4]) == 0
        assert shell.run("chronyc waitsync 2 0.1 0 0.01").code == 0
        assert abs(behind_s(shell)) < 600


def test_clock_offset_is_exact(case: LocalCase) -> None:
    """Fractions of a second and a fast clock are reported with their sign."""
    faults = Faults(clock_offset_s=0.25)
    with case.shell(case.running(case.with_faults(faults))) as shell:
        assert tracking(shell)[4] == "-0.250000000"
        assert "0.250000000 seconds fast of NTP time" in shell.say("chronyc tracking")
        assert re.fullmatch(r"\d{10}\.\d{9}", shell.say("date +%s.%N"))


def test_clock_offset_that_nothing_cures(case: LocalCase) -> None:
    """makestep says OK and the clock stays wrong."""
    faults = Faults(clock_offset_s=-HOUR_S, clock_step_cures=False)
    with case.shell(case.running(case.with_faults(faults))) as shell:
        assert shell.say("chronyc makestep") == "200 OK"
        assert float(tracking(shell)[4]) == HOUR_S


def test_time_never_synchronised(case: LocalCase) -> None:
    """A time service without a source says so in every form."""
    faults = Faults(time_service=TimeService.UNSYNCHRONISED)
    with case.shell(case.running(case.with_faults(faults))) as shell:
        fields = tracking(shell)
        assert (len(fields), fields[0], fields[-1]) == (14, "00000000", "Not synchronised")
        assert shell.run("chronyc waitsync 1 0.1 0 0.01").code == 1
        assert shell.say("chronyc -c sources").startswith("^,?")
        assert shell.say("timedatectl show") == "NTPSynchronized=no"


def test_no_time_service(case: LocalCase) -> None:
    """Without a time service there is no chronyc that answers."""
    faults = Faults(time_service=TimeService.NONE)
    with case.shell(case.running(case.with_faults(faults))) as shell:
        assert shell.run("chronyc -n -c tracking").code == 127
        assert shell.run("systemctl is-active chrony").code == 3
        assert shell.say("timedatectl show -p NTPSynchronized --value") == "no"


def test_ssh_delay(case: LocalCase) -> None:
    """A session that starts late does not start before."""
    with case.shell(case.running(case.with_faults(Faults(ssh_delay_s=HOUR_S)))) as shell:
        _, out, _ = shell.client.exec_command("echo here", timeout=0.5)
        with pytest.raises(TimeoutError):
            out.read()


def _breaks(shell: Shell, command: str) -> bool:
    """Whether the connection breaks under a command."""
    try:
        return shell.run(command).code == -1
    except (OSError, EOFError, paramiko.SSHException):
        return True


def test_drop_on_exec(case: LocalCase) -> None:
    """The connection breaks under the nth command, which has started; the next ones work."""
    instance = case.running(case.with_faults(Faults(drop_on_exec=2)))
    with case.shell(instance) as shell:
        assert shell.say("echo one") == "one"
        assert _breaks(shell, "sleep 0.1; echo started > started; sleep 100")
    with case.shell(instance) as shell:
        until(
            lambda: shell.run("cat started").code == 0,
            what="the command has run", deadline_s=DEADLINE_S, pause_s=0.02,
        )  # fmt: skip


def test_drop_after_bytes(case: LocalCase) -> None:
    """The connection breaks once it has carried so much, as often as said."""
    instance = case.running(case.with_faults(Faults(drop_after_bytes=1000, drops=2)))
    for _ in range(2):
        with case.shell(instance) as shell:
            assert shell.say("echo little") == "little"
            assert _breaks(shell, "head -c 100000 /dev/zero; sleep 100")
    with case.shell(instance) as shell:
        assert len(shell.run("head -c 100000 /dev/zero").out) == 100_000


def test_drop_after_time(case: LocalCase) -> None:
    """The connection breaks some time after it was opened."""
    instance = case.running(case.with_faults(Faults(drop_after_s=0.5, drops=1)))
    with case.shell(instance) as shell:
        assert _breaks(shell, "sleep 1000")
    with case.shell(instance) as shell:
        assert shell.say("echo fine") == "fine"


def test_a_dropped_command_meets_a_closed_pipe(case: LocalCase) -> None:
    """What writes after its connection broke gets SIGPIPE, as under a real sshd."""
    instance = case.running(case.with_faults(Faults(drop_on_exec=1)))
    script = 'trap "" PIPE; until ! echo x; do sleep 0.02; done 2>/dev/null; echo yes > broken'
    with case.shell(instance) as shell:
        assert _breaks(shell, f"bash -c '{script}'")
    with case.shell(instance) as shell:
        until(
            lambda: shell.run("cat broken").code == 0,
            what="the pipe is closed", deadline_s=DEADLINE_S, pause_s=0.02,
        )  # fmt: skip


def test_no_capacity(case: LocalCase) -> None:
    """So many creates per token find no capacity; then one works."""
    spec, token = case.with_faults(Faults(capacity_refusals=2)), uuid.uuid4().hex
    for _ in range(2):
        with pytest.raises(CapacityUnavailable):
            case.create(spec, token=token)
    assert case.listed() == []
    case.create(spec, token=token)
    with pytest.raises(CapacityUnavailable):
        case.create(spec, token=uuid.uuid4().hex)


def test_create_reply_lost(case: LocalCase) -> None:
    """The reply is lost, the instance exists; the same token then finds it."""
    spec, token = case.with_faults(Faults(create_replies_lost=1)), uuid.uuid4().hex
    with pytest.raises(CloudUnavailable):
        case.create(spec, token=token)
    (listed,) = case.listed()
    assert listed.token == token
    assert case.create(spec, token=token).id == listed.id
    assert len(case.listed()) == 1


def test_listed_late(case: LocalCase) -> None:
    """A new instance is not in listings yet; the same token still finds it."""
    spec, token = case.with_faults(Faults(unlisted_s=HOUR_S)), uuid.uuid4().hex
    instance = case.create(spec, token=token)
    assert case.listed() == []
    assert case.create(spec, token=token).id == instance.id
    soon = case.create(case.with_faults(Faults(unlisted_s=0.2)))
    case.until_state(soon.id, InstanceState.RUNNING)


def test_terminate_slow(case: LocalCase) -> None:
    """A slow end is STOPPING: unreachable, listed, and not startable."""
    instance = case.running(case.with_faults(Faults(terminate_s=HOUR_S)))
    case.cloud.terminate("local", instance.id)

    def refused() -> bool:
        try:
            socket.create_connection((instance.address, instance.ssh_port), DEADLINE_S).close()
        except ConnectionRefusedError:
            return True
        return False

    until(refused, what="SSH is gone", deadline_s=DEADLINE_S, pause_s=0.02)
    seen = case.seen(instance.id)
    assert seen is not None
    assert seen.state is InstanceState.STOPPING
    quick = case.running(case.with_faults(Faults(terminate_s=0.1)))
    case.cloud.terminate("local", quick.id)
    case.until_state(quick.id, InstanceState.TERMINATED)


# --- Faults as data -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_images(case: LocalCase, name: str) -> None:
    """Every built-in image resolves by its name, and only the default one is without faults."""
    assert case.cloud.resolve_image("local", name).id == name
    assert (BUILT_IN[name] == Faults()) == (name == DEFAULT_IMAGE)


@pytest.mark.parametrize("faults", [*BUILT_IN.values(), Faults(boot_delay_s=2)])
def test_faults_as_json(faults: Faults) -> None:
    """Faults come back from JSON as they went in."""
    assert Faults.from_json(json.loads(json.dumps(faults.to_json()))) == faults


def test_json_has_what_differs() -> None:
    """The JSON form of faults names nothing that is as usual."""
    assert Faults(ssh_never=True).to_json() == {"ssh_never": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ssh_nevr": True}, "faults.ssh_nevr: no such fault; did you mean 'ssh_never'?"),
        ({"boot_delay_s": -1}, "faults.boot_delay_s: -1.0 is too small; the smallest is 0"),
        ({"drops": -2}, "faults.drops: -2 is too small; the smallest is -1"),
        ({"boot_delay_s": [2, 1]}, "faults.boot_delay_s: write the shortest delay first"),
        ({"time_service": "ntp"}, "faults.time_service: Input should be"),
    ],
)
def test_bad_faults_are_refused(values: dict[str, Any], message: str) -> None:
    """A fault that cannot be is refused with what is wrong and where."""
    with pytest.raises(InvalidInput, match=re.escape(message)):
        Faults.from_json(values)


def test_the_key_is_for_tests_only() -> None:
    """The public key in the specs belongs to the client's private key."""
    assert KEY.public.split()[1] == KEY.private.get_base64()
