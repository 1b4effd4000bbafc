"""Runs the code blocks of a Markdown page, top to bottom, as a reader would.

* ``python``: executed; the blocks of a page share their names, ``>>>`` lines are doctests.
* ``console``: lines that start with ``$ `` are commands, what follows is what they print; ``...``
  stands for anything. A command has to succeed unless the block says ``$ … || true``.
* ``bash``: one script, which has to succeed.

``<!-- skip: next -->`` before a block leaves it out. Commands run in a directory of their own with
a copy of ``templates/``, a home and a ``SLIPWAY_STATE_DIR`` that are empty when the page begins.
"""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from sybil import Example
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parent.parent.parent
#: Less than what pytest allows a test, so that the message is about the command.
TIMEOUT_S = 100.0
LOOSELY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, kw_only=True)
class Shell:
    """Where the commands of one page run."""

    directory: Path

    def prepare(self) -> None:
        """Make the directories a reader would start with."""
        (self.directory / "home").mkdir(parents=True)
        if (ROOT / "templates").is_dir():
            shutil.copytree(ROOT / "templates", self.directory / "templates")

    def run(self, script: str) -> tuple[int, str]:
        """Run a script; its exit code and what it printed."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        environment = kept | {
            "PATH": programs,
            "HOME": str(self.directory / "home"),
            "SLIPWAY_STATE_DIR": str(self.directory / "home" / "state"),
            # Plain text of a fixed width, whatever terminal the tests are run from.
            "NO_COLOR": "1",
            "COLUMNS": "100",
            "TERM": "dumb",
        }
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return done.returncode, done.stdout

    def bash(self, example: Example) -> str | None:
        """Evaluate a ``bash`` block: what is wrong with it, or None."""
        code, printed = self.run(str(example.parsed))
        return f"ended with code {code} and printed:\n{printed}" if code else None

    def console(self, example: Example) -> str | None:
        """Evaluate a ``console`` block: what is wrong with it, or None."""
        for command, expected in transcript(str(example.parsed)):
            code, printed = self.run(command)
            if code:
                return f"$ {command}\nended with code {code} and printed:\n{printed}"
            if expected and not doctest.OutputChecker().check_output(expected, printed, LOOSELY):
                return f"$ {command}\nwas to print:\n{expected}\nbut printed:\n{printed}"
        return None


def transcript(text: str) -> list[tuple[str, str]]:
    """The commands of a ``console`` block, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    continues = False
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif not found:
            raise ValueError(f"a console block begins with '$ ' and a command, not {line!r}")
        elif continues:
            found[-1] = (found[-1][0] + line, "")
        else:
            command, output = found[-1]
            found[-1] = (command, output + line)
            continue
        continues = line.rstrip("\n").endswith("\\")
    return [(command.strip(), output) for command, output in found]


def run_page(page: Path, directory: Path) -> int:
    """Run all blocks of a page; how many there were. Raises `sybil.example.SybilFailure`."""
    shell = Shell(directory=directory)
    shell.prepare()
    document = Document.parse(
        str(page),
        SkipParser(),
        PythonCodeBlockParser(doctest_optionflags=LOOSELY),
        CodeBlockParser("bash", shell.bash),
        CodeBlockParser("console", shell.console),
    )
    # Names a block defines are looked up where its module lives.
    document.namespace["__name__"] = "__docs__"
    examples = list(document.examples())
    for example in examples:
        example.evaluate()
    return len(examples)
