"""What people write: ``template.yaml``, a script's header, an image map; and what is wrong with it.

The models hold one file each, as written. What several files mean together is `layers` and
`resolved`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails

from slipway.errors import Problem
from slipway.servertemplates.inputs import InputDeclaration
from slipway.servertemplates.yaml_source import Located, Path, show_path
from slipway.spelling import nearest

#: How long a script may run when it does not say: packages take minutes, not hours.
DEFAULT_SCRIPT_TIMEOUT_S = 1800

_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,127}$"
_DURATION = re.compile(r"(?P<number>[0-9]+)(?P<unit>s|m|h)\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")
_UNIT_S = {"s": 1, "m": 60, "h": 3600}

#: Stands where a wrong item of a list was.
STAND_IN = "a-part-that-is-wrong"
#: Problems hide problems at most this deep.
_MOST_ROUNDS = 20

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _read_duration(value: Any) -> Any:
    if isinstance(value, str):
        found = _DURATION.match(value)
        if not found:
            raise ValueError(f"{value!r} is not a time; write seconds, or 90s, 10m, 2h")
        return int(found["number"]) * _UNIT_S[found["unit"]]
    return value


def _read_freeze(value: Any) -> Any:
    if isinstance(value, str) and value not in ("none", "environment"):
        if _DATE.match(value):
            try:
                date.fromisoformat(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is not a day of the calendar: {error}") from error
            return value
        hint = nearest(value, ("none", "environment"))
        raise ValueError(f"{value!r} is not a date like 2026-11-01, 'none' or 'environment'{hint}")
    return value


def _read_names(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {name: {} for name in value}
    return value


def _or_names(schema: dict[str, Any]) -> None:
    declarations = {key: schema.pop(key) for key in ("type", "additionalProperties")}
    schema["anyOf"] = [declarations, {"type": "array", "items": {"type": "string"}}]


Duration = Annotated[
    int,
    Field(ge=1, le=86_400),
    BeforeValidator(_read_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 86_400},
                {"type": "string", "pattern": "^[0-9]+(s|m|h)$"},
            ]
        }
    ),
]
#: ``2026-11-01``, ``none`` or ``environment``; a date stays text, as it is hashed.
Freeze = Annotated[
    str,
    BeforeValidator(_read_freeze),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["none", "environment"]},
                {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            ]
        }
    ),
]
Name = Annotated[str, StringConstraints(pattern=_NAME_PATTERN)]
#: ``base-linux``, ``base-linux@v3``.
Include = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,127}(@[A-Za-z0-9][A-Za-z0-9._-]*)?$")
]
Text = Annotated[str, StringConstraints(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65_535)]
Arch = Literal["x86_64", "arm64"]
#: How we get onto a server: we log in, or its agent calls us.
Connect = Literal["ssh", "agent"]
#: What the readiness gates can be asked to see.
LinuxSignal = Annotated[
    Literal["ssh", "cloud-init", "package-lock", "systemd", "root-disk"],
    Field(title="signal of Linux"),
]
WindowsSignal = Annotated[
    Literal["winrm", "setup-complete", "image-state", "ec2launch", "services"],
    Field(title="signal of Windows"),
]


class Settings(_Written):
    """What the instance is, where the template cares. Unset: a layer below, then the image map."""

    instance_type: Text | None = Field(
        default=None, description="The cloud's name for the size; wins over the image map's."
    )
    root_disk_gib: Annotated[int, Field(ge=1, le=65_536)] | None = Field(
        default=None, description="Size of the root disk in GiB; unset: the image's own."
    )
    arch: Arch | None = Field(
        default=None, title="architecture", description="Which entry of the image map is taken."
    )
    tags: dict[str, str] = Field(
        default_factory=dict, description="Tags on the instance, besides Slipway's own."
    )


class Ready(_Written):
    """Which signals must be seen before a script runs, by operating system."""

    linux: tuple[LinuxSignal, ...] | None = Field(
        default=None,
        description="Which signals count where the server has them; the others are hints. "
        "[ssh, cloud-init, package-lock] when not given.",
    )
    ignore_cloud_init_errors: tuple[Text, ...] | None = Field(
        default=None,
        description="cloud-init errors that are harmless, as shell patterns: ['*locale*'].",
    )
    windows: tuple[WindowsSignal, ...] | None = Field(
        default=None, description="For example [winrm, setup-complete, ec2launch]."
    )


class ClockBounds(_Written):
    """What the clock gate asks of a server before its scripts run."""

    max_offset_ms: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Greatest offset from our clock, in milliseconds."
    )
    servers: tuple[Text, ...] | None = Field(
        default=None, description="Time servers that count as a synchronised source."
    )


class HttpCheck(_Written):
    """An HTTP GET to the server answers with this status."""

    http: Annotated[str, StringConstraints(pattern=r"^/")] = Field(description="Path, from '/' on.")
    port: Port = Field(default=80, description="TCP port.")
    status: Annotated[int, Field(ge=100, le=599)] = Field(default=200, description="Wanted status.")


class TcpCheck(_Written):
    """A TCP connection to the server is accepted."""

    tcp: Port = Field(description="TCP port.")


class ScriptCheck(_Written):
    """A script on the server ends with exit code 0."""

    script: Text = Field(description="Path of the script, from the template's directory.")


def _kind_of_check(value: Any) -> str | None:
    if isinstance(value, Mapping):
        kinds = [kind for kind in ("http", "tcp", "script") if kind in value]
    else:
        kinds = [kind for kind in ("http", "tcp", "script") if hasattr(value, kind)]
    return f"a {kinds[0]} check" if len(kinds) == 1 else None


# The tags are words no document has as a key: `_path_of` drops them from pydantic's paths.
HealthCheck = Annotated[
    Annotated[HttpCheck, Tag("a http check")]
    | Annotated[TcpCheck, Tag("a tcp check")]
    | Annotated[ScriptCheck, Tag("a script check")],
    Discriminator(_kind_of_check),
]


class TemplateDocument(_Written):
    """A ServerTemplate as written in ``templates/<name>/template.yaml``."""

    schema_: Literal["slipway/1"] = Field(
        alias="schema", title="template schema", description="Which rules the file follows."
    )
    name: Name = Field(description="The same as the directory's name.")
    description: str = Field(default="", description="What it makes, for people.")
    include: tuple[Include, ...] = Field(
        default=(), description="Layers, base first: NAME, or NAME@TAG, NAME@rN, NAME@HASH."
    )
    image: Name | None = Field(default=None, description="An image map in templates/images.")
    settings: Settings = Field(default_factory=Settings)
    freeze: Freeze | None = Field(
        default=None,
        description="Package repositories as of this date; none; or the environment's date.",
    )
    connect: Annotated[Connect, Field(title="way to connect")] | None = Field(
        default=None,
        description="ssh: we log in (also when not given); agent: the server calls us.",
    )
    inputs: dict[str, InputDeclaration] = Field(
        default_factory=dict, description="What scripts are told, by name."
    )
    ready: Ready = Field(default_factory=Ready)
    clock: ClockBounds = Field(default_factory=ClockBounds)
    health: tuple[HealthCheck, ...] = Field(
        default=(), description="What must hold before the server is operational."
    )
    boot: tuple[Text, ...] = Field(default=(), description="Scripts run in order on every launch.")
    operational: dict[Name, Text] = Field(
        default_factory=dict, description="Scripts run on request, by the name they are asked by."
    )
    decommission: tuple[Text, ...] = Field(
        default=(), description="Scripts run in order before the instance ends."
    )

    def scripts(self) -> list[tuple[Path, str]]:
        """Every script named, with the place it is named at."""
        found: list[tuple[Path, str]] = [(("boot", i), p) for i, p in enumerate(self.boot)]
        found += [(("operational", name), path) for name, path in self.operational.items()]
        found += [(("decommission", i), path) for i, path in enumerate(self.decommission)]
        found += [
            (("health", i, "script"), check.script)
            for i, check in enumerate(self.health)
            if isinstance(check, ScriptCheck)
        ]
        return found


class ScriptHeader(_Written):
    """What a script says about itself, in YAML between ``# ---`` and ``# ...``."""

    name: Text | None = Field(default=None, description="Title; the file's name when not given.")
    description: str = Field(default="", description="What it does, for people.")
    inputs: Annotated[dict[str, InputDeclaration], BeforeValidator(_read_names)] = Field(
        default_factory=dict,
        description="What it is told: declarations by name, or names the template declares.",
        json_schema_extra=_or_names,
    )
    packages: tuple[Text, ...] = Field(
        default=(), description="Packages it installs or needs: for mirrors and manifests."
    )
    timeout: Duration | None = Field(
        default=None, description="Seconds, or 90s, 10m, 2h. 30 minutes when not given."
    )
    retry_safe: bool = Field(
        default=False, description="Whether running it again after a failure is harmless."
    )
    interpreter: Text | None = Field(
        default=None, description="Command line put before the script's path; else the #! line's."
    )


