"""The cloud API sins, one test each: what this API must never do to its callers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from slipway.api.paging import make_marker
from slipway.records import Launch, LaunchStatus
from tests.api.test_launches import WEB
from tests.api.world import ApiWorld

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]


async def test_lists_that_are_not_enough(world: ApiWorld) -> None:
    """Lists carry full detail: an item of a list is what asking for it alone would answer."""
    made = await world.launch(LaunchStatus.OPERATIONAL, callback={"url": "https://example.org/"})
    world.run_step(made["id"], "create-instance")
    async with world.client("write") as client:
        await client.post("/v1/environments", json={"name": "staging", "inputs": {"A": "1"}})
        for path in (
            "/v1/launches",
            "/v1/servers",
            "/v1/environments",
            "/v1/templates",
            "/v1/image-maps",
            "/v1/clouds",
        ):
            [item] = (await client.get(path)).json()["items"]
            key = item.get("id") or item["name"]
            assert item == (await client.get(f"{path}/{key}")).json(), path


async def test_creations_without_the_thing(world: ApiWorld) -> None:
    """A creation answers with the resource, its id and its address; a second look finds the same,
    at once."""
    async with world.client("launch", "write") as client:
        for path, body in (
            ("/v1/launches", WEB),
            ("/v1/environments", {"name": "staging"}),
            ("/v1/templates/web/versions", {"message": "First"}),
        ):
            made = await client.post(path, json=body)
            assert made.status_code == 201, made.text
            assert (await client.get(made.headers["location"])).json() == made.json()


async def test_task_objects(world: ApiWorld) -> None:
    """State is a field of the thing: nothing answers with a task to ask for."""
    document = world.app.openapi()
    words = ("task", "job", "operation-status")
    assert [path for path in document["paths"] if any(word in path for word in words)] == []
    made = await world.launch()
    async with world.client("launch") as client:
        answer = await client.post(f"/v1/launches/{made['id']}/decommission")
    assert answer.json()["id"] == made["id"]
    assert answer.json()["status"] == "requested"
    assert "location" not in answer.headers


async def test_things_that_vanish(world: ApiWorld) -> None:
    """A terminated launch stays listed, with the reason, for 30 days, and can be asked for ever."""
    made = await world.launch(LaunchStatus.TERMINATED)
    up = await world.launch(server="web-2")
    async with world.client("read") as client:

        async def listed(**query: Any) -> list[str]:
            items = (await client.get("/v1/launches", params=query)).json()["items"]
            return [item["id"] for item in items]

        assert await listed() == [up["id"], made["id"]]
        assert await listed(ended="false") == [up["id"]]
        for age, wanted in (
            (timedelta(hours=1), [up["id"], made["id"]]),
            (timedelta(days=29), [up["id"], made["id"]]),
            (timedelta(days=31), [up["id"]]),
        ):
            with world.services.database.transaction() as connection:
                ended_at = world.services.clock.now() - age
                connection.execute(
                    sa.update(_LAUNCHES)
                    .where(_LAUNCHES.c.id == made["id"])
                    .values(ended_at=ended_at)
                )
            assert await listed() == wanted
        assert await listed(ended="true") == [made["id"]]
        found = (await client.get(f"/v1/launches/{made['id']}")).json()
    assert (found["status"], found["reason"]) == ("terminated", "decommissioned")


async def test_pages_by_number(world: ApiWorld) -> None:
    """Rows that come and go between two pages shift nothing: no row is shown twice, and none that
    was there throughout is left out."""
    for number in range(6):
        await world.launch(server=f"web-{number}")
    async with world.client("launch") as client:
        first = (await client.get("/v1/launches", params={"limit": 2})).json()
        await world.launch(server="web-new")
        with world.services.database.transaction() as connection:
            # The row the marker stands for is not there any more, as far as lists go.
            connection.execute(
                sa.update(_LAUNCHES)
                .where(_LAUNCHES.c.id == first["items"][-1]["id"])
                .values(
                    status="terminated", ended_at=world.services.clock.now() - timedelta(days=99)
                )
            )
        shown = [item["server"] for item in first["items"]]
        marker = first["next"]
        while marker:
            page = (await client.get("/v1/launches", params={"limit": 2, "marker": marker})).json()
            shown += [item["server"] for item in page["items"]]
            marker = page["next"]
    assert shown == ["web-5", "web-4", "web-3", "web-2", "web-1", "web-0"]


async def test_markers_that_anybody_makes(world: ApiWorld) -> None:
    """A marker is ours, of this list and with these filters, or it is refused."""
    for number in range(3):
        await world.launch(server=f"web-{number}")
    services = world.services
    async with world.client("read") as client:
        good = (await client.get("/v1/launches", params={"limit": 1})).json()["next"]
        changed = good[:-2] + ("AA" if good[-2:] != "AA" else "BB")
        for path, marker in (
            ("/v1/launches", "1"),
            ("/v1/launches", "%"),
            ("/v1/launches", "ä"),
            ("/v1/launches", changed),
            ("/v1/launches", make_marker(services, "launches", [1])),
            ("/v1/launches?server=web-1", good),
            ("/v1/servers", good),
        ):
            answer = await client.get(path, params={"marker": marker, "limit": 1})
            if "?" in path:
                answer = await client.get(f"{path}&marker={marker}&limit=1")
            assert answer.status_code == 400, (path, marker)
            assert answer.json()["type"] == "urn:slipway:problem:marker"
        answer = await client.get("/v1/launches", params={"marker": good, "limit": 1})
        assert answer.status_code == 200


async def test_polling_everything(world: ApiWorld) -> None:
    """`changes_since` shows what has changed and nothing else, also what a driver found out, and
    what has ended however long ago."""
    old = await world.launch(LaunchStatus.OPERATIONAL)
    other = await world.launch(server="web-2")
    async with world.client("write") as client:
        await client.post("/v1/environments", json={"name": "staging"})
        as_of = (await client.get("/v1/launches")).json()["as_of"]

        async def changed(path: str) -> list[str]:
            found = (await client.get(path, params={"changes_since": as_of})).json()
            return [item.get("id") or item["name"] for item in found["items"]]

        assert await changed("/v1/launches") == []
        world.update(other["id"], private_ip="10.0.0.7")
        assert await changed("/v1/launches") == [other["id"]]
        assert await changed("/v1/servers") == ["web-2"]
        assert await changed("/v1/environments") == []
        await client.patch("/v1/environments/staging", json={"set": {"A": "1"}})
        assert await changed("/v1/environments") == ["staging"]
        world.drive(old["id"], LaunchStatus.TERMINATED)
        assert await changed("/v1/launches") == [other["id"], old["id"]]


async def test_mistakes_that_are_swallowed(world: ApiWorld) -> None:
    """A parameter or field that nobody knows is refused, with the nearest that there is."""
    async with world.client("launch") as client:
        answer = await client.get("/v1/launches", params={"statsu": "operational"})
        assert answer.status_code == 422
        assert answer.json()["problems"] == [
            {
                "where": "query.statsu",
                "what": "there is no such parameter; did you mean 'status'?",
            }
        ]
        answer = await client.get("/v1/launches?marker=&marker=x&status=stranded&status=cancelled")
        assert answer.json()["problems"] == [
            {"where": "query.marker", "what": "it is given 2 times, and takes one value"}
        ]
        answer = await client.post("/v1/launches", json={**WEB, "instancetype": "small"})
        assert answer.status_code == 422
        assert answer.json()["problems"][0]["where"] == "body.instancetype"
        for bad in (b"{", b"\xff", b"[]", b'"\\u0000"'):
            answer = await client.post(
                "/v1/launches", content=bad, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 422, bad
            assert answer.headers["content-type"] == "application/problem+json"
        answer = await client.post("/v1/launches", json={**WEB, "user_data": "a\0b"})
        assert answer.status_code == 422
        answer = await client.post("/v1/launches", content=b"x" * (1024 * 1024 + 1))
        assert answer.status_code == 413
        answer = await client.post("/v1/launches", content=_pieces())
        assert answer.status_code == 413
        answer = await client.put("/v1/launches")
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


async def _pieces() -> Any:
    for _ in range(20):
        yield b"x" * 65536 * 2


async def test_one_template_for_all(world: ApiWorld) -> None:
    """Versions, tags and differences are there to be read, and a tag that moved is on record."""
    async with world.client("write") as client:
        first = (await client.post("/v1/templates/web/versions", json={"message": "One"})).json()
        path = world.services.templates.templates_dir / "web" / "template.yaml"
        path.write_text(path.read_text() + "settings: {instance_type: large}\n")
        again = await client.get("/v1/templates/web")
        assert again.json()["working_copy"] == "changed"
        second = (await client.post("/v1/templates/web/versions", json={"message": "Two"})).json()
        assert (first["version"], second["version"]) == ("r1", "r2")
        for version in ("r1", "r2"):
            await client.put("/v1/templates/web/tags/prod", json={"version": version})
        tagged = (await client.get("/v1/templates/web/versions/prod")).json()
        assert (tagged["hash"], tagged["tags"]) == (second["hash"], ["prod"])
        found = (await client.get("/v1/templates/web/diff?from=r1&to=prod")).json()
        assert found["fields"] == [
            {"path": "settings.instance_type", "before": None, "after": "large"}
        ]
        listed = (await client.get("/v1/templates/web/versions", params={"limit": 1})).json()
        assert [item["version"] for item in listed["items"]] == ["r2"]
        listed = (
            await client.get("/v1/templates/web/versions", params={"marker": listed["next"]})
        ).json()
        assert [item["version"] for item in listed["items"]] == ["r1"]
        document = (await client.get("/v1/templates/web/versions/r1/document")).json()
        assert document["document"]["name"] == "web"
        audit = (await client.get("/v1/audit/template/web")).json()["items"]
        for bad in ("..", "%2e%2e%2fweb", "web%00"):
            answer = await client.get(f"/v1/templates/{bad}/versions/head/document")
            assert answer.status_code in (404, 422)
    assert [entry["summary"] for entry in audit] == [
        "web@r1 committed: One",
        "web@r2 committed: Two",
        "tag prod of template web points at web@r1",
        "tag prod of template web points at web@r2",
    ]


async def test_a_record_that_cannot_be_checked(world: ApiWorld) -> None:
    """The audit can be listed, verified and exported; a changed row is named."""
    made = await world.launch(LaunchStatus.OPERATIONAL)
    path = f"/v1/audit/launch/{made['id']}"
    async with world.client("read") as client:
        subjects = (await client.get("/v1/audit")).json()["items"]
        assert f"launch/{made['id']}" in [each["subject"] for each in subjects]
        first = (await client.get(path, params={"limit": 2})).json()
        rest = (await client.get(path, params={"marker": first["next"]})).json()
        entries = first["items"] + rest["items"]
        assert [each["seq"] for each in entries] == list(range(1, len(entries) + 1))
        held = (await client.get(f"{path}/verification")).json()
        assert (held["holds"], held["entries"], held["head"]) == (
            True,
            len(entries),
            entries[-1]["hash"],
        )
        export = await client.get(f"{path}/export")
        assert export.headers["content-type"] == "application/x-ndjson"
        assert len(export.text.splitlines()) == len(entries)
        with world.services.database.transaction() as connection:
            connection.execute(sa.text("UPDATE audit_entry SET summary = 'x' WHERE seq = 2"))
        broken = (await client.get(f"{path}/verification")).json()
        assert (broken["holds"], "entry 2 was changed" in broken["problem"]) == (False, True)
        assert (await client.get("/v1/audit/launch/nothing/export")).status_code == 404


async def test_numbers_that_nobody_can_watch(world: ApiWorld) -> None:
    """The metrics say what happened, and no label of theirs is somebody's data."""
    await world.launch(LaunchStatus.OPERATIONAL)
    async with world.client("launch") as client:
        await client.post("/v1/launches", json={**WEB, "server": "web-2"})
        await client.get("/v1/launches/launch-nothing")
        await client.get("/nowhere/web-1")
        text = (await client.get("/metrics")).text
    assert 'slipway_launches{status="operational"} 1.0' in text
    assert "slipway_handovers_waiting 1.0" in text
    assert "slipway_event_streams 0.0" in text
    route = 'route="/v1/launches/{launch_id}"'
    assert f'slipway_api_requests_total{{method="GET",{route},status="404"}} 1.0' in text
    assert 'route="none"' in text
    assert "web-1" not in text
    assert "nowhere" not in text
