"""The page of one launch, which moves while the launch does, and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from slipway.api.pages import acting, charts, queries
from slipway.api.pages.live import Changed, News, state_mark, stream
from slipway.api.pages.output import Screen
from slipway.api.pages.queries import Tail
from slipway.api.pages.rendering import look
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Site, Visit, check_form, read_form, see, site_of
from slipway.launches.inputs import shown_inputs, template_of
from slipway.launches.work import get_launch
from slipway.lifecycle import PHASES, subject_of
from slipway.records import Launch, LaunchStatus, Step, StepStatus
from slipway.steps import is_driven, steps_of

#: As much of a script's output as a page begins with.
TAIL_BYTES = 12 * 1024
#: More pieces of output than this in one look are skipped: only their end can be read anyway.
MOST_PIECES = 100
#: Runs of operational scripts that are drawn.
MOST_RUNS = 8
#: How long a launch may be between two drivers before the page says so.
BETWEEN_DRIVERS = timedelta(seconds=15)

Reader = Annotated[Visitor, Depends(Visit("read"))]
Launcher = Annotated[Visitor, Depends(Visit("launch"))]
Form = Annotated[FormData, Depends(read_form)]
Seq = Annotated[int, Query(ge=0, le=2**62)]


def register(router: APIRouter) -> None:
    """Add the routes."""
    router.get("/launches/{launch_id}")(show_launch)
    router.get("/live/launches/{launch_id}")(launch_live)
    router.post("/launches/{launch_id}/resume")(resume)
    router.post("/launches/{launch_id}/cancel")(cancel)
    router.get("/launches/{launch_id}/decommission")(ask_decommission)
    router.post("/launches/{launch_id}/decommission")(decommission)


def show_launch(request: Request, visitor: Reader, launch_id: str) -> Response:
    """A launch: where it is, its steps in time, what its script prints."""
    site = site_of(request)
    found = _look(site, launch_id)
    tail = _tail(site, found.launch)
    context = _context(site, visitor, found)
    return site.page(
        request,
        "launch.html",
        visitor,
        seen=state_mark(found.state),
        **context,
        **_output(found, tail),
    )


def launch_live(
    request: Request, visitor: Reader, launch_id: str, seen: str = "", seq: Seq = 0
) -> Response:
    """The same, as it changes; output as it comes."""
    site = site_of(request)
    get_launch(site.services, launch_id)
    return stream(request, lambda: _Watcher(site, visitor, launch_id, seen, seq))


def resume(request: Request, visitor: Launcher, form: Form, launch_id: str) -> Response:
    """Take it up again."""
    check_form(visitor, form)
    acting.resume(request, visitor, form, launch_id)
    return see(f"/launches/{launch_id}")


def cancel(request: Request, visitor: Launcher, form: Form, launch_id: str) -> Response:
    """Stop it; the instance is kept."""
    check_form(visitor, form)
    acting.cancel(request, visitor, form, launch_id)
    return see(f"/launches/{launch_id}")


def ask_decommission(request: Request, visitor: Launcher, launch_id: str) -> Response:
    """Say what taking the server down means, and ask."""
    site = site_of(request)
    launch = get_launch(site.services, launch_id)
    name = launch.server_name
    scripts = []
    if launch.status == LaunchStatus.OPERATIONAL:
        scripts = [each.name for each in template_of(site.services, launch).decommission]
    first = "These scripts run on it first:" if scripts else "No script is run on it first."
    instance = launch.instance_id or "its instance, if there is one,"
    return site.page(
        request,
        "confirm.html",
        visitor,
        question=f"Decommission {name}?",
        consequences=[
            (
                f"This ends {instance} in {launch.cloud} / {launch.region} for good, with "
                "everything on its disks. The record of it stays."
            ),
            first,
        ],
        steps=scripts,
        action=f"/launches/{launch.id}/decommission",
        button=f"Decommission {name}",
        back=f"/launches/{launch.id}",
    )


def decommission(request: Request, visitor: Launcher, form: Form, launch_id: str) -> Response:
    """Take it down."""
    check_form(visitor, form)
    acting.decommission(request, visitor, form, launch_id)
    return see(f"/launches/{launch_id}")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A launch as it is on record now."""

    launch: Launch
    steps: list[Step]
    #: It should be going on, and nobody works on it.
    abandoned: bool
    #: Another value after anything that the page shows has changed.
    state: object


