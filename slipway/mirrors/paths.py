"""Paths inside a repository: relative, plain, and never out of it."""

from __future__ import annotations


def safe(path: str) -> str | None:
    """A path without a leading ``./``; None when it is not one that may be used."""
    path = path.removeprefix("./")
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        return None
    return path if path.isprintable() and "\\" not in path else None
