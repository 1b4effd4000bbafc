"""Clients of Prefect that wait for a server that is away, instead of giving up.

Prefect's own clients try for about a minute. A launch takes longer than that and does not need the
server for what it does: giving up would end the flow run, at the first report that cannot be
delivered, as failed.
"""

from __future__ import annotations

import asyncio
import time

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.logging import get_logger

_log = get_logger("slipway.worker")

#: The pause between two tries grows up to this.
LONGEST_PAUSE_S = 5.0

#: Who answers so is a proxy or a server that is starting.
_AWAY = frozenset({502, 503, 504})

#: Who answers so may have met a busy database, or a Redis that is away: that may take a while. But
#: if it does so for this long it means it.
_BROKEN = 500
BROKEN_FOR_S = 600.0


class PatientTransport(httpx.AsyncBaseTransport):
    """Sends a request until there is an answer.

    Repeating is safe: a state transition carries an id by which the server knows it again, and what
    else a worker writes may be written twice.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        #: Since when the server has been away, for one line at both ends of an outage.
        self._away_since: float | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The first answer that is one."""
        began = time.monotonic()
        pause_s = 0.2
        while True:
            try:
                response = await self._transport.handle_async_request(request)
            except httpx.UnsupportedProtocol:
                raise
            except httpx.TransportError as error:
                self._told(request, str(error) or type(error).__name__)
            else:
                broken = response.status_code == _BROKEN
                if response.status_code not in _AWAY and not (
                    broken and time.monotonic() - began < BROKEN_FOR_S
                ):
                    self._back()
                    return response
                await response.aclose()
                self._told(request, f"it answers {response.status_code}")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)

    async def aclose(self) -> None:
        """Close what is wrapped."""
        await self._transport.aclose()

    def _told(self, request: httpx.Request, what: str) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            _log.warning("Prefect is away (%s %s: %s); waiting", request.method, request.url, what)

    def _back(self) -> None:
        if self._away_since is not None:
            away_s = time.monotonic() - self._away_since
            self._away_since = None
            _log.warning("Prefect is back after %.0f s", away_s)


def make_patient(client: PrefectClient) -> None:
    """Let this client wait. Its transports are made by Prefect, with its certificates and proxies,
    so they are wrapped where they are."""
    inner = client._client
    inner._transport = PatientTransport(inner._transport)
    inner._mounts = {
        pattern: None if transport is None else PatientTransport(transport)
        for pattern, transport in inner._mounts.items()
    }
