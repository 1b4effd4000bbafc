"""Who runs what the command line hands over."""

from __future__ import annotations

import pytest

from deployments.deployment_engine import DeploymentEngine
from deployments.local_engine import LocalEngine
from deployments.main import WIRING
from deployments.up_state import KeptService, KeptState, StateFile
from slipway import processes
from slipway.errors import EngineUnavailable
from slipway.launches.engine import Engine
from slipway.settings import Settings

THIS = processes.identity()
#: A process that was here before the machine was started.
GONE = THIS.replace(THIS.split("/")[1], "another-boot", 1)


def up(settings: Settings, *names: str, identity: str = THIS) -> None:
    """What 'slipway up' leaves on record."""
    services = tuple(
        KeptService(
            name=name,
            state="ready",
            pid=1,
            identity="",
            url="http://127.0.0.1:4321" if name == "prefect" else "",
            restarts=0,
            problem="",
        )
        for name in names
    )
    (settings.state_dir / "up").mkdir(parents=True, exist_ok=True)
    state = KeptState(pid=1, identity=identity, since="", log_file="", services=services)
    StateFile(settings.state_dir / "up" / "state.json").write(state)


@pytest.fixture(autouse=True)
def no_server_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def address(engine: Engine) -> str | None:
    return engine.api.api_url if isinstance(engine, DeploymentEngine) else None


def test_a_process_each_unless_there_are_workers(settings: Settings) -> None:
    """Workers that 'slipway up' runs here get the work, as long as it runs."""
    assert isinstance(WIRING.engine(settings), LocalEngine)
    up(settings, "prefect", "api")
    assert isinstance(WIRING.engine(settings), LocalEngine)
    up(settings, "prefect", "worker-1")
    assert address(WIRING.engine(settings)) == "http://127.0.0.1:4321/api"
    up(settings, "prefect", "worker-1", identity=GONE)
    assert isinstance(WIRING.engine(settings), LocalEngine)


def test_the_setting_decides(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """'local' never asks workers, 'deployments' always does, at the server that is given."""
    up(settings, "prefect", "worker-1")
    local = settings.model_copy(update={"engine": "local"})
    assert isinstance(WIRING.engine(local), LocalEngine)
    up(settings)
    remote = settings.model_copy(update={"engine": "deployments"})
    with pytest.raises(EngineUnavailable, match="set PREFECT_API_URL"):
        WIRING.engine(remote)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4444/api")
    assert address(WIRING.engine(remote)) == "http://127.0.0.1:4444/api"
