"""A directory that scripts take for a stand-in machine, and what they must not touch from there."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from slipway.clock import SystemClock
from slipway.database import Database
from slipway.servertemplates.store import TemplateStore

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "templates"

#: Commands of the host that change the host. A stand-in machine's scripts call none of them.
FORBIDDEN = [
    *("sudo", "su", "runuser", "chown", "mount", "hostname", "shutdown", "reboot"),
    *("systemctl", "journalctl", "service", "chronyc", "firewall-cmd", "restorecon"),
    *("apt", "apt-get", "dpkg", "dnf", "yum", "rpm"),
    *("getent", "useradd", "usermod", "userdel", "groupadd"),
]


@dataclass
class StandIn:
    """A machine's directory and the environment its scripts get."""

    root: Path
    address: str
    tripwires: Path
    #: Whom scripts run as; None is ourselves.
    account: Any = None
    #: Put first on PATH, before the host's own programs.
    programs: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def run(
        self, script: str, inputs: Mapping[str, str] | None = None, *, code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run ``template/scripts/file.sh``; it must end with ``code`` and touch nothing of the
        host."""
        path = [str(self.tripwires), *([str(self.programs)] if self.programs else []), os.defpath]
        environment = {
            "PATH": os.pathsep.join([*path, "/usr/sbin", "/sbin"]),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "SLIPWAY_ROOT": str(self.root),
            "SLIPWAY_ADDRESS": self.address,
            "SLIPWAY_PYTHON": sys.executable,
            "SLIPWAY_OUTPUT": str(self.root / "outputs"),
            "SLIPWAY_SERVER_NAME": "web-1",
            "SLIPWAY_TEMPLATE": "hello-web@r7",
            "SLIPWAY_LAUNCH_ID": "launch-42",
            "SLIPWAY_RUN_ID": "run-1",
            **self.environment,
            **(inputs or {}),
        }
        options: dict[str, Any] = {}
        if self.account is not None:
            options = {
                "user": self.account.pw_uid,
                "group": self.account.pw_gid,
                "extra_groups": [],
            }
        # A copy, because another account may not be able to read the checkout.
        copy = self.root / "tmp" / Path(script).name
        copy.write_bytes((TEMPLATES / script).read_bytes())
        done = subprocess.run(
            ["bash", str(copy)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=self.root,
            env=environment,
            check=False,
            **options,
        )
        assert done.returncode == code, f"{script}: {done.returncode}\n{done.stdout}{done.stderr}"
        touched = self.tripwires / "touched"
        assert not touched.exists(), f"{script} called: {touched.read_text()}"
        return done

    def text(self, path: str) -> str:
        """A file of the machine."""
        return (self.root / path.lstrip("/")).read_text()

    def outputs(self) -> dict[str, str]:
        """What the scripts published; of two values the later one."""
        lines = self.text("outputs").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def files(self) -> dict[str, tuple[bytes, int]]:
        """Content and mode of every file but logs, process ids and outputs."""
        skipped = ("var/log", "run", "tmp", "home/.cache", "outputs")
        found: dict[str, tuple[bytes, int]] = {}
        for file in sorted(self.root.rglob("*")):
            name = file.relative_to(self.root).as_posix()
            if file.is_file() and not name.startswith(skipped):
                found[name] = (file.read_bytes(), file.stat().st_mode & 0o7777)
        return found

    def processes(self) -> list[psutil.Process]:
        """Everything that runs on the machine."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLIPWAY_ROOT") == str(self.root):
                    found.append(process)
            except psutil.Error:
                continue  # ended, if only as far as being a zombie; or somebody else's
        return found


def make_stand_in(root: Path, tripwires: Path) -> StandIn:
    """Directories of a machine, and traps for the commands it must not call."""
    for name in ("home", "tmp", "etc", "run", "var/log"):
        (root / name).mkdir(parents=True)
    tripwires.mkdir(parents=True)
    for name in FORBIDDEN:
        trap = tripwires / name
        trap.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tripwires}/touched"\nexit 99\n')
        trap.chmod(0o755)
    address = "127.0.0.1"
    if sys.platform == "linux":
        # Each machine has an address of its own, as the local cloud gives it: tests in parallel
        # all use port 8080.
        address = str(ipaddress.ip_address("127.1.0.0") + uuid.uuid4().int % 16_000_000)
    return StandIn(root=root, address=address, tripwires=tripwires)


def end(machine: StandIn) -> None:
    """End whatever a test left running."""
    while left := machine.processes():
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in machine whose scripts run as whoever runs the tests."""
    found = make_stand_in(tmp_path / "machine", tmp_path / "tripwires")
    yield found
    end(found)


@pytest.fixture
def neighbour(tmp_path: Path) -> Iterator[StandIn]:
    """Another machine."""
    found = make_stand_in(tmp_path / "neighbour", tmp_path / "neighbour-tripwires")
    found.environment["SLIPWAY_SERVER_NAME"] = "web-2"
    yield found
    end(found)


@pytest.fixture
def store(database: Database) -> TemplateStore:
    """The library as Slipway sees it."""
    return TemplateStore(database, TEMPLATES, SystemClock())


def bash() -> str:
    """The host's bash."""
    found = shutil.which("bash")
    assert found
    return found
