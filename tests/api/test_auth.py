"""Who gets in: every route, by enumeration."""

from __future__ import annotations

from tests.api.world import ApiWorld


async def test_a_token_opens_the_api(world: ApiWorld) -> None:
    """With a token of the right scope a list is answered; without one it is not."""
    async with world.client("read") as client:
        answer = await client.get("/v1/servers")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"items": [], "next": None, "as_of": 0}
    async with world.client() as client:
        answer = await client.get("/v1/servers")
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert (await client.get("/healthz")).json()["status"] == "ok"
        assert (await client.get("/readyz")).status_code == 200
