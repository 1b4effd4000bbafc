"""Running a script at most once, whatever dies and whenever."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import random
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from slipway.errors import Conflict, ConnectionLost, InvalidInput, RemoteError
from slipway.remote import once
from slipway.remote.base import Remote
from slipway.remote.once import (
    RunStatus,
    ScriptOutcome,
    ScriptRun,
    kill_run,
    read_outcome,
    run_once,
)
from slipway.testing.fake_remote import FakeRemote, result
from tests.remote.local_shell import LocalShell
from tests.remote.waiting import until
from tests.ssh_server import SshServer, kill_everything_of

Connect = Callable[[], Remote]


def script(body: str, *, run_id: str = "run-1", **more: object) -> ScriptRun:
    """A run with the usual limit."""
    options: dict[str, object] = {"timeout_s": 60.0, **more}
    return ScriptRun(run_id=run_id, name="test", body=body.encode(), **options)  # type: ignore[arg-type]


class Collected:
    """What `on_output` was told; refuses a gap or a repetition at once."""

    def __init__(self, offset: int = 0) -> None:
        self.start = offset
        self.data = b""

    def __call__(self, offset: int, data: bytes) -> None:
        assert data
        assert offset == self.start + len(self.data)
        self.data += data


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[LocalShell]:
    root = tmp_path / "machine"
    boot_id = root / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("boot-1\n")
    yield LocalShell(root)
    kill_everything_of(root)


def run_dir(shell: LocalShell, run_id: str = "run-1") -> Path:
    return shell.root / "var/lib/slipway/runs" / run_id


# --- one run, nothing goes wrong ---------------------------------------------------------------


def test_what_runs_printed_is_forgotten_and_that_they_ran_is_not(
    connect: Connect, server: SshServer
) -> None:
    """Only ended runs of the prefix lose output and script; none of them can be started again."""
    done = script("echo printed")
    other = dataclasses.replace(script("echo kept"), run_id="other.1")
    run_once(connect(), done)
    run_once(connect(), other)
    once.forget_outputs(connect(), done.run_id)
    runs = server.root / "var/lib/slipway/runs"
    assert sorted(file.name for file in (runs / done.run_id).glob("*put*")) == []
    assert not (runs / done.run_id / "script").exists()
    assert (runs / "other.1" / "output").read_bytes() == b"kept\n"
    again = run_once(connect(), done)
    assert (again.exit_code, again.started_here) == (0, False)


def test_output_outcome_and_outputs_come_back(connect: Connect, server: SshServer) -> None:
    """A run brings its merged output with offsets, exit code, outputs and duration, over one
    channel."""
    body = """
