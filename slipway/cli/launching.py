"""``slipway launch``: check everything, put it on record, hand it over, watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli import completing
from slipway.cli.codes import ExitCode
from slipway.cli.output import AsJson, print_json, say
from slipway.cli.session import Session, actor, session
from slipway.cli.wiring import EngineFailed
from slipway.errors import InvalidInput, NotFound, Problem, SlipwayError

if TYPE_CHECKING:
    from slipway.cli.giving import Given
    from slipway.launches.engine import FlowName, Submission
    from slipway.launches.requests import LaunchRequest, Plan
    from slipway.launches.services import Services
    from slipway.records import Launch
    from slipway.servertemplates import DeclaredInput


class OnFailure(StrEnum):
    """What happens to the instance of a launch that strands."""

    KEEP = "keep"
    TERMINATE = "terminate"


class Connect(StrEnum):
    """How we get onto a server."""

    SSH = "ssh"
    AGENT = "agent"


Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Watch until it is over, or only hand it over.")
]


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(launch)


def launch(
    context: typer.Context,
    template: Annotated[
        str,
        typer.Argument(
            help="NAME, or NAME@VERSION: a tag (prod), a revision (r4), the start of a hash.",
            autocompletion=completing.templates,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the server; else the template's and the next free number."),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--environment",
            "--env",
            "-e",
            help="Environment whose inputs and freeze date apply.",
            autocompletion=completing.environments,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", help="NAME=VALUE; may be given several times.", metavar="NAME=VALUE"
        ),
    ] = None,
    inputs_file: Annotated[
        Path | None,
        typer.Option(help="YAML file with one NAME: value a line; --input wins over it."),
    ] = None,
    cloud: Annotated[str, typer.Option(help="Cloud to launch in.")] = "local",
    region: Annotated[
        str | None, typer.Option(help="Region; the cloud's first one when not given.")
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="Instance type; what the template says when not given.")
    ] = None,
    freeze: Annotated[
        datetime | None,
        typer.Option(
            help="Install packages as they were on this day.", formats=["%Y-%m-%d"], metavar="DATE"
        ),
    ] = None,
    connect: Annotated[
        Connect | None,
        typer.Option(
            help="Log in by SSH, or let the server's agent call us; what the template says when "
            "not given."
        ),
    ] = None,
    on_failure: Annotated[
        OnFailure, typer.Option(help="When it strands, keep the instance or terminate it.")
    ] = OnFailure.KEEP,
    count: Annotated[
        int, typer.Option(help="How many servers: NAME-1, NAME-2, …", min=1, max=1000)
    ] = 1,
    key: Annotated[
        str | None,
        typer.Option(help="Idempotency key: the same key finds the launch instead of another."),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Show what would be created, and create nothing.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Bring up a server from a ServerTemplate, or several at once.

    Everything is checked before anything is created, and all problems are reported together.
    Example: `slipway launch hello-web --name web-1 --input GREETING=hello`.

    A secret input never takes its value from the command line. It is given as `NAME=@FILE` (the
    content of a file), `NAME=-` (asked for without echo, or one line of standard input),
    `NAME=var:VARIABLE` (an environment variable) or `NAME=cred:CREDENTIAL` (see
    `slipway credential set`). An input that is an attribute of another server is given as
    `NAME=SERVER.private_ip` or `NAME=SERVER.outputs.url`; the launch waits until it is known.

    Exit codes: 0 all servers are operational; 1 one is stranded or cancelled; 2 the request was
    refused and nothing was created; 3 the engine could not be reached or its process ended, take
    the launch up with `slipway resume`; 130 you stopped watching (Ctrl-C), the launch goes on.
    """
    from slipway.cli import giving
    from slipway.launches.requests import find_by_key

    found = session(context)
    services = found.services
    names, known = server_names(services, template, name, count), []
    keys = {each: key if count == 1 else f"{key}/{each}" for each in names} if key else {}
    if keys:
        known = [done for each in names if (done := find_by_key(services, keys[each]))]
        if count == 1 and known:
            names = [known[0].server_name]
            keys = {names[0]: str(key)}
    given = giving.collect(declared_inputs(services, template), inputs or [], inputs_file)
    fields: dict[str, Any] = {
        "template": template,
        "environment": environment,
        "inputs": given.plain,
        "cloud": cloud,
        "region": region,
        "instance_type": instance_type,
        "freeze": freeze.date() if freeze else None,
        "connect": connect.value if connect else None,
        "on_failure": on_failure.value,
    }
    fresh = [each for each in names if each not in {done.server_name for done in known}]
    plans = plan(services, fields, fresh, given, keys)
    if plan_only:
        say_known(known)
        _show_plans(services, plans, as_json)
        return
    ui_url = found.ready()
    recorded = [*known, *record(services, plans)]
    recorded.sort(key=lambda each: names.index(each.server_name))
    say_known(known)
    if not wait:
        submit(found, recorded, fields)
        _tell_handed_over(recorded, as_json)
        return
    raise typer.Exit(_drive(found, recorded, fields, ui_url, as_json=as_json))


