"""Identifiers that sort by time of creation and read well in a log line."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Crockford's base 32: no i, l, o or u to misread.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, now: datetime) -> str:
    """``prefix-`` and 17 characters: 45 bits of milliseconds, then 40 random bits."""
    # Whole milliseconds by whole numbers: a float would round two neighbours to one.
    milliseconds = (now - _EPOCH) // timedelta(milliseconds=1)
    number = (milliseconds << 40) | secrets.randbits(40)
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(80, -1, -5)]
    return f"{prefix}-{''.join(digits)}"
