"""Typed inputs: what a template declares, what people give, and the value a script gets.

Precedence, weakest first: script < layers (base → app) < template < environment < server < launch
request. The first three are declarations and meet when a template is resolved; the others are
values and meet here, in `resolve_inputs`, which touches nothing outside its arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, Strict

from slipway.errors import InvalidInput, Problem
from slipway.spelling import nearest

InputType = Literal["text", "secret", "env", "choice", "int", "bool", "list"]
INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)

#: A plain value of an input as the canonical form has it.
PlainValue = str | int | bool | tuple[str, ...]

#: Facts about another server that an ``env`` input may ask for; and ``outputs.KEY``.
ENV_ATTRIBUTES = ("private_ip", "public_ip", "name", "outputs.KEY")

_ENV = re.compile(
    r"(?P<server>[A-Za-z0-9][A-Za-z0-9_-]*)\."
    r"(?P<attribute>private_ip|public_ip|name|outputs\.[A-Za-z0-9_.-]+)\Z"
)
_CRED = re.compile(r"cred:(?P<name>[A-Za-z0-9_][A-Za-z0-9_./-]*)\Z")
#: More digits than any number has that a script can calculate with.
_INT = re.compile(r"[-+]?[0-9]{1,18}\Z")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
#: Names a script's environment needs for itself; an input of that name would break the shell.
_RESERVED = frozenset(
    {
        "BASH_ENV",
        "ENV",
        "HOME",
        "IFS",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "PATH",
        "PATHEXT",
        "PS4",
        "PWD",
        "SHELL",
        "SYSTEMROOT",
        "TEMP",
        "TMP",
        "TMPDIR",
        "USER",
        "WINDIR",
    }
)


class InputDeclaration(BaseModel):
    """What a script or template says about one input. Fields not given are taken from the layers
    below, and last from the scripts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: InputType | None = Field(
        default=None, title="input type", description="What kind of value this is."
    )
    description: str | None = Field(default=None, description="One sentence for whoever fills it.")
    required: bool | None = Field(
        default=None,
        description="Whether a launch needs a value; true unless said otherwise.",
    )
    default: Any = Field(
        default=None,
        description="The value when nobody gives one. A secret's is a reference, cred:NAME.",
        json_schema_extra={
            "anyOf": [
                {"type": ["string", "integer", "boolean", "null"]},
                {"type": "array", "items": {"type": ["string", "integer"]}},
            ]
        },
    )
    source: str | None = Field(
        default=None,
        alias="from",
        description="For env: the attribute to read, SERVER.private_ip and the like.",
    )
    # Strict JSON ends where a validator in Python begins: a list is a tuple there too.
    of: Annotated[tuple[str | int, ...], Strict(False)] | None = Field(
        default=None, description="For choice and list: the values allowed."
    )
    pattern: str | None = Field(
        default=None,
        description="For text and list: a regular expression the whole value, or item, matches.",
    )
    min: int | None = Field(
        default=None, description="Least value of an int, length of a text, items of a list."
    )
    max: int | None = Field(
        default=None, description="Greatest value of an int, length of a text, items of a list."
    )
    override: bool | None = Field(
        default=None, description="Wins where layers of equal rank disagree about this input."
    )

    @property
    def is_required(self) -> bool:
        """Whether a launch without a value is refused."""
        return self.required is not False

    @property
    def has_default(self) -> bool:
        """Whether there is a value when nobody gives one."""
        return self.default is not None


