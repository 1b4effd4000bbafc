"""Which of two versions of an rpm package is newer.

What rpm's ``rpmvercmp`` and ``rpmVersionCompare`` do, see rpm-version(7): the epoch first, then
version and release by their parts, where a number is newer than a word, ``~`` comes before
everything and ``^`` after the end.
"""

from __future__ import annotations

import functools
import itertools
import re

_PARTS = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")


def compare(one: str, other: str) -> int:
    """Less than 0, 0 or more as one version (``2:1.0-3.el9``) is older than, as old as or newer
    than the other."""
    ours, theirs = _split(one), _split(other)
    if ours[0] != theirs[0]:
        return ours[0] - theirs[0]
    return _compare(ours[1], theirs[1]) or _compare(ours[2], theirs[2])


#: To be used as a key for sorting.
order = functools.cmp_to_key(compare)


def _split(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.rpartition(":")
    text, _, release = rest.partition("-")
    return (int(epoch) if colon and epoch.isdecimal() else 0), text, release


def _compare(one: str, other: str) -> int:
    for ours, theirs in itertools.zip_longest(_PARTS.findall(one), _PARTS.findall(other)):
        if ours == theirs:
            continue
        for mark, sign in (("~", -1), ("^", 1)):
            if ours == mark:
                # "1.0^git" is newer than "1.0" and older than "1.0.1".
                return sign if mark == "~" or theirs is None else -1
            if theirs == mark:
                return -sign if mark == "~" or ours is None else 1
        if ours is None or theirs is None:
            return -1 if ours is None else 1
        if ours.isdecimal() and theirs.isdecimal():
            if int(ours) != int(theirs):
                return int(ours) - int(theirs)
        elif ours.isdecimal() != theirs.isdecimal():
            return 1 if ours.isdecimal() else -1
        else:
            return 1 if ours > theirs else -1
    return 0
