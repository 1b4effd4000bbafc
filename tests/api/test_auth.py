"""Who gets in: every route, by enumeration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import Mount

from slipway import tokens
from slipway.api.auth import Require
from slipway.api.pages.web import PageRoute
from slipway.tokens import INCLUDES, Scope
from tests.api.world import ApiWorld

#: What needs no token, and why.
PUBLIC = {
    "/healthz": "whoever watches over the process has no token",
    "/readyz": "whoever watches over the process has no token",
    "/openapi.json": "it says nothing that the documentation does not say",
}

#: What servers' agents call has keys of its own, see `tests/phonehome`; so has what people look at,
#: see `tests/pages`.
AGENTS = "/agent/v1/"


def _scopes(part: Dependant) -> Iterator[Scope]:
    if isinstance(part.call, Require):
        yield part.call.scope
    for inner in part.dependencies:
        yield from _scopes(inner)


def _routes(world: ApiWorld) -> list[tuple[str, str, set[Scope]]]:
    """Method, a path and the scopes of everything that this application answers."""
    found = []
    for context in iter_route_contexts(world.app.routes):
        path = context.path or ""
        route = context.original_route
        if not path or path.startswith(AGENTS) or isinstance(route, PageRoute | Mount):
            continue
        scopes = set(_scopes(route.dependant)) if isinstance(route, APIRoute) else set()
        filled = re.sub(r"\{[^}]*\}", "token-00000000000000000", path)
        found += [
            (method, filled, scopes) for method in sorted((context.methods or set()) - {"HEAD"})
        ]
    return found


def test_every_route_is_looked_at(world: ApiWorld) -> None:
    """The list below is whole: it has as many routes as the description, and the public ones."""
    described = {
        (method.upper(), path)
        for path, item in world.app.openapi()["paths"].items()
        for method in item
        if not path.startswith(AGENTS)
    }
    routes = [route for route in _routes(world) if route[1] != "/openapi.json"]
    assert len(described) == len(routes)


async def test_every_route_needs_a_token_of_its_scope(world: ApiWorld) -> None:
    """Without a token, with a made-up, a revoked, an expired one, and with one of every scope that
    is not enough, every route but the public ones refuses, and says what it wants."""
    revoked = world.token("admin", name="revoked")
    tokens.revoke(world.services.database, world.services.clock, "revoked", actor="test")
    expired = world.token("admin", name="expired", expires_in=timedelta(microseconds=1))
    bad = {
        "no token": None,
        "garbage": "Bearer garbage",
        "made up": f"Bearer {tokens.START}{'A' * 43}",
        "another scheme": "Basic YWRtaW46YWRtaW4=",
        "revoked": f"Bearer {revoked}",
        "expired": f"Bearer {expired}",
        # Bytes that no token has.
        "latin": b"Bearer slw_\xe9\xff",
    }
    seen = 0
    async with world.client() as client:
        for method, path, scopes in _routes(world):
            if path in PUBLIC:
                assert scopes == set()
                assert (await client.request(method, path)).status_code == 200
                continue
            assert len(scopes) == 1, f"{method} {path} has no scope"
            [scope] = scopes
            for what, value in bad.items():
                headers: Any = {} if value is None else {"Authorization": value}
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == 401, f"{method} {path} with {what}"
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert answer.headers["content-type"] == "application/problem+json"
                seen += 1
            for other in Scope:
                if scope in INCLUDES[other]:
                    continue
                headers = {"Authorization": f"Bearer {world.token(other.value)}"}
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == 403, f"{method} {path} with {other}"
                assert f'scope="{scope}"' in answer.headers["www-authenticate"]
                seen += 1
    assert seen > 250


@pytest.mark.parametrize("scope", Scope)
async def test_a_scope_opens_what_it_names(world: ApiWorld, scope: Scope) -> None:
    """A token of the scope a route needs is not refused for it."""
    async with world.client(scope.value) as client:
        for method, path, scopes in _routes(world):
            if scopes == {scope} and not path.endswith("events"):
                answer = await client.request(method, path)
                assert answer.status_code not in (401, 403), f"{method} {path}"


async def test_a_token_is_known_by_its_hash_alone(world: ApiWorld) -> None:
    """No row holds a token's value; its use is noted, and not at every call."""
    value = world.token("read", name="ci")
    async with world.client("read", name="ci") as client:
        await client.get("/v1/servers")
        [first] = tokens.list_tokens(world.services.database)
        await client.get("/v1/servers")
    [token] = tokens.list_tokens(world.services.database)
    assert value not in repr(token.model_dump())
    assert value.startswith(token.prefix)
    assert len(token.prefix) < 12
    assert token.last_used_at is not None
    assert token.last_used_at == first.last_used_at


async def test_revoking_through_the_api(world: ApiWorld) -> None:
    """An administrator ends a token by its id; it opens nothing any more, and cannot be made."""
    world.token("read", name="ci")
    async with world.client("admin") as client, world.client("read", name="ci") as other:
        assert (await other.get("/v1/servers")).status_code == 200
        path = f"/v1/tokens/{world.token_id('ci')}"
        assert (await client.delete(path)).status_code == 204
        assert (await other.get("/v1/servers")).status_code == 401
        assert (await client.delete(path)).status_code == 404
        listed = (await client.get("/v1/tokens")).json()["items"]
        assert {each["name"]: each["good"] for each in listed} == {"ci": False, "admin": True}
        assert (await client.post("/v1/tokens", json={})).status_code == 405
