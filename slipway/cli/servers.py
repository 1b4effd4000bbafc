"""``slipway servers`` and ``slipway show``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli import completing
from slipway.cli.output import (
    STATUS_STYLES,
    AsJson,
    iso,
    print_json,
    printable,
    say,
    seconds,
    stdout,
    when,
)
from slipway.cli.session import session

if TYPE_CHECKING:
    from slipway.launches.services import Services
    from slipway.records import Launch, Step

Server = Annotated[
    str,
    typer.Argument(
        help="Name of the server, or id of its launch.",
        metavar="SERVER",
        autocompletion=completing.servers,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(name="servers")(list_servers)
    app.command()(show)


def list_servers(
    context: typer.Context,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "--env",
            "-e",
            help="Only the servers of this environment.",
            autocompletion=completing.environments,
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Terminated ones as well.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the servers with the state of their launches.

    Example: `slipway servers --env prod`.
    """
    from slipway.launches.environments import get_environment
    from slipway.launches.requests import list_launches

    services = session(context).services
    if environment is not None:
        get_environment(services.database, environment)
    launches = list_launches(services, environment=environment, ended=everything)
    if as_json:
        print_json([launch_data(services, launch, steps=False) for launch in launches])
        return
    if not launches:
        say("there are no servers; launch one with 'slipway launch TEMPLATE'")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold")
    for title in ("SERVER", "STATE", "TEMPLATE", "ENVIRONMENT", "ADDRESS", "SINCE"):
        table.add_column(title, overflow="fold")
    for launch in launches:
        table.add_row(
            launch.server_name,
            Text(launch.status, style=STATUS_STYLES.get(launch.status, "cyan")),
            f"{launch.template_name}@{launch.template_hash[:8]}",
            launch.environment or "-",
            launch.public_ip or launch.private_ip or "-",
            when(launch.updated_at),
        )
    stdout().print(table)


def show(context: typer.Context, server: Server, as_json: AsJson = False) -> None:
    """Show one server: its launch, its steps on a time line, inputs and outputs.

    Example: `slipway show web-1`.
    """
    from slipway.launches.requests import find_launch

    services = session(context).services
    launch = find_launch(services, server)
    if as_json:
        print_json(launch_data(services, launch))
        return
    show_launch(services, launch)


def show_launch(services: Services, launch: Launch) -> None:
    """Print all about a launch."""
    from rich.table import Table
    from rich.text import Text

    from slipway.launches.inputs import shown_inputs

    console = stdout()
    head = Text(launch.server_name, style="bold")
    head.append("  ")
    head.append(launch.status, style=STATUS_STYLES.get(launch.status, "cyan"))
    console.print(head)
    if launch.reason and launch.status != "operational":
        console.print(Text(f"  {launch.reason}", style="red" if launch.failed_step else ""))
    facts = Table.grid(padding=(0, 2))
    address = launch.public_ip or launch.private_ip
    rows = [
        ("launch", launch.id),
        ("template", f"{launch.template_ref} ({launch.template_hash[:12]})"),
        ("environment", launch.environment),
        ("cloud", f"{launch.cloud} / {launch.region}"),
        ("instance", launch.instance_id),
        ("image", f"{launch.image_id} on {launch.instance_type}"),
        ("address", address and f"{address}, {_reached(launch)}"),
        ("frozen to", launch.freeze and launch.freeze.isoformat()),
        ("requested", f"{when(launch.created_at)} by {launch.requested_by}"),
        ("operational", launch.operational_at and when(launch.operational_at)),
        ("ended", launch.ended_at and when(launch.ended_at)),
    ]
    for label, value in rows:
        if value:
            facts.add_row(Text(f"  {label}", style="dim"), Text(str(value)))
    console.print(facts)
    timeline(services, launch)
    values(shown_inputs(services, launch), "inputs")
    values({key: str(value) for key, value in launch.outputs.items()}, "outputs")


def _reached(launch: Launch) -> str:
    return "its agent calls us" if launch.connect == "agent" else f"SSH on port {launch.ssh_port}"


