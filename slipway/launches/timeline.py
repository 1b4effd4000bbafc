"""A launch as a picture in text: its steps, how long each took, and where the time went."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from slipway.launches.services import Services
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.records import Step, StepStatus
from slipway.steps import steps_of

#: Width of the bars, in characters.
WIDTH = 32

_SIGNS = {StepStatus.SUCCEEDED: "✔", StepStatus.FAILED: "✘", StepStatus.RUNNING: "…"}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One step's place on the time line."""

    step: Step
    sign: str
    #: None while it runs.
    duration_s: float | None
    picture: str


def bars(steps: list[Step], now: datetime, *, width: int = WIDTH) -> list[Bar]:
    """The steps on one time axis. A step that was resumed shows its last attempt."""
    if not steps:
        return []
    begin = min(step.started_at for step in steps)
    end = max(step.ended_at or now for step in steps)
    scale = width / max((end - begin).total_seconds(), 0.001)
    found = []
    for step in steps:
        stop = step.ended_at or now
        before = min(int((step.started_at - begin).total_seconds() * scale), width - 1)
        length = max(round((stop - step.started_at).total_seconds() * scale), 1)
        picture = (" " * before + "█" * min(length, width - before)).ljust(width)
        took = (stop - step.started_at).total_seconds() if step.ended_at else None
        sign = _SIGNS[StepStatus(step.status)]
        found.append(Bar(step=step, sign=sign, duration_s=took, picture=picture))
    return found


def timeline_markdown(services: Services, launch_id: str) -> str:
    """The timeline as Markdown for the run page, with the commands that tell more."""
    launch = get_launch(services, launch_id)
    steps = steps_of(services.database, subject_of(launch_id))
    about = (
        f"Template `{launch.template_ref}` · cloud `{launch.cloud}` · "
        f"instance `{launch.instance_id or 'none'}` · "
        f"address `{launch.public_ip or launch.private_ip or 'none'}`"
    )
    lines = [
        f"## {launch.server_name}: {launch.status}",
        "",
        about,
        "",
    ]
    if launch.reason:
        lines += [f"> {launch.reason}", ""]
    lines += ["| | Step | Attempts | Seconds | |", "|---|---|---:|---:|---|"]
    for bar in bars(steps, services.clock.now()):
        took = "" if bar.duration_s is None else f"{bar.duration_s:.2f}"
        picture = bar.picture.replace(" ", "·")
        title = bar.step.title.replace("|", "\\|")
        lines.append(f"| {bar.sign} | {title} | {bar.step.attempt} | {took} | `{picture}` |")
    if launch.outputs:
        lines += ["", "| Output | Value |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in sorted(launch.outputs.items())]
    lines += [
        "",
        f"Audit: `slipway audit show {launch.id}` · follow it: `slipway audit follow {launch.id}`",
    ]
    return "\n".join(lines)
