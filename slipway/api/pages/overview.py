"""The first page: servers by state, what needs attention, what happens now."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from slipway.api.pages import queries
from slipway.api.pages.live import Changed, News, Watcher, state_mark, stream
from slipway.api.pages.rendering import look
from slipway.api.pages.sessions import Visitor
from slipway.api.pages.web import Site, Visit, site_of
from slipway.records import LaunchStatus

#: Rows of each list; the rest is on the page of servers.
MOST = 8

Reader = Annotated[Visitor, Depends(Visit("read"))]


def register(router: APIRouter) -> None:
    """Add the routes."""
    router.get("/")(overview)
    router.get("/live/overview")(overview_live)


def overview(request: Request, visitor: Reader) -> Response:
    """Everything at a glance."""
    site = site_of(request)
    seen = state_mark(_state(site))
    return site.page(request, "overview.html", visitor, seen=seen, **_context(site))


def overview_live(request: Request, visitor: Reader, seen: str = "") -> Response:
    """The same, as it changes."""
    site = site_of(request)

    def make() -> Watcher:
        changed = Changed(seen)

        def look_again() -> News:
            if not changed(_state(site)):
                return News()
            context = _context(site)
            parts = {"states": "states", "attention": "attention", "recent": "recent"}
            parts["under-way"] = "under_way"
            return News(
                parts={
                    place: site.part(f"{name}.html", visitor, **context)
                    for place, name in parts.items()
                }
            )

        return look_again

    return stream(request, make)


def state_tiles(counts: dict[str, int]) -> list[dict[str, Any]]:
    """The states as tiles, those on the way up taken together."""
    starting = sum(counts.get(status.value, 0) for status in queries.UNDER_WAY[:-1])
    rows = [
        (LaunchStatus.OPERATIONAL.value, "operational", counts.get("operational", 0)),
        ("starting", "starting", starting),
        *((name, name, counts.get(name, 0)) for name in ("stranded", "cancelled")),
        (LaunchStatus.DECOMMISSIONING.value, "decommissioning", counts.get("decommissioning", 0)),
    ]
    total = sum(number for _, _, number in rows)
    tiles, x = [], 0.0
    for state, label, number in rows:
        width = 100 * number / total if total else 0
        tiles.append(
            {
                "state": state,
                "label": label,
                "count": number,
                "look": look(state),
                "x": round(x, 2),
                "width": round(width, 2),
            }
        )
        x += width
    return tiles


def _state(site: Site) -> object:
    """Something else after any change, and every few seconds while time itself is news."""
    return queries.last_change(site.services.database), int(site.now().timestamp()) // 15


def _context(site: Site) -> dict[str, Any]:
    database, now = site.services.database, site.now()
    tiles = state_tiles(queries.state_counts(database))
    attention, attention_total = queries.attention(database, now, limit=MOST)
    return {
        "states": tiles,
        "total": sum(tile["count"] for tile in tiles),
        "attention": attention,
        "attention_total": attention_total,
        "under_way": queries.under_way(database, limit=MOST),
        "recent": queries.recent(database, limit=MOST),
    }
