"""``/v1/servers``: the declared servers, each with its launch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from slipway.api.auth import require
from slipway.api.models import ServerOut
from slipway.api.paging import ChangesSince, Limit, Marker, Page, page_of, read_marker
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.api.words import NAME, ServerName
from slipway.errors import NotFound
from slipway.launches import listing
from slipway.launches.requests import get_server, server_names
from slipway.spelling import nearest_or_all

router = APIRouter(prefix="/v1/servers", tags=["servers"], dependencies=[Depends(require("read"))])


@router.get("", operation_id="listServers", responses=responses(400, 401, 403, 410, 422))
def list_servers(
    services: TheServices,
    environment: Annotated[
        str | None, Query(pattern=NAME, description="Only those of this environment.")
    ] = None,
    changes_since: ChangesSince = None,
    limit: Limit = 100,
    marker: Marker = None,
) -> Page[ServerOut]:
    """All declared servers by name, in full detail."""
    place = f"servers {environment=} {changes_since=}"
    after = read_marker(services, place, marker)
    found = listing.server_page(
        services,
        after=after[0] if after else None,
        limit=limit,
        environment=environment,
        changed_since=changes_since,
    )
    return page_of(services, place, found, key=lambda each: [each.server.name], shown=ServerOut.of)


@router.get("/{name}", operation_id="getServer", responses=responses(401, 403, 404, 422))
def get_one_server(services: TheServices, name: ServerName) -> ServerOut:
    """One server, with its active or else newest launch."""
    server = get_server(services, name)
    if server is None:
        raise NotFound(f"there is no server {name}{nearest_or_all(name, server_names(services))}")
    return ServerOut.of(listing.server_detail(services, server))