def timeline(services: Services, launch: Launch) -> None:
    """Print the steps with bars on one time axis."""
    from rich.table import Table
    from rich.text import Text

    from slipway.launches.timeline import bars
    from slipway.lifecycle import subject_of
    from slipway.steps import steps_of

    steps = steps_of(services.database, subject_of(launch.id))
    if not steps:
        return
    console = stdout()
    console.print()
    # What took place long after the launch would leave no room for it on one axis.
    for title, chosen in _phases(steps):
        table = Table.grid(padding=(0, 1))
        for bar in bars(chosen, services.clock.now()):
            style = {"✔": "green", "✘": "red"}.get(bar.sign, "cyan")
            again = f" (attempt {bar.step.attempt})" if bar.step.attempt > 1 else ""
            table.add_row(
                Text(f"  {bar.sign}", style=style),
                Text(bar.step.title + again),
                Text(seconds(bar.duration_s) or "running", style="dim", justify="right"),
                Text(bar.picture, style=style),
            )
        console.print(Text(f"  {title}", style="dim"))
        console.print(table)


def values(found: dict[str, str], title: str) -> None:
    """Print names and values."""
    from rich.table import Table
    from rich.text import Text

    if not found:
        return
    console = stdout()
    console.print(Text(f"\n  {title}", style="dim"))
    grid = Table.grid(padding=(0, 2))
    for name, value in sorted(found.items()):
        grid.add_row(Text(f"  {name}"), Text(printable(value.replace("\n", ", "))))
    console.print(grid)


def launch_data(services: Services, launch: Launch, *, steps: bool = True) -> dict[str, Any]:
    """A launch as JSON values; secrets hidden."""
    found: dict[str, Any] = {
        "server": launch.server_name,
        "status": launch.status,
        "reason": launch.reason,
        "failed_step": launch.failed_step,
        "launch": launch.id,
        "template": {
            "name": launch.template_name,
            "hash": launch.template_hash,
            "ref": launch.template_ref,
        },
        "environment": launch.environment,
        "cloud": launch.cloud,
        "region": launch.region,
        "instance": launch.instance_id,
        "instance_type": launch.instance_type,
        "image": launch.image_id,
        "address": launch.public_ip or launch.private_ip,
        "ssh_port": launch.ssh_port,
        "login_user": launch.login_user,
        "connect": launch.connect,
        "freeze": launch.freeze.isoformat() if launch.freeze else None,
        "outputs": launch.outputs,
        "requested_by": launch.requested_by,
        "created_at": iso(launch.created_at),
        "updated_at": iso(launch.updated_at),
        "operational_at": iso(launch.operational_at),
        "ended_at": iso(launch.ended_at),
    }
    if steps:
        from slipway.launches.inputs import shown_inputs
        from slipway.lifecycle import subject_of
        from slipway.steps import steps_of

        found["inputs"] = shown_inputs(services, launch)
        found["steps"] = [
            _step_data(step) for step in steps_of(services.database, subject_of(launch.id))
        ]
    return found


def _step_data(step: Step) -> dict[str, Any]:
    took = (step.ended_at - step.started_at).total_seconds() if step.ended_at else None
    return {
        "key": step.key,
        "title": step.title,
        "status": step.status,
        "attempt": step.attempt,
        "started_at": iso(step.started_at),
        "ended_at": iso(step.ended_at),
        "duration_s": took,
        "error": step.error,
    }


def _phases(steps: list[Step]) -> list[tuple[str, list[Step]]]:
    """The launch, each operational run, and the end, each with an axis of its own."""
    found: dict[str, list[Step]] = {}
    for step in steps:
        if step.key.startswith("operational:"):
            name = step.key
        elif step.key.startswith("decommission:") or step.key in (
            "terminate-instance",
            "wait-for-terminated",
            "terminated",
        ):
            name = "end"
        else:
            name = "launch"
        found.setdefault(name, []).append(step)
    titles = {"launch": "launch", "end": "decommission"}
    return [
        (titles.get(name) or f"{name.split(':')[1]}, {when(chosen[0].started_at)}", chosen)
        for name, chosen in found.items()
    ]
