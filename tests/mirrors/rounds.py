"""Two mirrored repositories, and rounds of the flows that look after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.flows import Flow

from slipway.launches.mirror_file import declare, read_mirrors
from slipway.launches.services import Services, build_services
from slipway.mirrors.days import Day
from slipway.settings import Settings
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web
from tasks.services import use_services
from tests.engine import no_engine
from tests.launches.world import DEADLINE_S


@dataclass
class Mirrors:
    """A Slipway that mirrors ``debian`` (suites ``stable`` and ``updates``) and ``tools``."""

    services: Services
    clock: FakeClock
    archives: dict[str, DebArchive]
    webs: dict[str, Web]

    def next_day(self, **changes: int) -> None:
        for archive in self.archives.values():
            archive.advance(**changes)
        self.clock.advance(24 * 3600)

    def days(self, repository: str) -> list[Day]:
        return self.services.mirror.days.history(repository)

    def run(self, flow: Flow[..., Any], request: Any) -> State[Any]:
        """A run on Prefect's server."""
        return self._through(flow(request, return_state=True))

    def run_without_engine(self, flow: Flow[..., Any], request: Any) -> State[Any]:
        with no_engine():
            return self._through(flow.fn(request))

    def cancelled(self, flow: Flow[..., Any], request: Any, met: Callable[[], Any]) -> None:
        """A run without an engine that is cancelled when something has come to be."""

        async def both() -> None:
            running = asyncio.ensure_future(flow.fn(request))
            while not met():
                assert not running.done()
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        with no_engine():
            self._through(both())

    def _through(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def limited() -> Any:
            return await asyncio.wait_for(work, DEADLINE_S)

        with use_services(self.services):
            return asyncio.run(limited())


@pytest.fixture
def mirrors(tmp_path: Path, settings: Settings, database_url: str) -> Iterator[Mirrors]:
    archives = {
        "debian": DebArchive(tmp_path / "debian", suites=("stable", "updates")),
        "tools": DebArchive(tmp_path / "tools", seed=2, packages=3),
    }
    clock = FakeClock(archives["debian"].now)
    services = build_services(
        settings.model_copy(update={"database_url": database_url}), clock=clock
    )
    with ExitStack() as stack:
        webs = {name: stack.enter_context(Web(each.root)) for name, each in archives.items()}
        stack.callback(services.database.close)
        file = tmp_path / "mirrors.yaml"
        entries = [
            f"  {name}:\n    kind: apt\n    urls: ['{webs[name].url}']\n"
            f"    suites: [{', '.join(each.suites)}]\n    keyring: {each.keyring}\n"
            "    keep: {daily: 1, weekly: 0, monthly: 0}\n"
            for name, each in archives.items()
        ]
        file.write_text("schema: slipway-mirrors/1\nmirrors:\n" + "".join(entries))
        declare(services.database, clock, read_mirrors(file), actor="tests")
        yield Mirrors(services=services, clock=clock, archives=archives, webs=webs)
