"""``slipway up``, ``down`` and ``status``: everything that runs on one machine.

One process, the supervisor, keeps the services of `deployments.service_table` running for one state
directory. Its state is a file that the other commands read; they tell it things with signals.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging.handlers
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import psutil

from deployments.child_processes import Launcher, probing_client
from deployments.log_stream import SELF, LogStream, Masker
from deployments.planning import make_plan
from deployments.prefect_server import PrefectServer
from deployments.service_table import Plan, services
from deployments.supervisor import Report, Supervisor
from deployments.up_state import KeptService, KeptState, StateFile
from slipway import processes
from slipway.cli.wiring import ServiceStatus, Stack, StackRequest, StackStatus
from slipway.clock import SystemClock
from slipway.errors import Conflict, SlipwayError
from slipway.settings import Settings

#: The log of a supervisor in the background grows to this, five times.
LOG_BYTES = 10_000_000
LOG_FILES = 5

#: What a supervisor that was killed has left behind gets this long to end by itself: it was told
#: to, and workers drain.
LEFT_BEHIND_S = 60.0

#: The command that stops everything waits this much longer than the slowest service may take.
_PATIENCE_S = 30.0


class LocalStack:
    """What runs for one state directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._home = settings.state_dir / "up"
        self._state = StateFile(self._home / "state.json")

    def up(self, request: StackRequest) -> int:
        """See `Stack`."""
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            plan = make_plan(request, self._settings, os.environ)
            log_file = request.log_file or (self._home / "up.log" if request.detach else None)
            supervised = _Supervised(plan, self._state, request, log_file)
            if request.detach:
                return self._in_background(supervised)
            return supervised.run()

    def down(self) -> bool:
        """See `Stack`."""
        found = self._state.read()
        if found is None or processes.is_dead(found.identity):
            return False
        os.kill(found.pid, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.worker_drain_s + _PATIENCE_S * 2
        while not processes.is_dead(found.identity):
            if time.monotonic() > deadline:
                raise SlipwayError(
                    f"process {found.pid} of 'slipway up' does not end; see its log"
                    f"{f' {found.log_file}' if found.log_file else ''}, or end it with "
                    f"'kill -9 {found.pid}': what it runs ends with it"
                )
            time.sleep(0.05)
        return True

    def status(self) -> StackStatus | None:
        """See `Stack`."""
        found = self._state.read()
        if found is None or processes.is_dead(found.identity):
            return None
        return StackStatus(
            pid=found.pid,
            since=found.since,
            log_file=found.log_file,
            services=tuple(
                ServiceStatus(
                    name=each.name,
                    state=each.state,
                    pid=each.pid,
                    url=each.url,
                    restarts=each.restarts,
                    problem=each.problem,
                )
                for each in found.services
            ),
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one supervisor per state directory. The kernel lets go when it ends, however."""
        with (self._home / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                found = self._state.read()
                who = f"process {found.pid}" if found else "another process"
                raise Conflict(
                    f"'slipway up' runs already for {self._settings.state_dir} ({who}); "
                    "see 'slipway status', stop it with 'slipway down'"
                ) from error
            yield

    def _in_background(self, supervised: _Supervised) -> int:
        """Leave the supervisor in a process of its own, once everything is ready."""
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _become_background(supervised)
        deadline = time.monotonic() + supervised.ready_within_s
        while time.monotonic() < deadline:
            ended, code = os.waitpid(child, os.WNOHANG)
            if ended:
                raise SlipwayError(
                    f"'slipway up' ended with code {os.waitstatus_to_exitcode(code)} before "
                    f"everything was ready; see {supervised.log_file}"
                )
            found = self.status()
            if found is not None and found.pid == child and found.healthy:
                return 0
            time.sleep(0.05)
        raise SlipwayError(
            f"not everything is ready after {supervised.ready_within_s:.0f} s, and it goes on "
            f"trying; see 'slipway status' and {supervised.log_file}"
        )


_: type[Stack] = LocalStack


# -- the supervisor's process ----------------------------------------------------------------------


class _Supervised:
    """One run of the supervisor, and the `Listener` of what it says."""

    def __init__(
        self, plan: Plan, state: StateFile, request: StackRequest, log_file: Path | None
    ) -> None:
        self.log_file = log_file
        #: How long to wait for everything to be ready before it is called slow.
        self.ready_within_s = 180.0
        self._plan = plan
        self._state = state
        self._first_time = state.read() is None
        self._since = SystemClock().now().isoformat(timespec="seconds")
        self._request = request
        self._server = PrefectServer(plan.settings.state_dir)
        self._known: dict[int, str] = {}

    def run(self) -> int:
        """Run until told to stop; answers the exit code."""
        with self._log() as self._stream:
            self._end_what_was_left()
            self._take_over_prefect()
            with asyncio.Runner() as runner:
                runner.run(self._run())
            return 0

    async def _run(self) -> None:
        async with probing_client() as client:
            table = services(self._plan, client)
            self._stream.width = max(len(SELF), *(len(each.name) for each in table))
            launcher = Launcher(directory=self._plan.settings.state_dir)
            supervisor = Supervisor(table, launcher, self)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._told, supervisor, number)
            names = ", ".join(each.name for each in table)
            self._stream.say(f"starting {names}; Ctrl-C stops everything", event="starting")
            telling = asyncio.create_task(self._tell_when_ready(supervisor))
            await supervisor.run()
            telling.cancel()
        if "prefect" in self._plan.parts:
            self._server.forget()
        self._stream.say("everything is stopped", event="stopped")

    def _told(self, supervisor: Supervisor, number: int) -> None:
        name = signal.Signals(number).name
        self._stream.say(f"{name}: stopping; once more kills what is left", event="stopping")
        supervisor.stop()

    async def _tell_when_ready(self, supervisor: Supervisor) -> None:
        await supervisor.all_ready.wait()
        say = self._stream.say
        say("everything is ready", event="ready")
        if "api" in self._plan.parts:
            say(f"  Dashboard and API  {self._plan.api_url}")
        say(f"  Prefect UI         {self._plan.prefect_ui_url}")
        if self._first_time and "api" in self._plan.parts:
            say("  a first token to log in with: slipway token create NAME --scope admin")

    # -- what a listener does

    def line(self, service: str, text: str) -> None:
        """See `Listener`."""
        self._stream.line(service, text)

    def event(self, service: str, event: str, text: str) -> None:
        """See `Listener`."""
        self._stream.event(service, event, text)

    def changed(self, reports: Sequence[Report]) -> None:
        """See `Listener`."""
        kept = tuple(
            KeptService(
                name=each.name,
                state=str(each.state),
                pid=each.pid,
                identity=self._identity(each),
                url=each.url,
                restarts=each.restarts,
                problem=each.problem,
            )
            for each in reports
        )
        self._state.write(
            KeptState(
                pid=os.getpid(),
                identity=processes.identity(),
                since=self._since,
                log_file=str(self.log_file or ""),
                services=kept,
            )
        )

    def _identity(self, report: Report) -> str:
        pid = report.pid
        if pid is None:
            return ""
        if pid not in self._known:
            try:
                self._known[pid] = processes.identity(pid)
            except psutil.NoSuchProcess:
                return ""
            if report.name == "prefect":
                self._server.keep(pid, self._plan.prefect_port)
        return self._known[pid]

    # -- before it begins

    @contextlib.contextmanager
    def _log(self) -> Iterator[LogStream]:
        with contextlib.ExitStack() as stack:
            write: Callable[[str], None]
            if self.log_file is None:
                write, terminal = _to_stdout, sys.stdout.isatty()
            else:
                handler = logging.handlers.RotatingFileHandler(
                    self.log_file, maxBytes=LOG_BYTES, backupCount=LOG_FILES - 1
                )
                stack.callback(handler.close)
                write, terminal = _to(handler), False
            yield LogStream(
                write=write,
                clock=SystemClock(),
                format=self._request.log_format,
                colours=terminal and "NO_COLOR" not in os.environ,
                dates=not terminal,
                mask=Masker(self._plan.secrets),
            )

    def _end_what_was_left(self) -> None:
        """A supervisor that was killed has told its children to end; see that they do."""
        found = self._state.read()
        left = [each for each in found.services if _lives(each)] if found else []
        for each in left:
            assert each.pid is not None, "it lives"
            said = f"an earlier 'slipway up' was killed; ending its {each.name}, process {each.pid}"
            self._stream.say(said, event="left-behind")
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGTERM)
        deadline = time.monotonic() + LEFT_BEHIND_S
        while any(_lives(each) for each in left):
            if time.monotonic() > deadline:
                for each in left:
                    if _lives(each) and each.pid:
                        os.killpg(each.pid, signal.SIGKILL)
            time.sleep(0.05)

    def _take_over_prefect(self) -> None:
        """A server that another command has started for this state directory is ours from here."""
        if "prefect" not in self._plan.parts:
            return
        found = self._server.find()
        if found is not None:
            said = f"stopping Prefect's server, process {found.pid}, to start it under supervision"
            self._stream.say(said, event="taken-over")
            self._server.down()


def _lives(service: KeptService) -> bool:
    return bool(service.identity) and not processes.is_dead(service.identity)


def _to_stdout(text: str) -> None:
    # Nobody may be left to read it; that must not stop what we keep running.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _to(handler: logging.Handler) -> Callable[[str], None]:
    def write(text: str) -> None:
        handler.emit(logging.makeLogRecord({"msg": text}))

    return write


def _become_background(supervised: _Supervised) -> NoReturn:
    """In the child: run the supervisor apart from the terminal, and never return."""
    code = 1
    try:
        os.setsid()
        assert supervised.log_file is not None, "it writes to no terminal"
        nowhere = os.open(os.devnull, os.O_RDONLY)
        log = os.open(supervised.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for descriptor, replaced in ((nowhere, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, replaced)
        code = supervised.run()
    except BaseException:  # noqa: BLE001  (written to the log; the process ends here)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # Not the interpreter's end: what the parent has opened is the parent's to close.
        os._exit(code)
