"""Stand-in machines, seen through a real SSH client."""

from __future__ import annotations

import json
import os
import re
import uuid
from dataclasses import replace
from pathlib import Path

import paramiko
import psutil
import pytest

from slipway.clouds.base import ImageState, Instance, InstanceState
from slipway.clouds.local import FOR_EVER, Faults
from slipway.testing.cloud_contract import until
from tests.clouds.conftest import machine_processes
from tests.clouds.shell import DEADLINE_S, LocalCase, Shell

BOOT_ID = 'cat "$SLIPWAY_ROOT/proc/sys/kernel/random/boot_id"'


def root_of(case: LocalCase, instance: Instance) -> Path:
    return case.cloud.directory / "instances" / instance.id / "root"


def reconnect(case: LocalCase, instance: Instance, *, not_boot: str) -> Shell:
    """A connection to a boot other than the one given."""

    def ask() -> Shell | None:
        try:
            shell = case.shell(instance)
            # Code -1: the old boot went down under the command.
            ran = shell.run(BOOT_ID)
            if ran.code == 0 and ran.out.strip() != not_boot:
                return shell
        except (OSError, EOFError, paramiko.SSHException):
            return None
        shell.close()
        return None

    return until(ask, what="another boot answers", deadline_s=DEADLINE_S, pause_s=0.02)


def pinned_key(case: LocalCase, instance: Instance) -> str:
    """The last host key on the console."""
    text = case.cloud.console_output("local", instance.id)
    blocks = re.findall(
        r"^-----BEGIN SSH HOST KEY KEYS-----\n(ssh-ed25519 \S+) .*\n"
        r"-----END SSH HOST KEY KEYS-----$",
        text,
        flags=re.MULTILINE,
    )
    return blocks[-1] if blocks else ""


def test_the_environment_of_a_session(case: LocalCase) -> None:
    """A session runs in the machine's directory, knows its root, and sees nothing of ours."""
    instance = case.running()
    root = root_of(case, instance)
    with case.shell(instance) as shell:
        lines = shell.say("env -0 | tr '\\0' '\\n'").splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        assert found["SLIPWAY_ROOT"] == str(root)
        assert found["SLIPWAY_MACHINE_ID"] == instance.id
        assert found["HOME"] == found["PWD"] == str(root / "home/admin")
        assert Path(found["TMPDIR"]).is_relative_to(root)
        assert "PYTHONPATH" not in found
        assert "PYTEST_CURRENT_TEST" not in found
        release = shell.say('. "$SLIPWAY_ROOT/etc/os-release"; echo $ID $VERSION_ID $VARIANT_ID')
        assert release == "debian 12 slipway-local"
        assert shell.say("hostname") == shell.say('cat "$SLIPWAY_ROOT/etc/hostname"') == "contract"
        assert len(shell.say('cat "$SLIPWAY_ROOT/etc/machine-id"')) == 32


def test_commands_end_as_they_ended(case: LocalCase) -> None:
    """Exit codes, signals, standard error and standard input come across."""
    with case.shell(case.running()) as shell:
        assert shell.run("exit 7").code == 7
        assert shell.run("kill -TERM $$").code == -1
        ran = shell.run("cat; echo oops >&2", stdin=b"through")
        assert (ran.out, ran.err, ran.code) == ("through", "oops\n", 0)
        big = shell.run("head -c 3000000 /dev/zero | tr '\\0' x")
        assert len(big.out) == 3_000_000


def test_a_terminal_is_a_terminal(case: LocalCase) -> None:
    """A session that asks for a terminal gets one of the size it asked for, as its own."""
    with case.shell(case.running()) as shell:
        transport = shell.client.get_transport()
        assert transport is not None
        channel = transport.open_session()
        channel.get_pty("xterm", width=91, height=33)
        channel.settimeout(DEADLINE_S)
        channel.exec_command("stty size; tty; echo here > /dev/tty; exit 5")
        output = b""
        while chunk := channel.recv(4096):
            output += chunk
        assert b"33 91" in output
        assert b"/dev/" in output
        assert b"here" in output
        assert channel.recv_exit_status() == 5


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sudo echo yes", "yes"),
        ("sudo -n -u root -E -- echo yes", "yes"),
        ("sudo -H COLOUR=red bash -c 'echo $COLOUR'", "red"),
        ("systemctl is-system-running", "running"),
        ("systemctl is-active chrony", "active"),
        ("timedatectl show -p NTPSynchronized --value", "yes"),
        ("cloud-init --version | cut -d' ' -f2", "24.1-slipway-local"),
    ],
)
def test_shims(case: LocalCase, command: str, expected: str) -> None:
    """The machine's own commands do what a script expects of them."""
    with case.shell(case.running()) as shell:
        assert shell.say(command) == expected


