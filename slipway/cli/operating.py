"""What is done with servers that exist: resume, cancel, run, ssh, decommission."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slipway.cli import completing
from slipway.cli.codes import ExitCode
from slipway.cli.launching import Wait
from slipway.cli.output import AsJson, print_json, say, stderr, stdout
from slipway.cli.servers import Server
from slipway.cli.session import Session, actor, session
from slipway.cli.wiring import EngineFailed
from slipway.errors import Conflict, InvalidInput, Problem, SlipwayError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slipway.launches.engine import FlowName, Submission
    from slipway.launches.services import Services
    from slipway.records import Launch

#: How long `cancel` waits for the launch's driver to let go; it looks every two seconds.
CANCEL_LIMIT_S = 30.0


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(resume)
    app.command()(cancel)
    app.command()(run)
    settings = {"allow_interspersed_args": False, "ignore_unknown_options": True}
    app.command(context_settings=settings)(ssh)
    app.command()(decommission)


def resume(
    context: typer.Context, server: Server, wait: Wait = True, as_json: AsJson = False
) -> None:
    """Take a launch up again that stranded, was cancelled, or lost its driver.

    Finished steps are skipped, and no script runs twice.

    Example: `slipway resume web-1`.
    """
    from slipway.cli import watching
    from slipway.launches.requests import find_launch
    from slipway.lifecycle import PHASES
    from slipway.records import LaunchStatus

    found = session(context)
    services = found.services
    launch = find_launch(services, server)
    if launch.status == LaunchStatus.OPERATIONAL:
        say(f"{launch.server_name} is operational already")
        _as_json(services, launch, as_json)
        return
    if launch.status in (LaunchStatus.DECOMMISSIONING, LaunchStatus.TERMINATED):
        raise Conflict(
            f"server {launch.server_name} is {launch.status}: launch it anew, "
            "or finish taking it down with 'slipway decommission'"
        )
    if launch.status in PHASES:
        # Of an attempt that is over, its driver lets go in a moment: the flow waits for that.
        _check_free(services, launch)
    ui_url = found.ready()
    after = watching.last_seq(services, launch)
    submission = _submit(found, "resume_launch", {"launch": launch.id})
    if not wait:
        _as_json(services, launch, as_json)
        say(f"follow it: slipway audit follow {launch.server_name}")
        return
    console = stderr() if as_json else stdout()
    with watching.interruptible(launch.server_name):
        watched = watching.watch(services, launch, submission, after=after, console=console)
    code = watching.ended(watched, submission=submission, ui_url=ui_url, console=console)
    _as_json(services, watched.launch, as_json)
    raise typer.Exit(code)


def cancel(context: typer.Context, server: Server, as_json: AsJson = False) -> None:
    """Stop a launch that is under way; the instance is kept.

    Example: `slipway cancel web-1`.
    """
    from slipway.launches.ending import cancel_undriven, check_cancellable, request_cancel
    from slipway.launches.requests import find_launch
    from slipway.launches.work import get_launch
    from slipway.lifecycle import subject_of
    from slipway.records import LaunchStatus
    from slipway.steps import is_driven

    services = session(context).services
    launch = find_launch(services, server)
    name = launch.server_name
    check_cancellable(launch)
    request_cancel(services, launch.id, actor=actor())
    clock = services.clock
    give_up = clock.monotonic() + CANCEL_LIMIT_S
    while is_driven(services.database, clock, subject_of(launch.id)):
        if clock.monotonic() > give_up:
            raise SlipwayError(
                f"server {name} was asked to cancel and its driver has not let go after "
                f"{CANCEL_LIMIT_S:.0f} s; see 'slipway audit follow {name}'"
            )
        clock.sleep(0.2)
    cancel_undriven(services, launch.id, actor=actor())
    launch = get_launch(services, launch.id)
    _as_json(services, launch, as_json)
    say(f"{name} is {launch.status}")
    if launch.status == LaunchStatus.CANCELLED:
        say(f"go on: slipway resume {name}    end it: slipway decommission {name}")
    else:
        raise typer.Exit(ExitCode.FAILED)


def run(
    context: typer.Context,
    server: Server,
    script: Annotated[
        str,
        typer.Argument(
            help="One of the template's operational scripts.", autocompletion=completing.scripts
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            help="NAME=VALUE for this run only; a secret as NAME=cred:CREDENTIAL.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Run an operational script on a server that is up.

    Example: `slipway run web-1 set-greeting --input GREETING=hello`.
    """
    from slipway.cli import watching
    from slipway.launches.operations import OperationRequest, check
    from slipway.launches.requests import find_launch
    from slipway.records import StepStatus
    from slipway.steps import steps_of

    found = session(context)
    services = found.services
    launch = find_launch(services, server)
    given = _operational_inputs(services, launch, inputs or [])
    request = OperationRequest(
        server=launch.id, script=script, inputs=given, key=f"cli-{secrets.token_hex(12)}"
    )
    check(services, launch, request)
    _check_free(services, launch)
    found.ready()
    after = watching.last_seq(services, launch)
    parameters = {"request": request.model_dump(mode="json")}
    submission = _submit(found, "run_operational_script", parameters)
    if not wait:
        if as_json:
            print_json({"server": launch.server_name, "script": script, "key": request.key})
        say(f"follow it: slipway audit show {launch.server_name}")
        return
    key = f"operational:{script}:{request.key}"

    def step() -> Any:
        from slipway.lifecycle import subject_of

        steps = steps_of(services.database, subject_of(launch.id))
        return next((each for each in steps if each.key == key), None)

    def over(_launch: Launch, _story: object) -> bool:
        ran = step()
        return ran is not None and ran.status == StepStatus.SUCCEEDED

    console = stderr() if as_json else stdout()
    with watching.interruptible(launch.server_name, what="the script goes on"):
        watched = watching.watch(
            services, launch, submission, after=after, until=over, console=console
        )
    ran = step()
    if as_json:
        print_json(
            {
                "server": launch.server_name,
                "script": script,
                "key": request.key,
                "status": ran.status if ran else "lost",
                "error": ran.error if ran else "",
                "outputs": watched.launch.outputs,
            }
        )
    if ran is not None and ran.status == StepStatus.SUCCEEDED:
        return
    if ran is None or ran.status == StepStatus.RUNNING:
        say(f"the process that ran it ended before the script did; its log: {submission.log_file}")
        raise typer.Exit(ExitCode.ENGINE)
    say(f"{script} on {launch.server_name} failed: {ran.error}")
    raise typer.Exit(ExitCode.FAILED)


