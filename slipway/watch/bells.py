"""PostgreSQL's bell: whoever waits hears of a change in another process at once.

Only a convenience: everybody looks at the board every now and then as well, so a ring that was
missed costs a moment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from slipway.database import Database
from slipway.watch.board import BELL

#: Before connecting again when the database was away.
_PAUSE_S = 2.0

_log = logging.getLogger("slipway.watch")


async def listen(database: Database, place: str, ring: Callable[[], None]) -> None:
    """Call ``ring`` whenever something happens at this place, until cancelled."""
    # Optional, and only there where it is used.
    import psycopg

    url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                await connection.execute(f"LISTEN {BELL}")
                # What rang before we listened.
                ring()
                async for notice in connection.notifies():
                    if notice.payload == place:
                        ring()
        except psycopg.Error as error:
            _log.warning("%s: the bell is not heard, trying again: %s", place, type(error).__name__)
        await asyncio.sleep(_PAUSE_S)