def test_shims_keep_off_the_host(case: LocalCase) -> None:
    """What would change the computer itself is refused, not done."""
    with case.shell(case.running()) as shell:
        for command in ("systemctl restart ssh", "timedatectl set-time 2001-01-01"):
            assert shell.run(command).code == 1


def test_only_the_key_and_the_account_open_it(case: LocalCase) -> None:
    """Another account or another key is refused, and a key added by a script is accepted."""
    instance = case.running()
    with pytest.raises(paramiko.AuthenticationException):
        Shell(instance, user="root")
    with case.shell(instance) as shell:
        shell.say("mv .ssh/authorized_keys .ssh/kept; : > .ssh/authorized_keys")
        with pytest.raises(paramiko.AuthenticationException):
            Shell(instance)
        shell.say("mv .ssh/kept .ssh/authorized_keys")
    Shell(instance).close()


def test_the_console_shows_the_host_key(case: LocalCase) -> None:
    """The key between the host key lines on the console is the key the server shows."""
    instance = case.running()
    with case.shell(instance) as shell:
        assert shell.host_key == pinned_key(case, instance)


def test_user_data_runs_once(case: LocalCase) -> None:
    """A user-data script runs at the first boot only, and its output is kept."""
    script = '#!/bin/bash\necho "ran as $USER in $SLIPWAY_ROOT"\necho once >> "$HOME/count"\n'
    instance = case.running(case.spec(user_data=script))
    with case.shell(instance) as shell:
        assert shell.say("cloud-init status --wait").endswith("status: done")
        log = shell.say('cat "$SLIPWAY_ROOT/var/log/cloud-init-output.log"')
        assert log == f"ran as admin in {root_of(case, instance)}"
        boot = shell.say(BOOT_ID)
    case.cloud.reboot("local", instance.id)
    with reconnect(case, instance, not_boot=boot) as shell:
        shell.say("cloud-init status --wait")
        assert shell.say("cat count") == "once"


def test_per_boot_scripts_run_at_every_boot(case: LocalCase) -> None:
    """What user data leaves for cloud-init to run at every boot is run, from the second one on; and
    the machine knows what the cloud calls it."""
    script = """#!/bin/bash
path="$SLIPWAY_ROOT/var/lib/cloud/scripts/per-boot/mine"
printf '#!/bin/sh\\necho booted >> "$HOME/boots"\\n' > "$path"
chmod +x "$path"
"""
    instance = case.running(case.spec(user_data=script))
    with case.shell(instance) as shell:
        shell.say("cloud-init status --wait")
        assert shell.run("cat boots").code != 0
        known = shell.say('cat "$SLIPWAY_ROOT/var/lib/cloud/data/instance-id"')
        assert known == instance.id
        boot = shell.say(BOOT_ID)
    case.cloud.reboot("local", instance.id)
    with reconnect(case, instance, not_boot=boot) as shell:
        assert shell.say("cloud-init status --wait").endswith("status: done")
        assert shell.say("cat boots") == "booted"


def test_failing_user_data_is_an_error(case: LocalCase) -> None:
    """cloud-init reports a user-data script that failed."""
    instance = case.running(case.spec(user_data="#!/bin/bash\nexit 3\n"))
    with case.shell(instance) as shell:
        ran = shell.run("cloud-init status --wait --format json")
        assert ran.code == 1
        status = json.loads(ran.out)
        assert (status["status"], status["extended_status"]) == ("error", "error - done")
        assert "scripts_user" in status["errors"][0]


def test_reboot_from_the_inside(case: LocalCase) -> None:
    """`sudo reboot` gives its exit code, then a new boot with the same key and the same disk."""
    instance = case.running()
    with case.shell(instance) as shell:
        boot, key = shell.say(BOOT_ID), shell.host_key
        shell.say("echo kept > kept; echo lost > /tmp/lost; echo lost > $TMPDIR/lost")
        assert shell.run("sudo reboot").code == 0
    with reconnect(case, instance, not_boot=boot) as shell:
        assert shell.host_key == key
        assert shell.say("cat kept") == "kept"
        assert shell.run('ls "$TMPDIR/lost"').code != 0
    seen = case.seen(instance.id)
    assert seen is not None
    assert (seen.address, seen.ssh_port) == (instance.address, instance.ssh_port)


