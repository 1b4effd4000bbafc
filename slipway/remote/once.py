"""A script runs at most once, and its outcome can be read after a lost connection.

Everything is kept on the server in ``/var/lib/slipway/runs/<run id>/`` (mode 0700; below
``$SLIPWAY_ROOT`` on the local stand-in machines). One exec channel does a whole run: it uploads the
program `once.sh`, the variables and the script through standard input, starts the script in a
session of its own, and copies its output until it ends. The script, its time limit and the record
of its end do not need us: whoever calls `run_once` with the same run id later, from whatever
process, is attached to that run and never starts it again.

What can die, and what is true afterwards:

=====================================  ==========================================================
controller or connection, at any time  the script goes on; the next call attaches to it
while the script is being uploaded     nothing was claimed; the next call starts it
the supervisor, before its claim       nothing was claimed; the next call starts it
the supervisor, after its claim        ``interrupted``: whether the script had begun is unknown
the server, while the script runs      ``interrupted``: the boot id is another one
the server, after the end              the outcome; the record was synced before it got its name
=====================================  ==========================================================

Runs as root through ``sudo -n`` where the login is not root and sudo exists, else as the login.
Variables and secrets travel in standard input, through pipes into the environment of the script:
they are in no command line and no file. **Output is not masked here**: its offsets count the bytes
the script wrote, so hiding secrets in it is the audit's job.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
import secrets as random_source
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources

from pydantic import SecretStr

from slipway.errors import Conflict, ConnectionLost, InvalidInput, Problem, RemoteError
from slipway.remote.base import Command, Remote, Result

#: Called with the offset of a piece in the run's combined output, and the piece.
OnOffset = Callable[[int, bytes], None]

#: How much of what a script writes to ``$SLIPWAY_OUTPUT`` is read.
MAX_OUTPUTS_BYTES = 64 * 1024

#: Between asking a script to end (TERM) and ending it (KILL), unless a run says otherwise.
GRACE_S = 10.0

#: What our own patience has on top of the script's limit, which the server keeps by itself.
_SLACK_S = 60.0

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OUTPUT_KEY = re.compile(r"[a-z][a-z0-9_]*\Z")


class RunStatus(StrEnum):
    """How a run stands."""

    #: It ended by itself; there is an exit code.
    FINISHED = "finished"
    #: It was claimed and its end is not known, or `kill_run` ended it. It is never started again.
    INTERRUPTED = "interrupted"
    #: Its time was over and the server ended it.
    TIMED_OUT = "timed_out"
    #: It runs now: from `read_outcome`, and from `run_once` when its ``hold_s`` was over.
    RUNNING = "running"


@dataclass(frozen=True, kw_only=True)
class ScriptRun:
    """One script to be run once."""

    #: Unique per run; letters, digits, dot, underscore, hyphen; at most 128.
    run_id: str
    #: For people, in messages.
    name: str
    body: bytes = field(repr=False)
    #: The server ends it after so long, whether we are connected or not.
    timeout_s: float
    grace_s: float = GRACE_S
    #: Plain and secret variables of the script's environment; no name may be in both.
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretStr] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ScriptOutcome:
    """How a run ended, as the server recorded it."""

    status: RunStatus
    #: 128 + n after signal n; None when interrupted or running.
    exit_code: int | None
    #: What the script wrote to ``$SLIPWAY_OUTPUT`` as ``key=value`` lines; the last value counts.
    outputs: dict[str, str]
    #: How far the output reaches that `on_output` has been told; the offset to go on from.
    output_bytes: int
    #: Whether this very call started the script.
    started_here: bool
    #: From claim to end by the server's own clock; None when there is no end, or it rebooted.
    duration_s: float | None
    #: What was not understood about the outputs, one sentence each.
    notes: tuple[str, ...] = ()


def run_once(
    remote: Remote,
    run: ScriptRun,
    *,
    offset: int = 0,
    on_output: OnOffset | None = None,
    hold_s: float | None = None,
) -> ScriptOutcome:
    """Run the script, or attach to the run of this id, and wait for its end, but for no longer than
    about ``hold_s``: the outcome's status is then RUNNING, and calling again goes on.

    ``on_output`` gets the combined output from byte ``offset`` on, in order, without gaps. Raises
    `ConnectionLost` (call again, with the offset reached), `InvalidInput`, `Conflict` when the run
    id belongs to another script, and `RemoteError` when the server cannot run scripts at all.
    """
    interpreter, argument = _interpreter(run)
    answer = _call(
        remote,
        mode="start",
        run_id=run.run_id,
        digest=run.digest,
        offset=offset,
        on_output=on_output,
        timeout_s=run.timeout_s,
        grace_s=run.grace_s,
        patience_s=run.timeout_s + run.grace_s + _SLACK_S,
        hold_s=hold_s,
        interpreter=interpreter,
        argument=argument,
        variables=_variables(run),
        body=run.body,
    )
    if answer.claim is not None and answer.claim[2] not in (run.digest, "killed"):
        raise Conflict(
            f"run {run.run_id} on this server belongs to another script than {run.name}; "
            "use a new run id for a changed script"
        )
    outcome = answer.outcome()
    if outcome is None or (outcome.status is RunStatus.RUNNING and hold_s is None):
        raise ConnectionLost(f"script {run.name}: the server ended the connection during the run")
    return outcome


def read_outcome(
    remote: Remote, run_id: str, *, offset: int = 0, on_output: OnOffset | None = None
) -> ScriptOutcome | None:
    """How the run stands now, without starting it or waiting; None when it was never claimed."""
    return _call(remote, mode="look", run_id=run_id, offset=offset, on_output=on_output).outcome()


def kill_run(
    remote: Remote,
    run_id: str,
    *,
    offset: int = 0,
    on_output: OnOffset | None = None,
    grace_s: float = GRACE_S,
) -> ScriptOutcome:
    """End the run: TERM to its process group, KILL after ``grace_s``. One that has not begun never
    will; one that has ended stays as it is."""
    outcome = _call(
        remote,
        mode="stop",
        run_id=run_id,
        digest="killed",
        offset=offset,
        on_output=on_output,
        grace_s=grace_s,
        patience_s=grace_s + _SLACK_S,
    ).outcome()
    if outcome is None or outcome.status is RunStatus.RUNNING:
        raise RemoteError(f"run {run_id} could not be ended; its processes do not go away")
    return outcome


def forget_outputs(remote: Remote, prefix: str) -> None:
    """Remove what the runs whose ids begin with ``prefix`` printed, and their scripts, once they
    have ended and their output is on record elsewhere: a script may have printed a secret. That
    they ran, and how they ended, stays. Raises `RemoteError`."""
    if not _RUN_ID.match(prefix):
        raise InvalidInput(Problem(where="run id", what=f"{prefix!r} is no beginning of one"))
    program = (
        'cd "${SLIPWAY_ROOT:-}/var/lib/slipway/runs" 2>/dev/null || exit 0; '
        f"for r in {prefix}*; do "
        'if [ -e "$r/exit" ]; then rm -f "$r/output" "$r/outputs" "$r/script" || exit 1; fi; done'
    )
    command = f"set -- sh -c '{program}'; {_AS_ROOT}"
    result = remote.run(Command(text=command, timeout_s=_SLACK_S))
    if result.exit_code != 0:
        why = result.stderr.strip() or f"exit code {result.exit_code}"
        raise RemoteError(f"the output of {prefix}… could not be removed from the server: {why}")


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What once.sh said."""

    nonce: str
    state: str
    #: nonce, uptime at the claim, digest.
    claim: tuple[str, str, str] | None
    #: status, exit code, uptime at the end.
    exit: tuple[str, str, str] | None
    outputs: str
    output_bytes: int

    def outcome(self) -> ScriptOutcome | None:
        if self.claim is None:
            return None
        status = RunStatus.RUNNING if self.state == "running" else RunStatus.INTERRUPTED
        exit_code: int | None = None
        duration_s: float | None = None
        if self.exit is not None:
            status = RunStatus(self.exit[0])
            if status is not RunStatus.INTERRUPTED:
                exit_code = int(self.exit[1])
            duration_s = float(self.exit[2]) - float(self.claim[1])
        outputs, notes = _parse_outputs(self.outputs)
        return ScriptOutcome(
            status=status,
            exit_code=exit_code,
            outputs=outputs,
            output_bytes=self.output_bytes,
            started_here=self.claim[0] == self.nonce,
            duration_s=duration_s if duration_s is not None and duration_s >= 0 else None,
            notes=notes,
        )


