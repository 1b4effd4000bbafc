"""Waiting until a machine is ready: gates are data, and this is the one loop over them.

The loop is a generator: it says what to do next (`Probe`, `Pause`) and is told what came of it.
Whoever drives it decides whether a pause blocks a thread (`drive`) or is awaited, so waiting for a
thousand servers needs no thousand threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from slipway.clock import Clock
from slipway.errors import (
    AuthenticationFailed,
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    GateFailed,
    SlipwayError,
)

#: What one probe found out: plain text by name.
Facts = Mapping[str, str]

#: "Not yet" while a machine boots. A changed host key is not among them: the machine is another
#: one, or its key must be pinned anew, and only the caller can know which.
NOT_YET: tuple[type[SlipwayError], ...] = (
    ConnectionFailed,
    ConnectionLost,
    AuthenticationFailed,
    CommandTimedOut,
)


class Need(StrEnum):
    """How much a signal counts."""

    #: The gate does not pass without it.
    REQUIRED = "required"
    #: Counts like REQUIRED where the machine has it, and is skipped where it has not.
    WHERE_PRESENT = "where_present"
    #: Recorded as evidence only.
    HINT = "hint"


class Answer(StrEnum):
    """What a signal says."""

    YES = "yes"
    NOT_YET = "not_yet"
    #: The machine has no such thing.
    ABSENT = "absent"
    #: It will not become YES by waiting.
    NEVER = "never"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One signal's answer and the value it was read from, for people."""

    answer: Answer
    value: str


@dataclass(frozen=True, kw_only=True)
class Signal:
    """One thing that must hold before a machine is ready."""

    name: str
    need: Need
    #: Reads the answer out of the facts; pure.
    read: Callable[[Facts], Finding]
    #: Half a sentence each: what it means when the signal is missing, and what to do then.
    meaning: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Gate:
    """When a machine is ready, as data."""

    name: str
    signals: tuple[Signal, ...]
    #: So many good probes in a row, on one boot, at least `spacing_s` apart.
    consecutive: int = 2
    spacing_s: float = 2.0
    #: More reboots than these are a boot loop.
    max_reboots: int = 3
    #: The fact that tells one boot from the next; "" when the gate does not look.
    boot_fact: str = "boot_id"
    first_pause_s: float = 0.2
    pause_growth: float = 1.5
    max_pause_s: float = 5.0
    #: How long one probe may take, connecting included.
    probe_timeout_s: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one probe brought home."""

    facts: Facts


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Do now: probe once, and send the `Reading` or the error."""

    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Do now: wait so long, and send None."""

    seconds: float


Step = Probe | Pause

#: The loop: yields steps, is sent what came of them, returns the verdict.
Waiting = Generator[Step, "Reading | SlipwayError | None", "Verdict"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The gate passed, and why we believe it."""

    gate: str
    #: The facts of the last probe.
    evidence: dict[str, str]
    #: Each signal's last answer and value.
    findings: dict[str, Finding]
    reboots: int
    probes: int
    duration_s: float


class GateNotPassed(GateFailed):
    """The gate did not pass; carries what was seen."""

    def __init__(
        self,
        message: str,
        *,
        signal: str,
        last_value: str,
        evidence: Mapping[str, str],
        reboots: int,
        probes: int,
        duration_s: float,
    ) -> None:
        super().__init__(message)
        #: The name of the signal that was missing; "connection" when no probe came back.
        self.signal = signal
        self.last_value = last_value
        self.evidence = dict(evidence)
        self.reboots = reboots
        self.probes = probes
        self.duration_s = duration_s


