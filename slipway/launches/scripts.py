"""Running a launch's scripts: each at most once, with its output on record as it comes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from slipway.audit import Note, OutputRecorder
from slipway.errors import ConnectionLost, InvalidInput, Problem, ScriptFailed
from slipway.launches.connecting import connect
from slipway.launches.inputs import Values, template_of
from slipway.launches.work import Work
from slipway.records import AuditKind, Launch
from slipway.remote import once
from slipway.remote.base import Remote
from slipway.remote.once import RunStatus, ScriptOutcome, ScriptRun, run_once
from slipway.servertemplates import ResolvedTemplate
from slipway.spelling import nearest_or_all
from slipway.steps import StepRun

#: One connection follows a run for this long, then makes room for others and comes back: a fleet
#: of slow scripts must not wait in line for connections.
HOLD_S = 20.0

#: A retry-safe script that was cut off so often reboots its server every time.
MOST_RUNS = 5


@dataclass(frozen=True, kw_only=True)
class Job:
    """A script to be run by a step, before it has a run id."""

    name: str
    body: bytes
    timeout_s: float
    #: May it be started again after a reboot or a crash of the server cut it off?
    retry_safe: bool
    env: Mapping[str, str]
    secrets: Mapping[str, SecretStr]


class Attempt:
    """One run of a job on the server, followed by one driver."""

    def __init__(self, work: Work, run: StepRun, job: Job) -> None:
        self._work = work
        self._step = run
        launch = self._launch = work.launch()
        self._job = job
        # Which run this is follows from the record alone, so an attempt that comes after a crash
        # attaches to the run of the one before, unless that is on record as over.
        self._over = run.result.get("runs_over", 0)
        if run.result.get("ended_run") == self._over + 1:
            # It ended badly, and nobody has decided that it may run anew.
            raise ScriptFailed(run.result["how"])
        safe_key = run.key.replace(":", ".").replace("#", ".")
        self.run_id = f"{launch.id}.g{launch.generation}.{safe_key}.{self._over + 1}"
        # A first attempt at a first run has nothing on record.
        fresh = run.attempt == 1 and self._over == 0
        self._recorder = OutputRecorder(
            stream=self.run_id,
            step=run.key,
            offset=0 if fresh else work.driver.recorded_bytes(self.run_id),
            masker=work.driver.masker,
            clock=work.services.clock,
        )
        # The follower feeds while another thread flushes what has waited long enough.
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self._remote: Remote | None = None

    def follow(self) -> ScriptOutcome:
        """Start the run or attach to it, and stay for at most `HOLD_S` seconds. The outcome is
        RUNNING when that was not enough."""
        work = self._work
        env = {**standard_variables(self._launch), **self._job.env}
        script = ScriptRun(
            run_id=self.run_id,
            name=self._job.name,
            body=self._job.body,
            timeout_s=self._job.timeout_s,
            env=env,
            secrets=self._job.secrets,
        )
        with connect(work, self._launch) as remote:
            self._remote = remote
            if self._abandoned.is_set():
                raise ConnectionLost(f"script {self._job.name}: no longer followed")
            return run_once(
                remote,
                script,
                offset=self._recorder.expected_offset,
                on_output=self._take,
                hold_s=HOLD_S,
            )

    def flush(self) -> None:
        """Put output on record that has waited long enough."""
        with self._lock:
            self._work.driver.note(*self._recorder.feed(self._recorder.expected_offset, b""))

    def finish(self, outcome: ScriptOutcome) -> None:
        """Record how the run ended. Raises `ScriptFailed` unless it ended well."""
        name, step = self._job.name, self._step
        rest = self._recorder.finish()
        if outcome.status is RunStatus.FINISHED and outcome.exit_code == 0:
            outputs = self._work.driver.masker.value(outcome.outputs)
            known = {**self._work.launch().outputs, **outputs}
            took = f" in {outcome.duration_s:.1f} s" if outcome.duration_s is not None else ""
            step.succeed(
                f"script {name} finished{took}",
                result={
                    "run_id": self.run_id,
                    "exit_code": 0,
                    "outputs": outputs,
                    "notes": list(outcome.notes),
                },
                also=(lambda c: self._work.update(c, outputs=known)) if outputs else None,
                notes=rest,
            )
            return
        if outcome.status is RunStatus.TIMED_OUT:
            how = f"did not end within {self._job.timeout_s:g} s and was stopped"
        elif outcome.status is RunStatus.INTERRUPTED:
            how = "was cut off: the server rebooted or its process was killed"
        else:
            how = f"ended with exit code {outcome.exit_code}"
        sentence = f"script {name} {how}"
        ended = {"ended_run": self._over + 1, "how": sentence, "exit_code": outcome.exit_code}
        step.save(ended, notes=rest)
        raise ScriptFailed(sentence)

    def may_start_again(self, outcome: ScriptOutcome) -> bool:
        """Whether a run that was cut off may simply be run anew."""
        again = self._job.retry_safe and self._over + 1 < MOST_RUNS
        return outcome.status is RunStatus.INTERRUPTED and again

    def start_again(self) -> None:
        """Give up the run that was cut off; the next attempt object stands for a new one."""
        again = f"script {self._job.name} was cut off and is run again: it is retry-safe"
        note = Note(kind=AuditKind.INFO, summary=again, step=self._step.key)
        self._step.save({"runs_over": self._over + 1}, notes=[*self._recorder.finish(), note])

    def abandon(self) -> None:
        """Stop following, from another thread: what has not reached the server does not any more,
        and a connection that is open breaks. The script itself is left alone."""
        self._abandoned.set()
        if self._remote is not None:
            self._remote.close()

    def _take(self, offset: int, data: bytes) -> None:
        with self._lock:
            notes = self._recorder.feed(offset, data)
            if notes:
                self._work.driver.note(*notes)


def forget_outputs(work: Work) -> None:
    """Remove from the server what this launch's scripts printed: all of it is on record, masked."""
    launch = work.launch()
    with connect(work, launch) as remote:
        once.forget_outputs(remote, f"{launch.id}.")


