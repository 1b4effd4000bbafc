"""base-linux, run for real in the directory of a stand-in machine."""

from __future__ import annotations

import pytest

from tests.templates.conftest import StandIn

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ann@desk"
INPUTS = {
    "ACCOUNTS": f"ann:{KEY}\nbob:ssh-rsa AAAAB3NzaC1yc2E bob@desk\nann:ssh-rsa AAAAB3Nz second",
    "ACCOUNTS_SUDO": "true",
    "TIME_SERVERS": "ntp-1.example\n192.0.2.7",
    "JOURNAL_MAX_MIB": "256",
    "LOG_HOST": "logs.example:1514",
}
SCRIPTS = ["updates-off", "time-servers", "logging", "accounts"]


def _run_all(machine: StandIn, **inputs: str) -> str:
    return "".join(
        machine.run(f"base-linux/scripts/{name}.sh", {**INPUTS, **inputs}).stdout
        for name in SCRIPTS
    )


def test_writes_what_a_server_needs(machine: StandIn) -> None:
    """Accounts, updates, time servers and logging are written as the inputs say."""
    said = _run_all(machine)
    files = machine.files()
    assert machine.text("home/ann/.ssh/authorized_keys").splitlines() == [
        KEY,
        "ssh-rsa AAAAB3Nz second",
    ]
    assert files["home/bob/.ssh/authorized_keys"][1] == 0o600
    assert (machine.root / "home/ann/.ssh").stat().st_mode & 0o777 == 0o700
    assert files["etc/sudoers.d/90-slipway-ann"] == (b"ann ALL=(ALL) NOPASSWD:ALL\n", 0o440)
    apt = machine.text("etc/apt/apt.conf.d/99slipway-no-unattended")
    assert 'APT::Periodic::Unattended-Upgrade "0";' in apt
    chrony = machine.text("etc/chrony/chrony.conf").splitlines()
    assert [line for line in chrony if line.startswith("server")] == [
        "server ntp-1.example iburst",
        "server 192.0.2.7 iburst",
    ]
    assert "SystemMaxUse=256M" in machine.text("etc/systemd/journald.conf.d/50-slipway.conf")
    forward = machine.text("etc/rsyslog.d/90-slipway-forward.conf")
    assert 'target="logs.example" port="1514"' in forward
    assert said.count("left out: ") == 4


def test_a_second_run_changes_nothing(machine: StandIn) -> None:
    """Running the layer again leaves every file and mode as it was, and says so."""
    _run_all(machine)
    before = machine.files()
    said = _run_all(machine)
    assert machine.files() == before
    verbs = {line.split(":")[0] for line in said.splitlines()}
    assert verbs == {"unchanged", "left out", "accounts"}


def test_an_account_can_be_taken_back(machine: StandIn) -> None:
    """Who is no longer on the list loses key and sudo rule and keeps the home directory."""
    _run_all(machine)
    (machine.root / "home/ann/thesis.txt").write_text("hers")
    machine.run("base-linux/scripts/accounts.sh", {"ACCOUNTS": "bob:ssh-rsa AAAAB3 b"})
    assert not (machine.root / "home/ann/.ssh/authorized_keys").exists()
    assert not (machine.root / "etc/sudoers.d/90-slipway-ann").exists()
    assert machine.text("home/ann/thesis.txt") == "hers"
    assert (machine.root / "etc/sudoers.d/90-slipway-bob").exists()
    report = machine.run("base-linux/scripts/report.sh").stdout
    assert "account: ann, no key any more" in report
    assert "account: bob, 1 key(s)" in report


def test_no_sudo_unless_wanted(machine: StandIn) -> None:
    """ACCOUNTS_SUDO=false takes a sudo rule back that was given before."""
    _run_all(machine)
    _run_all(machine, ACCOUNTS_SUDO="false")
    assert not list((machine.root / "etc/sudoers.d").iterdir())


def test_forwarding_can_be_taken_back(machine: StandIn) -> None:
    """An empty LOG_HOST removes the forwarding that was configured before."""
    _run_all(machine)
    said = machine.run("base-linux/scripts/logging.sh", {"LOG_HOST": ""}).stdout
    assert "removed: /etc/rsyslog.d/90-slipway-forward.conf" in said


def test_the_images_own_time_servers_are_kept(machine: StandIn) -> None:
    """The image's file is kept beside ours, once, and stays the image's."""
    conf = machine.root / "etc/chrony/chrony.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("pool 2.debian.pool.ntp.org iburst\n")
    for servers in ("", "ntp-1", "ntp-2"):
        machine.run("base-linux/scripts/time-servers.sh", {"TIME_SERVERS": servers})
    assert "server ntp-2 iburst" in conf.read_text()
    assert machine.text("etc/chrony/chrony.conf.image") == "pool 2.debian.pool.ntp.org iburst\n"


def test_red_hat_family(machine: StandIn) -> None:
    """On Rocky and Amazon Linux the files of dnf and chrony are where those look for them."""
    (machine.root / "etc/os-release").write_text('ID="rocky"\nID_LIKE="rhel centos fedora"\n')
    automatic = machine.root / "etc/dnf/automatic.conf"
    automatic.parent.mkdir()
    automatic.write_text("[commands]\nupgrade_type = default\napply_updates = yes\n")
    for name in SCRIPTS:
        machine.run(f"base-linux/scripts/{name}.sh", INPUTS)
    assert automatic.read_text() == "[commands]\nupgrade_type = default\napply_updates = no\n"
    assert "server ntp-1.example iburst" in machine.text("etc/chrony.conf")
    assert not (machine.root / "etc/apt").exists()


@pytest.mark.parametrize(
    ("script", "inputs", "complaint"),
    [
        ("accounts", {"ACCOUNTS": f"bob:{KEY}\nEve:{KEY}"}, "entry 2: 'Eve' is no account name"),
        ("accounts", {"ACCOUNTS": f"root:{KEY}"}, "root gets no key"),
        ("accounts", {"ACCOUNTS": "bob:hunter2"}, "entry 1 (bob): no SSH public key"),
        ("accounts", {"ACCOUNTS": f"../x:{KEY}"}, "'../x' is no account name"),
        ("time-servers", {"TIME_SERVERS": "ntp-1; rm -rf /"}, "neither a host name nor an address"),
        ("logging", {"JOURNAL_MAX_MIB": "lots"}, "must be a number of MiB, not 'lots'"),
        ("logging", {"LOG_HOST": 'x" y'}, "must be a host or host:port"),
        ("logging", {"LOG_HOST": "logs:syslog"}, "'syslog' is no port"),
    ],
)
def test_bad_input_changes_nothing(
    machine: StandIn, script: str, inputs: dict[str, str], complaint: str
) -> None:
    """A wrong value is refused with a sentence, before anything is written."""
    done = machine.run(f"base-linux/scripts/{script}.sh", inputs, code=2)
    assert complaint in done.stderr
    assert machine.files() == {}