def _show_plans(services: Services, plans: Sequence[Plan], as_json: bool) -> None:
    from slipway.cli.plans import plan_data, show_plan

    found = [plan_data(services, each) for each in plans]
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
        return
    for data in found:
        show_plan(data)
    say("nothing was created")


def server_names(services: Services, template: str, name: str | None, count: int) -> list[str]:
    """The names to launch under. Without a name they are the template's with free numbers."""
    from slipway.launches.requests import list_launches

    if name is not None:
        return [name] if count == 1 else [f"{name}-{n}" for n in range(1, count + 1)]
    taken = {launch.server_name for launch in list_launches(services)}
    base = template.partition("@")[0]
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if f"{base}-{number}" not in taken:
            found.append(f"{base}-{number}")
    return found


def declared_inputs(services: Services, template: str) -> Mapping[str, DeclaredInput]:
    """The template's inputs; none when it cannot be read, which planning reports."""
    try:
        return services.templates.get(template).inputs
    except (InvalidInput, NotFound):
        return {}


def plan(
    services: Services,
    fields: Mapping[str, Any],
    names: Sequence[str],
    given: Given,
    keys: Mapping[str, str],
) -> list[Plan]:
    """Check everything. Raises `InvalidInput` with all problems, those of ``given`` included."""
    from pydantic import ValidationError

    from slipway.launches.requests import LaunchRequest, plan_launches

    problems = list(given.problems)
    requests: list[LaunchRequest] = []
    for name in names:
        try:
            requests.append(LaunchRequest(name=name, key=keys.get(name), **fields))
        except ValidationError as error:
            problems += [
                Problem(where=" ".join(str(part) for part in each["loc"][:2]), what=each["msg"])
                for each in error.errors()
            ]
    plans: list[Plan] = []
    try:
        plans = plan_launches(services, requests, secrets=given.secrets)
    except InvalidInput as error:
        problems += error.problems
    if problems:
        raise InvalidInput(dict.fromkeys(problems))
    return plans


def record(services: Services, plans: Sequence[Plan]) -> list[Launch]:
    """Put all on record; from here on nothing is lost, whatever happens to this process."""
    from slipway.launches.requests import record_launch

    done: list[Launch] = []
    try:
        # One at a time: what went before is on record when one goes wrong.
        done.extend(record_launch(services, each, actor=actor()) for each in plans)
    except SlipwayError:
        if done:
            names = " ".join(launch.server_name for launch in done)
            say(f"recorded before this went wrong, and not started: {names}")
        raise
    return done