echo out; echo err >&2
echo 'version=1.2 = new' >>"$SLIPWAY_OUTPUT"; echo version=2 >>"$SLIPWAY_OUTPUT"
echo Bad-Key=x >>"$SLIPWAY_OUTPUT"; echo empty= >>"$SLIPWAY_OUTPUT"
exit 7
"""
    output = Collected()
    outcome = run_once(connect(), script(body), on_output=output)
    assert output.data == b"out\nerr\n"
    assert outcome.status is RunStatus.FINISHED
    assert (outcome.exit_code, outcome.output_bytes, outcome.started_here) == (7, 8, True)
    assert outcome.outputs == {"version": "2", "empty": ""}
    assert [note.partition(" is ")[0] for note in outcome.notes] == ["$SLIPWAY_OUTPUT line 3"]
    assert outcome.duration_s is not None
    assert len(server.commands) == 1
    assert server.run_dir("run-1").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo $BASH_VERSION | cut -c1", "5"),  # no shebang: bash
        ("#!/bin/sh\necho ${BASH_VERSION:-none}", "none"),
        ("#!/usr/bin/env python3\nimport sys; print(sys.argv[0][-6:])", "script"),
        ("#! /usr/bin/perl -l\nprint 42", "42"),
        ("#!/no/such/shell\n", None),
    ],
)
def test_the_shebang_chooses_the_interpreter(
    shell: LocalShell, body: str, expected: str | None
) -> None:
    """The interpreter and its argument come from the first line, /bin/bash without one."""
    output = Collected()
    outcome = run_once(shell, script(body), on_output=output)
    if expected is None:
        assert outcome.exit_code not in {0, None}
    else:
        assert (output.data.decode().strip(), outcome.exit_code) == (expected, 0)


@pytest.mark.parametrize("sh", ["dash", "bash"])
@pytest.mark.parametrize("missing", [(), ("setsid",), ("setsid", "perl")])
def test_every_shell_and_every_way_to_detach(
    shell: LocalShell, tmp_path: Path, sh: str, missing: tuple[str, ...]
) -> None:
    """dash and bash as sh, with setsid, perl or python3: same outcome, own session, killable."""
    shell.env["PATH"] = str(tools(tmp_path, sh=sh, missing=missing))
    body = "echo $(($(ps -o sid= -p $$) - $$)); trap '' TERM; sleep 60"
    output = Collected()
    outcome = run_once(shell, script(body, timeout_s=1.0, grace_s=0.3), on_output=output)
    assert output.data == b"0\n"
    assert (outcome.status, outcome.exit_code) == (RunStatus.TIMED_OUT, 137)
    again = run_once(shell, script(body, timeout_s=1.0), offset=1, on_output=Collected(1))
    assert (again.exit_code, again.started_here, again.output_bytes) == (137, False, 2)


def test_a_server_that_cannot_detach_says_so(shell: LocalShell, tmp_path: Path) -> None:
    """Without setsid, perl and python3 nothing is started and the message names them."""
    missing = ("setsid", "perl", "python3")
    shell.env["PATH"] = str(tools(tmp_path, sh="dash", missing=missing))
    with pytest.raises(RemoteError, match="none of setsid, perl, python3"):
        run_once(shell, script("true"))
    assert read_outcome(shell, "run-1") is None


def tools(tmp_path: Path, *, sh: str, missing: tuple[str, ...]) -> Path:
    """A PATH with the tools that once.sh may use, without some."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    names = "bash cat chmod cut date env head id ln mkdir mkfifo mv perl ps python3 rm setsid sleep"
    for name in (*names.split(), "sync", "tail", "tr", "wc"):
        found = shutil.which(name)
        if name == "python3":
            found = os.path.realpath("/proc/self/exe")
        if found and name not in missing:
            (bin_dir / name).symlink_to(found)
    shell_path = shutil.which(sh)
    if shell_path is None:
        pytest.skip(f"there is no {sh} here")
    (bin_dir / "sh").symlink_to(shell_path)
    return bin_dir


def test_standard_signals_and_umask_are_those_of_a_login(shell: LocalShell) -> None:
    """The supervisor's own ignored signals and umask do not leak into the script; what ignored
    them before it (nohup, around these tests) is not for it to change."""
    previous = os.umask(0o022)
    try:
        output = Collected()
        body = "umask; grep SigIgn /proc/self/status; tty"
        run_once(shell, script(body), on_output=output)
    finally:
        os.umask(previous)
    umask, ignored, tty = output.data.decode().splitlines()
    mask = int(ignored.split()[1], 16)
    asked = (signal.SIGHUP, signal.SIGTERM)
    ignored_ones = {n for n in asked if mask & 1 << (n - 1)}
    before = {n for n in asked if signal.getsignal(n) is signal.SIG_IGN}
    assert (umask, ignored_ones, tty) == ("0022", before, "not a tty")


values = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), max_size=40
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plain=values, secret=values)
def test_any_value_reaches_the_script_unchanged(shell: LocalShell, plain: str, secret: str) -> None:
    """Newlines, quotes, percent signs, backslashes and any UTF-8 arrive as they were."""
    run_id = f"run-{uuid.uuid4()}"  # `random` repeats itself below hypothesis
    run = script(
        "exec cat /proc/self/environ",
        run_id=run_id,
        env={"PLAIN": plain},
        secrets={"SECRET": SecretStr(secret)},
    )
    output = Collected()
    run_once(shell, run, on_output=output)
    got = dict(item.partition(b"=")[::2] for item in output.data.split(b"\0"))
    assert (got[b"PLAIN"].decode(), got[b"SECRET"].decode()) == (plain, secret)
    assert got[b"SLIPWAY_RUN_ID"].decode() == run_id


