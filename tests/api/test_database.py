"""The database goes away under the API."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
import sqlalchemy as sa

from slipway.database import Database
from slipway.errors import DatabaseUnavailable
from tests.api.test_idempotency import KEY
from tests.api.test_launches import WEB
from tests.api.world import ApiWorld
from tests.records.test_outages import without_patience


async def test_a_request_that_cannot_be_recorded(world: ApiWorld) -> None:
    """It is answered with 503 and when to try again; tried again, it is done once."""
    database = world.services.database
    database.close()
    sa.event.listen(database._engine, "connect", without_patience)
    async with world.client("launch") as client:
        with contextlib.closing(sqlite3.connect(database.url.database or "")) as writer:
            writer.execute("BEGIN IMMEDIATE")
            answer = await client.post("/v1/launches", json=WEB, headers=KEY)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:slipway:problem:database"
        assert int(answer.headers["retry-after"]) > 0
        again = await client.post("/v1/launches", json=WEB, headers=KEY)
        assert again.status_code == 201
        listed = await client.get("/v1/launches")
    assert [each["id"] for each in listed.json()["items"]] == [again.json()["id"]]


@pytest.mark.parametrize("path", ["/readyz", "/v1/launches"])
async def test_nothing_can_be_read(
    world: ApiWorld, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Whoever reads is told to come again, and not where the database is."""
    world.token("read")

    @contextlib.contextmanager
    def away(_: Database) -> None:
        raise DatabaseUnavailable("the database cannot be used now: db.example refuses")

    monkeypatch.setattr(Database, "reading", away)
    async with world.client("read") as client:
        answer = await client.get(path)
    assert answer.status_code == 503
    assert "db.example" not in answer.text
