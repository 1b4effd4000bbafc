"""A process that polls a region until it is killed."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from slipway.clock import SystemClock
from slipway.database import Database
from slipway.watch import polling
from tasks.services import use_services
from tasks.watching import Lookout
from tests.watch.listed import RUNNING
from tests.watch.test_lookout import CountingCloud, services


class Telling(CountingCloud):
    """Says when it has been listed for the first time."""

    def list_instances(self, region: str, *, tags: Any) -> list[Any]:
        if not self.calls:
            print("polling", flush=True)
        return super().list_instances(region, tags=tags)


def main(url: str) -> None:
    """Wait for an instance that never comes."""
    # Only its death ends this lease, not time.
    polling.LEASE_S = 3600.0
    found = services(Database(url), SystemClock())
    with use_services(found):
        asyncio.run(Lookout(found, Telling(0), "r").wait("i-9", RUNNING, limit_s=3600.0))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