class _Output:
    """Cuts the mark off the front of the stream and counts what follows."""

    def __init__(self, nonce: str, offset: int, on_output: OnOffset | None) -> None:
        self._mark = f"\n@{nonce}\n".encode()
        self._head = b""
        self._on_output = on_output
        self.begun = False
        self.offset = offset

    def __call__(self, data: bytes) -> None:
        if not self.begun:
            self._head += data
            _, found, data = self._head.partition(self._mark)
            if not found:
                return
            self.begun = True
            self._head = b""
        if data:
            if self._on_output is not None:
                self._on_output(self.offset, data)
            self.offset += len(data)


def _call(
    remote: Remote,
    *,
    mode: str,
    run_id: str,
    offset: int,
    on_output: OnOffset | None,
    digest: str = "none",
    timeout_s: float = 1,
    grace_s: float = GRACE_S,
    patience_s: float = _SLACK_S,
    hold_s: float | None = None,
    interpreter: str = "",
    argument: str = "",
    variables: tuple[str, ...] = (),
    body: bytes = b"",
) -> _Answer:
    if not _RUN_ID.match(run_id):
        what = f"{run_id!r}: use letters, digits, '.', '_', '-', at most 128, no dot in front"
        raise InvalidInput(Problem(where="run id", what=what))
    if offset < 0:
        raise InvalidInput(Problem(where="offset", what=f"{offset} is negative"))
    nonce = random_source.token_hex(8)
    # Whole seconds where they are enough: not every sleep(1) knows fractions.
    limit = f"{timeout_s:.3f}" if timeout_s < 10 else str(math.ceil(timeout_s))
    header = (
        nonce,
        run_id,
        str(offset),
        limit,
        # In tenths of a second, the unit of once.sh.
        str(math.ceil(grace_s * 10)),
        # In twentieths of a second, the unit of once.sh; 0 stays to the end.
        str(max(1, round(hold_s * 20)) if hold_s is not None else 0),
        digest,
        str(len(body)),
        interpreter,
        argument,
        str(len(variables)),
        *variables,
    )
    stdin = "".join((_program(), "#go\n", *(f"{line}\n" for line in header))).encode() + body
    output = _Output(nonce, offset, on_output)
    result = remote.run(
        Command(text=_command(mode), timeout_s=patience_s, stdin=stdin), on_stdout=output
    )
    return _understand(result, nonce, run_id, output)