def submit(found: Session, launches: Sequence[Launch], fields: Mapping[str, Any]) -> Submission:
    """Hand recorded launches over to the engine, known by their keys and without secrets. Raises
    `EngineFailed` saying how to go on."""
    requests = [request_of(each, fields).model_dump(mode="json") for each in launches]
    if len(requests) == 1:
        flow: FlowName = "launch_server"
        parameters: dict[str, Any] = {"request": requests[0]}
    else:
        flow, parameters = "launch_servers", {"requests": requests}
    try:
        return found.engine.submit(flow, parameters)
    except (SlipwayError, OSError) as error:
        first = launches[0].server_name
        raise EngineFailed(
            f"the launch is on record and was not started: {error}; "
            f"start it with 'slipway resume {first}'"
        ) from error


def say_known(known: Sequence[Launch]) -> None:
    """Tell that a key was used before."""
    for launch in known:
        say(f"this key is known: launch {launch.id} of {launch.server_name}, {launch.status}")


def request_of(launch: Launch, fields: Mapping[str, Any]) -> LaunchRequest:
    """What the flow finds the recorded launch by."""
    from slipway.launches.requests import LaunchRequest

    return LaunchRequest(name=launch.server_name, key=launch.idempotency_key, **fields)


def _drive(
    found: Session,
    launches: Sequence[Launch],
    fields: Mapping[str, Any],
    ui_url: str,
    *,
    as_json: bool,
) -> ExitCode:
    from slipway.cli import watching
    from slipway.cli.output import stderr, stdout
    from slipway.launches.work import get_launch
    from slipway.lifecycle import subject_of
    from slipway.steps import is_driven

    services = found.services
    console = stderr() if as_json else stdout()
    names = [launch.server_name for launch in launches]
    busy = [
        launch
        for launch in launches
        if is_driven(services.database, services.clock, subject_of(launch.id))
    ]
    # Only a launch that was asked for before, by its key, can be over or in somebody's hands.
    submission = None
    if len(busy) < len(launches) and not all(watching.is_over(each) for each in launches):
        submission = submit(found, launches, fields)
    if len(launches) == 1:
        launch = launches[0]
        console.print(f"[bold]{names[0]}[/]  launch {launch.id}  in Prefect: {ui_url}")
        with watching.interruptible(names[0]):
            watched = watching.watch(services, launch, submission, console=console)
        code = watching.ended(watched, submission=submission, ui_url=ui_url, console=console)
    else:
        console.print(
            f"[bold]{len(names)} servers[/]  {names[0]} … {names[-1]}  in Prefect: {ui_url}"
        )
        with watching.interruptible(names[0], what="the launches go on"):
            runs = {launch.id: submission for launch in launches} if submission else {}
            all_watched = watching.watch_many(services, launches, runs, console=console)
        code = summary(all_watched, submission)
    if as_json:
        from slipway.cli.servers import launch_data

        fresh = [launch_data(services, get_launch(services, each.id)) for each in launches]
        print_json(fresh[0] if len(fresh) == 1 else fresh)
    return code


def summary(watched: Sequence[Any], submission: Submission | None) -> ExitCode:
    """Say on stderr how many came up; answers what to exit with."""
    from slipway.records import LaunchStatus

    good = [each for each in watched if each.launch.status == LaunchStatus.OPERATIONAL]
    crashed = [each for each in watched if each.crashed]
    say(f"\n{len(good)} of {len(watched)} servers are operational")
    if crashed:
        log = f"; its log: {submission.log_file}" if submission else ""
        say(f"the process that drove {len(crashed)} launches ended before they did{log}")
        for each in crashed:
            say(f"  slipway resume {each.launch.server_name}")
        return ExitCode.ENGINE
    bad = [each.launch.server_name for each in watched if each not in good]
    if bad:
        say(f"look at one: slipway show {bad[0]}    try again: slipway resume {bad[0]}")
        return ExitCode.FAILED
    return ExitCode.FINE


def _tell_handed_over(launches: Sequence[Launch], as_json: bool) -> None:
    if as_json:
        data = [
            {"server": each.server_name, "launch": each.id, "status": each.status}
            for each in launches
        ]
        print_json(data[0] if len(data) == 1 else data)
        return
    for each in launches:
        typer.echo(f"{each.server_name}  {each.id}")
    say(f"follow it: slipway audit follow {launches[0].server_name}")
