"""When a Linux server is ready: reading the probe, and the probe itself in a real shell."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from slipway.errors import AuthenticationFailed, ConnectionFailed
from slipway.gates.linux import (
    LINUX,
    LINUX_PROBE,
    linux_gate,
    linux_probe,
    read_cloud_init,
    read_facts,
    read_package_lock,
    read_systemd,
)
from slipway.gates.wait import Answer, GateNotPassed, drive, watch_gate
from slipway.remote.base import Endpoint
from slipway.testing.fake_clock import FakeClock
from slipway.testing.fake_remote import FakeConnector, FakeRemote, result


def status(extended: str, *, errors: tuple[str, ...] = (), plain: str = "") -> str:
    """What `cloud-init status --format json` prints (23.4 and later), on one line."""
    document = {
        "boot_status_code": "enabled-by-generator",
        "datasource": "ec2",
        "detail": "DataSourceEc2Local",
        "errors": list(errors),
        "extended_status": extended,
        "init": {"errors": list(errors), "finished": 1.0, "recoverable_errors": {}},
        "recoverable_errors": {"WARNING": ["x"]} if "degraded" in extended else {},
        "status": plain or extended.rsplit(maxsplit=1)[-1],
    }
    return json.dumps(document)


LOCALE = "('locale', ProcessExecutionError(\"Unexpected error while running command.\"))"


@pytest.mark.parametrize(
    ("text", "ignore", "answer", "value"),
    [
        (None, (), Answer.ABSENT, "not installed"),
        (status("not started"), (), Answer.NOT_YET, "not started"),
        (status("running"), (), Answer.NOT_YET, "running"),
        (status("degraded running"), (), Answer.NOT_YET, "degraded running"),
        (status("done"), (), Answer.YES, "done"),
        (status("degraded done"), (), Answer.YES, "degraded done"),
        (status("disabled"), (), Answer.YES, "disabled"),
        (status("error - done", errors=("boom",)), (), Answer.NEVER, "error - done (boom)"),
        (status("error - running", errors=("boom",)), (), Answer.NEVER, "error - running (boom)"),
        # A locale that could not be set harms nobody: the template says so.
        (
            status("error - done", errors=(LOCALE,)),
            ("*LOCALE*",),
            Answer.YES,
            f"error - done (ignored: {LOCALE})",
        ),
        (
            status("error - done", errors=(LOCALE, "boom")),
            ("*locale*",),
            Answer.NEVER,
            "error - done (boom)",
        ),
        (status("error - running", errors=("a",)), ("a",), Answer.NOT_YET, "error - running"),
        # Before 23.4 there is no extended_status, before 22.1 no JSON.
        ('{"status": "done", "errors": []}', (), Answer.YES, "done"),
        ('{"status": "error", "errors": []}', (), Answer.NEVER, "error"),
        ("status: done ", (), Answer.YES, "done"),
        ("status: running  time: x", (), Answer.NOT_YET, "running"),
        ("status: error ", (), Answer.NEVER, "error"),
        ("", (), Answer.NOT_YET, "silent"),
        ('{"status": "do', (), Answer.NOT_YET, "unreadable"),
    ],
)
def test_cloud_init(text: str | None, ignore: tuple[str, ...], answer: Answer, value: str) -> None:
    """cloud-init's states, and which errors count."""
    facts = {} if text is None else {"cloud_init": text}
    finding = read_cloud_init(facts, ignore)
    assert (finding.answer, finding.value) == (answer, value)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("free", Answer.YES),
        ("unknown", Answer.YES),
        ("held: /var/lib/dpkg/lock-frontend by process 712 (apt-get)", Answer.NOT_YET),
    ],
)
def test_package_lock(value: str, answer: Answer) -> None:
    """A held lock is waited for; one that nobody can look at is not held against the server."""
    assert read_package_lock({"package_lock": value}).answer is answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("running", Answer.YES),
        ("degraded", Answer.NOT_YET),
        ("starting", Answer.NOT_YET),
        ("offline", Answer.ABSENT),
        ("", Answer.ABSENT),
    ],
)
def test_systemd(value: str, answer: Answer) -> None:
    """systemd's view of the boot; a container without a running systemd has none."""
    assert read_systemd({"systemd": value}).answer is answer


def test_facts_survive_a_talkative_login_shell() -> None:
    """Lines that are not key=value are passed over; values keep their equals signs."""
    assert read_facts('Welcome to = x!\nboot_id=b\na b=c\ncloud_init={"x": "a=b"}\n') == {
        "boot_id": "b",
        "cloud_init": '{"x": "a=b"}',
    }


ENDPOINT = Endpoint(host="h", port=22, user="u", key_file=Path("k"))


def probe_output(**changes: str) -> str:
    facts = {"boot_id": "b1", "package_lock": "free", "probe": "complete", **changes}
    return "".join(f"{key}={value}\n" for key, value in facts.items())