def test_awkward_values_arrive(shell: LocalShell, tmp_path: Path) -> None:
    """Trailing newlines, octal look-alikes and a replaced PATH: the value is exact, and the
    supervisor works on with its own PATH. In dash and bash."""
    awkward = "a\n\n'\"$(x)`%s%%\\n\\0101\\c\t\x81ü\n\n"
    for sh in ("dash", "bash"):
        (tmp_path / sh).mkdir()
        shell.env["PATH"] = str(tools(tmp_path / sh, sh=sh, missing=()))
        output = Collected()
        run = script(
            'printf "%s|" "$X"; echo "$PATH"', run_id=sh, env={"X": awkward, "PATH": "/nowhere"}
        )
        outcome = run_once(shell, run, on_output=output)
        assert output.data.decode() == awkward + "|/nowhere\n"
        assert outcome.exit_code == 0


# --- attached again ------------------------------------------------------------------------------


def test_dropped_again_and_again_nothing_repeats_or_is_lost(
    connect: Connect, server: SshServer
) -> None:
    """With the connection cut mid-output many times, re-attaching at the reached offset yields
    every byte once, and the script ran once. Cutting kills everything that was not detached."""
    server.harsh = True
    count = server.root / "count"
    body = f"echo run >>{count}; for i in $(seq 1 200); do echo {'x' * 500} $i; done; exit 3"
    expected = "".join(f"{'x' * 500} {i}\n" for i in range(1, 201)).encode()
    output = Collected()
    cuts = 0
    rng = random.Random(1)
    while True:
        server.cut_after_sent = rng.randrange(1, 40_000) if cuts < 6 else None
        try:
            outcome = run_once(connect(), script(body), offset=len(output.data), on_output=output)
            break
        except ConnectionLost:
            cuts += 1
    assert output.data == expected
    assert (outcome.exit_code, outcome.output_bytes) == (3, len(expected))
    assert count.read_text() == "run\n"
    assert cuts >= 3


def test_the_script_outlives_the_connection(connect: Connect, server: SshServer) -> None:
    """A script whose starter was cut off goes on, is found running, and ends by itself."""
    server.harsh = True
    go = server.root / "go"
    begun = server.root / "begun"
    body = f"touch {begun}; while [ ! -e {go} ]; do sleep 0.02; done; echo done; exit 5"
    cutter = threading.Thread(target=lambda: (until(begun.exists, "the script"), server.cut()))
    cutter.start()
    with pytest.raises(ConnectionLost):
        run_once(connect(), script(body))
    cutter.join()
    now = read_outcome(connect(), "run-1")
    assert now is not None
    assert (now.status, now.exit_code) == (RunStatus.RUNNING, None)
    go.touch()
    output = Collected()
    outcome = run_once(connect(), script(body), on_output=output)
    assert (outcome.exit_code, outcome.started_here, output.data) == (5, False, b"done\n")
    assert read_outcome(connect(), "run-1") == ScriptOutcome(**{**vars(outcome), "output_bytes": 5})


def test_many_at_once_start_it_once(connect: Connect, server: SshServer) -> None:
    """Six callers with one run id: the script runs once, all get its outcome and output."""
    count = server.root / "count"
    body = f"echo run >>{count}; sleep 0.2; echo over; exit 4"
    remotes = [connect() for _ in range(6)]
    outputs = [Collected() for _ in remotes]
    barrier = threading.Barrier(len(remotes))

    def call(index: int) -> ScriptOutcome:
        barrier.wait(30)
        return run_once(remotes[index], script(body), on_output=outputs[index])

    with ThreadPoolExecutor(len(remotes)) as pool:
        outcomes = list(pool.map(call, range(len(remotes))))
    assert count.read_text() == "run\n"
    assert [o.exit_code for o in outcomes] == [4] * 6
    assert sum(o.started_here for o in outcomes) == 1
    assert {o.data for o in outputs} == {b"over\n"}


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_offset_reads_the_rest(shell: LocalShell, data: st.DataObject) -> None:
    """From every offset, reading yields exactly the output's bytes from there on."""
    whole = bytes(range(256)) * 40
    (shell.root / "whole").write_bytes(whole)
    run_once(shell, script(f"cat {shell.root}/whole"))
    offset = data.draw(st.integers(0, len(whole)))
    output = Collected(offset)
    outcome = read_outcome(shell, "run-1", offset=offset, on_output=output)
    assert outcome is not None
    assert output.data == whole[offset:]
    assert outcome.output_bytes == len(whole)


