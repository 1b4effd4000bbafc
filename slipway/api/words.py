"""What names and texts look like on their way in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Path
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, model_validator
from starlette.requests import Request

from slipway.errors import InvalidInput, Problem
from slipway.launches.names import nearest

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
#: The two halves of an audit subject: ``launch/launch-…``.
NOUN = r"^[a-z][a-z-]{0,31}$"
SUBJECT_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$"


def known_query(request: Request) -> None:
    """Refuse parameters that nobody has declared: a filter that is spelled wrong would let
    everything through. Raises `InvalidInput`."""
    if not request.query_params:
        return
    route: APIRoute = request.scope["route"]
    known = frozenset(_query_names(route.dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise InvalidInput(
            Problem(where=f"query.{name}", what=f"there is no such parameter{nearest(name, known)}")
            for name in dict.fromkeys(unknown)
        )


def _query_names(part: Dependant) -> Iterator[str]:
    yield from (field.alias for field in part.query_params)
    for inner in part.dependencies:
        yield from _query_names(inner)


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