def test_a_boot_as_it_really_goes() -> None:
    """Refused, no account yet, cloud-init running, a reboot, apt's timer, ready: one gate."""
    clock = FakeClock()
    remotes = [
        FakeRemote().on("boot_id", result(probe_output(**changes)))
        for changes in (
            {"cloud_init": status("running")},
            {"boot_id": "b2", "cloud_init": status("running")},
            {"boot_id": "b2", "cloud_init": status("done"), "package_lock": "held: l by process 7"},
            {"boot_id": "b2", "cloud_init": status("done"), "systemd": "degraded"},
        )
    ]
    connector = FakeConnector(
        ConnectionFailed("refused"), AuthenticationFailed("no account"), *remotes
    )
    waiting = watch_gate(LINUX, clock, deadline_s=300)
    verdict = drive(waiting, linux_probe(connector, ENDPOINT), clock)
    assert (verdict.reboots, verdict.probes) == (1, 7)
    assert verdict.evidence["host_key"] == remotes[0].host_key
    assert verdict.findings["systemd"].value == "degraded"
    assert all(remote.closed for remote in remotes)
    assert all(len(remote.commands) >= 1 for remote in remotes)


def test_a_failed_cloud_init_is_one_sentence() -> None:
    """The failure names the signal, its value, what it means and what to do, at once."""
    clock = FakeClock()
    text = status("error - done", errors=("disk full",))
    remote = FakeRemote().on("boot_id", result(probe_output(cloud_init=text)))
    with pytest.raises(GateNotPassed) as caught:
        drive(
            watch_gate(LINUX, clock, deadline_s=300),
            linux_probe(FakeConnector(remote), ENDPOINT),
            clock,
        )
    assert str(caught.value) == (
        "gate linux-ready did not pass and will not: cloud-init is error - done (disk full): "
        "first-boot setup has not ended well; read /var/log/cloud-init-output.log; "
        "list harmless errors in the template"
    )
    tolerant = watch_gate(linux_gate(ignore_errors=("disk*",)), clock, deadline_s=300)
    assert drive(tolerant, linux_probe(FakeConnector(remote), ENDPOINT), clock).probes == 2


# --- the probe in a real shell -------------------------------------------------------------------


def run_probe(root: Path, *, sh: str, path: str) -> dict[str, str]:
    done = subprocess.run(
        [sh, "-c", LINUX_PROBE],
        env={"PATH": path, "SLIPWAY_ROOT": str(root)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return read_facts(done.stdout)


def shells() -> list[str]:
    return [found for name in ("dash", "bash") if (found := shutil.which(name))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    boot_id = tmp_path / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("stand-in-boot\n")
    return tmp_path


@pytest.mark.parametrize("sh", shells())
def test_probe_reads_this_machine(root: Path, sh: str) -> None:
    """The probe runs through, in each shell, and names the stand-in's boot."""
    facts = run_probe(root, sh=sh, path=os.environ["PATH"])
    assert facts["boot_id"] == "stand-in-boot"
    assert facts["probe"] == "complete"
    assert facts["package_lock"] == "free"


@pytest.mark.parametrize("sh", shells())
def test_probe_needs_no_tools(root: Path, tmp_path: Path, sh: str) -> None:
    """With nothing at all on the PATH the probe still comes to its end."""
    (tmp_path / "empty").mkdir()
    (root / "var/lib/dpkg").mkdir(parents=True)
    (root / "var/lib/dpkg/lock-frontend").touch()
    facts = run_probe(root, sh=sh, path=str(tmp_path / "empty"))
    assert (facts["boot_id"], facts["probe"]) == ("stand-in-boot", "complete")


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks here")
@pytest.mark.parametrize("sh", shells())
@pytest.mark.parametrize("name", ["dpkg/lock-frontend", "rpm/.rpm.lock"])
def test_probe_sees_a_lock_as_dpkg_takes_it(root: Path, sh: str, name: str) -> None:
    """An fcntl lock, which flock(1) would not see, is found with its holder, then gone."""
    lock = root / "var/lib" / name
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        held = run_probe(root, sh=sh, path=os.environ["PATH"])["package_lock"]
    assert held.startswith(f"held: {lock} by process {os.getpid()}")
    assert run_probe(root, sh=sh, path=os.environ["PATH"])["package_lock"] == "free"


@pytest.mark.parametrize("sh", shells())
def test_probe_brings_cloud_init_s_json_home(root: Path, tmp_path: Path, sh: str) -> None:
    """cloud-init's pretty-printed JSON and its exit code 2 arrive readable."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    document = json.dumps(json.loads(status("degraded done")), indent=1)
    fake = bin_dir / "cloud-init"
    fake.write_text(
        f"#!/bin/sh\n[ \"$*\" = 'status --format json' ] || exit 9\n"
        f"cat <<'EOF'\n{document}\nEOF\nexit 2\n"
    )
    fake.chmod(0o755)
    facts = run_probe(root, sh=sh, path=f"{bin_dir}:{os.environ['PATH']}")
    assert facts["cloud_init_exit"] == "2"
    assert read_cloud_init(facts).value == "degraded done"
