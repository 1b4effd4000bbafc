"""What people may call things."""

from __future__ import annotations

import re

from slipway.errors import Problem

#: Server names become host names and tags: what DNS allows in one label.
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"


def check_name(noun: str, name: str) -> list[Problem]:
    """The problems of a name for a server or an environment; none when it is fine."""
    if re.fullmatch(NAME, name):
        return []
    return [
        Problem(
            where=f"{noun} {name!r}",
            what="a name is 1 to 63 lower-case letters, digits and hyphens, "
            "with a letter or digit at both ends, such as web-1",
        )
    ]
