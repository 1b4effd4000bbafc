"""Launching through the API: recorded at once, handed over when the engine is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from slipway import audit
from slipway.errors import CloudError, CloudRefused, CloudThrottled, CloudUnavailable
from slipway.launches.requests import find_launch
from slipway.lifecycle import subject_of
from slipway.records import LaunchStatus
from slipway.testing.fake_cloud import FakeCloud
from tests.api.world import ApiWorld

WEB = {"template": "web", "server": "web-1", "cloud": "fake"}


async def test_launching(world: ApiWorld) -> None:
    """A launch is answered with its resource at once, and handed over as one flow run."""
    async with world.client("launch") as client:
        answer = await client.post("/v1/launches", json=WEB)
        assert answer.status_code == 201, answer.text
        made = answer.json()
        assert answer.headers["location"] == f"/v1/launches/{made['id']}"
        assert made["status"] == "requested"
        assert made["requested_by"] == "token/launch"
        assert made["hand_over"]["state"] == "waiting"
        world.dispatcher.tick()
        found = (await client.get(answer.headers["location"])).json()
    assert found["hand_over"]["state"] == "handed"
    [(key, (flow, parameters))] = world.starter.runs.items()
    assert flow == "launch_server"
    assert parameters["request"]["name"] == "web-1"
    assert find_launch(world.services, made["id"]).idempotency_key == parameters["request"]["key"]
    assert found["hand_over"]["flow_run_id"] == f"run-of-{key}"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (CloudUnavailable("EC2 does not answer"), 503, "cloud-unavailable"),
        (CloudThrottled("RequestLimitExceeded"), 503, "cloud-unavailable"),
        (CloudRefused("AuthFailure"), 422, "invalid-input"),
    ],
)
async def test_a_cloud_that_cannot_be_asked(
    world: ApiWorld, error: CloudError, status: int, kind: str
) -> None:
    """While the cloud is away a good request is not called bad: it may be made again, under the
    same key, and is told when. A cloud that refuses us does so the next time, too."""
    cloud = world.services.clouds["fake"]
    assert isinstance(cloud, FakeCloud)
    cloud.fail_next("regions", error)
    async with world.client("launch") as client:
        answer = await client.post("/v1/launches", json=WEB, headers={"Idempotency-Key": "k"})
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == f"urn:slipway:problem:{kind}"
        assert str(error) in answer.json()["detail"]
        assert ("retry-after" in answer.headers) == (status == 503)
        assert (await client.get("/v1/launches")).json()["items"] == []
        again = await client.post("/v1/launches", json=WEB, headers={"Idempotency-Key": "k"})
        assert again.status_code == 201, again.text


async def test_bad_input_changes_nothing(world: ApiWorld) -> None:
    """A bad request is refused with every problem, and nothing of it is kept."""
    bad = {
        "template": "wob",
        "server": "web-1",
        "cloud": "fake",
        "environment": "stagign",
        "callback": {"url": "http://127.0.0.1/x", "secret": "short"},
    }
    async with world.client("launch") as client:
        answer = await client.post("/v1/launches", json=bad, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 422
        body = answer.json()
        assert body["type"] == "urn:slipway:problem:invalid-input"
        assert {each["where"] for each in body["problems"]} == {
            "template wob",
            "environment",
            "callback url",
            "callback secret",
        }
        assert (await client.get("/v1/launches")).json()["items"] == []
        # The key is still free.
        answer = await client.post("/v1/launches", json=WEB, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 201
    assert world.starter.runs == {}
    with world.services.database.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM hand_over")).scalar() == 1


async def test_secrets_go_in_and_never_come_out(world: ApiWorld, tmp_path: Path) -> None:
    """A secret given to a launch is in no answer, no record in clear text and no flow parameter."""
    body = {**WEB, "secrets": {"TOKEN": "hunter2-hunter2"}}
    async with world.client("launch") as client:
        answers = [
            await client.post("/v1/launches", json=body, headers={"Idempotency-Key": "k"}),
            await client.post("/v1/launches", json=body, headers={"Idempotency-Key": "k"}),
            await client.post("/v1/launches", json={**body, "surprise": 1}),
            await client.post("/v1/launches", json={**WEB, "inputs": {"TOKEN": "hunter2-hunter2"}}),
        ]
    assert [answer.status_code for answer in answers] == [201, 201, 422, 422]
    assert "hunter2" not in "".join(answer.text for answer in answers)
    world.dispatcher.tick()
    assert "hunter2" not in repr(world.starter.runs)
    launch = find_launch(world.services, "web-1")
    name = launch.inputs["TOKEN"].removeprefix("cred:")
    assert world.services.vault.get(name).get_secret_value() == "hunter2-hunter2"
    files = tmp_path.glob("slipway.db*")
    assert b"hunter2" not in b"".join(file.read_bytes() for file in files)


@pytest.mark.parametrize(
    ("action", "status", "flow", "code"),
    [
        ("resume", LaunchStatus.STRANDED, "resume_launch", 202),
        ("resume", LaunchStatus.OPERATIONAL, None, 409),
        ("decommission", LaunchStatus.OPERATIONAL, "decommission_server", 202),
        ("decommission", LaunchStatus.REQUESTED, "decommission_server", 202),
        ("decommission", LaunchStatus.TERMINATED, None, 409),
        ("cancel", LaunchStatus.OPERATIONAL, None, 409),
    ],
)
async def test_acting_on_launches(
    world: ApiWorld, action: str, status: LaunchStatus, flow: str | None, code: int
) -> None:
    """What can be done is handed over; what cannot is refused and hands nothing over."""
    made = await world.launch(status)
    async with world.client("launch") as client:
        answer = await client.post(f"/v1/launches/{made['id']}/{action}")
    assert answer.status_code == code, answer.text
    world.dispatcher.tick()
    started = [flow for flow, _ in world.starter.runs.values()]
    assert started == ["launch_server", *([flow] if flow else [])]
    if flow is not None:
        assert answer.json()["hand_over"] | {"requested_at": 0, "next_attempt_at": 0} == {
            "state": "waiting",
            "flow": flow,
            "attempts": 0,
            "error": "",
            "requested_at": 0,
            "next_attempt_at": 0,
            "flow_run_id": None,
        }


async def test_cancelling_what_nobody_drives(world: ApiWorld) -> None:
    """A launch that nobody has begun with is cancelled at once."""
    made = await world.launch()
    async with world.client("launch") as client:
        answer = await client.post(f"/v1/launches/{made['id']}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] == "cancelled"
    assert answer.json()["reason"] == "cancelled on request"


async def test_running_a_script(world: ApiWorld) -> None:
    """A run of a script is a resource with a state of its own, and one flow run."""
    made = await world.launch(LaunchStatus.OPERATIONAL)
    path = f"/v1/launches/{made['id']}/runs"
    async with world.client("launch") as client:
        refused = await client.post(path, json={"script": "gret"})
        assert refused.status_code == 422
        assert "greet" in refused.json()["detail"]
        answer = await client.post(path, json={"script": "greet", "inputs": {"GREETING": "hi"}})
        assert answer.status_code == 201, answer.text
        run = answer.json()
        assert run["status"] == "requested"
        world.dispatcher.tick()
        flow, parameters = world.starter.runs[run["id"]]
        assert flow == "run_operational_script"
        assert parameters["request"] == {
            "server": made["id"],
            "script": "greet",
            "inputs": {"GREETING": "hi"},
            "key": run["id"],
        }
        world.run_step(made["id"], run["step"])
        found = (await client.get(answer.headers["location"])).json()
        assert found["status"] == "succeeded"
        listed = (await client.get(path)).json()["items"]
    assert listed == [found]


async def test_who_did_what(world: ApiWorld) -> None:
    """Each call is in the launch's audit under the token's name, and in the token's own audit."""
    made = await world.launch(LaunchStatus.STRANDED)
    async with world.client("launch", "write", name="ci") as client:
        await client.post(f"/v1/launches/{made['id']}/decommission", json={"reason": "no use"})
        await client.post("/v1/environments", json={"name": "staging"})
        mine: list[dict[str, Any]] = (
            await client.get(f"/v1/audit/token/{world.token_id('ci')}")
        ).json()["items"]
    assert [entry["summary"] for entry in mine][1:] == [
        "decommission of server web-1 requested",
        "environment staging created",
    ]
    assert mine[1]["detail"] == {
        "about": made["id"],
        "call": f"POST /v1/launches/{made['id']}/decommission",
    }
    entries = audit.entries(world.services.database, subject_of(made["id"]))
    assert [(entry.actor, entry.summary) for entry in entries][-1] == (
        "token/ci",
        "asked to decommission the server: no use",
    )


async def test_user_data_reaches_the_cloud(world: ApiWorld) -> None:
    """User data is accepted, shown, and part of what is created; too much of it is refused."""
    from slipway.launches.creating import instance_spec

    async with world.client("launch") as client:
        made = (await client.post("/v1/launches", json={**WEB, "user_data": "#!/bin/sh\n"})).json()
        assert made["user_data"] == "#!/bin/sh\n"
        # Fewer characters than the limit, more bytes.
        large = {**WEB, "server": "web-2", "user_data": "ä" * 9000}
        refused = await client.post("/v1/launches", json=large)
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["where"] == "user data"
    launch = find_launch(world.services, made["id"])
    assert instance_spec(world.services, launch).user_data == "#!/bin/sh\n"