def _understand(result: Result, nonce: str, run_id: str, output: _Output) -> _Answer:
    prefix = f"@{nonce} "
    said: dict[str, str] = {}
    outputs = ""
    lines = result.stderr.split("\n")
    while lines:
        line = lines.pop(0)
        if not line.startswith(prefix):
            continue
        key, _, value = line.removeprefix(prefix).partition(" ")
        said[key] = value
        if key == "outputs":
            end = lines.index(f"{prefix}end") if f"{prefix}end" in lines else len(lines)
            outputs = "\n".join(lines[:end])
            del lines[:end]
    if "refused" in said:
        raise RemoteError(f"run {run_id}: the server cannot run scripts: {said['refused']}")
    if said.get("state") != "none" and "end" not in said:
        if output.begun or said or result.exit_code == -1:
            raise ConnectionLost(f"run {run_id}: the server ended the connection during the run")
        why = result.stderr.strip().rpartition("\n")[2] or f"exit code {result.exit_code}"
        raise RemoteError(f"run {run_id}: the server cannot run scripts: {why}")
    return _Answer(
        nonce=nonce,
        state=said["state"],
        claim=_three(said.get("claim")),
        exit=_three(said.get("exit")),
        outputs=outputs,
        output_bytes=output.offset,
    )


def _three(text: str | None) -> tuple[str, str, str] | None:
    if text is None:
        return None
    first, second, third = text.split(" ")
    return first, second, third


