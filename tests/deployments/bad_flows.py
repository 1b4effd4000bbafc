"""Flows that a worker has to survive."""

from __future__ import annotations

import asyncio
import sys
import time

from prefect import flow


@flow
async def exits() -> None:
    """Tries to end the process it runs in."""
    sys.exit("enough")


@flow
async def exits_in_a_task() -> None:
    """Tries it where asyncio lets it out of the loop."""

    async def leave() -> None:
        raise SystemExit("enough")

    await asyncio.create_task(leave())


@flow
async def blocks() -> str:
    """Holds up everything that runs in its loop."""
    time.sleep(2.5)  # noqa: ASYNC251  (that is the point)
    return "done"


@flow
async def needs(number: int) -> int:
    """Takes a number."""
    return number


@flow
def is_not_async() -> None:
    """Would hold up everything for as long as it runs."""
