"""Watching launches until they come to an end. Stopping to watch stops nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from slipway import audit
from slipway.cli.codes import ExitCode
from slipway.cli.output import STATUS_STYLES, say, seconds, stderr, stdout
from slipway.cli.story import Story
from slipway.launches.work import get_launch
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus, StepStatus
from slipway.steps import is_driven, steps_of

if TYPE_CHECKING:
    from slipway.cli.session import Session
    from slipway.launches.engine import Submission
    from slipway.launches.services import Services
    from slipway.records import Launch

#: How often the record is looked at.
LOOK_S = 0.15
#: A step that takes longer is announced where nothing moves on the screen.
REMIND_AFTER_S = 1.0
#: How long the driver of an ended launch may take to let go of it before we stop waiting for that.
LET_GO_S = 5.0

#: States that end the watching of one launch.
ENDS = frozenset(
    {
        LaunchStatus.OPERATIONAL,
        LaunchStatus.STRANDED,
        LaunchStatus.CANCELLED,
        LaunchStatus.TERMINATED,
    }
)


@dataclass(frozen=True, kw_only=True)
class Watched:
    """How watching ended."""

    launch: Launch
    #: Its driver ended before the launch did.
    crashed: bool = False
    #: The last lines the scripts have printed.
    last_output: Sequence[str] = field(default_factory=tuple)


def last_seq(services: Services, launch: Launch) -> int:
    """The number of the newest entry, to watch from there on."""
    found = audit.entries(services.database, subject_of(launch.id))
    return found[-1].seq if found else 0


def is_over(launch: Launch) -> bool:
    """Whether nothing more is going to happen by itself."""
    status = LaunchStatus(launch.status)
    if status is LaunchStatus.STRANDED and launch.on_failure == "terminate":
        return False
    return status in ENDS


def watch(
    services: Services,
    launch: Launch,
    submission: Submission | None,
    *,
    console: Console | None = None,
    after: int = 0,
    until: Callable[[Launch, Story], bool] | None = None,
    output: bool = True,
) -> Watched:
    """Print what happens to a launch from entry ``after`` on until it is over.

    ``until`` says what "over" means; else it is an end that was entered while we watched, or,
    without a submission, one the launch is in. `KeyboardInterrupt` passes through.
    """
    subject, clock = subject_of(launch.id), services.clock
    story = Story(console, output=output)
    begun_at, told_at = clock.monotonic(), clock.monotonic()
    done = until or (lambda now, told: is_over(now) and (told.status != "" or submission is None))
    with _bottom_line(story, launch, lambda: clock.monotonic() - begun_at) as refresh:
        while True:
            ended = submission.ended() if submission else None
            driven = is_driven(services.database, clock, subject)
            now = get_launch(services, launch.id)
            fresh = audit.entries(services.database, subject, after=after)
            for entry in fresh:
                story.tell(entry)
                after, told_at = entry.seq, clock.monotonic()
            if not fresh:
                if done(now, story):
                    break
                # Looked at before the record was read: whatever it wrote, we have seen.
                if ended is not None or (submission is None and not driven):
                    story.end()
                    over = is_over(now) and until is None
                    return Watched(launch=now, crashed=not over, last_output=story.last_output)
                if clock.monotonic() - told_at > REMIND_AFTER_S and not refresh():
                    story.remind()
            refresh()
            clock.sleep(LOOK_S)
        story.end()
    _let_go(services, [launch.id])
    return Watched(launch=now, last_output=story.last_output)


def follow(found: Session, launch: Launch) -> None:
    """``slipway audit follow``: watch a launch that somebody else drives, then say how it ended."""
    with interruptible(launch.server_name):
        watched = watch(found.services, launch, None)
    if watched.crashed:
        say(
            f"{launch.server_name} is {watched.launch.status} and nobody works on it; "
            f"take it up again: slipway resume {launch.server_name}"
        )
        raise typer.Exit(ExitCode.ENGINE)
    code = ended(watched)
    if code is not ExitCode.FINE:
        raise typer.Exit(code)


@contextlib.contextmanager
def interruptible(name: str, *, what: str = "the launch goes on") -> Iterator[None]:
    """Ctrl-C inside the block stops watching only, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\nStopped watching; {what}.")
        say(f"  watch it again: slipway audit follow {name}")
        say(f"  stop it:        slipway cancel {name}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def ended(
    watched: Watched,
    *,
    submission: Submission | None = None,
    ui_url: str = "",
    console: Console | None = None,
) -> ExitCode:
    """Say how a launch ended and what to do next; answers what to exit with."""
    launch, console = watched.launch, console or stdout()
    name = launch.server_name
    if watched.crashed:
        errors = stderr()
        code = submission.ended() if submission else None
        how = "" if code is None else f" (exit code {code})"
        errors.print(
            Text(f"The process that drove {name} ended before the launch did{how}.", style="red")
        )
        if submission:
            errors.print(Text(f"  its log:      {submission.log_file}"))
        errors.print(Text(f"  take it up:   slipway resume {name}"))
        errors.print(Text("  nothing that was finished is done again", style="dim"))
        return ExitCode.ENGINE
    status = LaunchStatus(launch.status)
    if status is LaunchStatus.OPERATIONAL:
        took = None
        if launch.operational_at is not None:
            took = (launch.operational_at - launch.created_at).total_seconds()
        head = Text(f"\n{name} is operational", style="bold green")
        head.append(f" after {seconds(took)}", style="not bold")
        console.print(head)
        rows = [("address", _address(launch))]
        rows += [(key, str(value)) for key, value in sorted(launch.outputs.items())]
        rows += [("log in", f"slipway ssh {name}"), ("record", f"slipway audit show {name}")]
        if ui_url:
            rows.append(("in Prefect", ui_url))
        for label, value in rows:
            console.print(Text(f"  {label + ':':<12} {printable_value(value)}"))
        return ExitCode.FINE
    if status is LaunchStatus.STRANDED:
        console.print(Text(f"\n{name} is stranded", style="bold red"))
        console.print(Text(f"  cause:       {launch.reason}", style="red"))
        if watched.last_output:
            console.print(Text("  last output:"))
            for line in watched.last_output:
                console.print(Text(f"    │ {line}", style="dim"))
        rows = [("look at it", f"slipway ssh {name}")] if launch.host_key else []
        rows += [
            ("record", f"slipway audit show {name}"),
            ("try again", f"slipway resume {name}   (finished steps are skipped)"),
            ("give it up", f"slipway decommission {name}"),
        ]
        for label, value in rows:
            console.print(Text(f"  {label + ':':<12} {value}"))
        return ExitCode.FAILED
    if status is LaunchStatus.TERMINATED:
        console.print(Text(f"\n{name} is terminated", style="bold"))
        # A launch that stranded and was to be terminated then never became operational.
        return ExitCode.FINE if launch.operational_at else ExitCode.FAILED
    console.print(Text(f"\n{name} is {status}", style="yellow"))
    console.print(Text(f"  take it up again: slipway resume {name}"))
    console.print(Text(f"  end it for good:  slipway decommission {name}"))
    return ExitCode.FAILED


