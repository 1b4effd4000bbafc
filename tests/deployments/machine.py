"""A machine that `slipway up` runs on: a state directory, and the command line on it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

#: Longer than anything here takes, also on a busy machine.
WITHIN_S = 100.0


@dataclass
class Machine:
    """A state directory, and the command line on it."""

    state_dir: Path
    environ: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        ours = ("SLIPWAY_", "PREFECT_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "SLIPWAY_STATE_DIR": str(self.state_dir), **self.environ}

    @staticmethod
    def command(*arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "deployments.main", *arguments]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WITHIN_S,
            check=False,
        )

    def up(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `slipway up` in the foreground, its log in a file."""
        log = self.state_dir.with_name("up.txt")
        with log.open("a") as file:
            found = subprocess.Popen(
                self.command("up", "--port", "0", "--prefect-port", "0", *arguments),
                env=self.environment,
                stdout=file,
                stderr=file,
                text=True,
            )
        self.started.append(found)
        return found

    @property
    def log(self) -> str:
        log = self.state_dir.with_name("up.txt")
        return log.read_text() if log.exists() else ""

    def state(self) -> dict[str, Any]:
        """The supervisor's state file."""
        with contextlib.suppress(FileNotFoundError):
            return json.loads((self.state_dir / "up" / "state.json").read_text())
        return {"services": []}

    def service(self, name: str) -> dict[str, Any]:
        return next((each for each in self.state()["services"] if each["name"] == name), {})

    def is_ready(self, *names: str) -> bool:
        return all(self.service(name).get("state") in ("ready", "done") for name in names)

    def processes(self) -> list[psutil.Process]:
        """Everything that works on this state directory, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                here = process.environ().get("SLIPWAY_STATE_DIR") == str(self.state_dir)
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@contextlib.contextmanager
def machine_in(directory: Path) -> Iterator[Machine]:
    """A machine for the block; nothing of it is left running afterwards."""
    found = Machine(directory / "state")
    try:
        yield found
    finally:
        for process in found.processes():
            process.kill()
        for started in found.started:
            started.wait()


def until(condition: Callable[[], Any], what: str, machine: Machine | None = None) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        said = machine.log if machine else ""
        assert time.monotonic() < deadline, f"never came: {what}\n{said}"
        time.sleep(0.05)