def test_holding_for_a_while_only_leaves_the_run_going(connect: Connect, server: SshServer) -> None:
    """With ``hold_s`` the call comes back with RUNNING, for a fresh run and an attached one; going
    on at its offset yields the rest, and the script ran once."""
    go = server.root / "go"
    count = server.root / "count"
    body = (
        f"echo run >>{count}; echo first; while [ ! -e {go} ]; do sleep 0.02; done; "
        "echo second; exit 3"
    )
    output = Collected()
    started_here = []
    for _ in range(2):
        outcome = run_once(
            connect(), script(body), offset=len(output.data), on_output=output, hold_s=0.3
        )
        assert (outcome.status, outcome.exit_code) == (RunStatus.RUNNING, None)
        started_here.append(outcome.started_here)
    assert output.data == b"first\n"
    assert started_here == [True, False]
    go.touch()
    outcome = run_once(connect(), script(body), offset=len(output.data), on_output=output)
    assert (outcome.exit_code, output.data) == (3, b"first\nsecond\n")
    assert count.read_text() == "run\n"


# --- something dies at every instant ---------------------------------------------------------


PROGRAM = once._program()


def program_lines(function: str) -> list[int]:
    """Where in the sent program the body of a shell function is."""
    lines = PROGRAM.splitlines()
    start = lines.index(f"{function}() {{") + 1
    return list(range(start, lines.index("}", start) + 1))


def crashing_at(line: int) -> str:
    """The program with the executing shell killed just before this line."""
    lines = PROGRAM.splitlines()
    lines.insert(line, "kill -9 $$")
    return "".join(f"{text}\n" for text in lines)


@pytest.mark.parametrize("function", ["start", "supervise"])
@pytest.mark.parametrize("phase", range(4))
def test_a_death_before_any_line_never_runs_it_twice(
    shell: LocalShell, monkeypatch: pytest.MonkeyPatch, function: str, phase: int
) -> None:
    """Kill the starting shell or the supervisor before each of its lines in turn: the script runs
    at most once over all later calls, is "finished" exactly when its end is on record, and the
    answer does not change any more."""
    for line in program_lines(function)[phase::4]:
        run_id = f"{function}-{line}"
        count = shell.root / f"count-{run_id}"
        run = script(f"echo run >>{count}; echo text; exit 9", run_id=run_id, timeout_s=20.0)
        with monkeypatch.context() as patched:
            patched.setattr(once, "_program", lambda line=line: crashing_at(line))
            # What a controller sees here depends on the line.
            with contextlib.suppress(ConnectionLost, RemoteError):
                run_once(shell, run)
        outcome = run_once(shell, run)
        runs = count.read_text().count("run") if count.exists() else 0
        assert runs <= 1, run_id
        if outcome.status is RunStatus.FINISHED:
            assert (runs, outcome.exit_code) == (1, 9), run_id
        else:
            assert (outcome.status, outcome.exit_code) == (RunStatus.INTERRUPTED, None), run_id
        again = run_once(shell, run)
        assert (again.status, again.exit_code) == (outcome.status, outcome.exit_code), run_id
        assert (count.read_text().count("run") if count.exists() else 0) == runs, run_id


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_half_upload_starts_nothing(shell: LocalShell, part: float) -> None:
    """Cut the upload anywhere - in the program, the variables, the script: nothing is claimed."""
    run = script("x" * 300 + "\n", run_id="cut", env={"A": "b" * 100})
    recorder = FakeRemote().on("", result())
    with pytest.raises(RemoteError):
        run_once(recorder, run)
    shell.cut_input = int(len(recorder.commands[0].stdin) * part)
    with pytest.raises((RemoteError, ConnectionLost)):
        run_once(shell, run)
    shell.cut_input = None
    assert read_outcome(shell, "cut") is None
    assert not list(run_dir(shell, "cut").glob("upload.*"))


