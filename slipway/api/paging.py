"""Lists in pages: a signed, opaque marker stands for the last row of the page before.

A page begins behind a row's key, never at a number: rows that come and go meanwhile shift nothing.
Keys do not change, so every row that is there during the whole walk is seen exactly once.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from slipway.api.problems import ApiProblem
from slipway.launches.listing import Slice
from slipway.launches.services import Services

MAX_LIMIT = 500
_SIGNATURE_BYTES = 12

T = TypeVar("T")
R = TypeVar("R")

Limit = Annotated[
    int, Query(ge=1, le=MAX_LIMIT, description="How many items a page holds at most.")
]
Marker = Annotated[
    str | None,
    Query(
        max_length=1024,
        description="`next` of the page before; with the same filters. Empty: the first page.",
    ),
]
ChangesSince = Annotated[
    int | None,
    Query(
        ge=0,
        le=2**63 - 1,
        description="Only what has changed behind this number of the change log: the `as_of` of an "
        "earlier answer.",
    ),
]


class Page(BaseModel, Generic[T]):
    """Some items of a list, in full detail."""

    items: list[T]
    next: str | None = Field(
        description="The marker of the next page; null on the last one.", examples=[None]
    )
    as_of: int = Field(
        description="The newest change this page takes into account. The first page's is what to "
        "pass as `changes_since` later, or to the event stream.",
        examples=[1042],
    )


def page_of(
    services: Services,
    place: str,
    found: Slice[R],
    *,
    key: Callable[[R], Sequence[Any]],
    shown: Callable[[R], T],
) -> Page[T]:
    """A page of what was found; ``key`` tells behind which row the next one begins."""
    following = make_marker(services, place, key(found.rows[-1])) if found.more else None
    return Page(items=[shown(row) for row in found.rows], next=following, as_of=found.as_of)


def make_marker(services: Services, place: str, key: Sequence[Any]) -> str:
    """The marker of a row. ``place`` names the list with its filters."""
    body = json.dumps([_fingerprint(place), *key], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_sign(services, body) + body).decode().rstrip("=")


def read_marker(services: Services, place: str, marker: str | None) -> list[Any] | None:
    """The key a marker stands for; None where the first page is wanted. Raises a 400 problem for
    one that we did not give for this list."""
    if not marker:
        return None
    try:
        raw = base64.b64decode(marker + "=" * (-len(marker) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _bad() from None
    signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _sign(services, body)):
        raise _bad()
    found, *key = list(json.loads(body))
    if found != _fingerprint(place):
        raise ApiProblem(
            400, "marker", "this marker belongs to a list with other filters; begin without one"
        )
    return key


def _bad() -> ApiProblem:
    return ApiProblem(400, "marker", "this marker was not given by this API; begin without one")


def _sign(services: Services, body: bytes) -> bytes:
    key = services.vault.derive_key("paging")
    return hmac.digest(key, body, "sha256")[:_SIGNATURE_BYTES]


def _fingerprint(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:12]
