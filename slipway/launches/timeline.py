"""A launch as a picture: its steps, how long each took, and where the time went."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

import sqlalchemy as sa

from slipway.database import Database
from slipway.launches.services import Services
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.records import AuditEntry, AuditKind, Launch, Step, StepStatus
from slipway.steps import steps_of

_ENTRIES = AuditEntry.__table__  # type: ignore[attr-defined]

#: Width of the bars, in characters.
WIDTH = 32

#: How many entries of the audit the run page shows.
NEWEST_ENTRIES = 25

#: Of the drawing, in pixels.
_ROW, _LABELS, _BARS = 22, 260, 440
_COLOURS = {
    StepStatus.SUCCEEDED: "#2e7d4f",
    StepStatus.FAILED: "#c62f2f",
    StepStatus.RUNNING: "#2f6fc6",
}

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


def timeline_svg(steps: Sequence[Step], now: datetime) -> str:
    """The steps on one time axis as a drawing: a row each, with its title, bar and seconds. On a
    ground of its own, since pages are dark or light."""
    begin = min(step.started_at for step in steps)
    whole_s = max((max(s.ended_at or now for s in steps) - begin).total_seconds(), 0.001)
    width, height = _LABELS + _BARS + 70, _ROW * len(steps) + 12
    size = f'width="{width}" height="{height}"'
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {size} '
        'font-family="sans-serif" font-size="12">'
        f'<rect {size} rx="6" fill="#f6f7f9"/>'
    )
    for row, step in enumerate(steps):
        stop = step.ended_at or now
        start_px = _LABELS + (step.started_at - begin).total_seconds() / whole_s * _BARS
        took_s = (stop - step.started_at).total_seconds()
        wide_px = max(took_s / whole_s * _BARS, 2.0)
        top = 6 + row * _ROW
        colour = _COLOURS[StepStatus(step.status)]
        title = step.title if len(step.title) <= 38 else f"{step.title[:37]}…"
        drawn += (
            f'<text x="10" y="{top + 15}" fill="#1c2330">{html.escape(title)}</text>'
            f'<rect x="{start_px:.1f}" y="{top + 4}" width="{wide_px:.1f}" height="{_ROW - 8}" '
            f'rx="2" fill="{colour}"/>'
            f'<text x="{start_px + wide_px + 5:.1f}" y="{top + 15}" fill="#5a6472">'
            f"{took_s:.2f} s</text>"
        )
    return f"{drawn}</svg>"


def timeline_markdown(services: Services, launch_id: str) -> str:
    """A launch for the run page, all in one: what it is, where its time went, its outputs, and the
    newest entries of its audit, with links and commands that tell more."""
    launch = get_launch(services, launch_id)
    subject, now = subject_of(launch_id), services.clock.now()
    steps = steps_of(services.database, subject)
    about = (
        f"Template `{launch.template_ref}` · cloud `{launch.cloud}` · "
        f"instance `{launch.instance_id or 'none'}` · "
        f"address `{launch.public_ip or launch.private_ip or 'none'}`"
    )
    lines = [f"## {launch.server_name}: {launch.status}", "", about, "", *_links(services, launch)]
    if launch.reason:
        lines += [f"> {launch.reason}", ""]
    if steps:
        drawing = base64.b64encode(timeline_svg(steps, now).encode()).decode()
        lines += [f"![Steps on a time axis](data:image/svg+xml;base64,{drawing})", ""]
    lines += ["| | Step | Attempts | Seconds |", "|---|---|---:|---:|"]
    for bar in bars(steps, now):
        took = "" if bar.duration_s is None else f"{bar.duration_s:.2f}"
        lines.append(f"| {bar.sign} | {cell(bar.step.title)} | {bar.step.attempt} | {took} |")
    if launch.outputs:
        lines += ["", "| Output | Value |", "|---|---|"]
        lines += [
            f"| {cell(key)} | {cell(value)} |" for key, value in sorted(launch.outputs.items())
        ]
    lines += ["", "### Audit", "", *_newest_entries(services.database, subject), ""]
    lines.append(
        f"All of it: `slipway audit show {launch.id}` · "
        f"follow it: `slipway audit follow {launch.id}`"
    )
    return "\n".join(lines)


def cell(text: object) -> str:
    """Text for one cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _links(services: Services, launch: Launch) -> list[str]:
    """To the dashboard and the API; none where nobody has said that there is one."""
    if "api_url" not in services.settings.model_fields_set:
        return []
    base = services.settings.api_url.rstrip("/")
    server, launch_id = quote(launch.server_name), quote(launch.id)
    # No link to the API: a browser has no token to show there.
    line = (
        f"On the dashboard: [launch]({base}/launches/{launch_id}) · "
        f"[server]({base}/servers/{server}) · "
        f"through the API: `GET {base}/v1/launches/{launch_id}`"
    )
    return [line, ""]


def _newest_entries(database: Database, subject: str) -> list[str]:
    """Without what scripts have printed: that is long, and elsewhere. Who did it is said once
    where it was the same for all: the table is narrow enough."""
    columns = (_ENTRIES.c.at, _ENTRIES.c.step, _ENTRIES.c.summary, _ENTRIES.c.actor)
    query = (
        sa.select(*columns)
        .where(_ENTRIES.c.subject == subject, _ENTRIES.c.kind != AuditKind.OUTPUT.value)
        .order_by(_ENTRIES.c.seq.desc())
        .limit(NEWEST_ENTRIES)
    )
    with database.reading() as connection:
        found = list(reversed(connection.execute(query).all()))
    actors = {actor for *_, actor in found}
    alone = len(actors) == 1
    table = [["Time (UTC)", "Step", "What", "Who"], ["---"] * 4]
    for at, step, summary, actor in found:
        time = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"
        table.append([time, cell(step or ""), cell(summary), cell(actor)])
    rows = [f"| {' | '.join(row[:3] if alone else row)} |" for row in table]
    return [f"The newest entries, by {cell(actors.pop())}:", "", *rows] if alone else rows
