"""Which of two Debian versions is the later one (deb-version(7))."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

_DIGITS = re.compile(r"(\d+)")

_NOTHING: list[Any] = [(0,), 0]

#: Sorts as a version does.
Order = tuple[int, tuple[Any, ...], tuple[Any, ...]]

#: What a relation between versions asks of the order of two; the last two are of long ago.
HOLDS: dict[str, Callable[[Order, Order], bool]] = {
    "<<": lambda found, wanted: found < wanted,
    "<=": lambda found, wanted: found <= wanted,
    "=": lambda found, wanted: found == wanted,
    ">=": lambda found, wanted: found >= wanted,
    ">>": lambda found, wanted: found > wanted,
    "<": lambda found, wanted: found <= wanted,
    ">": lambda found, wanted: found >= wanted,
}


@lru_cache(maxsize=4096)
def order(version: str) -> Order:
    """What to compare a version by: epoch, upstream's version, revision."""
    epoch, colon, rest = version.strip().partition(":")
    if not colon:
        epoch, rest = "0", epoch
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
    return int(epoch) if epoch.isdecimal() else 0, _parts(upstream), _parts(revision)


def _parts(text: str) -> tuple[Any, ...]:
    """Text and numbers in turn. Text sorts by letters before other signs, ``~`` before its end."""
    pieces = _DIGITS.split(text)
    found: list[Any] = []
    for at, piece in enumerate(pieces):
        if at % 2:
            found.append(int(piece))
        else:
            # 0 is the end of the text: a letter is more, a tilde is less.
            found.append((*map(_weight, piece), 0))
    if len(found) % 2:
        # Where no number comes, it is as if there were a zero.
        found.append(0)
    while found[-2:] == _NOTHING:
        del found[-2:]
    # The end counts as nothing, compared with more. Only a first text can be nothing before a zero.
    return (*found, *_NOTHING, *_NOTHING)


def _weight(sign: str) -> int:
    if sign == "~":
        return -1
    return ord(sign) if sign.isalpha() else ord(sign) + 256