class ImageChoice(_Written):
    """What an image map says for one cloud, region and architecture."""

    image: Text = Field(description="Image id, name or selector as the cloud's adapter reads it.")
    instance_type: Text | None = Field(
        default=None, description="Size when the template does not say one."
    )
    user: Text = Field(default="root", description="Account we log in to.")
    user_data_format: Literal["cloud-init", "shell", "powershell", "none"] = Field(
        default="cloud-init", title="user data format", description="What the image understands."
    )
    os: Literal["linux", "windows"] = Field(default="linux", title="operating system")


class ImageMap(_Written):
    """An image map (MultiCloudImage) as written in ``templates/images/<name>.yaml``."""

    schema_: Literal["slipway-image-map/1"] = Field(
        alias="schema", title="image map schema", description="Which rules the file follows."
    )
    name: Name = Field(description="The same as the file's name.")
    description: str = Field(default="", description="What the images are, for people.")
    entries: dict[str, dict[str, dict[Arch, ImageChoice]]] = Field(
        description="Cloud, or kind of cloud (ec2), then region ('*' is any), then architecture."
    )


def check_model(
    located: Located, model: type[ModelT], *, defaults: Mapping[str, Any] | None = None
) -> tuple[ModelT | None, list[Problem], set[Path]]:
    """Read a document into its model, keeping going: parts that are wrong are reported and left
    out, so that whatever depends on the rest can be checked in the same round.

    ``defaults`` stand in for required fields that are missing. Returns the model (None when not
    even the rest is one), the problems, and the paths that were left out.
    """
    if not isinstance(located.data, dict):
        if located.data is None:
            what = "this is empty; it needs at least " + _required(model)
        else:
            what = f"this is {_shown_type(located.data)}, not a mapping of fields to values"
        return None, [Problem(where=located.where(), what=what)], set()
    data = json.loads(json.dumps(located.data))
    problems: list[Problem] = []
    dropped: set[Path] = set()
    for _ in range(_MOST_ROUNDS):
        try:
            return model.model_validate_json(json.dumps(data)), problems, dropped
        except ValidationError as error:
            before = set(dropped)
            schema = model.model_json_schema()
            wrong = [(_path_of(details, data), details) for details in error.errors()]
            for place, details in wrong:
                missing = details["type"] == "missing"
                path = (*place, str(details["loc"][-1])) if missing else place
                # What is wrong only because a part of it was taken out is not said again.
                again = path in dropped
                if not any(other[: len(path)] == path for other in before):
                    what = _sentence(details, path, schema)
                    problems.append(Problem(where=located.where(path), what=what))
                dropped.add(path)
                # Something that lacks a part cannot stay, unless there is a stand-in for it.
                gone = place if missing and place else path
                dropped.add(gone)
                if gone:
                    _drop(data, gone, defaults or {}, again)
            if dropped == before and not any(isinstance(p[-1], int) for p in dropped if p):
                break
    return None, problems, dropped