def _look(site: Site, launch_id: str) -> _Found:
    services, subject = site.services, subject_of(launch_id)
    # The number first: whatever is written after it makes for another look.
    seq = queries.audit_seq(services.database, subject)
    launch = get_launch(services, launch_id)
    steps = steps_of(services.database, subject)
    going_on = launch.status in (*PHASES[:-1], LaunchStatus.DECOMMISSIONING)
    silent = going_on and site.now() - launch.updated_at > BETWEEN_DRIVERS
    abandoned = silent and not is_driven(services.database, services.clock, subject)
    state = (seq, launch.updated_at, launch.status, abandoned, [step.status for step in steps])
    return _Found(launch=launch, steps=steps, abandoned=abandoned, state=state)


def _actions(visitor: Visitor, found: _Found) -> set[str]:
    """What may be done now, by this visitor."""
    if not visitor.can("launch"):
        return set()
    status = found.launch.status
    actions = set()
    if status in (LaunchStatus.STRANDED, LaunchStatus.CANCELLED) or (
        found.abandoned and status in PHASES[:-1]
    ):
        actions.add("resume")
    if status in PHASES[:-1] and found.launch.cancel_requested_at is None:
        actions.add("cancel")
    if status != LaunchStatus.TERMINATED and (
        status != LaunchStatus.DECOMMISSIONING or found.abandoned
    ):
        actions.add("decommission")
    return actions


def _phases(launch: Launch, steps: list[Step]) -> list[dict[str, Any]]:
    """The way up as it is shown: what is done, where it is, what is to come."""
    status = LaunchStatus(launch.status)
    if status in (LaunchStatus.OPERATIONAL, LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED):
        reached = len(PHASES) if launch.operational_at else 1
    elif status in PHASES:
        reached = PHASES.index(status)
    else:
        reached = _reached(steps)
    found = []
    for number, phase in enumerate(PHASES):
        here = number == reached and status is not LaunchStatus.TERMINATED
        tone = "done" if number < reached else look(status) if here else "todo"
        said = {"done": "done", "bad": "failed here", "warn": "cancelled here", "run": "now"}
        found.append({"name": phase.value, "look": tone, "now": here, "said": said.get(tone, "")})
    return found


#: The phase a step belongs to; scripts and checks to the last one before operational.
_STEP_PHASES = {
    "resolve-template": 0,
    "resolve-inputs": 0,
    "create-instance": 1,
    "wait-for-running": 2,
    "wait-for-boot": 2,
    "pass-clock-gate": 3,
    "freeze-repositories": 3,
}


def _reached(steps: list[Step]) -> int:
    """The phase in which a launch that is on none ended."""
    unfinished = [step for step in steps if step.status != StepStatus.SUCCEEDED]
    last = (unfinished or steps)[-1:]
    return _STEP_PHASES.get(last[0].key.partition("#")[0], 4) if last else 0


def _context(site: Site, visitor: Visitor, found: _Found) -> dict[str, Any]:
    launch, now = found.launch, site.now()
    entries = queries.step_entries(site.services.database, subject_of(launch.id))
    drawn = charts.chapters(found.steps, entries, now)
    runs = [chapter for chapter in drawn if chapter.kind == "operational"]
    too_many = {id(chapter) for chapter in runs[:-MOST_RUNS]}
    failed = next((step for step in found.steps if step.key == launch.failed_step), None)
    return {
        "launch": launch,
        "coming_up": launch.status in PHASES[:-1],
        "abandoned": found.abandoned,
        "actions": _actions(visitor, found),
        "phases": _phases(launch, found.steps),
        "failed_title": failed.title if failed else "",
        "chapters": [chapter for chapter in drawn if id(chapter) not in too_many],
        "earlier_runs": len(too_many),
        "inputs": shown_inputs(site.services, launch),
        "prefect_url": prefect_url(site, launch),
    }


