"""``slipway local``: the stand-in machines on this computer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from slipway.cli.output import AsJson, print_json, say, stdout
from slipway.clouds.base import TAG_LAUNCH, TAG_SERVER, Instance, InstanceState
from slipway.clouds.local import LocalCloud
from slipway.errors import InvalidInput, Problem
from slipway.settings import Settings

app = typer.Typer(help="The local cloud: stand-in machines on this computer.", no_args_is_help=True)

_REGION = "local"


@app.command()
def up() -> None:
    """Start the local cloud; machines that were running come back."""
    health = LocalCloud(Settings()).health()
    console = stdout()
    console.print(f"The local cloud runs (process {health.pid}) in {health.directory}.")
    style = "green" if health.confined else "bold yellow"
    console.print(f"Scripts are {health.confinement}", style=style)


@app.command()
def ps(
    as_json: AsJson = False,
    show_all: Annotated[
        bool, typer.Option("--all", "-a", help="Show terminated machines as well.")
    ] = False,
) -> None:
    """List the machines; does not start the local cloud."""
    cloud = LocalCloud(Settings())
    running = cloud.is_running()
    # Listing would start it, and with it every machine.
    found = cloud.list_instances(_REGION, tags={}) if running else []
    instances = [each for each in found if show_all or each.state is not InstanceState.TERMINATED]
    if as_json:
        print_json([_as_json(each) for each in instances])
        return
    if not running:
        say("The local cloud is not running; `slipway local up` starts it.")
        return
    table = Table(box=None, header_style="bold")
    for title in ("INSTANCE", "SERVER", "STATE", "SSH", "IMAGE", "CREATED", "REASON"):
        table.add_column(title, overflow="fold")
    for each in instances:
        table.add_row(
            each.id,
            each.tags.get(TAG_SERVER, "-"),
            each.state,
            f"{each.address}:{each.ssh_port}" if each.address else "-",
            each.image_id,
            each.created_at.astimezone().isoformat(" ", "seconds"),
            each.state_reason,
        )
    stdout().print(table)


@app.command()
def console(
    machine: Annotated[str, typer.Argument(help="An instance id, or a server's name.")],
) -> None:
    """Print what a machine's console has shown."""
    cloud = LocalCloud(Settings())
    instance = _find(cloud.list_instances(_REGION, tags={}), machine)
    typer.echo(cloud.console_output(_REGION, instance.id), nl=False)


@app.command()
def down() -> None:
    """End the local cloud and all that runs on its machines; their disks are kept."""
    cloud = LocalCloud(Settings())
    was_running = cloud.is_running()
    cloud.down()
    what = "has ended; its machines' disks are kept" if was_running else "was not running"
    say(f"The local cloud {what}.")


def _find(instances: Sequence[Instance], machine: str) -> Instance:
    """The instance of this id, else the newest of this server. Raises `InvalidInput`."""
    for each in instances:
        if each.id == machine:
            return each
    named = [each for each in instances if each.tags.get(TAG_SERVER) == machine]
    if named:
        return max(named, key=lambda each: each.created_at)
    known = sorted({each.tags.get(TAG_SERVER, each.id) for each in instances})
    there = f"there are {', '.join(known)}" if known else "there are no machines"
    raise InvalidInput(Problem(where=machine, what=f"no such machine; {there}"))


def _as_json(instance: Instance) -> dict[str, object]:
    return {
        "id": instance.id,
        "server": instance.tags.get(TAG_SERVER),
        "launch": instance.tags.get(TAG_LAUNCH),
        "state": instance.state,
        "state_reason": instance.state_reason,
        "address": instance.address,
        "ssh_port": instance.ssh_port,
        "image_id": instance.image_id,
        "created_at": instance.created_at.isoformat(),
        "tags": dict(instance.tags),
    }
