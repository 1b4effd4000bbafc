"""Values of inputs as people give them: ``NAME=VALUE``, a file, and secrets from elsewhere.

A secret never stands in an argument: the process list and the shell's history keep those. It is
given as one of

* ``NAME=@FILE``: the content of a file, without the line end at its end;
* ``NAME=-``: asked for without echo, or one line of standard input where that is no terminal;
* ``NAME=var:VARIABLE``: an environment variable. Not ``$VARIABLE``, which the shell would put in
  its place before we see it;
* ``NAME=cred:CREDENTIAL``: a credential that was stored before.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipway.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from pydantic import SecretStr

    from slipway.servertemplates import DeclaredInput

FORMS = "@FILE, - (asked for), var:VARIABLE or cred:CREDENTIAL"


@dataclass(kw_only=True)
class Given:
    """What was given, told apart."""

    #: Everything that may be seen, credentials by name.
    plain: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, SecretStr] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def pairs(arguments: Sequence[str], *, option: str = "--input") -> tuple[dict[str, str], Given]:
    """``NAME=VALUE`` arguments as a mapping; the problems are in the second value."""
    found: dict[str, str] = {}
    given = Given()
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            # The argument itself is not repeated: it may be a secret in the wrong place.
            what = "write NAME=VALUE, such as GREETING=hello"
            given.problems.append(Problem(where=f"{option} number {len(found) + 1}", what=what))
        elif name in found:
            given.problems.append(Problem(where=f"input {name}", what="it is given twice"))
        else:
            found[name] = value
    return found, given


def from_file(path: Path) -> dict[str, Any]:
    """Inputs from a YAML file, one ``NAME: value`` each. Raises `InvalidInput`."""
    import yaml

    try:
        found = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InvalidInput(Problem(where=str(path), what=error.strerror or str(error))) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        said = getattr(error, "problem", None) or "it cannot be read"
        raise InvalidInput(Problem(where=where, what=f"not YAML: {said}")) from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        what = "write one NAME: value a line, such as GREETING: hello"
        raise InvalidInput(Problem(where=str(path), what=what))
    return found


def collect(
    declared: Mapping[str, DeclaredInput],
    arguments: Sequence[str],
    file: Path | None,
) -> Given:
    """What the command line and a file say, secrets apart; the command line wins."""
    written, given = pairs(arguments)
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = from_file(file)
        except InvalidInput as error:
            given.problems += error.problems
    for name, value in {**values, **written}.items():
        kind = declared[name].type if name in declared else None
        if kind == "secret":
            _take_secret(given, name, value)
        elif value is None or isinstance(value, str | bool | int):
            given.plain[name] = value
        elif isinstance(value, list):
            given.plain[name] = [each if isinstance(each, str) else str(each) for each in value]
        else:
            what = f"{value!r} is no text, number, truth value or list; write it in quotes"
            given.problems.append(Problem(where=f"input {name} ({file})", what=what))
    # A null in a file takes nothing back here: there is no weaker value to return to.
    given.plain = {name: value for name, value in given.plain.items() if value is not None}
    return given


def read_secret(form: str, *, prompt: str, where: str) -> SecretStr:
    """The secret behind ``@FILE``, ``-`` or ``var:VARIABLE``. Raises `InvalidInput`."""
    from pydantic import SecretStr

    if form.startswith("@"):
        path = Path(form[1:]).expanduser()
        try:
            value = path.read_text().removesuffix("\n").removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not text"
            raise InvalidInput(Problem(where=where, what=f"file {path}: {said}")) from error
        source = f"file {path}"
    elif form == "-":
        if sys.stdin.isatty():
            value = getpass.getpass(f"{prompt}: ")
        else:
            value = sys.stdin.readline().rstrip("\r\n")
        source = "what was entered"
    elif form.startswith("var:"):
        variable = form.removeprefix("var:")
        if variable not in os.environ:
            what = f"environment variable {variable} is not set"
            raise InvalidInput(Problem(where=where, what=what))
        value = os.environ[variable]
        source = f"environment variable {variable}"
    else:
        what = (
            "a secret never stands in an argument or an inputs file, where others can read it; "
            f"give it as {FORMS}"
        )
        raise InvalidInput(Problem(where=where, what=what))
    if not value:
        raise InvalidInput(Problem(where=where, what=f"{source} is empty"))
    return SecretStr(value)


def _take_secret(given: Given, name: str, form: Any) -> None:
    from pydantic import SecretStr

    if isinstance(form, str) and form.startswith("cred:"):
        given.plain[name] = form
        return
    try:
        shown = form if isinstance(form, str) else "a literal"
        given.secrets[name] = read_secret(shown, prompt=name, where=f"input {name}")
    except InvalidInput as error:
        given.problems += error.problems
        # Named all the same, so that it is not reported as missing too.
        given.secrets[name] = SecretStr("")