@functools.cache
def _program() -> str:
    """once.sh without comments and indentation: the server reads it byte by byte."""
    text = resources.files("slipway.remote").joinpath("once.sh").read_text(encoding="ascii")
    lines = (line.strip() for line in text.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("#"))


#: Reads a program up to the line ``#go`` and runs that; a program that was cut off is not run.
_LOADER = (
    'P=; while IFS= read -r l; do if [ "$l" = "#go" ]; then eval "$P"; exit; fi; P="$P$l\n"; '
    "done; exit 97"
)


#: Runs the positional parameters as root. A real sudo resets the environment, so what must come
#: through is named.
_AS_ROOT = (
    'if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; '
    'then set -- sudo -n env SLIPWAY_ROOT="${SLIPWAY_ROOT:-}" "$@"; fi; exec "$@"'
)


def _command(mode: str) -> str:
    return f"set -- sh -c '{_LOADER}' slipway-once {mode}; {_AS_ROOT}"


def _interpreter(run: ScriptRun) -> tuple[str, str]:
    """Path and argument as the kernel reads them from ``#!``; /bin/bash without one."""
    first = run.body[:512].partition(b"\n")[0]
    if not first.startswith(b"#!"):
        return "/bin/bash", ""
    if first.endswith(b"\r"):
        what = "line 1 ends with CR LF; save the script with LF line ends"
        raise InvalidInput(Problem(where=f"script {run.name}", what=what))
    path, _, argument = first[2:].decode(errors="replace").strip().partition(" ")
    if not path.startswith("/"):
        what = f"line 1 names the interpreter {path!r}; give its full path, as in '#!/bin/bash'"
        raise InvalidInput(Problem(where=f"script {run.name}", what=what))
    return path, argument.strip()


def _variables(run: ScriptRun) -> tuple[str, ...]:
    problems: list[Problem] = []
    where = f"script {run.name}: variable"
    values = dict(run.env)
    for name, secret in run.secrets.items():
        if name in values:
            what = "is given both as a plain and as a secret value; give it once"
            problems.append(Problem(where=f"{where} {name}", what=what))
        values[name] = secret.get_secret_value()
    for name, value in values.items():
        if not _VARIABLE.match(name):
            what = "is no variable name; use letters, digits and '_', no digit in front"
            problems.append(Problem(where=f"{where} {name!r}", what=what))
        if "\0" in value:
            what = "holds a NUL character, which no environment can carry"
            problems.append(Problem(where=f"{where} {name}", what=what))
    if not 0 < run.timeout_s < float("inf"):
        what = f"timeout_s is {run.timeout_s}; give a number of seconds above 0"
        problems.append(Problem(where=f"script {run.name}", what=what))
    if problems:
        raise InvalidInput(problems)
    return tuple(f"{name}={_escape(value)}" for name, value in values.items())


def _escape(value: str) -> str:
    """For printf's ``%b``: one line of printable ASCII, whatever the value holds."""
    return "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte != 0x5C else f"\\0{byte:03o}"
        for byte in value.encode("utf-8", "surrogateescape")
    )


def _parse_outputs(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
    notes: list[str] = []
    if len(text.encode()) > MAX_OUTPUTS_BYTES:
        notes.append(f"$SLIPWAY_OUTPUT is longer than {MAX_OUTPUTS_BYTES} bytes; the rest is lost")
        text = text.encode()[:MAX_OUTPUTS_BYTES].decode(errors="replace").rpartition("\n")[0]
    outputs: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        key, equals, value = line.partition("=")
        if equals and _OUTPUT_KEY.match(key):
            if "\0" in value:
                notes.append(f"$SLIPWAY_OUTPUT line {number} has NUL characters; they are left out")
            outputs[key] = value.rstrip("\r").replace("\0", "")
        elif line.strip():
            # The line itself may be half a secret: only its number is told.
            notes.append(
                f"$SLIPWAY_OUTPUT line {number} is not key=value with a key of a-z, 0-9, '_'"
            )
    return outputs, tuple(notes)