def test_a_detached_process_can_reboot(case: LocalCase) -> None:
    """A reboot asked for after the session has ended works as well."""
    instance = case.running()
    with case.shell(instance) as shell:
        boot = shell.say(BOOT_ID)
        shell.say("setsid sh -c 'sleep 0.1; reboot' > /dev/null 2>&1 < /dev/null &")
    reconnect(case, instance, not_boot=boot).close()


def test_a_shutdown_can_be_cancelled(case: LocalCase) -> None:
    """`shutdown -r +1` followed by `shutdown -c` changes nothing; `shutdown -h now` stops."""
    instance = case.running()
    with case.shell(instance) as shell:
        boot = shell.say(BOOT_ID)
        shell.say("shutdown -r +1; shutdown -c")
        assert shell.say(BOOT_ID) == boot
        shell.say("sudo shutdown -h now")
    case.until_state(instance.id, InstanceState.STOPPED)


def _sleeper(shell: Shell, seconds: int, *, clean: bool = False) -> int:
    """Start a detached process, if wanted without the machine's environment; its pid."""
    env = "env -i " if clean else ""
    command = f"{env}setsid sleep {seconds} > /dev/null 2>&1 < /dev/null & echo $!"
    shell.say(command)
    return until(
        lambda: next(
            (
                process.pid
                for process in psutil.process_iter(["cmdline"])
                if process.info["cmdline"] == ["sleep", str(seconds)]
            ),
            None,
        ),
        what="the detached process runs",
        deadline_s=DEADLINE_S,
        pause_s=0.02,
    )


def test_detached_processes_outlive_their_session(case: LocalCase) -> None:
    """What a session leaves behind goes on, with the connection closed."""
    instance = case.running()
    with case.shell(instance) as shell:
        pid = _sleeper(shell, 100_000 + os.getpid())
    with case.shell(instance) as shell:
        shell.say(f"kill -0 {pid}")


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("how", ["power_cut", "terminate", "stop"])
def test_going_down_kills_everything(case: LocalCase, how: str, clean: bool) -> None:
    """No process outlives its machine: not a detached one, and where machines are confined not
    even one that has cleared its environment."""
    if clean and not case.cloud.health().confined:
        pytest.skip("without confinement a process is found by its environment alone")
    instance = case.running()
    with case.shell(instance) as shell:
        pid = _sleeper(shell, 200_000 + os.getpid() * 10 + clean, clean=clean)
    getattr(case.cloud, how)("local", instance.id)
    end = InstanceState.TERMINATED if how == "terminate" else InstanceState.STOPPED
    case.until_state(instance.id, end)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_power_cut_breaks_connections(case: LocalCase) -> None:
    """A command under way breaks off without an exit code, and the disk is kept."""
    instance = case.running()
    with case.shell(instance) as shell:
        shell.say("echo kept > kept")
        boot = shell.say(BOOT_ID)
        _, out, _ = shell.client.exec_command("echo begun; sleep 1000", timeout=DEADLINE_S)
        assert out.readline() == "begun\n"
        case.cloud.power_cut("local", instance.id)
        assert out.channel.recv_exit_status() == -1
    stopped = case.until_state(instance.id, InstanceState.STOPPED)
    assert stopped.state_reason == "power cut"
    case.cloud.start("local", instance.id)
    with reconnect(case, instance, not_boot=boot) as shell:
        assert shell.say("cat kept") == "kept"


def test_files_stay_on_the_machine(case: LocalCase) -> None:
    """sftp: relative paths are in the home directory, absolute ones in the machine, and no link
    leads out."""
    instance = case.running()
    root = root_of(case, instance)
    with case.shell(instance) as shell:
        with shell.client.open_sftp() as files:

            def put(path: str) -> None:
                with files.open(path, "w") as file:
                    file.write(path)

            for path in ("here", "/tmp/a", "/var/lib/slipway/b", "/etc/c", "/root/d"):
                put(path)
            put(f"{root}/opt/e")
            files.posix_rename("here", "there")
            shell.say("ln -s /etc way-out")
            for path in ("way-out/passwd", f"{root}/home/admin/way-out/hostname"):
                with pytest.raises(OSError, match=r"leads out|denied|Permission"):
                    files.open(path).close()
            with pytest.raises(OSError, match="No such file"):
                files.stat("../../../../../../../../etc/passwd")
        assert (root / "home/admin/there").read_text() == "here"
        assert [(root / each).read_text() for each in ("tmp/a", "etc/c", "root/d", "opt/e")] == [
            "/tmp/a", "/etc/c", "/root/d", f"{root}/opt/e",
        ]  # fmt: skip
        assert shell.say('cat "$SLIPWAY_ROOT/var/lib/slipway/b"') == "/var/lib/slipway/b"