@dataclass
class _Progress:
    """What the loop remembers."""

    gate: Gate
    started: float
    facts: dict[str, str] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    boot: str = ""
    good: int = 0
    reboots: int = 0
    probes: int = 0
    trouble: SlipwayError | None = None

    def take(self, reading: Reading) -> None:
        """Count a probe that came back."""
        self.trouble = None
        self.facts = dict(reading.facts)
        boot = self.facts.get(self.gate.boot_fact, "") if self.gate.boot_fact else ""
        if boot and self.boot and boot != self.boot:
            self.reboots += 1
            self.good = 0
        self.boot = boot or self.boot
        self.findings = {signal.name: signal.read(self.facts) for signal in self.gate.signals}
        # A boot that cannot be named cannot be shown to be the same one.
        named = bool(boot) or not self.gate.boot_fact
        self.good = self.good + 1 if named and self.missing() is None else 0

    def missing(self, *answers: Answer) -> Signal | None:
        """The first signal that holds the gate up (with one of these answers, if given)."""
        for signal in self.gate.signals:
            answer = self.findings[signal.name].answer
            if signal.need is Need.HINT or answer is Answer.YES:
                continue
            if signal.need is Need.WHERE_PRESENT and answer is Answer.ABSENT:
                continue
            if not answers or answer in answers:
                return signal
        return None

    def failure(self, name: str, value: str, message: str, now: float) -> GateNotPassed:
        return GateNotPassed(
            message,
            signal=name,
            last_value=value,
            evidence=self.facts,
            reboots=self.reboots,
            probes=self.probes,
            duration_s=now - self.started,
        )

    def signal_failure(self, signal: Signal, when: str, now: float) -> GateNotPassed:
        value = self.findings[signal.name].value
        message = (
            f"gate {self.gate.name} did not pass {when}: {signal.name} is {value or 'empty'}: "
            f"{signal.meaning}; {signal.remedy}"
        )
        return self.failure(signal.name, value, message, now)

    def deadline_failure(self, deadline_s: float, now: float) -> GateNotPassed:
        when = f"within {deadline_s:g} s"
        front = f"gate {self.gate.name} did not pass {when}"
        if self.trouble is not None:
            reason = str(self.trouble)
            message = (
                f"{front}: the server could not be reached, at last because: {reason}; "
                "check its console, network rules and the key"
            )
            return self.failure("connection", reason, message, now)
        signal = self.missing() if self.findings else None
        if signal is not None:
            return self.signal_failure(signal, when, now)
        if self.gate.boot_fact and not self.boot:
            name = self.gate.boot_fact
            message = f"{front}: the probe did not tell {name}, so reboots cannot be seen"
            return self.failure(name, "", message, now)
        message = (
            f"{front}: every signal was good {self.good} of {self.gate.consecutive} times in a row "
            f"when the time was over, after {self.reboots} reboots; allow more time"
        )
        return self.failure("steady", str(self.good), message, now)


def watch_gate(
    gate: Gate,
    clock: Clock,
    *,
    deadline_s: float,
    not_yet: tuple[type[SlipwayError], ...] = NOT_YET,
) -> Waiting:
    """Wait until every signal of the gate is good, often enough in a row on one boot.

    Errors listed in ``not_yet`` mean "ask again later"; any other error sent in is raised as it is.
    Raises `GateNotPassed` at the deadline, at once when a signal says it never will be good, and
    when the machine reboots more often than the gate allows. Pauses grow by fixed steps without
    jitter, and start small again after a reboot.
    """
    seen = _Progress(gate=gate, started=clock.monotonic())
    end = seen.started + deadline_s
    pause_s = gate.first_pause_s
    while True:
        left_s = max(0.0, end - clock.monotonic())
        answer = yield Probe(timeout_s=max(1.0, min(gate.probe_timeout_s, left_s)))
        seen.probes += 1
        if isinstance(answer, Reading):
            reboots = seen.reboots
            seen.take(answer)
            now = clock.monotonic()
            if seen.reboots > gate.max_reboots:
                message = (
                    f"gate {gate.name} did not pass: the machine rebooted {seen.reboots} times, "
                    f"allowed are {gate.max_reboots}; read its console for a boot loop"
                )
                raise seen.failure("reboots", str(seen.reboots), message, now)
            never = seen.missing(Answer.NEVER)
            if never is not None:
                raise seen.signal_failure(never, "and will not", now)
            if seen.good >= gate.consecutive:
                return Verdict(
                    gate=gate.name,
                    evidence=dict(seen.facts),
                    findings=dict(seen.findings),
                    reboots=seen.reboots,
                    probes=seen.probes,
                    duration_s=now - seen.started,
                )
            if seen.reboots > reboots:
                pause_s = gate.first_pause_s
        elif isinstance(answer, SlipwayError):
            if not isinstance(answer, not_yet):
                raise answer
            seen.trouble = answer
            seen.good = 0
        else:
            raise TypeError(f"a Probe is answered with a Reading or an error, not {answer!r}")

        now = clock.monotonic()
        left_s = end - now
        if left_s <= 0 or (seen.good and left_s < gate.spacing_s):
            raise seen.deadline_failure(deadline_s, now)
        if seen.good:
            yield Pause(seconds=gate.spacing_s)
        else:
            yield Pause(seconds=min(pause_s, left_s))
            pause_s = min(pause_s * gate.pause_growth, gate.max_pause_s)


def drive(waiting: Waiting, probe: Callable[[float], Reading], clock: Clock) -> Verdict:
    """Run the loop here and now, blocking. ``probe`` gets its time limit in seconds."""
    answer: Reading | SlipwayError | None = None
    while True:
        try:
            step = waiting.send(answer)
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict
        if isinstance(step, Pause):
            clock.sleep(step.seconds)
            answer = None
            continue
        try:
            answer = probe(step.timeout_s)
        except SlipwayError as error:
            answer = error