def _required(model: type[BaseModel]) -> str:
    names = [f.alias or n for n, f in model.model_fields.items() if f.is_required()]
    return " and ".join(repr(name) for name in names) or "one field"


def _path_of(details: ErrorDetails, data: Any) -> Path:
    """Pydantic's location without the parts that name union members instead of keys."""
    path: list[str | int] = []
    here = data
    for part in details["loc"]:
        known: Any = here if isinstance(here, dict) else ()
        if isinstance(here, list):
            known = range(len(here))
        if part in known:
            here = here[part]
            path.append(part)
    field = _telling_field(details)
    if field and details["type"] == "union_tag_invalid":
        path.append(field)
    return tuple(path)


def _telling_field(details: ErrorDetails) -> str:
    """The field whose value says which of several forms a mapping has; empty where it is something
    else that does."""
    # In quotes, unlike the name of a function.
    found = re.fullmatch(r"'(\w+)'", str(details.get("ctx", {}).get("discriminator", "")))
    return found[1] if found else ""


def _drop(data: Any, path: Path, defaults: Mapping[str, Any], again: bool) -> None:
    """Take a part that is wrong out; an item of a list is replaced, so that the others keep their
    positions."""
    if again and isinstance(path[-1], int):
        path = path[:-1]
    here = data
    for part in path[:-1]:
        if isinstance(here, dict) and part not in here:
            return
        here = here[part]
    last = path[-1]
    if isinstance(here, list) and isinstance(last, int):
        here[last] = {"tcp": 1} if path[0] == "health" else STAND_IN
    elif len(path) == 1 and last in defaults:
        here[last] = defaults[str(last)]
    elif isinstance(here, dict):
        here.pop(last, None)


