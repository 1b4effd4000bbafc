"""Form fields: from declared inputs to what a page shows, and back to values and problems."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr, ValidationError
from starlette.datastructures import FormData

from slipway.api.pages.web import text_of
from slipway.errors import InvalidInput, Problem
from slipway.servertemplates import DeclaredInput, render
from slipway.vault import REFERENCE

#: Field names of inputs begin with this; no other field's does.
INPUT, CREDENTIAL = "input.", "cred."

#: ``; give it as DB_HOST=VALUE``: how to say it on the command line.
_COMMAND_LINE = re.compile(
    r"; (?:give it as \S+=.*|store it with 'slipway [^']*'.*|store it as a credential .*)\Z"
)
_INPUT_PLACE = re.compile(r"input (?P<name>\S+)(?: \((?P<layer>[^)]*)\))?\Z")

#: Text, options of a group: ``("", [("", "none")])`` is a group without a heading.
Options = Sequence[tuple[str, Sequence[tuple[str, str]]]]


@dataclass(kw_only=True)
class Field:
    """One field of a form."""

    name: str
    label: str
    #: ``text``, ``number``, ``date``, ``select``, ``textarea`` or ``password``.
    kind: str = "text"
    value: str = ""
    hint: str = ""
    placeholder: str = ""
    options: Options = ()
    suggestions: Sequence[str] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 3
    #: Whether a value is needed from somewhere …
    required: bool = True
    #: … and from here.
    must: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The element's; input names are case-sensitive, and so are ids."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.name)


@dataclass(kw_only=True)
class Filled:
    """What a form's input fields hold."""

    #: Values that may be seen, credentials by name.
    plain: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, SecretStr] = field(default_factory=dict)
    #: Text as it was typed, to be shown again; never a secret's.
    typed: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def read(cls, declared: Mapping[str, DeclaredInput], form: FormData) -> Filled:
        """What is given; an empty field gives nothing."""
        found = cls()
        for name, declaration in declared.items():
            text = text_of(form, INPUT + name)
            if declaration.type == "secret":
                found._read_secret(name, text, text_of(form, CREDENTIAL + name))
                continue
            found.typed[name] = text
            if declaration.type == "list":
                items = [line.strip() for line in text.split("\n") if line.strip()]
                if items:
                    found.plain[name] = items
            elif text:
                found.plain[name] = text
        return found

    def _read_secret(self, name: str, value: str, credential: str) -> None:
        self.typed[name] = credential
        if value and credential:
            what = "type it or choose a stored one, not both"
            self.problems.append(Problem(where=f"input {name}", what=what))
        if credential:
            self.plain[name] = REFERENCE + credential
        elif value:
            self.secrets[name] = SecretStr(value)


def input_fields(
    declared: Mapping[str, DeclaredInput],
    filled: Filled,
    *,
    elsewhere: Mapping[str, tuple[str, str]],
    credentials: Sequence[str],
    servers: Sequence[str] = (),
    takes_secrets: bool = True,
) -> list[Field]:
    """The fields for a template's inputs. ``elsewhere`` says what a field left empty comes to: the
    value, and where from."""
    found: list[Field] = []
    for name, declaration in declared.items():
        value, source = elsewhere.get(name, ("", ""))
        made = _field(name, declaration, filled.typed.get(name, ""), value, source)
        made.required = declaration.is_required and not source
        made.must = made.required and made.kind != "password"
        if declaration.type == "env":
            made.suggestions = [f"{server}.private_ip" for server in servers]
        if declaration.type == "secret":
            found += _secret_fields(
                name,
                made,
                filled,
                credentials=credentials,
                source=source,
                takes_secrets=takes_secrets,
            )
        else:
            found.append(made)
    # What has to be filled in comes first; nobody should have to look for it.
    return sorted(found, key=lambda each: not each.required)


def place(
    problems: Iterable[Problem], fields: Iterable[Field], places: Mapping[str, str] | None = None
) -> list[tuple[str, str]]:
    """Put each problem beside its field. ``places`` maps the beginnings of where problems are to
    field names. Answers all of them as (id of the field or nothing, sentence) for the summary."""
    by_name = {each.name: each for each in fields}
    summary = []
    for problem in problems:
        sentence = _COMMAND_LINE.sub("", problem.what)
        sentence = sentence[:1].upper() + sentence[1:]
        target = by_name.get(_field_name(problem.where, by_name, places or {}))
        if target is None:
            summary.append(("", f"{problem.where}: {sentence}"))
            continue
        target.problems.append(sentence)
        summary.append((target.id, f"{target.label}: {sentence}"))
    return summary