def watch_many(
    services: Services,
    launches: Sequence[Launch],
    submissions: Mapping[str, Submission],
    *,
    wanted: LaunchStatus = LaunchStatus.OPERATIONAL,
    console: Console | None = None,
) -> list[Watched]:
    """Show many launches side by side until all are over; ``submissions`` by launch id.

    ``wanted`` is what they are on their way to: an operational server that is taken down is not at
    its end.
    """
    console, clock = console or stdout(), services.clock
    begun_at = clock.monotonic()
    fleet = {launch.id: launch for launch in launches}
    over: dict[str, Watched] = {}
    steps: dict[str, str] = {}
    live = Live(console=console, auto_refresh=False, transient=True)
    with live if console.is_terminal else contextlib.nullcontext():
        while True:
            for launch_id in [each for each in fleet if each not in over]:
                ran = submissions[launch_id].ended()
                now = fleet[launch_id] = get_launch(services, launch_id)
                done = now.status == wanted if wanted is LaunchStatus.TERMINATED else is_over(now)
                # Between two steps the last one stays in sight.
                steps[launch_id] = _step_of(services, launch_id) or steps.get(launch_id, "")
                if done or ran is not None:
                    over[launch_id] = Watched(launch=now, crashed=not done)
                    if not console.is_terminal:
                        _print_over(console, over[launch_id])
            if console.is_terminal:
                elapsed = clock.monotonic() - begun_at
                rows = list(fleet.values())
                height = max(console.size.height - 6, 5)
                live.update(_fleet(rows, steps, over, elapsed, height, services), refresh=True)
            if len(over) == len(fleet):
                break
            clock.sleep(2 * LOOK_S)
    if console.is_terminal:
        for each in over.values():
            _print_over(console, each)
    _let_go(services, list(fleet))
    return [over[launch.id] for launch in launches]


def printable_value(value: str) -> str:
    """An output as one line."""
    from slipway.cli.output import printable

    return printable(value.replace("\n", " "))


