"""``slipway cloud``: where servers can be launched, and what that takes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from slipway.cli import completing
from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say, stderr
from slipway.cli.session import session
from slipway.errors import InvalidInput, NotFound, Problem, SlipwayError

app = typer.Typer(
    help="Clouds: the local one, and those of SLIPWAY_CLOUDS_FILE.", no_args_is_help=True
)


@app.command(name="list")
def list_(context: typer.Context, as_json: AsJson = False) -> None:
    """List the clouds that are configured, with their regions. Asks none of them anything.

    Example: `slipway cloud list`.
    """
    services = session(context).services
    found = [(name, services.clouds[name]) for name in services.clouds]
    if as_json:
        print_json([{"name": n, "kind": c.kind, "regions": list(c.regions())} for n, c in found])
        return
    for name, cloud in found:
        typer.echo(f"{name} ({cloud.kind}): {', '.join(cloud.regions())}")


@app.command()
def check(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A cloud of the file.", metavar="NAME", autocompletion=completing.clouds
        ),
    ],
) -> None:
    """Ask a cloud, in each of its regions, what a launch asks: that keys and permissions do.

    Nothing is created. Ends with code 1 when a region does not answer.

    Example: `slipway cloud check local`.
    """
    from slipway.clouds.base import TAG_INSTALLATION
    from slipway.spelling import nearest_or_all

    services = session(context).services
    if name not in services.clouds:
        raise NotFound(f"there is no cloud {name}{nearest_or_all(name, services.clouds)}")
    cloud = services.clouds[name]
    failed = False
    for region in cloud.regions():
        try:
            types = cloud.instance_types(region)
            tags = {TAG_INSTALLATION: services.installation_id}
            ours = len(cloud.list_instances(region, tags=tags))
        except SlipwayError as error:
            failed = True
            stderr().print(f"{region}: {error}", style="red", markup=False)
            continue
        told = f"{len(types)} instance types, " if types else ""
        say(f"{region}: answers; {told}{ours} instances of ours")
    if failed:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def policy(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            help="A cloud of kind ec2.", metavar="NAME", autocompletion=completing.clouds
        ),
    ],
) -> None:
    """Print the IAM policy with the least that this installation needs in an account of EC2.

    Example: `slipway cloud policy aws`.
    """
    from slipway.clouds.ec2_policy import policy as least
    from slipway.launches.cloud_file import read_clouds

    found = session(context)
    file = found.settings.clouds_file
    entries = {} if file is None else read_clouds(file)
    if name not in entries:
        what = (
            f"SLIPWAY_CLOUDS_FILE has no cloud of this name (it has {', '.join(entries) or 'none'})"
        )
        raise InvalidInput(Problem(where=f"cloud {name}", what=what))
    entry = entries[name]
    document = least(
        found.services.installation_id,
        regions=list(entry.regions),
        instance_profile=entry.instance_profile,
        queues=[each.events_queue for each in entry.regions.values() if each.events_queue],
    )
    typer.echo(json.dumps(document, indent=2))