def _field_name(where: str, fields: Mapping[str, Field], places: Mapping[str, str]) -> str:
    if found := _INPUT_PLACE.match(where):
        for name in (INPUT + found["name"], CREDENTIAL + found["name"]):
            if name in fields:
                return name
    return next((name for start, name in places.items() if where.startswith(start)), "")


def _field(name: str, declared: DeclaredInput, typed: str, value: str, source: str) -> Field:
    hint = declared.description or ""
    made = Field(name=INPUT + name, label=name, value=typed, hint=hint)
    limits: dict[str, Any] = {}
    kind = declared.type or "text"
    if kind in ("choice", "bool"):
        allowed = (
            [str(each) for each in declared.of or ()] if kind == "choice" else ["true", "false"]
        )
        nothing = (
            f"{value} ({source})" if source else "choose …" if declared.is_required else "none"
        )
        made.kind = "select"
        made.options = [("", [("", nothing), *((each, each) for each in allowed)])]
        return made
    if kind == "int":
        made.kind = "number"
        limits = {"min": declared.min, "max": declared.max, "step": 1}
    elif kind == "list":
        made.kind = "textarea"
        made.hint = f"{hint} One a line.".strip()
        if declared.of:
            made.hint += f" Possible: {', '.join(map(str, declared.of))}."
    elif kind == "env":
        made.placeholder = "SERVER.private_ip"
        made.hint = f"{hint} An attribute of another server, or text:VALUE.".strip()
    else:
        limits = {"minlength": declared.min, "maxlength": declared.max}
    made.limits = {each: number for each, number in limits.items() if number is not None}
    if source and value:
        shown = value.replace("\n", ", ")
        made.hint = f"{made.hint} When empty: {shown} ({source}).".strip()
        made.placeholder = shown[:80]
    return made


def _secret_fields(
    name: str,
    made: Field,
    filled: Filled,
    *,
    credentials: Sequence[str],
    source: str,
    takes_secrets: bool,
) -> list[Field]:
    nothing = f"as given by {source}" if source else "none"
    stored = Field(
        name=CREDENTIAL + name,
        label=f"{name}, stored" if takes_secrets else name,
        kind="select",
        value=filled.typed.get(name, ""),
        hint="" if takes_secrets else made.hint,
        options=[("", [("", nothing), *((each, each) for each in credentials)])],
        required=made.required and not takes_secrets,
    )
    if not takes_secrets:
        return [stored]
    made.kind, made.value, made.limits, made.placeholder = "password", "", {}, ""
    if credentials:
        made.hint = f"{made.hint} Or choose a stored credential below.".strip()
        stored.required = made.required
        return [made, stored]
    return [made]


def defaults_of(declared: Mapping[str, DeclaredInput]) -> dict[str, tuple[str, str]]:
    """What each input is when nobody gives it, and where that is from."""
    found = {}
    for name, declaration in declared.items():
        if declaration.source:
            found[name] = (declaration.source, "default")
        elif declaration.default is not None:
            value = declaration.default
            text = render(tuple(value) if isinstance(value, list) else value)
            found[name] = (text, "default")
    return found


def with_values(
    known: Mapping[str, tuple[str, str]], values: Mapping[str, Any], source: str
) -> dict[str, tuple[str, str]]:
    """The same with values from a stronger layer, such as an environment's."""
    found = dict(known)
    for name, value in values.items():
        if value is None:
            continue
        text = render(tuple(map(str, value)) if isinstance(value, list) else value)
        found[name] = (text, source)
    return found


def same_text(value: Any) -> str:
    """A value of an environment as the text of a form field."""
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return render(value)


def problems_of(error: InvalidInput | ValidationError) -> list[Problem]:
    """The problems of a refused request, with the names of its fields as their places."""
    if isinstance(error, InvalidInput):
        return list(error.problems)
    # Pydantic's own errors carry what was given, which is nothing to repeat.
    return [
        Problem(where=" ".join(str(part) for part in each["loc"][:2]), what=str(each["msg"]))
        for each in error.errors()
    ]


def new_key() -> str:
    """An idempotency key for a form: sent twice, it asks for one thing."""
    return secrets.token_hex(12)
