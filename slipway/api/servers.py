"""``/v1/servers``: the declared servers, each with its launch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from slipway.api.auth import require
from slipway.api.models import ServerOut
from slipway.api.paging import Limit, Marker, Page, make_marker, read_marker
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.errors import NotFound
from slipway.launches import listing
from slipway.launches.names import nearest
from slipway.launches.requests import get_server, server_names

router = APIRouter(prefix="/v1/servers", tags=["servers"])

ChangesSince = Annotated[
    int | None,
    Query(
        ge=0,
        description="Only what has changed behind this number of the change log: an earlier "
        "answer's `as_of`.",
    ),
]


@router.get(
    "",
    operation_id="listServers",
    dependencies=[Depends(require("read"))],
    responses=responses(400, 401, 403, 410, 422),
)
def list_servers(
    services: TheServices,
    environment: Annotated[str | None, Query(max_length=128)] = None,
    changes_since: ChangesSince = None,
    limit: Limit = 100,
    marker: Marker = None,
) -> Page[ServerOut]:
    """All declared servers by name, in full detail."""
    place = f"servers {environment=} {changes_since=}"
    key = read_marker(services, place, marker)
    found = listing.server_page(
        services,
        after=key[0] if key else None,
        limit=limit,
        environment=environment,
        changed_since=changes_since,
    )
    last = found.rows[-1].server.name if found.more else None
    return Page(
        items=[ServerOut.of(each) for each in found.rows],
        next=make_marker(services, place, [last]) if last else None,
        as_of=found.as_of,
    )


@router.get(
    "/{name}",
    operation_id="getServer",
    dependencies=[Depends(require("read"))],
    responses=responses(401, 403, 404, 422),
)
def get_one_server(services: TheServices, name: str) -> ServerOut:
    """One server."""
    server = get_server(services, name)
    if server is None:
        raise NotFound(f"there is no server {name}{nearest(name, server_names(services))}")
    return ServerOut.of(listing.server_detail(services, server))
