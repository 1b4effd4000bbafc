"""The one waiting loop: when it passes, when it gives up, and what it says then."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    ConnectionLost,
    HostKeyMismatch,
    SlipwayError,
)
from slipway.gates.linux import LINUX
from slipway.gates.ntp import ClockGate, clock_table
from slipway.gates.wait import (
    Answer,
    Facts,
    Finding,
    Gate,
    GateNotPassed,
    Need,
    Pause,
    Probe,
    Reading,
    Signal,
    drive,
    watch_gate,
)
from slipway.testing.fake_clock import FakeClock

GATES = [LINUX, clock_table(ClockGate())]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_gates_are_sound(gate: Gate) -> None:
    """Every gate can pass, can fail, and pauses by amounts that make sense."""
    names = [signal.name for signal in gate.signals]
    assert len(set(names)) == len(names)
    assert any(signal.need is Need.REQUIRED for signal in gate.signals)
    assert gate.consecutive >= 1
    assert 0 < gate.first_pause_s <= gate.max_pause_s
    assert gate.pause_growth >= 1


@pytest.mark.parametrize(
    "signal",
    [signal for gate in GATES for signal in gate.signals],
    ids=lambda signal: signal.name,
)
def test_signals_tell_what_is_missing_and_what_to_do(signal: Signal) -> None:
    """Every signal has a meaning and a remedy that fit into one sentence."""
    for text in (signal.name, signal.meaning, signal.remedy):
        assert text
        assert text[0].islower()
        assert not text.endswith(".")
        assert "\n" not in text


@pytest.mark.parametrize("signal", LINUX.signals, ids=lambda signal: signal.name)
def test_no_signal_is_good_without_evidence(signal: Signal) -> None:
    """A probe that says nothing makes no signal good."""
    assert signal.read({}).answer in {Answer.NOT_YET, Answer.ABSENT}


def _read(name: str) -> object:
    def read(facts: Facts) -> Finding:
        value = facts.get(name, "")
        return Finding(answer=Answer(value) if value else Answer.ABSENT, value=value)

    return read


def toy(**changes: object) -> Gate:
    """A gate with a signal of each kind, read straight from a fact of its name."""
    options: dict[str, object] = {
        "name": "toy",
        "signals": tuple(
            Signal(
                name=need.value,
                need=need,
                read=_read(need.value),  # type: ignore[arg-type]
                meaning="it means something",
                remedy="do something",
            )
            for need in Need
        ),
        **changes,
    }
    return Gate(**options)  # type: ignore[arg-type]


def facts(boot: str = "b1", **values: str) -> Reading:
    """A reading with a good required signal unless said otherwise."""
    return Reading(facts={"boot_id": boot, "required": "yes", **values})


GOOD = facts()
BAD = facts(required="not_yet")
NOT_YET_ERRORS = [
    ConnectionFailed("refused"),
    ConnectionLost("broke"),
    AuthenticationFailed("no account"),
]


class Machine:
    """Answers probes from a list, the last one for ever; remembers when it was asked."""

    def __init__(self, clock: FakeClock, *answers: Reading | SlipwayError, took_s: float = 0.0):
        self.clock = clock
        self.answers = list(answers)
        self.took_s = took_s
        self.asked: list[float] = []
        self.given: list[Reading | SlipwayError] = []

    def __call__(self, timeout_s: float) -> Reading:
        assert timeout_s > 0
        self.asked.append(self.clock.monotonic())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.given.append(answer)
        self.clock.advance(self.took_s)
        if isinstance(answer, SlipwayError):
            raise answer
        return answer


def test_two_good_probes_in_a_row_pass() -> None:
    """The gate passes at the second good probe on one boot, spaced as the gate says."""
    clock = FakeClock()
    machine = Machine(clock, ConnectionFailed("x"), BAD, GOOD, BAD, GOOD, GOOD)
    verdict = drive(watch_gate(toy(spacing_s=3.0), clock, deadline_s=100), machine, clock)
    assert verdict.probes == 6
    assert machine.asked[-1] - machine.asked[-2] == 3.0
    assert verdict.duration_s == clock.monotonic()
    assert verdict.evidence["required"] == "yes"
    assert verdict.reboots == 0


def test_pauses_grow_without_jitter_up_to_a_limit() -> None:
    """Pauses are first, first x growth, ... and never above the limit."""
    clock = FakeClock()
    gate = toy(first_pause_s=1.0, pause_growth=2.0, max_pause_s=5.0)
    with pytest.raises(GateNotPassed):
        drive(watch_gate(gate, clock, deadline_s=20), Machine(clock, BAD), clock)
    assert clock.slept == [1, 2, 4, 5, 5, 3]  # 1+2+4+5+5 = 17, and the 3 left of 20


def test_where_present_counts_only_where_present() -> None:
    """A where-present signal holds the gate up unless absent; a hint never does."""
    clock = FakeClock()
    held = facts(where_present="not_yet", hint="never")
    machine = Machine(clock, held, held, facts(hint="not_yet"), facts(hint="never"))
    assert drive(watch_gate(toy(), clock, deadline_s=60), machine, clock).probes == 4


def test_a_required_signal_must_not_be_absent() -> None:
    """A required signal the machine does not have holds the gate up."""
    clock = FakeClock()
    machine = Machine(clock, Reading(facts={"boot_id": "b"}))
    with pytest.raises(GateNotPassed) as caught:
        drive(watch_gate(toy(), clock, deadline_s=5), machine, clock)
    assert caught.value.signal == "required"


def test_never_ends_the_wait_at_once() -> None:
    """A signal that says it never will be good fails the gate on the spot, with its remedy."""
    clock = FakeClock()
    machine = Machine(clock, BAD, facts(where_present="never"))
    with pytest.raises(GateNotPassed) as caught:
        drive(watch_gate(toy(), clock, deadline_s=1000), machine, clock)
    assert clock.monotonic() < 1
    assert str(caught.value) == (
        "gate toy did not pass and will not: where_present is never: it means something; "
        "do something"
    )


def test_reboots_are_counted_reported_and_restart_the_count() -> None:
    """A new boot id between good probes counts a reboot and starts the row anew."""
    clock = FakeClock()
    machine = Machine(clock, facts("a"), facts("b"), ConnectionLost("x"), facts("c"), facts("c"))
    verdict = drive(watch_gate(toy(), clock, deadline_s=60), machine, clock)
    assert (verdict.reboots, verdict.probes) == (2, 5)


def test_a_boot_loop_is_named() -> None:
    """More reboots than allowed fail the gate before the deadline."""
    clock = FakeClock()
    machine = Machine(clock, *(facts(str(n)) for n in range(9)))
    with pytest.raises(GateNotPassed, match="rebooted 3 times, allowed are 2") as caught:
        drive(watch_gate(toy(max_reboots=2), clock, deadline_s=600), machine, clock)
    assert (caught.value.signal, caught.value.reboots) == ("reboots", 3)


@pytest.mark.parametrize("error", NOT_YET_ERRORS, ids=lambda error: type(error).__name__)
def test_an_unreachable_server_is_not_yet_and_the_last_reason_is_told(error: SlipwayError) -> None:
    """Connection errors do not end the wait; at the deadline the last one is in the message."""
    clock = FakeClock()
    machine = Machine(clock, ConnectionFailed("first"), error)
    with pytest.raises(GateNotPassed, match="could not be reached") as caught:
        drive(watch_gate(toy(), clock, deadline_s=30), machine, clock)
    assert caught.value.signal == "connection"
    assert caught.value.last_value == str(error)
    assert caught.value.probes == len(machine.asked)


def test_a_changed_host_key_is_fatal_unless_said_otherwise() -> None:
    """HostKeyMismatch is raised as it is; a caller may list it as not-yet."""
    clock = FakeClock()
    with pytest.raises(HostKeyMismatch):
        drive(watch_gate(toy(), clock, deadline_s=60), Machine(clock, HostKeyMismatch("k")), clock)
    patient = watch_gate(toy(), clock, deadline_s=60, not_yet=(HostKeyMismatch,))
    machine = Machine(clock, HostKeyMismatch("k"), GOOD)
    assert drive(patient, machine, clock).probes == 3


def test_a_boot_without_a_name_does_not_pass() -> None:
    """When the probe cannot name the boot, the gate says that and does not pass."""
    clock = FakeClock()
    with pytest.raises(GateNotPassed, match="did not tell boot_id"):
        drive(watch_gate(toy(), clock, deadline_s=10), Machine(clock, facts(boot="")), clock)


def test_good_once_at_the_deadline_says_so() -> None:
    """A machine that became good too late is told apart from one that is not good."""
    clock = FakeClock()
    gate = toy(first_pause_s=9.0, max_pause_s=9.0, spacing_s=5.0)
    with pytest.raises(GateNotPassed, match="good 1 of 2 times"):
        drive(watch_gate(gate, clock, deadline_s=10), Machine(clock, BAD, GOOD), clock)


def test_the_loop_can_be_driven_by_anybody() -> None:
    """Without `drive`: steps come out, answers go in; a wrong answer is a TypeError."""
    waiting = watch_gate(toy(consecutive=1), FakeClock(), deadline_s=9)
    assert isinstance(next(waiting), Probe)
    assert isinstance(waiting.send(BAD), Pause)
    assert isinstance(waiting.send(None), Probe)
    with pytest.raises(TypeError):
        waiting.send(None)


answers = st.lists(
    st.one_of(
        st.sampled_from([*NOT_YET_ERRORS, BAD]),
        st.builds(facts, boot=st.sampled_from(["a", "b", ""])),
        st.builds(
            facts,
            boot=st.just("a"),
            where_present=st.sampled_from(["yes", "not_yet"]),
            hint=st.sampled_from(["yes", "never"]),
        ),
    ),
    min_size=1,
    max_size=12,
)


def _is_good(answer: Reading | SlipwayError) -> bool:
    return (
        isinstance(answer, Reading)
        and bool(answer.facts["boot_id"])
        and answer.facts["required"] == "yes"
        and answer.facts.get("where_present", "yes") == "yes"
    )


@given(
    sequence=answers,
    consecutive=st.integers(1, 4),
    deadline_s=st.floats(0, 60),
    took_s=st.floats(0, 3),
)
def test_the_loop_keeps_its_promises(
    sequence: list[Reading | SlipwayError], consecutive: int, deadline_s: float, took_s: float
) -> None:
    """For any machine: it passes exactly on enough good probes in a row on one boot, spaced; it
    ends by the deadline plus one probe; every pause is positive and the probes are counted."""
    clock = FakeClock()
    machine = Machine(clock, *sequence, took_s=took_s)
    gate = toy(consecutive=consecutive, spacing_s=2.0, max_reboots=100)
    try:
        probes = drive(watch_gate(gate, clock, deadline_s=deadline_s), machine, clock).probes
        passed = True
    except GateNotPassed as failure:
        probes = failure.probes
        passed = False
    assert probes == len(machine.asked)
    assert clock.monotonic() <= deadline_s + took_s + 1e-6
    assert all(pause >= 0 for pause in clock.slept)
    last = machine.given[-consecutive:]
    enough = len(last) == consecutive and all(_is_good(answer) for answer in last)
    one_boot = enough and len({a.facts["boot_id"] for a in last if isinstance(a, Reading)}) == 1
    assert passed == one_boot
    if passed:
        times = machine.asked[-consecutive:]
        assert all(b - a >= 2.0 - 1e-6 for a, b in itertools.pairwise(times))