def _sentence(details: ErrorDetails, path: Path, schema: dict[str, Any]) -> str:
    kind = details["type"]
    context = details.get("ctx", {})
    found = details.get("input")
    if kind == "missing":
        return f"{path[-1]!r} is missing here"
    if kind == "extra_forbidden":
        known = _keys_at(schema, path[:-1])
        hint = nearest(str(path[-1]), known)
        return f"{path[-1]!r} is not a field here{hint}" + (
            "" if hint else f" (fields: {', '.join(sorted(known))})"
        )
    if kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        title = "key" if details["loc"][-1] == "[key]" else _title_at(schema, path)
        article = "an" if title[0] in "aeiou" else "a"
        hint = nearest(str(found), allowed) if isinstance(found, str) else ""
        return f"{_shown(found)} is not {article} {title}{hint} (allowed: {', '.join(allowed)})"
    if kind in ("union_tag_not_found", "union_tag_invalid") and _telling_field(details):
        field, allowed = _telling_field(details), context.get("expected_tags", "")
        if kind == "union_tag_not_found":
            return f"{field!r} is missing here"
        hint = nearest(str(context["tag"]), re.findall(r"'([^']*)'", allowed))
        return f"{_shown(context['tag'])} is not a {field}{hint} (allowed: {allowed})"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        forms = "'http: PATH', 'tcp: PORT', 'script: FILE'"
        return f"{_shown(found)} is not a check; write one of {forms}"
    if kind == "value_error":
        return str(context.get("error", details["msg"]))
    if kind == "string_pattern_mismatch":
        return f"{_shown(found)} is not of the right form ({_forms(context.get('pattern'))})"
    wanted = {
        "string_type": "text",
        "string_too_short": "text of at least one character",
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "bool_type": "true or false",
        "tuple_type": "a list",
        "list_type": "a list",
        "dict_type": "a mapping of names to values",
        "model_type": "a mapping of fields to values",
        "model_attributes_type": "a mapping of fields to values",
    }.get(kind)
    if wanted:
        aside = ""
        if kind == "string_type" and isinstance(found, bool | int):
            aside = f'; in quotes it is text: "{str(found).lower()}"'
        if kind == "bool_type" and isinstance(found, str):
            aside = "; only true and false are booleans"
        return f"{_shown(found)} is not {wanted}{aside}"
    if kind == "greater_than_equal":
        return f"{_shown(found)} is less than the least value allowed, {context['ge']}"
    if kind == "less_than_equal":
        return f"{_shown(found)} is more than the greatest value allowed, {context['le']}"
    return f"{_shown(found)}: {details['msg']}"


def _forms(pattern: Any) -> str:
    if pattern == _NAME_PATTERN:
        return "small letters, digits, '-' and '_', like app-server"
    if pattern == r"^/":
        return "a path that begins with '/'"
    if str(pattern).startswith(_NAME_PATTERN[:20]):
        return "NAME, NAME@TAG, NAME@r4 or NAME@HASH, like base-linux@v3"
    return f"a match of {pattern}"


def _schemas_at(schema: dict[str, Any], path: Sequence[str | int]) -> list[dict[str, Any]]:
    """Every sub-schema that may describe the value at a path."""
    found = [schema]
    for part in (*path, None):
        spread: list[dict[str, Any]] = []
        queue = list(found)
        while queue:
            item = queue.pop(0)
            if "$ref" in item:
                queue.append(schema["$defs"][item["$ref"].rsplit("/", 1)[-1]] | {"_": ""})
            queue += item.get("anyOf", []) + item.get("oneOf", [])
            spread.append(item)
        if part is None:
            return spread
        found = []
        for item in spread:
            if isinstance(part, int):
                found += [item["items"]] if "items" in item else []
            elif part in item.get("properties", {}):
                found.append(item["properties"][part])
            elif isinstance(item.get("additionalProperties"), dict):
                found.append(item["additionalProperties"])
            else:
                found += item.get("patternProperties", {}).values()
    return found


def _keys_at(schema: dict[str, Any], path: Path) -> set[str]:
    return {key for item in _schemas_at(schema, path) for key in item.get("properties", {})}


def _title_at(schema: dict[str, Any], path: Path) -> str:
    titles = [item["title"] for item in _schemas_at(schema, path) if "title" in item]
    if not titles and path and isinstance(path[-1], int):
        return _title_at(schema, path[:-1])
    return str(titles[0]).lower() if titles else show_path(path[-1:]) or "value"


def _shown_type(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return f"the value {_shown(value)}"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


__all__ = [
    "DEFAULT_SCRIPT_TIMEOUT_S",
    "ClockBounds",
    "Connect",
    "HealthCheck",
    "HttpCheck",
    "ImageChoice",
    "ImageMap",
    "Ready",
    "ScriptCheck",
    "ScriptHeader",
    "Settings",
    "TcpCheck",
    "TemplateDocument",
    "check_model",
]