def test_a_whole_upload_after_a_half_one_runs(connect: Connect, server: SshServer) -> None:
    """An upload cut by the network is tried again and runs once."""
    body = "echo ran; exit 0\n#" + "x" * 400_000
    server.cut_after_received = 150_000
    with pytest.raises(ConnectionLost):
        run_once(connect(), script(body))
    server.cut_after_received = None
    output = Collected()
    outcome = run_once(connect(), script(body), on_output=output)
    assert (outcome.exit_code, outcome.started_here, output.data) == (0, True, b"ran\n")


def start_and_leave(shell: LocalShell, body: str, **more: object) -> threading.Thread:
    """Start a run in a thread and come back once the script writes its `begun` file."""
    begun = shell.root / "begun"
    run = script(f"touch {begun}; {body}", **more)

    def call() -> None:
        # The test is about what others see afterwards.
        with contextlib.suppress(ConnectionLost, RemoteError):
            run_once(shell, run)

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: begun.exists() and (run_dir(shell) / "pid").exists(), "the script's start")
    return thread


def test_a_killed_supervisor_is_interrupted(shell: LocalShell) -> None:
    """When the process that watches the script is killed, the run is interrupted for ever."""
    thread = start_and_leave(shell, "sleep 60")
    supervisor = int((run_dir(shell) / "claim").read_text().split()[1])
    os.kill(supervisor, signal.SIGKILL)
    thread.join(30)
    for _ in range(2):
        outcome = run_once(shell, script(f"touch {shell.root}/begun; sleep 60"))
        assert (outcome.status, outcome.exit_code) == (RunStatus.INTERRUPTED, None)


def test_another_boot_is_interrupted(shell: LocalShell) -> None:
    """A run without an end whose boot is over is interrupted, even if its number lives again."""
    thread = start_and_leave(shell, "sleep 60")
    (shell.root / "proc/sys/kernel/random/boot_id").write_text("boot-2\n")
    outcome = read_outcome(shell, "run-1")
    assert outcome is not None
    assert outcome.status is RunStatus.INTERRUPTED
    kill_everything_of(shell.root)
    thread.join(30)


def test_a_reused_process_number_is_not_taken_for_the_run(shell: LocalShell) -> None:
    """A claim whose process number now belongs to another process is interrupted."""
    directory = run_dir(shell)
    directory.mkdir(parents=True)
    (directory / "claim").write_text(f"nonce {os.getpid()} 1 boot-1 1.0 {'0' * 64}\n")
    outcome = read_outcome(shell, "run-1")
    assert outcome is not None
    assert outcome.status is RunStatus.INTERRUPTED


def test_a_script_that_reboots_the_server_has_finished(shell: LocalShell) -> None:
    """The exit record decides: after a reboot the script asked for, the run is finished."""
    boot_id = shell.root / "proc/sys/kernel/random/boot_id"
    outcome = run_once(shell, script(f"echo boot-2 >{boot_id}; exit 0"))
    assert (outcome.status, outcome.exit_code) == (RunStatus.FINISHED, 0)
    again = read_outcome(shell, "run-1")
    assert again is not None
    assert (again.status, again.exit_code) == (RunStatus.FINISHED, 0)


# --- ended by us -----------------------------------------------------------------------------


