"""What is different for a server that calls us: it is told to, and nobody can log in or look in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from slipway.agent import program
from slipway.clouds.base import Cloud
from slipway.errors import Problem
from slipway.launches.services import Services
from slipway.phonehome import user_data
from slipway.phonehome.identity import token_of
from slipway.records import Launch
from slipway.remote.base import Command, Remote
from slipway.servertemplates import ImageChoice, ResolvedTemplate
from slipway.settings import Settings

#: What an image map calls the form of user data, and the agent that runs there.
_PROGRAMS: Mapping[str, str] = {
    "cloud-init": "agent.py",
    "shell": "agent.py",
    "powershell": "agent.ps1",
}

#: For one look from inside; the agent's own Python, because a server need not have curl.
_LOOK_TIMEOUT_S = 30.0
_LOOK = """\
import http.client, json, socket, sys
address, timeout_s, checks = json.load(sys.stdin)
for check in checks:
    try:
        if "http" in check:
            asked = http.client.HTTPConnection(address, check["port"], timeout=timeout_s)
            asked.request("GET", check["http"])
            status = asked.getresponse().status
            said = "" if status == check["status"] else "it answered %d" % status
        else:
            socket.create_connection((address, check["tcp"]), timeout_s).close()
            said = ""
    except (OSError, http.client.HTTPException) as error:
        said = str(error) or type(error).__name__
    print(said.replace("\\n", " "))
"""


def calls_us(launch: Launch) -> bool:
    """Whether the server's agent calls us, because nobody can log in."""
    return launch.connect == "agent"


def problems_with(settings: Settings, cloud: Cloud, image: ImageChoice) -> list[Problem]:
    """Why a server of this image could not call us."""
    problems = []
    trouble = user_data.trouble_with(
        settings.api_url, same_host=cloud.capabilities.instances_on_this_host
    )
    if trouble is not None:
        problems.append(Problem(where="connect: agent", what=trouble))
    if image.user_data_format not in user_data.FORMS:
        what = f"image {image.image} takes no user data, so nothing can be told to start there"
        problems.append(Problem(where="connect: agent", what=what))
    if settings.api_ca_file is not None and not settings.api_ca_file.is_file():
        what = f"SLIPWAY_API_CA_FILE names {settings.api_ca_file}, and there is no such file"
        problems.append(Problem(where="connect: agent", what=what))
    return problems


def expect_agent(services: Services, connection: sa.Connection, launch: Launch) -> None:
    """In the transaction of the intent to create: what its user data will say from now on."""
    settings = services.settings
    ca = settings.api_ca_file.read_text() if settings.api_ca_file is not None else ""
    services.identities.expect(
        connection,
        launch.id,
        launch.generation,
        api_url=settings.api_url,
        program=program(_PROGRAMS[_form(services, launch)]),
        ca=ca,
    )


def user_data_of(services: Services, launch: Launch) -> str:
    """The same at every try, or a cloud would take the second for another request."""
    agent = services.identities.find(launch.id, launch.generation)
    assert agent is not None, "the intent has recorded it"
    token = token_of(services.vault, launch.id, launch.generation)
    return user_data.render(_form(services, launch), agent, token.get_secret_value())


def failed_check_inside(
    remote: Remote, address: str, checks: Sequence[Mapping[str, Any]], *, timeout_s: float
) -> tuple[int, str] | None:
    """Which check does not hold, seen from the server itself, and what was seen; None when all do.

    Raises `RemoteError`.
    """
    asked = json.dumps([address, timeout_s, checks]).encode()
    text = f"p=$(command -v python3 || echo /usr/libexec/platform-python); exec \"$p\" -c '{_LOOK}'"
    result = remote.run(Command(text=text, timeout_s=_LOOK_TIMEOUT_S, stdin=asked))
    if result.exit_code != 0:
        return 0, result.stderr.strip().rpartition("\n")[2] or f"exit code {result.exit_code}"
    for number, said in enumerate(result.stdout.split("\n")[: len(checks)]):
        if said:
            return number, said
    return None


def _form(services: Services, launch: Launch) -> str:
    template: ResolvedTemplate = services.template(launch.template_name, launch.template_hash)
    return template.image_choice(launch.cloud, launch.region).user_data_format
