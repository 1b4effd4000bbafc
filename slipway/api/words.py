"""What names and texts look like on their way in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from fastapi import Path
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.requests import Request

from slipway.errors import InvalidInput, Problem
from slipway.spelling import nearest_or_all

#: Host names and tags are made of it.
NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
TEMPLATE = r"^[a-z0-9][a-z0-9_-]{0,127}$"
#: A tag, ``r4``, the start of a hash, ``head`` or ``latest``.
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
#: ``hello-web``, ``hello-web@prod``.
TEMPLATE_REF = r"^[a-z0-9][a-z0-9_-]{0,127}(@[A-Za-z0-9][A-Za-z0-9._-]{0,127})?$"
ID = r"^[a-z0-9][a-z0-9-]{0,63}$"
#: Not a name: revoking is for exactly one.
ID_OF_ONE = r"^token-[a-z0-9]{17}$"
INPUT = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
CLOUD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
CREDENTIAL = r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}$"
SCRIPT = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
MIRROR = r"^[a-z0-9][a-z0-9.-]{0,62}$"
#: As addresses below /snapshots spell it.
WHEN = r"^(latest|[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}T[0-9]{6}Z)$"
#: The two halves of an audit subject: ``launch/launch-…``.
NOUN = r"^[a-z][a-z-]{0,31}$"
SUBJECT_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"


def known_query(request: Request) -> None:
    """Refuse parameters that nobody has declared, and several values for one: a filter that is
    spelled wrong, or of which only the last value counts, would let through what was not meant.
    Raises `InvalidInput`."""
    if not request.query_params:
        return
    route: APIRoute = request.scope["route"]
    known = dict(_query_parameters(route.dependant))
    given = Counter(name for name, _ in request.query_params.multi_items())
    problems = []
    for name, times in given.items():
        if name not in known:
            what = f"there is no such parameter{nearest_or_all(name, known)}"
        elif times > 1 and not _takes_several(known[name]):
            what = f"it is given {times} times, and takes one value"
        else:
            continue
        problems.append(Problem(where=f"query.{name}", what=what))
    if problems:
        raise InvalidInput(problems)


def _query_parameters(part: Dependant) -> Iterator[tuple[str, Any]]:
    """Name and type of everything a route takes from the query."""
    yield from ((field.alias, field.field_info.annotation) for field in part.query_params)
    for inner in part.dependencies:
        yield from _query_parameters(inner)


def _takes_several(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple) or any(
        _takes_several(each) for each in get_args(annotation)
    )


LaunchId = Annotated[
    str,
    Path(pattern=ID, description="Id of the launch.", examples=["launch-01hkx3v9q2m4c7d8e"]),
]
ServerName = Annotated[
    str, Path(pattern=NAME, description="Name of the server.", examples=["web-1"])
]
EnvironmentName = Annotated[
    str, Path(pattern=NAME, description="Name of the environment.", examples=["staging"])
]
TemplateName = Annotated[
    str, Path(pattern=TEMPLATE, description="Name of the template.", examples=["hello-web"])
]


class Given(BaseModel):
    """The base of everything that is sent to us."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _text_only(cls, data: Any) -> Any:
        if _has_nul(data):
            raise ValueError("text with the character U+0000 cannot be stored")
        return data


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(_has_nul(item) for item in value)
    return False
