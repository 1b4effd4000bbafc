"""The command line with its engine: where ``slipway`` begins."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slipway.cli import app
from slipway.cli.wiring import EngineServer, EngineStatus, Stack, Wiring
from slipway.errors import EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from slipway.cli.wiring import Change
    from slipway.launches.engine import Engine
    from slipway.launches.services import Services
    from slipway.settings import Settings

#: How long a server that runs may take to answer.
HEALTH_TIMEOUT_S = 5.0


class PrefectControl:
    """The server of ``PREFECT_API_URL`` where that is set, else the one of the state directory."""

    def __init__(self, settings: Settings) -> None:
        from deployments.prefect_server import PrefectServer

        self._server = PrefectServer(settings.state_dir)
        self._given = os.environ.get("PREFECT_API_URL", "")

    def up(self) -> str:
        if self._given:
            return self._given.removesuffix("/api")
        return self._server.up().ui_url

    def api_url(self) -> str:
        """Where its API is; a server of our own is started if need be."""
        return self._given or self._server.up().api_url

    def down(self) -> bool:
        return self._server.down()

    def status(self) -> EngineStatus:
        """Asks the server itself: a process that runs may still not answer."""
        if self._given:
            ui_url = self._given.removesuffix("/api")
            return EngineStatus(
                reachable=not (problem := _problem(self._given)),
                ui_url=ui_url,
                api_url=self._given,
                ours=False,
                problem=problem,
            )
        found = self._server.find()
        log_file = str(self._server.log_file)
        if found is None:
            problem = "no Prefect server runs for this state directory"
            return EngineStatus(
                reachable=False,
                ui_url="",
                api_url="",
                ours=True,
                log_file=log_file,
                problem=problem,
            )
        problem = _problem(found.api_url)
        return EngineStatus(
            reachable=not problem,
            ui_url=found.ui_url,
            api_url=found.api_url,
            ours=True,
            pid=found.pid,
            log_file=log_file,
            problem=problem,
        )


_: type[EngineServer] = PrefectControl


def _problem(api_url: str) -> str:
    import httpx

    try:
        ours = api_url.startswith("http://127.0.0.1:")
        answer = httpx.get(f"{api_url}/health", timeout=HEALTH_TIMEOUT_S, trust_env=not ours)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{api_url} does not answer: {error}"
    return "" if answer.status_code == 200 else f"{api_url} answers {answer.status_code}"


def _engine(settings: Settings) -> Engine:
    api_url = _workers_at(settings) if settings.engine != "local" else None
    if api_url is None:
        from deployments.local_engine import LocalEngine

        return LocalEngine(settings)
    from deployments.deployment_engine import DeploymentEngine
    from deployments.prefect_api import PrefectApi

    return DeploymentEngine(PrefectApi.from_environ(api_url))


def _workers_at(settings: Settings) -> str | None:
    """Where the Prefect is whose workers run flows: if we are told so, or see some of `slipway up`
    here."""
    from deployments.prefect_server import PrefectServer
    from deployments.up_state import StateFile
    from slipway.processes import is_dead

    found = StateFile(settings.state_dir / "up" / "state.json").read()
    running = found.services if found is not None and not is_dead(found.identity) else ()
    if settings.engine != "deployments" and not any(
        each.name.startswith("worker") for each in running
    ):
        return None
    if given := os.environ.get("PREFECT_API_URL"):
        return given
    urls = [each.url for each in running if each.name == "prefect"]
    if urls:
        return f"{urls[0]}/api"
    server = PrefectServer(settings.state_dir).find()
    if server is None:
        raise EngineUnavailable(
            "SLIPWAY_ENGINE is 'deployments', and no Prefect server runs for this state directory; "
            "set PREFECT_API_URL, or start everything with 'slipway up'"
        )
    return server.api_url


def _services(settings: Settings) -> Services:
    from slipway.launches.services import build_services

    return build_services(settings)


def _server(settings: Settings) -> EngineServer:
    return PrefectControl(settings)


def _stack(settings: Settings) -> Stack:
    from deployments.up import LocalStack

    return LocalStack(settings)


def _demo(settings: Settings, *, faults: bool, keep: bool) -> int:
    from deployments.demo import run

    return run(settings, WIRING, faults=faults, keep=keep)


def _deploy(
    settings: Settings, *, file: Path | None, pool: str | None, dry_run: bool
) -> Iterator[Change]:
    from deployments.deploying import deploy
    from deployments.prefect_api import PrefectApi
    from slipway.launches.choices import collect_choices

    api = PrefectApi.from_environ(PrefectControl(settings).api_url())
    choices = collect_choices(_services(settings))
    return deploy(api, choices=choices, file=file, pool=pool, dry_run=dry_run)


WIRING = Wiring(
    engine=_engine, services=_services, server=_server, stack=_stack, demo=_demo, deploy=_deploy
)


def main() -> None:
    """Run the command line."""
    app(obj=WIRING)


if __name__ == "__main__":
    main()
