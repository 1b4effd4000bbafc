"""Scripts: what kind a file is and what its header says.

The header is YAML in comments, between ``# ---`` and ``# ...``, near the top of the script::

    #!/bin/bash
    # ---
    # name: Install the application
    # inputs:
    #   ROLE: {type: choice, of: [blue, green], default: blue}
    # timeout: 10m
    # retry_safe: true
    # ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from slipway.errors import Problem
from slipway.servertemplates.document import ScriptHeader, check_model
from slipway.servertemplates.inputs import declaration_problems, name_problem
from slipway.servertemplates.yaml_source import Located, load
from slipway.spelling import nearest

ScriptKind = Literal["bash", "sh", "python", "powershell"]

_COMMENT = re.compile(r"^\s*(?:#|//|--)[ \t]?(.*)$")
_START = re.compile(r"^\s*(?:#|//|--)\s*-{3}\s*$")
_END = re.compile(r"^\s*(?:#|//|--)\s*\.{3}\s*$")
#: A header further down is somebody's text, not metadata.
_HEADER_BEGINS_WITHIN = 40

_INTERPRETERS: dict[str, ScriptKind] = {
    "bash": "bash",
    "sh": "sh",
    "dash": "sh",
    "python": "python",
    "python3": "python",
    "pwsh": "powershell",
    "powershell": "powershell",
}
_EXTENSIONS: dict[str, ScriptKind] = {
    ".bash": "bash",
    ".sh": "sh",
    ".py": "python",
    ".ps1": "powershell",
}


@dataclass(frozen=True, kw_only=True)
class HeaderLines:
    """Where a header stands in a script, and its YAML."""

    #: The YAML, one line for each line of the script between start and end.
    text: str
    #: Line of the script the YAML begins at, counted from 1.
    first_line: int


@dataclass(frozen=True, kw_only=True)
class ScriptFile:
    """A script as it lies in a template's directory."""

    kind: ScriptKind
    header: ScriptHeader
    #: Where each part of the header stands, for problems found later.
    located: Located
    #: Inputs whose declarations are wrong and already reported.
    broken_inputs: frozenset[str]


def find_header(text: str) -> HeaderLines | None:
    """The header's YAML. Raises `ValueError` for one that does not end."""
    lines = text.splitlines()
    for start, line in enumerate(lines[:_HEADER_BEGINS_WITHIN]):
        if not _START.match(line):
            continue
        inside: list[str] = []
        for following in lines[start + 1 :]:
            if _END.match(following):
                return HeaderLines(text="\n".join(inside), first_line=start + 2)
            comment = _COMMENT.match(following)
            if not comment and following.strip():
                break
            inside.append(comment[1] if comment else "")
        raise ValueError(f"the header that begins on line {start + 1} has no '# ...' after it")
    return None


def read_script(content: bytes, source: str) -> tuple[ScriptFile | None, list[Problem]]:
    """Check a script and read its header; ``source`` is its name in problems."""
    problems: list[Problem] = []
    first_line = f"{source}:1"
    if content.startswith(b"\xef\xbb\xbf#!"):
        what = "a byte order mark stands before '#!', which Linux then does not see; save without"
        problems.append(Problem(where=first_line, what=what))
        content = content[3:]
    text = content.decode("utf-8", errors="replace")
    try:
        lines = find_header(text)
    except ValueError as error:
        problems.append(Problem(where=source, what=str(error)))
        lines = None
    located = Located(source=source, data={})
    header: ScriptHeader | None = ScriptHeader()
    broken: set[str] = set()
    if lines is not None:
        located, found = load(lines.text, source, first_line=lines.first_line)
        problems += found
        if located.data is None and not found:
            located = Located(source=source, data={}, lines=located.lines)
        if located.data is not None:
            header, found, dropped = check_model(located, ScriptHeader)
            problems += found
            broken = {str(path[1]) for path in dropped if len(path) > 1 and path[0] == "inputs"}
    header = header or ScriptHeader()
    for name, declared in header.inputs.items():
        problem = name_problem(name)
        if problem:
            problems.append(Problem(where=located.where(("inputs", name)), what=problem))
        if name in broken:
            continue
        for field, sentence in declaration_problems(declared, complete=False):
            broken.add(name)
            where = located.where(("inputs", name, field))
            problems.append(Problem(where=where, what=sentence))
    kind, problem = _kind(content, source, header.interpreter)
    if problem:
        problems.append(Problem(where=first_line, what=problem))
    if kind not in (None, "powershell") and b"\r\n" in content:
        number = content[: content.index(b"\r\n")].count(b"\n") + 1
        what = "this line ends the Windows way (CR LF), which Linux reads as part of the command; "
        problems.append(Problem(where=f"{source}:{number}", what=what + "save it with LF"))
    if kind is None:
        return None, problems
    script = ScriptFile(kind=kind, header=header, located=located, broken_inputs=frozenset(broken))
    return script, problems


def _kind(
    content: bytes, source: str, interpreter: str | None
) -> tuple[ScriptKind | None, str | None]:
    extension = PurePosixPath(source).suffix.lower()
    by_extension = _EXTENSIONS.get(extension)
    first = content.split(b"\n", 1)[0].decode("utf-8", errors="replace").strip()
    if first.startswith("#!"):
        word = _interpreter(first[2:])
        found = _INTERPRETERS.get(word) or _INTERPRETERS.get(re.sub(r"[0-9.]+$", "", word))
        if found:
            return found, None
        if interpreter and by_extension:
            return by_extension, None
        known = ", ".join(sorted(set(_INTERPRETERS.values())))
        hint = nearest(word, _INTERPRETERS)
        return None, f"{word!r} is not an interpreter Slipway runs{hint} (it runs {known})"
    if by_extension == "powershell":
        return "powershell", None
    example = "#!/usr/bin/env python3" if by_extension == "python" else "#!/bin/bash"
    if by_extension is None and extension and not interpreter:
        return None, f"there is no '#!' line, and {extension!r} does not say what runs it"
    return by_extension, f"the first line is not a '#!' line; write for example {example}"


def _interpreter(shebang: str) -> str:
    """``bash`` of ``/usr/bin/env -S bash -e`` and of ``/usr/bin/sudo /bin/bash``."""
    words = [PurePosixPath(word).name for word in shebang.split()]
    while len(words) > 1 and (words[0] in ("env", "sudo") or words[0].startswith("-")):
        words.pop(0)
    return words[0] if words else ""
