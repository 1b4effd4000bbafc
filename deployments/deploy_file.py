"""What is to be in Prefect, as a file says it: `prefect.yaml`, with three sections of our own.

`prefect deploy` reads the same file and passes over ``work_pools``, ``blocks`` and ``automations``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slipway.errors import InvalidInput, Problem

#: The file that comes with Slipway, in the checkout and in the wheel.
SHIPPED = Path(__file__).with_name("prefect.yaml")

_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WorkPool(_Part):
    """Where workers get their work from."""

    name: str
    type: str = "slipway-inprocess"
    description: str | None = None
    concurrency_limit: int | None = Field(default=None, ge=1)
    #: Only for pools of other types; ours needs none.
    base_job_template: dict[str, Any] | None = None


class BlockDocument(_Part):
    """One block, by its type's slug."""

    type: str
    name: str
    values: dict[str, Any] = Field(default_factory=dict)


class Schedule(_Part):
    """When a deployment runs by itself. Exactly one of the first three is given."""

    cron: str | None = None
    interval: float | None = Field(default=None, gt=0)
    rrule: str | None = None
    timezone: str = "UTC"
    slug: str
    #: Left as it is on the server when not given: somebody may have paused it there.
    active: bool | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


class ConcurrencyLimit(_Part):
    """How many runs of a deployment there may be at once, and what becomes of one more."""

    limit: int = Field(ge=1)
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"] = "ENQUEUE"


class PoolOf(_Part):
    """Which pool and queue a deployment's runs wait in, and how they are run there."""

    name: str
    work_queue_name: str = "default"
    job_variables: dict[str, Any] = Field(default_factory=dict)


class Deployment(_Part):
    """One flow, with when and where it runs."""

    name: str
    entrypoint: str
    description: str | None = None
    version: str | None = None
    tags: list[str] = Field(default_factory=list)
    parameters: dict[str, Any] = Field(default_factory=dict)
    enforce_parameter_schema: bool = True
    concurrency_limit: ConcurrencyLimit | None = None
    work_pool: PoolOf
    schedules: list[Schedule] = Field(default_factory=list)
    #: As in Prefect's own file: https://docs.prefect.io/v3/how-to-guides/automations
    triggers: list[dict[str, Any]] = Field(default_factory=list)
    #: Left as it is on the server when not given.
    paused: bool | None = None

    @field_validator("concurrency_limit", mode="before")
    @classmethod
    def _a_number_is_a_limit(cls, value: Any) -> Any:
        return {"limit": value} if isinstance(value, int) else value

    @field_validator("entrypoint")
    @classmethod
    def _by_module_path(cls, value: str) -> str:
        if ":" in value or "." not in value:
            raise ValueError(
                f"{value!r} is no module path such as flows.launch_server.launch_server; a file "
                "path would load the module a second time"
            )
        return value


class Automation(_Part):
    """What Prefect does by itself when something happens."""

    name: str
    description: str = ""
    enabled: bool = True
    trigger: dict[str, Any]
    #: As in Prefect; ``block: TYPE-SLUG/NAME`` stands for the id of a block. An automation whose
    #: block is not named is left out.
    actions: list[dict[str, Any]]


class DeployFile(BaseModel):
    """The whole file. Other keys of Prefect's are none of our business."""

    model_config = ConfigDict(extra="ignore")

    work_pools: list[WorkPool] = Field(default_factory=list)
    blocks: list[BlockDocument] = Field(default_factory=list)
    deployments: list[Deployment] = Field(default_factory=list)
    automations: list[Automation] = Field(default_factory=list)


def read(path: Path, environ: Mapping[str, str] | None = None) -> DeployFile:
    """Read a file; ``{{ $NAME }}`` in it stands for a variable of the environment, and for nothing
    where that is not set. Raises `InvalidInput` with every problem."""
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InvalidInput(Problem(where=str(path), what=str(error.strerror or error))) from error
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise InvalidInput(Problem(where=str(path), what=f"it is no YAML: {said}")) from error
    try:
        return DeployFile.model_validate(_fill(found, os.environ if environ is None else environ))
    except ValidationError as error:
        raise InvalidInput(
            Problem(where=f"{path}: {_place(each['loc'])}", what=each["msg"])
            for each in error.errors()
        ) from error


def _fill(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(each, environ) for key, each in value.items()}
    if isinstance(value, list):
        return [_fill(each, environ) for each in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: environ.get(found.group(1), ""), value)
    return value


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "the file"