def test_scripts_are_confined(case: LocalCase, tmp_path: Path) -> None:
    """A script writes inside its machine's directory and nowhere else, not even in another
    machine's."""
    if not case.cloud.health().confined:
        pytest.skip(case.cloud.describe_confinement())
    one, two = case.running(), case.running()
    outside = tmp_path / "precious"
    outside.write_text("precious")
    with case.shell(one) as shell:
        for target in (outside, root_of(case, two) / "etc/hostname", Path.home() / ".slipway-x"):
            shell.run(f"rm -f '{target}'; echo broken > '{target}'")
        shell.say('echo fine > /tmp/mine; echo fine > "$SLIPWAY_ROOT/etc/mine"')
        shell.say("python3 -c \"import socket; socket.create_server(('127.0.0.1', 0)).close()\"")
        shell.run("mount -o remount,rw /")
        assert shell.run("touch /usr/slipway-x").code != 0
    assert outside.read_text() == "precious"
    assert (root_of(case, two) / "etc/hostname").read_text() == "contract\n"
    assert not (Path.home() / ".slipway-x").exists()
    assert (root_of(case, one) / "tmp/mine").read_text() == "fine\n"


def test_an_image_has_the_files_and_not_the_identity(case: LocalCase) -> None:
    """A machine from an image has its files, and a host key, machine id, login and first boot of
    its own."""
    first = case.running(case.spec(user_data='#!/bin/bash\necho first >> "$HOME/ran"\n'))
    with case.shell(first) as shell:
        shell.say("cloud-init status --wait; mkdir -p app; echo v1 > app/version; ln -s app link")
        shell.say("echo 'ssh-ed25519 AAAA other' >> .ssh/authorized_keys; mkfifo pipe")
        first_id, first_key = shell.say('cat "$SLIPWAY_ROOT/etc/machine-id"'), shell.host_key
    image = case.cloud.create_image("local", first.id, name=uuid.uuid4().hex, tags=case.tags)
    case.images.add(image.id)
    until(
        lambda: case.cloud.resolve_image("local", image.id).state is ImageState.AVAILABLE,
        what="the image is there", deadline_s=DEADLINE_S, pause_s=0.02,
    )  # fmt: skip
    spec = replace(
        case.spec(user_data='#!/bin/bash\necho second >> "$HOME/ran"\n'), image_id=image.id
    )
    second = case.running(spec)
    with case.shell(second) as shell:
        shell.say("cloud-init status --wait")
        assert shell.say("cat link/version; cat ran") == "v1\nfirst\nsecond"
        assert shell.say('cat "$SLIPWAY_ROOT/etc/machine-id"') != first_id
        assert shell.say('cat "$SLIPWAY_ROOT/var/lib/cloud/data/instance-id"') == second.id
        assert shell.host_key != first_key
        assert "other" not in shell.say("cat .ssh/authorized_keys")


def test_terminating_leaves_the_console_only(case: LocalCase) -> None:
    """A terminated machine's files are gone, its console can still be read."""
    instance = case.running()
    assert root_of(case, instance).is_dir()
    case.cloud.terminate("local", instance.id)
    case.until_state(instance.id, InstanceState.TERMINATED)
    assert not root_of(case, instance).exists()
    assert pinned_key(case, instance)
    assert machine_processes(root_of(case, instance).parent) == []


def test_faults_are_changed_under_their_name(case: LocalCase) -> None:
    """Registering a name again changes its faults and keeps its id."""
    name = uuid.uuid4().hex
    first = case.cloud.register_image(name, faults=Faults(reboots_during_boot=FOR_EVER))
    case.images.add(first.id)
    again = case.cloud.register_image(name, faults=Faults(boot_failure="changed"))
    assert again.id == first.id
    instance = case.create(replace(case.spec(), image_id=first.id))
    assert case.until_state(instance.id, InstanceState.FAILED).state_reason == "changed"
