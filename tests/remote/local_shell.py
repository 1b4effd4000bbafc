"""A `Remote` without a network: the commands run in a local shell, with a machine's directory."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from slipway.remote.base import Command, OnOutput, Result
from slipway.testing.fake_remote import FakeRemote


class LocalShell(FakeRemote):
    """Runs commands for real; ``cut_input`` shortens standard input as a broken upload does."""

    def __init__(self, root: Path, *, path: str | None = None) -> None:
        super().__init__()
        self.root = root
        self.env = {
            "PATH": path or os.environ["PATH"],
            "HOME": str(root),
            "SLIPWAY_ROOT": str(root),
        }
        self.cut_input: int | None = None

    def run(self, command: Command, *, on_stdout: OnOutput | None = None) -> Result:
        self.commands.append(command)
        process = subprocess.Popen(
            ["/bin/sh", "-c", command.text],
            env=self.env,
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stdout, stderr = process.communicate(command.stdin[: self.cut_input], timeout=60)
        if on_stdout is not None and stdout:
            on_stdout(stdout)
        return Result(
            exit_code=max(process.returncode, -1),
            stdout="" if on_stdout is not None else stdout.decode(errors="replace"),
            stderr=stderr.decode(errors="replace"),
            duration_s=0.0,
        )