def _address(launch: Launch) -> str:
    address = launch.public_ip or launch.private_ip or "none"
    return address if launch.ssh_port == 22 else f"{address} (SSH on port {launch.ssh_port})"


def _let_go(services: Services, launch_ids: Sequence[str]) -> None:
    """Wait until the drivers have given their leases back, so that the next command finds the
    servers free."""
    clock = services.clock
    give_up = clock.monotonic() + LET_GO_S
    while clock.monotonic() < give_up:
        subjects = [subject_of(launch_id) for launch_id in launch_ids]
        if not any(is_driven(services.database, clock, subject) for subject in subjects):
            return
        clock.sleep(LOOK_S)


@contextlib.contextmanager
def _bottom_line(
    story: Story, launch: Launch, elapsed: Callable[[], float]
) -> Iterator[Callable[[], bool]]:
    """A line that moves below what is printed; nothing where the output is no terminal. The
    callable refreshes it and answers whether there is one."""
    if not story.console.is_terminal:
        yield lambda: False
        return
    spinner = Spinner("dots")

    def line() -> RenderableType:
        doing = story.step or story.status or launch.status
        spinner.update(text=Text.assemble((f" {doing}", "bold"), f"  {elapsed():.1f} s"))
        return spinner

    live = Live(line(), console=story.console, refresh_per_second=10, transient=True)
    with live:

        def refresh() -> bool:
            live.update(line())
            return True

        yield refresh


def _step_of(services: Services, launch_id: str) -> str:
    found = steps_of(services.database, subject_of(launch_id))
    running = [step.title for step in found if step.status == StepStatus.RUNNING]
    return running[-1] if running else ""


def _print_over(console: Console, watched: Watched) -> None:
    launch = watched.launch
    status = "crashed" if watched.crashed else launch.status
    good = status in (LaunchStatus.OPERATIONAL, LaunchStatus.TERMINATED)
    if status == LaunchStatus.TERMINATED and not launch.operational_at and launch.failed_step:
        good = False
    end = launch.operational_at if status == LaunchStatus.OPERATIONAL else launch.updated_at
    took = (end - launch.created_at).total_seconds() if end else None
    line = Text("✔ " if good else "✘ ", style="green" if good else "red")
    line.append(f"{launch.server_name:<24} ", style="bold")
    line.append(f"{status:<12}", style=STATUS_STYLES.get(status, "red"))
    if status != LaunchStatus.TERMINATED:
        line.append(f" {seconds(took):>9}", style="dim")
    if status == LaunchStatus.OPERATIONAL:
        line.append(f"  {launch.outputs.get('url') or _address(launch)}")
    elif launch.reason and status != LaunchStatus.TERMINATED:
        line.append(f"  {launch.reason}", style="red")
    console.print(line)


def _fleet(
    launches: Sequence[Launch],
    steps: Mapping[str, str],
    over: Mapping[str, Watched],
    elapsed_s: float,
    height: int,
    services: Services,
) -> RenderableType:
    def rank(launch: Launch) -> tuple[int, str]:
        # What failed and what moves matters most where not everything fits.
        if launch.id not in over:
            return 1, launch.server_name
        failed = over[launch.id].crashed or launch.status == LaunchStatus.STRANDED
        return (0 if failed else 2), launch.server_name

    shown = sorted(launches, key=rank)[:height]
    table = Table(box=None, header_style="bold", expand=True)
    for title, ratio in (("SERVER", 3), ("STATE", 2), ("NOW", 6), ("TIME", 1)):
        table.add_column(title, ratio=ratio, no_wrap=True, overflow="ellipsis")
    now = services.clock.now()
    for launch in sorted(shown, key=lambda each: each.server_name):
        end = launch.updated_at if launch.id in over else now
        doing = steps.get(launch.id, "")
        if launch.id in over:
            doing = launch.reason or str(launch.outputs.get("url", ""))
        table.add_row(
            launch.server_name,
            Text(launch.status, style=STATUS_STYLES.get(launch.status, "cyan")),
            Text(doing, style="red" if launch.status == LaunchStatus.STRANDED else ""),
            seconds((end - launch.created_at).total_seconds()),
        )
    parts: list[RenderableType] = [table]
    if len(launches) > len(shown):
        parts.append(Text(f"… and {len(launches) - len(shown)} more", style="dim"))
    line = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=len(launches), completed=len(over), width=40)
    line.add_row(bar, f"{len(over)} of {len(launches)}", seconds(elapsed_s))
    return Group(*parts, Text(""), line)