def ssh(
    context: typer.Context,
    server: Server,
    command: Annotated[
        list[str] | None, typer.Argument(help="Command to run there; a shell when there is none.")
    ] = None,
) -> None:
    """Log in to a server with the system's SSH client, our key, and the pinned host key only.

    Example: `slipway ssh web-1 uptime`.
    """
    from slipway.launches.requests import find_launch

    services = session(context).services
    launch = find_launch(services, server)
    arguments = ssh_arguments(services, launch, command or [])
    try:
        os.execvp(arguments[0], arguments)  # noqa: S606 - no shell, and that is the point
    except FileNotFoundError as error:
        raise SlipwayError("there is no program 'ssh' on PATH; install OpenSSH's client") from error


def ssh_arguments(services: Services, launch: Launch, command: list[str]) -> list[str]:
    """The client's command line. Raises `Conflict` while there is nothing to log in to."""
    from slipway.records import LaunchStatus

    name, address = launch.server_name, launch.public_ip or launch.private_ip
    if launch.status == LaunchStatus.TERMINATED:
        raise Conflict(f"server {name} is terminated")
    if address is None:
        raise Conflict(f"server {name} is {launch.status} and has no address yet")
    if launch.connect == "agent":
        raise Conflict(f"nobody can log in to server {name}: its agent calls us; use 'slipway run'")
    if launch.host_key is None:
        raise Conflict(f"the host key of server {name} is not known yet: it is still booting")
    known_hosts = _known_hosts(services.settings.state_dir, launch)
    options = {
        "HostKeyAlias": launch.id,
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentitiesOnly": "yes",
        "UpdateHostKeys": "no",
    }
    found = ["ssh", "-i", str(services.ssh_key_file), "-p", str(launch.ssh_port)]
    for option, value in options.items():
        # ssh splits values at blanks, as in its configuration file.
        found += ["-o", f'{option}="{value}"' if " " in value else f"{option}={value}"]
    return [*found, "-l", launch.login_user, address, *command]


