"""The clock gate of a launch: measured by us, agreed to by the server's own time service."""

from __future__ import annotations

from slipway.gates.ntp import ClockGate, check_controller_clock, pass_clock_gate
from slipway.launches.connecting import connect
from slipway.launches.inputs import template_of
from slipway.launches.work import Work
from slipway.steps import StepRun

#: For measuring, correcting and a time service that has just been started.
DEADLINE_S = 60.0

_DEFAULT = ClockGate()


def pass_gate(work: Work, run: StepRun) -> None:
    """Measure, correct if need be, record. Raises `GateFailed` saying what was seen last."""
    services, launch = work.services, work.launch()
    bounds = template_of(services, launch).clock
    gate = ClockGate(
        max_offset_ms=bounds.max_offset_ms or _DEFAULT.max_offset_ms,
        servers=bounds.servers or (),
    )
    controller = "not checked: no SLIPWAY_TIME_SERVERS"
    if services.settings.time_servers:
        # With a wrong clock here every server looks wrong.
        own = check_controller_clock(
            services.settings.time_servers, services.clock, max_offset_ms=gate.max_offset_ms
        )
        controller = f"{own.offset_ms:+.1f} ± {own.bound_ms:.1f} ms by {own.server}"
    with connect(work, launch) as remote:
        verdict = pass_clock_gate(remote, gate, services.clock, deadline_s=DEADLINE_S)
    corrected = ", after we corrected it" if verdict.corrected else ""
    run.succeed(
        f"clock off by {verdict.offset_ms:+.1f} ms ± {verdict.bound_ms:.1f} ms "
        f"(limit {gate.max_offset_ms:g} ms){corrected}; {verdict.service} follows "
        f"{verdict.source} at stratum {verdict.stratum}",
        result={
            "offset_ms": verdict.offset_ms,
            "bound_ms": verdict.bound_ms,
            "service": verdict.service,
            "source": verdict.source,
            "stratum": verdict.stratum,
            "corrected": verdict.corrected,
            "controller_clock": controller,
        },
    )