def living(root: Path, argument: str) -> list[int]:
    """The processes of this machine that have this argument."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("SLIPWAY_ROOT") == str(root)
            if ours and process.status() != psutil.STATUS_ZOMBIE and argument in process.cmdline():
                found.append(process.pid)
        except psutil.Error:
            continue  # it ended while we looked
    return found


def test_timeout_ends_the_script_and_its_children(shell: LocalShell) -> None:
    """When the time is over the whole process group ends, those that ignore TERM included, with
    nobody connected; what was written stays."""
    body = "echo before; (trap '' TERM; sleep 73.1; sleep 73.1) & sleep 73.1"
    output = Collected()
    outcome = run_once(shell, script(body, timeout_s=0.5, grace_s=0.3), on_output=output)
    assert outcome.status is RunStatus.TIMED_OUT
    assert outcome.exit_code == 143
    assert output.data == b"before\n"
    until(lambda: not living(shell.root, "73.1"), "the children's end")


def test_a_script_out_of_time_may_tidy_up(shell: LocalShell) -> None:
    """Between TERM and KILL lies the grace: what a script does on TERM comes to its end."""
    body = "trap 'sleep 0.3; echo tidied; exit 1' TERM; while :; do sleep 0.05; done"
    output = Collected()
    outcome = run_once(shell, script(body, timeout_s=0.3), on_output=output)
    assert (outcome.status, outcome.exit_code) == (RunStatus.TIMED_OUT, 1)
    assert b"tidied\n" in output.data


def test_no_process_is_left_behind(shell: LocalShell) -> None:
    """After a run its watchdog and streams are gone, also for a script that ends at once."""
    for number in range(8):
        run_once(shell, script("true", run_id=f"r{number}", timeout_s=3571))
    until(lambda: not living(shell.root, "3571"), "the watchdogs' end")


def test_a_background_daemon_does_not_hold_the_run(shell: LocalShell) -> None:
    """A script may leave a daemon behind; the run ends with the script and spares the daemon."""
    outcome = run_once(shell, script("sleep 74.7 & exit 0"))
    assert outcome.exit_code == 0
    assert living(shell.root, "74.7")


def test_kill_ends_a_running_script(shell: LocalShell) -> None:
    """kill_run ends the script and its children; the run is interrupted."""
    thread = start_and_leave(shell, "sleep 75.3 & sleep 75.3")
    outcome = kill_run(shell, "run-1", grace_s=5)
    assert outcome.status is RunStatus.INTERRUPTED
    assert not living(shell.root, "75.3")
    thread.join(30)


def test_kill_leaves_an_end_as_it_is_and_forbids_a_beginning(shell: LocalShell) -> None:
    """kill_run after the end changes nothing; before the beginning it prevents the run."""
    run_once(shell, script("exit 6"))
    assert kill_run(shell, "run-1").exit_code == 6
    assert kill_run(shell, "other").status is RunStatus.INTERRUPTED
    outcome = run_once(shell, script(f"touch {shell.root}/ran", run_id="other"))
    assert outcome.status is RunStatus.INTERRUPTED
    assert not (shell.root / "ran").exists()


# --- secrets ---------------------------------------------------------------------------------


def test_secrets_are_in_no_command_line_and_no_file(
    shell: LocalShell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before every line that the supervisor runs, and while the script runs, the secret is in no
    command line, in no file below the run directory or TMPDIR, and not in the supervisor's
    environment."""
    secret = "s3cr3t-\N{SNOWMAN}-value"
    seen = tmp_path / "seen"
    shell.env["TMPDIR"] = str(shell.root / "tmp")
    (shell.root / "tmp").mkdir()
    look = (
        f'{{ cat /proc/[0-9]*/cmdline "/proc/$$/environ"; '
        f'find "$R" {shell.root}/tmp -type f -exec cat {{}} +; }} '
        f">>{seen} 2>/dev/null"
    )
    lines = PROGRAM.splitlines()
    for line in reversed(program_lines("supervise")[1:]):
        if lines[line] != "code=$?":  # looking has an exit code of its own
            lines.insert(line, look)
    monkeypatch.setattr(once, "_program", lambda: "".join(f"{line}\n" for line in lines))
    digest = hashlib.sha256(secret.encode()).hexdigest()
    body = (
        # Not *: one of them is a pipe.
        f'cat /proc/[0-9]*/cmdline "${{SLIPWAY_OUTPUT%/*}}"/[a-su-z]* >>{seen} 2>&1; '
        f'[ "$(printf %s "$PASSWORD" | sha256sum | cut -c1-64)" = {digest} ]'
    )
    run = script(body, secrets={"PASSWORD": SecretStr(secret)})
    outcome = run_once(shell, run)
    assert outcome.exit_code == 0, "the script has got the secret"
    scanned = seen.read_bytes()
    assert b"once.sh" in scanned, "the scan itself must have seen the supervisor"
    for form in (secret.encode(), b"s3cr3t", once._escape(secret).encode()):
        assert form not in scanned
    for path in shell.root.rglob("*"):
        if path.is_file():
            assert b"s3cr3t" not in path.read_bytes(), path
    assert "s3cr3t" not in shell.commands[0].text
    assert "s3cr3t" not in repr(shell.commands[0]) + repr(run)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (script("true", run_id="../x"), "run id"),
        (script("true", run_id=".x"), "run id"),
        (script("true", run_id="x" * 129), "run id"),
        (script("true", env={"1A": "x"}), "no variable name"),
        (script("true", env={"A": "a\0b"}), "NUL"),
        (script("true", env={"A": "x"}, secrets={"A": SecretStr("y")}), "give it once"),
        (script("true", timeout_s=0.0), "above 0"),
        (script("#!/bin/bash\r\ntrue"), "LF line ends"),
        (script("#!bash\ntrue"), "full path"),
    ],
)
def test_bad_runs_are_refused_before_anything_is_sent(run: ScriptRun, words: str) -> None:
    """A run that cannot work is refused in one sentence, and the server hears nothing."""
    remote = FakeRemote()
    with pytest.raises(InvalidInput, match=words):
        run_once(remote, run)
    assert remote.commands == []


