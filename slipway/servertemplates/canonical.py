"""One text for one meaning: the form of a document that is hashed and stored.

Keys sorted, no white space, strings in Unicode NFC, whole numbers only: two machines that agree on
a document agree on every byte of it, whatever the order of keys, the locale or the directory.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from typing import Any


def canonical_json(value: Any) -> str:
    """The canonical JSON of plain data (what `json.loads` makes, without fractions).

    Raises `TypeError` for a float and for anything JSON does not have: their text differs between
    writers, so they have no place in something that is hashed.
    """
    return json.dumps(
        _normal(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def content_hash(text: str) -> str:
    """SHA-256 of canonical JSON, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def blob_hash(content: bytes) -> str:
    """SHA-256 of a file's bytes, in hex; no byte is changed before."""
    return hashlib.sha256(content).hexdigest()


def _normal(value: Any) -> Any:
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, dict):
        return {unicodedata.normalize("NFC", key): _normal(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item) for item in value]
    raise TypeError(f"{value!r} ({type(value).__name__}) has no canonical form")