def template_job(work: Work, key: str, values: Values) -> Job:
    """A script of the launch's template by its key, with the inputs it declares."""
    services = work.services
    template = template_of(services, work.launch())
    script = next(script for script in template.scripts() if script.key == key)
    body = services.script(script.sha256)
    wanted = set(script.inputs)
    return Job(
        name=script.name,
        body=_with_interpreter(body, script.interpreter) if script.interpreter else body,
        timeout_s=script.timeout_s,
        retry_safe=script.retry_safe,
        env={name: value for name, value in values.plain.items() if name in wanted},
        secrets={name: value for name, value in values.secrets(services).items() if name in wanted},
    )


def standard_variables(launch: Launch) -> dict[str, str]:
    """What every script is told besides its inputs."""
    return {
        "SLIPWAY_SERVER_NAME": launch.server_name,
        "SLIPWAY_LAUNCH_ID": launch.id,
        "SLIPWAY_TEMPLATE": f"{launch.template_name}@{launch.template_hash[:12]}",
        "SLIPWAY_ADDRESS": launch.private_ip or "",
        "SLIPWAY_ENVIRONMENT": launch.environment or "",
    }


def operational_key(template: ResolvedTemplate, name: str) -> str:
    """The key of an operational script. Raises `InvalidInput` with the names there are."""
    if name in template.operational:
        return template.operational[name].key
    what = f"template {template.name} has no operational script {name}"
    raise InvalidInput(
        Problem(where=f"script {name}", what=what + nearest_or_all(name, template.operational))
    )


def _with_interpreter(body: bytes, interpreter: str) -> bytes:
    """The script with its interpreter on the first line, in place of another one's."""
    rest = body.partition(b"\n")[2] if body.startswith(b"#!") else body
    return f"#!{interpreter}\n".encode() + rest
