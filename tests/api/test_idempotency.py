"""One key, one effect: however often, from however many at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from slipway.api.background import clear_away
from slipway.database import Database
from slipway.records import HandOver, KeyedRequest, Launch, LaunchStatus
from slipway.settings import Settings
from tests.api.conftest import make_world
from tests.api.test_launches import WEB
from tests.api.world import ApiWorld

_KEYS = KeyedRequest.__table__  # type: ignore[attr-defined]

KEY = {"Idempotency-Key": "4b6c2f0e-6f0a-4a3e-9f39-0a9a2f7f4c11"}


def _count(world: ApiWorld, table: Any) -> int:
    with world.services.database.reading() as connection:
        query = sa.select(sa.func.count()).select_from(table.__table__)
        return int(connection.execute(query).scalar_one())


async def test_the_same_request_is_done_once(world: ApiWorld) -> None:
    """Asking again with the same key and body answers with the same resource, in whatever state it
    is by then; blanks and the order of fields make no other request."""
    async with world.client("launch") as client:
        first = await client.post("/v1/launches", json=WEB, headers=KEY)
        world.drive(first.json()["id"], LaunchStatus.OPERATIONAL)
        text = '{ "cloud": "fake",  "server": "web-1", "template": "web" }'
        again = await client.post(
            "/v1/launches", content=text, headers={**KEY, "Content-Type": "application/json"}
        )
    assert first.status_code == again.status_code == 201
    assert first.headers["location"] == again.headers["location"]
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["status"] == "operational"
    assert (_count(world, Launch), _count(world, HandOver)) == (1, 1)


async def test_the_same_key_for_something_else_is_refused(world: ApiWorld) -> None:
    """A key that came with another body, or for another thing, changes nothing."""
    async with world.client("launch", "write") as client:
        await client.post("/v1/launches", json=WEB, headers=KEY)
        for path, body in (
            ("/v1/launches", {**WEB, "server": "web-2"}),
            ("/v1/launches", {**WEB, "secrets": {"TOKEN": "x"}}),
            ("/v1/environments", WEB | {"name": "staging"}),
            ("/v1/environments", {"name": "staging"}),
        ):
            answer = await client.post(path, json=body, headers=KEY)
            assert answer.status_code == 422, path
        assert answer.json()["type"] == "urn:slipway:problem:key-reused"
    assert _count(world, Launch) == 1


async def test_keys_belong_to_their_token(world: ApiWorld) -> None:
    """Two tokens with the same key ask for two things."""
    async with world.client("launch", name="a") as one, world.client("launch", name="b") as other:
        first = await one.post("/v1/launches", json=WEB, headers=KEY)
        second = await other.post("/v1/launches", json={**WEB, "server": "web-2"}, headers=KEY)
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("same", [True, False], ids=["one body", "ten bodies"])
async def test_many_at_once(
    settings: Settings, any_database: Database, templates: Any, same: bool
) -> None:
    """Of many requests with one key at the same time one has an effect; those that ask for the same
    get its result, the others are refused."""
    made = settings.model_copy(update={"templates_dir": templates})
    world = make_world(made, any_database)
    bodies = [WEB if same else {**WEB, "server": f"web-{number}"} for number in range(10)]
    async with world.client("launch") as client:
        answers = await asyncio.gather(
            *(client.post("/v1/launches", json=body, headers=KEY) for body in bodies)
        )
    good = [answer for answer in answers if answer.status_code == 201]
    assert {answer.json()["id"] for answer in good} == {good[0].json()["id"]}
    assert len(good) == (10 if same else 1)
    assert {answer.status_code for answer in answers} <= {201, 422}
    assert (_count(world, Launch), _count(world, HandOver)) == (1, 1)


@pytest.mark.parametrize(
    ("path", "body", "status", "flow"),
    [
        ("decommission", {"reason": "no use"}, LaunchStatus.OPERATIONAL, "decommission_server"),
        ("resume", None, LaunchStatus.STRANDED, "resume_launch"),
        ("cancel", None, LaunchStatus.STRANDED, None),
        ("runs", {"script": "greet"}, LaunchStatus.OPERATIONAL, "run_operational_script"),
    ],
)
async def test_actions_are_done_once(
    world: ApiWorld, path: str, body: Any, status: LaunchStatus, flow: str | None
) -> None:
    """Every action takes a key, and hands over once."""
    made = await world.launch(status)
    async with world.client("launch") as client:
        answers = [
            await client.post(f"/v1/launches/{made['id']}/{path}", json=body, headers=KEY)
            for _ in range(3)
        ]
    assert {answer.status_code for answer in answers} in ({201}, {202})
    assert len({answer.json()["id"] for answer in answers}) == 1
    world.dispatcher.tick()
    flows = [name for name, _ in world.starter.runs.values()]
    assert flows == ["launch_server", *([flow] if flow else [])]


async def test_creations_are_done_once(world: ApiWorld) -> None:
    """Environments, versions, tags and credentials take keys too: the second time says what the
    first one did, also where a second one alone would be an error."""
    async with world.client("write") as client:
        for method, path, body in (
            ("POST", "/v1/environments", {"name": "staging"}),
            ("POST", "/v1/templates/web/versions", {"message": "First"}),
            ("PUT", "/v1/templates/web/tags/prod", {"version": "r1"}),
            ("PATCH", "/v1/environments/staging", {"unset": [], "set": {"A": "1"}}),
            ("PUT", "/v1/credentials/staging/token", {"value": "hunter2"}),
            ("DELETE", "/v1/credentials/staging/token", None),
            ("DELETE", "/v1/environments/staging", None),
        ):
            headers = {"Idempotency-Key": f"{method} {path}".replace(" ", "-")}
            once, again = [
                await client.request(method, path, json=body, headers=headers) for _ in range(2)
            ]
            assert once.status_code < 300, once.text
            assert (again.status_code, again.text) == (once.status_code, once.text)


async def test_a_request_that_failed_leaves_its_key_free(world: ApiWorld) -> None:
    """What was refused may be mended and asked for again under the same key."""
    async with world.client("launch", "write") as client:
        body = {**WEB, "environment": "staging"}
        assert (await client.post("/v1/launches", json=body, headers=KEY)).status_code == 422
        await client.post("/v1/environments", json={"name": "staging"})
        assert (await client.post("/v1/launches", json=body, headers=KEY)).status_code == 201


async def test_keys_are_forgotten_after_two_days(world: ApiWorld) -> None:
    """A key is remembered for a day at least, and not for ever; bodies are never kept."""
    async with world.client("launch") as client:
        await client.post("/v1/launches", json={**WEB, "secrets": {"TOKEN": "abc"}}, headers=KEY)
    database, now = world.services.database, world.services.clock.now()
    for age, left in ((timedelta(hours=25), 1), (timedelta(days=3), 0)):
        with database.transaction() as connection:
            connection.execute(sa.update(_KEYS).values(created_at=now - age))
        clear_away(world.services)
        assert _count(world, KeyedRequest) == left