def test_a_run_id_belongs_to_one_script(shell: LocalShell) -> None:
    """The same run id with another script is a Conflict, not somebody else's outcome."""
    run_once(shell, script("true"))
    with pytest.raises(Conflict, match="another script"):
        run_once(shell, script("false"))


def test_a_server_without_room_or_rights_says_so(shell: LocalShell) -> None:
    """A run directory that cannot be made is a RemoteError that names it, not a lost connection."""
    (shell.root / "var").write_text("in the way")
    with pytest.raises(RemoteError, match=r"var/lib/slipway/runs/run-1 cannot be made"):
        run_once(shell, script("true"))


def test_sudo_that_refuses_is_told(tmp_path: Path) -> None:
    """What sudo says when it wants a password reaches the message."""
    stderr = "sudo: a password is required\n"
    remote = FakeRemote().on("slipway-once", result(exit_code=1, stderr=stderr))
    with pytest.raises(RemoteError, match="a password is required") as caught:
        run_once(remote, script("true"))
    assert not isinstance(caught.value, ConnectionLost)


def test_root_is_reached_through_sudo(shell: LocalShell, tmp_path: Path) -> None:
    """Not being root, everything goes through `sudo -n`, which passes SLIPWAY_ROOT by name."""
    bin_dir = tools(tmp_path, sh="dash", missing=("id",))
    (bin_dir / "id").write_text("#!/bin/sh\necho 1000\n")
    # A real sudo: drops the environment and accepts only -n here.
    (bin_dir / "sudo").write_text(
        f'#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\nexec env -i PATH="{bin_dir}" "$@"\n'
    )
    for name in ("id", "sudo"):
        (bin_dir / name).chmod(0o755)
    shell.env["PATH"] = str(bin_dir)
    shell.env["CLUTTER"] = "x"
    output = Collected()
    outcome = run_once(shell, script("echo ${CLUTTER:-clean}; pwd"), on_output=output)
    assert output.data.decode() == f"clean\n{shell.root}\n"
    assert outcome.exit_code == 0
    assert run_dir(shell).is_dir()


def test_outputs_are_bounded(shell: LocalShell) -> None:
    """More than 64 KiB of outputs: the complete lines within it count, and a note says so."""
    body = 'for i in $(seq 1 900); do printf "k%d=%s\\n" $i $(printf %090d 0); done'
    outcome = run_once(shell, script(f'{body} >>"$SLIPWAY_OUTPUT"'))
    assert 500 < len(outcome.outputs) < 900
    assert {len(value) for value in outcome.outputs.values()} == {90}
    assert "longer than" in outcome.notes[0]


def test_noise_of_a_login_shell_does_not_shift_offsets(shell: LocalShell) -> None:
    """Whatever a login shell prints before our own mark is not taken for script output."""
    real = shell.run

    def noisy(command, *, on_stdout=None):  # type: ignore[no-untyped-def]
        if on_stdout is not None:
            on_stdout(b"Welcome!\n@not the mark\n")
        return real(command, on_stdout=on_stdout)

    shell.run = noisy  # type: ignore[method-assign]
    output = Collected()
    run_once(shell, script("echo clean"), on_output=output)
    assert output.data == b"clean\n"