def prefect_url(site: Site, launch: Launch) -> str:
    """The page of the launch's flow run in Prefect; empty where there is none."""
    base = site.services.settings.prefect_ui_url.rstrip("/")
    return f"{base}/runs/flow-run/{launch.flow_run_id}" if base and launch.flow_run_id else ""


def _tail(site: Site, launch: Launch) -> Tail | None:
    return queries.output_tail(site.services.database, subject_of(launch.id), most_bytes=TAIL_BYTES)


def _output(found: _Found, tail: Tail | None) -> dict[str, Any]:
    if tail is None:
        return {"tail": None}
    screen = Screen(mid_stream=tail.cut)
    return {
        "tail": tail,
        "tail_title": _title(found, tail.step),
        "tail_html": screen.feed(tail.data) + screen.finish(),
    }


def _title(found: _Found, key: str) -> str:
    return next((step.title for step in found.steps if step.key == key), key)


class _Watcher:
    """One open page of a launch."""

    def __init__(self, site: Site, visitor: Visitor, launch_id: str, seen: str, seq: int) -> None:
        self._site = site
        self._visitor = visitor
        self._id = launch_id
        self._changed = Changed(seen)
        #: The two seconds in which the timeline was drawn last; the page was made just now.
        self._drawn = int(site.now().timestamp()) // 2
        self._title = ""
        #: What the page's output ends with.
        self._seq = seq
        self._stream = ""
        self._screen: Screen | None = None

    def __call__(self) -> News:
        site, visitor = self._site, self._visitor
        found = _look(site, self._id)
        news = News()
        launch = found.launch
        running = any(step.status == StepStatus.RUNNING for step in found.steps)
        # A bar that grows is news too, but not every second.
        beat = int(site.now().timestamp()) // 2 if running else self._drawn
        if self._changed(found.state):
            self._drawn = beat
            context = _context(site, visitor, found)
            news.parts = {
                place: site.part(f"launch_{place}.html", visitor, **context)
                for place in ("state", "actions", "timeline", "facts")
            }
            title = f"{launch.server_name}: {launch.status} · Slipway"
            if title != self._title:
                self._title = title
                news.events.append(("title", title))
            self._follow_output(found, news)
        elif beat != self._drawn:
            self._drawn = beat
            context = _context(site, visitor, found)
            news.parts = {"timeline": site.part("launch_timeline.html", visitor, **context)}
        return news

    def _follow_output(self, found: _Found, news: News) -> None:
        """New output is put behind what is there. That of another script takes its place, and so
        does the end of it where there is too much, or where the connection broke."""
        if self._screen is not None:
            database = self._site.services.database
            fresh = queries.output_after(
                database, subject_of(self._id), self._seq, limit=MOST_PIECES
            )
            for number, entry in enumerate(fresh, start=1):
                if entry.stream != self._stream or number == MOST_PIECES:
                    break
                self._seq = entry.seq
                if html := self._screen.feed(entry.data or b""):
                    news.events.append(("output", html))
            else:
                return
        tail = _tail(self._site, found.launch)
        if tail is not None:
            self._begin(found, tail, news)

    def _begin(self, found: _Found, tail: Tail, news: News) -> None:
        shown_already = tail.seq == self._seq
        self._stream, self._seq = tail.stream, tail.seq
        self._screen = Screen(mid_stream=tail.cut)
        html = self._screen.feed(tail.data)
        if shown_already:
            return
        context = {
            "launch": found.launch,
            "tail": tail,
            "tail_title": _title(found, tail.step),
            "tail_html": html,
        }
        news.events.append(
            ("begin", self._site.part("launch_output.html", self._visitor, **context))
        )
