"""YAML with line numbers and without surprises.

The values are those of YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema):
only ``true`` and ``false`` are booleans, so ``no``, ``on`` and ``2026-11-01`` are text. What
readers disagree about is refused instead of guessed: leading zeros (``0644``), fractions
(``1.10``), duplicate keys, anchors, merge keys and tags.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from slipway.errors import Problem

#: Keys and list positions from the top of a document: ``("inputs", "DB_HOST", "type")``.
Path = tuple[str | int, ...]

_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_HEX_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"
    r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_CORE_TAGS = {
    "tag:yaml.org,2002:map",
    "tag:yaml.org,2002:seq",
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
    "tag:yaml.org,2002:null",
    "tag:yaml.org,2002:timestamp",
    "tag:yaml.org,2002:merge",
    "tag:yaml.org,2002:value",
}
_MOST_DIGITS = 18
#: Deeper than any document of ours; a bound, because the reader recurses.
_MAX_DEPTH = 50
#: Aliases multiply: a kilobyte can spell out a billion values.
_MAX_NODES = 20_000


def show_path(path: Sequence[str | int]) -> str:
    """``boot[1]``, ``inputs.DB_HOST.type``; the empty path is the document."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


@dataclass(frozen=True, kw_only=True)
class Located:
    """Plain data and the line each part of it stands on."""

    source: str
    data: Any
    lines: Mapping[Path, int] = field(default_factory=dict)

    def where(self, path: Sequence[str | int] = ()) -> str:
        """``template.yaml:12: inputs.DB_HOST.type``; a part that is not there is placed at the
        nearest one around it."""
        found = tuple(path)
        while found not in self.lines and found:
            found = found[:-1]
        line = self.lines.get(found)
        place = self.source if line is None else f"{self.source}:{line}"
        shown = show_path(path)
        return f"{place}: {shown}" if shown else place


def load(
    text: str, source: str, *, first_line: int = 1, scalars_as_text: bool = False
) -> tuple[Located, list[Problem]]:
    """Read one YAML document.

    ``source`` is the file's name in problems; ``first_line`` the line the text begins at there.
    With ``scalars_as_text`` every scalar but null stays the text it is written as and anchors are
    allowed: for reading what other tools wrote.

    Never raises: with problems, the data is what could be read.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + first_line
        reason = " ".join(part for part in (error.context, error.problem) if part)
        where = f"{source}:{line}"
        problem = Problem(where=where, what=f"this is not valid YAML: {reason}")
        return Located(source=source, data=None), [problem]
    except yaml.YAMLError as error:  # unprintable characters have a position, not a mark
        problem = Problem(where=source, what=f"this is not valid YAML: {error}".replace("\n", " "))
        return Located(source=source, data=None), [problem]
    except RecursionError:
        problem = Problem(where=source, what="this YAML is nested too deeply to be read")
        return Located(source=source, data=None), [problem]
    builder = _Builder(source, first_line, scalars_as_text)
    data = builder.build(root, ()) if root is not None else None
    return Located(source=source, data=data, lines=builder.lines), builder.problems


class _Builder:
    def __init__(self, source: str, first_line: int, scalars_as_text: bool) -> None:
        self.source = source
        self.first_line = first_line
        self.scalars_as_text = scalars_as_text
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self._nodes = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + self.first_line)
        if len(path) > _MAX_DEPTH:
            self._problem(node, path, "this is nested too deeply; did an anchor contain itself?")
            return None
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            if self._nodes == _MAX_NODES + 1:
                self._problem(node, path, f"this document has more than {_MAX_NODES} values")
            return None
        if not self.scalars_as_text:
            # Each node is met once unless an alias points back at it.
            if id(node) in self._seen:
                self._problem(
                    node,
                    path,
                    "anchors and aliases (&name, *name) are not used here; "
                    "share settings through a layer with 'include'",
                )
                return None
            self._seen.add(id(node))
        if node.tag not in _CORE_TAGS:
            self._problem(node, path, f"the tag {node.tag!r} is not allowed; write plain values")
            return None
        if isinstance(node, yaml.MappingNode):
            return dict(self._pairs(node, path))
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _pairs(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        first_seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + self.first_line
            if not isinstance(key_node, yaml.ScalarNode):
                self._problem(key_node, path, "a key must be plain text")
                continue
            key = unicodedata.normalize("NFC", str(key_node.value))
            if key_node.tag == "tag:yaml.org,2002:merge":
                what = "'<<' merge keys are not used here; share settings through a layer"
                self._problem(key_node, path, what)
                continue
            if key in first_seen:
                what = f"the key {key!r} is here twice, first on line {first_seen[key]}; keep one"
                self._problem(key_node, (*path, key), what)
                continue
            first_seen[key] = line
            self.lines[(*path, key)] = line
            yield key, self.build(value_node, (*path, key))

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text = unicodedata.normalize("NFC", str(node.value))
        if (
            isinstance(node, yaml.ScalarNode) and node.style is not None
        ):  # quoted or a block: always text
            return text
        if _NULL.match(text):
            return None
        if self.scalars_as_text:
            return text
        if _BOOL.match(text):
            return text.lower() == "true"
        if _LEADING_ZERO.match(text) or _HEX_OR_OCTAL.match(text):
            what = f'{text} is read as different numbers by different readers; write "{text}" or '
            self._problem(node, path, what + f"{int(text, 0) if 'x' in text else text.lstrip('0')}")
            return text
        if _INT.match(text):
            if len(text.lstrip("+-")) <= _MOST_DIGITS:
                return int(text)
            self._problem(node, path, "a number of this size has to be text; write it in quotes")
            return text
        if _FLOAT.match(text):
            what = f'{text} is a number that may lose digits; write "{text}" in quotes, or a whole'
            self._problem(node, path, f"{what} number")
            return text
        return text

    def _problem(self, node: yaml.Node, path: Path, what: str) -> None:
        line = node.start_mark.line + self.first_line
        shown = show_path(path)
        where = f"{self.source}:{line}: {shown}" if shown else f"{self.source}:{line}"
        self.problems.append(Problem(where=where, what=what))
