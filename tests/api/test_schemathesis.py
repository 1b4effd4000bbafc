"""The API keeps to its own description, whatever it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from slipway.database import Database
from slipway.records import LaunchStatus
from slipway.settings import Settings
from tests.api.conftest import make_world, write_templates
from tests.api.document import FILE
from tests.api.world import ApiWorld

#: Streams do not end by themselves, see `test_events`; a program is a file, see `tests/phonehome`.
LEFT_OUT = ["streamChanges", "streamLaunch", "agentProgram"]

OPERATIONS = {
    operation["operationId"]: operation["tags"]
    for path in json.loads(FILE.read_text())["paths"].values()
    for operation in path.values()
    if operation["operationId"] not in LEFT_OUT
}

CONFIG = {
    "checks": {
        # No schema can tell which templates, servers and credentials there are.
        "positive_data_acceptance": {
            "expected-statuses": ["2xx", "400", "404", "409", "410", "422"]
        },
        # Bad data that is also too large is refused for that.
        "negative_data_rejection": {
            "expected-statuses": ["400", "401", "403", "404", "405", "409", "413", "422"]
        },
    }
}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, _sqlite_template: Path) -> Iterator[ApiWorld]:
    """An API with one of everything on record."""
    directory = tmp_path_factory.mktemp("fuzzed")
    (directory / "slipway.db").write_bytes(_sqlite_template.read_bytes())
    database = Database(f"sqlite:///{directory / 'slipway.db'}")
    settings = Settings(state_dir=directory / "state", templates_dir=write_templates(directory))
    world = make_world(settings, database)
    asyncio.run(_fill(world))
    yield world
    database.close()


async def _fill(world: ApiWorld) -> None:
    async with world.client("admin") as client:
        await client.post("/v1/environments", json={"name": "staging"})
        await client.post("/v1/templates/web/versions", json={"message": "First"})
    await world.launch(LaunchStatus.OPERATIONAL)


@pytest.fixture(scope="module")
def described(fuzzed: ApiWorld) -> Any:
    """The description, as the API gives it."""
    config = SchemathesisConfig.from_dict(CONFIG)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        # It would start and stop the whole application for each request.
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
        else:
            await fuzzed.app(scope, receive, send)

    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


@pytest.mark.parametrize("operation_id", sorted(OPERATIONS))
def test_the_api_keeps_to_its_description(
    fuzzed: ApiWorld, described: Any, operation_id: str
) -> None:
    """Nothing ends in a 5xx, every answer is one that the description foresees, good data is
    taken and bad data is refused."""
    operation = described.find_operation_by_id(operation_id)
    headers = {"Authorization": f"Bearer {fuzzed.token('admin')}"}
    # An agent calls with what it was given at boot, which no schema can make up.
    excluded = [positive_data_acceptance] if "agent" in OPERATIONS[operation_id] else []
    for mode in GenerationMode:
        strategy = operation.as_strategy(generation_mode=mode)
        if strategy.is_empty:
            continue

        @hypothesis.settings(
            max_examples=6, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
        )
        @hypothesis.given(case=strategy)
        def keeps(case: Any) -> None:
            case.call_and_validate(headers=headers, excluded_checks=excluded)

        try:
            keeps()
        except hypothesis.errors.Unsatisfiable:
            # There is nothing that could be got wrong.
            assert (operation_id, mode) in {
                ("getHealth", GenerationMode.NEGATIVE),
                ("getReadiness", GenerationMode.NEGATIVE),
            }
