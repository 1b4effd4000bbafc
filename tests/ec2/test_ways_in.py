"""The three ways to start a launch in EC2: the command line, the HTTP API, and a deployment's run,
which is what the Prefect UI makes of its form."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from deployments.deployment_engine import DeploymentEngine
from deployments.main import WIRING
from deployments.prefect_api import PrefectApi
from slipway import tokens
from slipway.api.app import create_app
from slipway.cli import app
from slipway.launches.choices import collect_choices
from slipway.launches.handover import Dispatcher
from slipway.launches.requests import find_launch
from slipway.testing.weather import Weather
from tests.clouds.ec2 import REGION
from tests.deployments.conftest import prefect
from tests.deployments.crew import crew
from tests.engine import ENGINE
from tests.flows.conftest import left_behind, prefect_home
from tests.launches.world import World, counted

__all__ = ["left_behind", "prefect", "prefect_home"]

pytestmark = [*ENGINE, pytest.mark.slow]


def test_from_everywhere_to_operational(
    ec2_world: World, prefect: PrefectApi, weather: Weather, tmp_path: Path
) -> None:
    """Each is driven by the same worker to an operational server of its own."""
    ec2_world.template({"one": counted("one")})
    services = ec2_world.services
    settings = services.settings
    assert ("aws", (REGION,)) in {
        (each.name, each.regions) for each in collect_choices(services).clouds
    }
    assert settings.clouds_file is not None
    with crew(ec2_world, prefect, tmp_path) as made:
        made.hire(SLIPWAY_CLOUDS_FILE=str(settings.clouds_file))
        # As the form of the Prefect UI: a run of the deployment.
        by_form, run = made.launch(cloud="aws")

        token = tokens.create(
            services.database,
            services.clock,
            "ci",
            scopes=["launch"],
            expires_in=timedelta(hours=1),
            actor="test",
        )
        engine = DeploymentEngine(prefect, work_queue=made.queue)
        asyncio.run(ask(create_app(services, engine), token.value.get_secret_value()))
        Dispatcher(services, engine).tick()

        result = CliRunner().invoke(
            app,
            ["launch", "tiny", "--name", "by-hand", "--cloud", "aws"],
            obj=replace(WIRING, engine=lambda _: engine, services=lambda _: services),
        )
        assert result.exit_code == 0, result.output
        assert "by-hand is operational" in result.output
        made.until(
            lambda: find_launch(services, "by-api").status == "operational",
            "the API's is operational",
        )
        assert made.ended(run)["state_name"] == "Operational"
    names = (by_form.server_name, "by-api", "by-hand")
    ids = {find_launch(services, name).instance_id for name in names}
    assert len(ids) == len(names)
    assert weather.count("RunInstances") == len(names)


async def ask(app: FastAPI, token: str) -> None:
    """``POST /v1/launches``."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://127.0.0.1",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        body = {"template": "tiny", "server": "by-api", "cloud": "aws"}
        answer = await client.post("/v1/launches", json=body)
        assert answer.status_code == 201, answer.text