class DeclaredInput(InputDeclaration):
    """An input as a resolved template has it: every layer and script has had its say."""

    #: Who declares it: ``template web``, ``layer base-linux``, ``script base-linux/install.sh``.
    declared_in: tuple[str, ...] = ()
    #: Whose default it is.
    default_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class InputLayer:
    """Values from one place, as written: strings from a command line or typed from YAML."""

    #: Where they are from, in words: ``environment staging``, ``launch request``.
    name: str
    values: Mapping[str, Any]
    #: Written for several templates (an environment's inputs): names this one does not declare
    #: are left alone instead of refused.
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class ResolvedInput:
    """The value of one input, or where it is to be had.

    Exactly one of ``value``, ``secret`` and ``reference`` is set; none when the input is optional
    and nobody gave a value: the script then does not see it at all.
    """

    name: str
    type: InputType
    #: A plain value, in canonical form.
    value: PlainValue | None = None
    #: ``cred:NAME`` of a secret, ``SERVER.ATTRIBUTE`` of an env input.
    reference: str | None = None
    #: A secret that was handed over itself; store it as a credential before anything is recorded.
    secret: SecretStr | None = None
    #: The layer it came from: ``launch request``, ``template web``, ``script install.sh``.
    source: str

    @property
    def is_set(self) -> bool:
        """Whether a script sees it."""
        return self.value is not None or self.reference is not None or self.secret is not None

    @property
    def server(self) -> str | None:
        """The server an env reference asks about."""
        found = _ENV.match(self.reference or "") if self.type == "env" else None
        return found["server"] if found else None

    @property
    def attribute(self) -> str | None:
        """The attribute an env reference asks for: ``private_ip``, ``outputs.port``, …"""
        found = _ENV.match(self.reference or "") if self.type == "env" else None
        return found["attribute"] if found else None

    @property
    def credential(self) -> str | None:
        """The credential's name behind ``cred:NAME``."""
        found = _CRED.match(self.reference or "") if self.type == "secret" else None
        return found["name"] if found else None


@dataclass(frozen=True, kw_only=True)
class ResolvedInputs:
    """Every declared input with its value, by name."""

    inputs: Mapping[str, ResolvedInput] = field(default_factory=dict)
    #: Names given by a shared layer which this template does not declare.
    unused: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ResolvedInput:
        return self.inputs[name]


def name_problem(name: str) -> str | None:
    """Why this cannot be an input's name, or None: it becomes an environment variable."""
    if not _NAME.match(name):
        return f"{name!r} is not a name a script can see; use letters, digits and '_', like DB_HOST"
    if name.upper() in _RESERVED or name.upper().startswith("SLIPWAY_"):
        return f"{name!r} is a name the script's own surroundings need; choose another"
    return None


def declaration_problems(declared: InputDeclaration, *, complete: bool) -> list[tuple[str, str]]:
    """What is wrong with one declaration, as (field, sentence) pairs.

    ``complete`` says that no layer below adds anything: only then can a field be missing.
    """
    problems: list[tuple[str, str]] = []
    kind = declared.type
    meant_for: dict[str, tuple[InputType, ...]] = {
        "of": ("choice", "list"),
        "pattern": ("text", "list"),
        "min": ("int", "text", "list"),
        "max": ("int", "text", "list"),
        "source": ("env",),
    }
    if kind is not None:
        for name, kinds in meant_for.items():
            if getattr(declared, name) is not None and kind not in kinds:
                shown = "from" if name == "source" else name
                wanted = " and ".join(kinds) if len(kinds) < 3 else ", ".join(kinds)
                problems.append((shown, f"{shown!r} goes with {wanted} inputs, this one is {kind}"))
    if declared.pattern is not None:
        try:
            re.compile(declared.pattern)
        except re.error as error:
            problems.append(
                ("pattern", f"{declared.pattern!r} is not a regular expression: {error}")
            )
            return problems
    if declared.min is not None and declared.max is not None and declared.min > declared.max:
        problems.append(("min", f"min {declared.min} is greater than max {declared.max}"))
    if declared.of is not None and len(set(map(str, declared.of))) != len(declared.of):
        problems.append(("of", "a value is listed twice"))
    if declared.of is not None and not declared.of:
        problems.append(("of", "the list of allowed values is empty"))
    if kind == "choice" and declared.of is None and complete:
        problems.append(("of", "a choice needs 'of', the list of values to choose from"))
    if declared.source is not None and not _ENV.match(declared.source):
        problems.append(("from", _env_sentence(declared.source)))
    if declared.source is not None and declared.default is not None:
        problems.append(("default", "'from' and 'default' say the same thing; keep 'from'"))
    if declared.default is not None and kind is not None:
        _, problem = _parse(declared, declared.default, written_in_yaml=True)
        if problem:
            problems.append(("default", problem))
    return problems