def decommission(
    context: typer.Context,
    servers: Annotated[
        list[str],
        typer.Argument(
            help="Names of servers, or ids of launches.",
            metavar="SERVER...",
            autocompletion=completing.servers,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Run the decommission scripts, then end the instances for good.

    It asks first where somebody sits at a terminal.

    Example: `slipway decommission web-1 --yes`.
    """
    from slipway.cli.servers import launch_data
    from slipway.launches.work import get_launch
    from slipway.records import LaunchStatus

    found = session(context)
    services = found.services
    launches = list({each.id: each for each in _find_all(services, servers)}.values())
    for launch in launches:
        if launch.status == LaunchStatus.TERMINATED:
            say(f"{launch.server_name} is terminated already")
    todo = [launch for launch in launches if launch.status != LaunchStatus.TERMINATED]
    if todo and not yes and sys.stdin.isatty():
        names = ", ".join(launch.server_name for launch in todo)
        if not typer.confirm(f"End {names} for good?", err=True):
            say("nothing was done")
            raise typer.Exit(ExitCode.FAILED)
    code = ExitCode.FINE
    if todo:
        code = take_down(found, todo, wait=wait, quiet=as_json)
    if as_json:
        fresh = [get_launch(services, launch.id) for launch in launches]
        print_json([launch_data(services, launch, steps=False) for launch in fresh])
    raise typer.Exit(code)


def take_down(
    found: Session, launches: list[Launch], *, wait: bool = True, quiet: bool = False
) -> ExitCode:
    """Decommission servers, and show it."""
    from slipway.cli import watching
    from slipway.records import LaunchStatus

    services = found.services
    found.ready()
    after = {launch.id: watching.last_seq(services, launch) for launch in launches}
    runs = {
        launch.id: _submit(found, "decommission_server", {"server": launch.id})
        for launch in launches
    }
    if not wait:
        for launch in launches:
            say(f"follow it: slipway audit follow {launch.server_name}")
        return ExitCode.FINE
    console = stderr() if quiet else stdout()
    first = launches[0]
    with watching.interruptible(first.server_name, what="the decommission goes on"):
        if len(launches) == 1:
            ended = [
                watching.watch(
                    services,
                    first,
                    runs[first.id],
                    after=after[first.id],
                    until=lambda now, _: now.status == LaunchStatus.TERMINATED,
                    console=console,
                )
            ]
        else:
            ended = watching.watch_many(
                services, launches, runs, wanted=LaunchStatus.TERMINATED, console=console
            )
    code = ExitCode.FINE
    for each in ended:
        if each.launch.status != LaunchStatus.TERMINATED:
            name = each.launch.server_name
            say(f"{name} is {each.launch.status}, not terminated: slipway show {name}")
            say(f"  the log of who did it: {runs[each.launch.id].log_file}")
            say(f"  try again: slipway decommission {name}")
            code = ExitCode.ENGINE
    return code


def _find_all(services: Services, names: list[str]) -> list[Launch]:
    """All of them or, with every problem, none."""
    from slipway.errors import NotFound
    from slipway.launches.requests import find_launch

    found, problems = [], []
    for name in names:
        try:
            found.append(find_launch(services, name))
        except NotFound as error:
            problems.append(Problem(where=f"server {name}", what=str(error)))
    if problems:
        raise InvalidInput(problems)
    return found


def _operational_inputs(services: Services, launch: Launch, arguments: list[str]) -> dict[str, Any]:
    from slipway.cli.giving import pairs
    from slipway.launches.inputs import template_of

    values, given = pairs(arguments)
    declared = template_of(services, launch).inputs
    problems = given.problems
    for name, value in values.items():
        if name in declared and declared[name].type == "secret" and not value.startswith("cred:"):
            what = (
                "a secret never stands in an argument; store it with 'slipway credential set "
                f"NAME' and give {name}=cred:NAME"
            )
            problems.append(Problem(where=f"input {name}", what=what))
    if problems:
        raise InvalidInput(problems)
    return dict(values)


def _check_free(services: Services, launch: Launch) -> None:
    """Raises `Conflict` while another process works on the launch."""
    from slipway.lifecycle import subject_of
    from slipway.steps import is_driven

    if is_driven(services.database, services.clock, subject_of(launch.id)):
        raise Conflict(
            f"server {launch.server_name} is being worked on now; "
            f"watch it: slipway audit follow {launch.server_name}"
        )


def _submit(found: Session, flow: FlowName, parameters: Mapping[str, Any]) -> Submission:
    try:
        return found.engine.submit(flow, parameters)
    except (SlipwayError, OSError) as error:
        raise EngineFailed(f"the engine did not take it, nothing was done: {error}") from error


def _known_hosts(state_dir: Path, launch: Launch) -> Path:
    """A file with the one host key that is right for this launch."""
    directory = state_dir / "keys" / "known_hosts"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = directory / launch.id
    draft = path.with_name(f".{launch.id}.{os.getpid()}")
    draft.write_text(f"{launch.id} {launch.host_key}\n")
    draft.replace(path)
    return path


def _as_json(services: Services, launch: Launch, as_json: bool) -> None:
    if as_json:
        from slipway.cli.servers import launch_data

        print_json(launch_data(services, launch))
