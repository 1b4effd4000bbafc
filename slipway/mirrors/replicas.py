"""What one mirror tells another about its days, so that it can have the same.

``/snapshots/states.json`` lists them; the files of each are at its moment's address, as for every
client. A replica believes only what the distribution has signed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from slipway.clock import Clock
from slipway.errors import NotFound, UpstreamUnavailable
from slipway.mirrors.days import Days
from slipway.mirrors.fetch import Upstream
from slipway.mirrors.site import moment_of, when_of

#: Below ``/snapshots/``.
STATES = "states.json"
_SCHEMA = "slipway-states/1"


def document(days: Days) -> bytes:
    """The days of all repositories that were not removed, the oldest first, as JSON."""
    repositories = {
        name: [
            {"taken_at": when_of(day.taken_at), "suite": day.suite}
            for day in reversed(days.history(name))
        ]
        for name in days.repositories()
    }
    text = json.dumps({"schema": _SCHEMA, "repositories": repositories}, separators=(",", ":"))
    return text.encode()


def states(peer: str, repository: str, clock: Clock) -> dict[datetime, list[str]]:
    """The moments at which the mirror at ``peer`` took a repository, the first one first, each with
    the suites that it took. Raises `NotFound`, `UpstreamUnavailable`."""
    upstream = Upstream((peer,), clock, connections=1)
    try:
        data = upstream.document(STATES)
    finally:
        upstream.close()
    where = f"{peer.rstrip('/')}/{STATES}"
    if data is None:
        raise UpstreamUnavailable(f"there is no {where}; is {peer} the /snapshots of a mirror?")
    try:
        found: dict[datetime, list[str]] = {}
        for moment, suite in sorted(_days(json.loads(data), repository)):
            found.setdefault(moment, []).append(suite)
        return found
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UpstreamUnavailable(f"{where} does not list the days of a mirror: {error}") from error


def _days(document: Any, repository: str) -> Iterator[tuple[datetime, str]]:
    if document.get("schema") != _SCHEMA:
        raise ValueError(f"its schema is {document.get('schema')!r} instead of {_SCHEMA!r}")
    repositories: Mapping[str, Any] = document["repositories"]
    if repository not in repositories:
        names = ", ".join(repositories) or "none"
        raise NotFound(f"the peer has no repository {repository}; it has: {names}")
    for day in repositories[repository]:
        yield moment_of(str(day["taken_at"])), str(day["suite"])


def address(peer: str, repository: str, moment: datetime) -> str:
    """Where a mirror has a repository as it was at a moment."""
    return f"{peer.rstrip('/')}/{when_of(moment)}/{repository}"