def resolve_inputs(
    declared: Mapping[str, DeclaredInput], layers: Sequence[InputLayer]
) -> ResolvedInputs:
    """The value of every declared input, with the layer it came from.

    ``layers`` are ordered from weakest to strongest: environment, server, launch request. A later
    layer's null takes an earlier value back and returns to the declared default.

    Raises `InvalidInput` with every unknown name, missing value and value of the wrong type. No
    sentence repeats a secret.
    """
    problems: list[Problem] = []
    chosen: dict[str, tuple[Any, str]] = {}
    unused: set[str] = set()
    for layer in layers:
        for name, value in layer.values.items():
            if name not in declared:
                if layer.shared:
                    unused.add(name)
                    continue
                what = f"this template has no input of that name{nearest(name, declared)}"
                if declared and not nearest(name, declared):
                    what += f" (it has {', '.join(sorted(declared))})"
                problems.append(Problem(where=f"input {name} ({layer.name})", what=what))
            elif value is None:
                chosen.pop(name, None)
            else:
                chosen[name] = (value, layer.name)
    resolved: dict[str, ResolvedInput] = {}
    for name, declaration in declared.items():
        kind = declaration.type or "text"
        given, source = chosen.get(name, (None, ""))
        if name not in chosen:
            given = declaration.default
            source = declaration.default_from or "default"
        if given is None:
            if declaration.is_required:
                what = f"no value is given and there is no default; {_how_to_give(name, kind)}"
                problems.append(Problem(where=f"input {name}", what=what))
            else:
                resolved[name] = ResolvedInput(name=name, type=kind, source="not given")
            continue
        parsed, problem = _parse(declaration, given, written_in_yaml=False)
        if problem:
            problems.append(Problem(where=f"input {name} ({source})", what=problem))
        else:
            resolved[name] = ResolvedInput(name=name, type=kind, source=source, **parsed)
    if problems:
        raise InvalidInput(problems)
    return ResolvedInputs(inputs=resolved, unused=tuple(sorted(unused)))


