"""Environments: what their servers share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from slipway.api.pages import acting, queries
from slipway.api.pages.fields import Field, place, same_text
from slipway.api.pages.overview import state_tiles
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Visit, check_form, read_form, see, site_of, text_of
from slipway.errors import Conflict, InvalidInput, Problem
from slipway.launches.environments import get_environment, list_environments
from slipway.records import Environment

#: Empty rows for new inputs.
NEW_ROWS = 3

#: Where a problem is → the field it is shown at; a name is quoted where it is the problem.
_PLACES = {
    "name": "name",
    "environment '": "name",
    "environment": "freeze",
    "freeze": "freeze",
    "input": "inputs",
}

Reader = Annotated[Visitor, Depends(Visit("read"))]
Writer = Annotated[Visitor, Depends(Visit("write"))]
Form = Annotated[FormData, Depends(read_form)]


def register(router: APIRouter) -> None:
    """Add the routes."""
    router.get("/environments")(list_all)
    router.post("/environments")(create)
    router.get("/environments/{name}")(show)
    router.post("/environments/{name}")(change)
    router.get("/environments/{name}/delete")(ask_delete)
    router.post("/environments/{name}/delete")(delete)


def list_all(request: Request, visitor: Reader) -> Response:
    """All environments, and the form for a new one."""
    return _list(request, visitor, _new_fields("", "", ""), ())


def create(request: Request, visitor: Writer, form: Form) -> Response:
    """Make one, or show the form again with its problems."""
    check_form(visitor, form)
    name, freeze, text = (text_of(form, each).strip() for each in ("name", "freeze", "inputs"))
    inputs, problems = _read_lines(text)
    day = _read_date(freeze, problems)
    if not problems:
        try:
            acting.create_environment(request, visitor, form, name, inputs, day)
            return see(f"/environments/{name}")
        except InvalidInput as error:
            problems += error.problems
        except Conflict as error:
            problems.append(Problem(where="name", what=str(error)))
    return _list(request, visitor, _new_fields(name, freeze, text), problems)


def show(request: Request, visitor: Reader, name: str) -> Response:
    """One environment, with a form for whoever may change it."""
    found = get_environment(site_of(request).services.database, name)
    fields = _fields(found, {key: same_text(value) for key, value in found.inputs.items()}, [])
    return _show(request, visitor, found, fields, ())


def change(request: Request, visitor: Writer, form: Form, name: str) -> Response:
    """Save what is different. Raises `Conflict` when somebody else has changed it meanwhile."""
    check_form(visitor, form)
    found = get_environment(site_of(request).services.database, name)
    if text_of(form, "seen") != found.updated_at.isoformat():
        raise Conflict(
            f"environment {name} was changed by somebody else since this form was opened; "
            "look at it again, then make your change"
        )
    problems: list[Problem] = []
    typed = {key: text_of(form, f"value.{key}") for key in found.inputs}
    added = _added(form, found, problems)
    changed = {
        key: text for key, text in typed.items() if text and text != same_text(found.inputs[key])
    }
    # What an empty field stands for is gone; an input that was empty before is left alone.
    gone = [key for key, text in typed.items() if not text and same_text(found.inputs[key])]
    freeze = text_of(form, "freeze")
    day = _read_date(freeze, problems)
    if not problems:
        try:
            acting.change_environment(
                request, visitor, form, name, {**changed, **dict(added)}, gone, day
            )
            return see(f"/environments/{name}")
        except InvalidInput as error:
            problems += error.problems
    fields = _fields(found, typed, added, freeze=freeze)
    return _show(request, visitor, found, fields, problems)


def ask_delete(request: Request, visitor: Writer, name: str) -> Response:
    """Say what deleting it means, and ask."""
    site = site_of(request)
    found = get_environment(site.services.database, name)
    inputs = f"its {len(found.inputs)} inputs" if found.inputs else "nothing else"
    return site.page(
        request,
        "confirm.html",
        visitor,
        question=f"Delete environment {name}?",
        consequences=[f"It goes with {inputs}. Servers that are up keep it from being deleted."],
        steps=(),
        action=f"/environments/{name}/delete",
        button=f"Delete {name}",
        back=f"/environments/{name}",
    )


def delete(request: Request, visitor: Writer, form: Form, name: str) -> Response:
    """Remove it. Raises `Conflict` while one of its servers is up."""
    check_form(visitor, form)
    acting.delete_environment(request, visitor, form, name)
    return see("/environments")


def _list(
    request: Request, visitor: Visitor, fields: list[Field], problems: Sequence[Problem]
) -> Response:
    site = site_of(request)
    return site.page(
        request,
        "environments.html",
        visitor,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        environments=list_environments(site.services.database),
        servers=queries.servers_of(site.services.database),
        fields=fields,
        problems=place(problems, fields, _PLACES),
    )


def _show(
    request: Request,
    visitor: Visitor,
    found: Environment,
    fields: list[Field],
    problems: Sequence[Problem],
) -> Response:
    site = site_of(request)
    places = {"environment": "freeze", "freeze": "freeze"}
    places |= {f"input {key}": f"value.{key}" for key in found.inputs}
    places |= {f"input {each.value}": each.name for each in fields if each.name.startswith("name.")}
    return site.page(
        request,
        "environment.html",
        visitor,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else HTTPStatus.OK,
        found=found,
        seen=found.updated_at.isoformat(),
        fields=[each for each in fields if each.name.startswith("value.")],
        new_fields=[each for each in fields if each.name.startswith("n")],
        freeze_field=fields[-1],
        problems=place(problems, fields, places),
        states=state_tiles(queries.state_counts(site.services.database, environment=found.name)),
    )


def _new_fields(name: str, freeze: str, inputs: str) -> list[Field]:
    return [
        Field(
            name="name",
            label="Name",
            value=name,
            hint="Lower-case letters, digits and hyphens.",
            must=True,
        ),
        _freeze_field(freeze),
        Field(
            name="inputs",
            label="Inputs",
            kind="textarea",
            rows=4,
            value=inputs,
            hint="One NAME=VALUE a line; a secret as NAME=cred:CREDENTIAL.",
            required=False,
        ),
    ]


def _fields(
    found: Environment,
    typed: dict[str, str],
    added: list[tuple[str, str]],
    *,
    freeze: str | None = None,
) -> list[Field]:
    fields = []
    for key in sorted(found.inputs):
        listed = isinstance(found.inputs[key], list)
        fields.append(
            Field(
                name=f"value.{key}",
                label=key,
                kind="textarea" if listed or "\n" in typed[key] else "text",
                value=typed[key],
                hint="One a line." if listed else "",
            )
        )
    for number in range(max(NEW_ROWS, len(added))):
        name, value = added[number] if number < len(added) else ("", "")
        fields += [
            Field(name=f"name.{number}", label=f"New input {number + 1}", value=name),
            Field(name=f"new.{number}", label=f"Its value {number + 1}", value=value),
        ]
    day = found.freeze.isoformat() if found.freeze else ""
    fields.append(_freeze_field(day if freeze is None else freeze))
    return fields


def _freeze_field(value: str) -> Field:
    return Field(
        name="freeze",
        label="Freeze date",
        kind="date",
        value=value,
        hint="Packages are installed as they were on that day; a day before today.",
        required=False,
    )


def _added(form: FormData, found: Environment, problems: list[Problem]) -> list[tuple[str, str]]:
    added: list[tuple[str, str]] = []
    for number in range(NEW_ROWS):
        name, value = text_of(form, f"name.{number}").strip(), text_of(form, f"new.{number}")
        if not name and not value:
            continue
        added.append((name, value))
        if not name:
            problems.append(Problem(where="new input", what="a value was given without a name"))
        elif name in found.inputs or name in dict(added[:-1]):
            problems.append(Problem(where=f"input {name}", what="there is an input of that name"))
    return added


def _read_lines(text: str) -> tuple[dict[str, str], list[Problem]]:
    """``NAME=VALUE`` lines; what a line says is not repeated, as it may be a secret."""
    inputs: dict[str, str] = {}
    problems = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or not name:
            what = "write NAME=VALUE, such as GREETING=hello"
            problems.append(Problem(where=f"inputs, line {number}", what=what))
        elif name in inputs:
            problems.append(Problem(where=f"input {name}", what="it is given twice"))
        else:
            inputs[name] = value.strip()
    return inputs, problems


def _read_date(text: str, problems: list[Problem]) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        problems.append(Problem(where="freeze", what=f"{text} is not a day such as 2026-11-01"))
        return None