def render(value: PlainValue) -> str:
    """The text a script sees.

    A bool is ``true`` or ``false``, an int its decimal digits, a list one item a line without a
    newline at the end (``mapfile -t hosts <<<"$HOSTS"`` in bash, ``$env:HOSTS -split "`n"`` in
    PowerShell); no item is empty or has a newline, so this loses nothing.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "\n".join(value)
    return str(value)


def canonical_default(declared: InputDeclaration) -> PlainValue | str | None:
    """A declared default in the form it is stored in: an int given as text becomes an int, a list
    given as ``a,b`` a list. Raises `ValueError` with the sentence of the problem."""
    if declared.default is None:
        return None
    parsed, problem = _parse(declared, declared.default, written_in_yaml=True)
    if problem:
        raise ValueError(problem)
    if "value" in parsed:
        found: PlainValue = parsed["value"]
        return f"text:{found}" if declared.type == "env" else found
    reference: str = parsed["reference"]
    return reference


def _parse(
    declared: InputDeclaration, given: Any, *, written_in_yaml: bool
) -> tuple[dict[str, Any], str | None]:
    """The fields of a `ResolvedInput`, or one sentence about what is wrong."""
    kind = declared.type or "text"
    if kind == "secret":
        return _parse_secret(given, written_in_yaml=written_in_yaml)
    if isinstance(given, SecretStr):
        return {}, f"a secret was given for {_a(kind)} input, where it would be seen"
    if isinstance(given, float):
        return {}, f"{given!r} is a number with a fraction; write it as text, in quotes"
    if kind == "env":
        return _parse_env(given)
    if kind == "int":
        return _parse_int(declared, given)
    if kind == "bool":
        return _parse_bool(given)
    if kind == "list":
        return _parse_list(declared, given)
    text, problem = _as_text(given)
    if problem:
        return {}, problem
    if kind == "choice":
        allowed = [str(item) for item in declared.of or ()]
        if declared.of is not None and text not in allowed:
            shown = ", ".join(allowed)
            return {}, f"{text!r} is not one of the choices{nearest(text, allowed)} ({shown})"
        return {"value": text}, None
    problem = _text_problem(declared, text, "the text") or _bounds_problem(
        declared, len(text), "characters"
    )
    return ({}, problem) if problem else ({"value": text}, None)


def _parse_secret(given: Any, *, written_in_yaml: bool) -> tuple[dict[str, Any], str | None]:
    if isinstance(given, SecretStr):
        return {"secret": given}, None
    if isinstance(given, str) and _CRED.match(given):
        return {"reference": given}, None
    how = "store it as a credential and write cred:NAME"
    if written_in_yaml:
        return {}, f"a secret does not stand in a template, where everybody reads it; {how}"
    return {}, f"a secret is given as a reference, never as itself; {how}"


def _parse_env(given: Any) -> tuple[dict[str, Any], str | None]:
    if isinstance(given, str):
        if given.startswith("text:"):
            return {"value": given.removeprefix("text:")}, None
        reference = given.removeprefix("env:")
        if _ENV.match(reference):
            return {"reference": reference}, None
    return {}, _env_sentence(given)


def _parse_int(declared: InputDeclaration, given: Any) -> tuple[dict[str, Any], str | None]:
    if isinstance(given, str) and _INT.match(given.strip()):
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int):
        return {}, f"{_show(given)} is not a whole number"
    problem = _bounds_problem(declared, given, "")
    return ({}, problem) if problem else ({"value": given}, None)


def _parse_bool(given: Any) -> tuple[dict[str, Any], str | None]:
    if isinstance(given, bool):
        return {"value": given}, None
    if isinstance(given, str) and given in ("true", "false"):
        return {"value": given == "true"}, None
    return {}, f"{_show(given)} is not true or false"


def _parse_list(declared: InputDeclaration, given: Any) -> tuple[dict[str, Any], str | None]:
    if isinstance(given, str):
        if given.lstrip().startswith("["):
            try:
                given = json.loads(given)
            except (ValueError, RecursionError):
                return {}, f"{_show(given)} begins like a JSON list and is not one"
        else:
            given = [item.strip() for item in given.split(",")] if given.strip() else []
    if not isinstance(given, list | tuple):
        return {}, f"{_show(given)} is not a list; write [a, b], or a,b on a command line"
    allowed = None if declared.of is None else [str(item) for item in declared.of]
    items: list[str] = []
    for position, item in enumerate(given):
        text, problem = _as_text(item)
        if problem:
            return {}, f"item {position + 1}: {problem}"
        if not text or "\n" in text:
            return {}, f"item {position + 1} is empty or has a line break; items are lines of text"
        if allowed is not None and text not in allowed:
            what = f"{text!r} is not one of the values allowed{nearest(text, allowed)}"
            return {}, f"item {position + 1}: {what} ({', '.join(allowed)})"
        problem = _text_problem(declared, text, f"item {position + 1}")
        if problem:
            return {}, problem
        items.append(text)
    problem = _bounds_problem(declared, len(items), "items")
    return ({}, problem) if problem else ({"value": tuple(items)}, None)


def _as_text(given: Any) -> tuple[str, str | None]:
    if isinstance(given, bool):
        word = "true" if given else "false"
        return "", f'{word} is a boolean; write "{word}" in quotes, or make the input a bool'
    if isinstance(given, int):
        return str(given), None
    if isinstance(given, str):
        if "\0" in given:
            return "", "the text has a NUL character, which no environment variable can hold"
        return given, None
    return "", f"{_show(given)} is not text"


def _text_problem(declared: InputDeclaration, text: str, what: str) -> str | None:
    if declared.pattern is not None and not re.fullmatch(declared.pattern, text):
        return f"{what} {text!r} does not match the pattern {declared.pattern!r}"
    return None


def _bounds_problem(declared: InputDeclaration, size: int, unit: str) -> str | None:
    shown = f"{size} {unit}".strip()
    if declared.min is not None and size < declared.min:
        return f"{shown} is less than the minimum of {declared.min}"
    if declared.max is not None and size > declared.max:
        return f"{shown} is more than the maximum of {declared.max}"
    return None


def _env_sentence(given: Any) -> str:
    hint = ""
    if isinstance(given, str) and "." in given:
        hint = nearest(given.split(".", 1)[1], ("private_ip", "public_ip", "name", "outputs"))
    attributes = ", ".join(ENV_ATTRIBUTES)
    return (
        f"{_show(given)} is not SERVER.ATTRIBUTE{hint} (attributes: {attributes}; "
        "a fixed value is written text:VALUE)"
    )


def _how_to_give(name: str, kind: InputType) -> str:
    examples: dict[InputType, str] = {
        "secret": "cred:NAME",
        "env": "SERVER.private_ip",
        "int": "1",
        "bool": "true",
        "list": "a,b",
    }
    return f"give it as {name}={examples.get(kind, 'VALUE')}"


def _a(kind: InputType) -> str:
    return f"an {kind}" if kind in ("env", "int") else f"a {kind}"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
