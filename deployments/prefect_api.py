"""Prefect's HTTP API for processes that do not import Prefect, which takes seconds."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

import httpx

from slipway.clock import Clock, SystemClock
from slipway.errors import EngineRefused, EngineUnavailable

#: The server answers within milliseconds unless it is starting or overloaded.
TIMEOUT_S = 30.0

#: What it says while its database is locked, or too much is asked; soon it may be otherwise.
_BUSY = frozenset({408, 429, 503})
BUSY_PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6)


class PrefectApi:
    """One server's API. Every call raises `EngineUnavailable` or `EngineRefused`."""

    def __init__(
        self,
        api_url: str,
        *,
        auth_string: str = "",
        api_key: str = "",
        transport: httpx.BaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self.api_url = api_url.rstrip("/")
        headers = {}
        if auth_string:
            token = base64.b64encode(auth_string.encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        elif api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self._client = httpx.Client(
            base_url=self.api_url,
            headers=headers,
            timeout=TIMEOUT_S,
            transport=transport,
            # A proxy cannot reach a server of this machine.
            trust_env=not self.api_url.startswith("http://127.0.0.1:"),
            # Loading the authorities' certificates takes a tenth of a second.
            verify=self.api_url.startswith("https://"),
        )

    @classmethod
    def from_environ(cls, api_url: str, environ: Mapping[str, str] | None = None) -> PrefectApi:
        """With the login that Prefect's own clients would use."""
        given = os.environ if environ is None else environ
        return cls(
            api_url,
            auth_string=given.get("PREFECT_API_AUTH_STRING", ""),
            api_key=given.get("PREFECT_API_KEY", ""),
        )

    def get(self, path: str) -> Any:
        """The answer as JSON values; None when there is no such thing."""
        return self._call("GET", path)

    def post(self, path: str, body: Any) -> Any:
        """The answer as JSON values; None when there is no such thing."""
        return self._call("POST", path, body)

    def patch(self, path: str, body: Any) -> Any:
        """Change some of a thing."""
        return self._call("PATCH", path, body)

    def put(self, path: str, body: Any) -> Any:
        """Change all of a thing."""
        return self._call("PUT", path, body)

    def delete(self, path: str) -> Any:
        """Remove a thing; fine when it is not there."""
        return self._call("DELETE", path)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        what = f"{method} {self.api_url}{path}"
        pauses = iter(BUSY_PAUSES_S)
        while True:
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                said = str(error) or type(error).__name__
                raise EngineUnavailable(f"Prefect does not answer {what}: {said}") from error
            if answer.status_code not in _BUSY or (pause_s := next(pauses, None)) is None:
                break
            self._clock.sleep(pause_s)
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            # Whoever runs Slipway mends this; the request was good.
            raise EngineUnavailable(
                f"Prefect does not let us in ({answer.status_code} for {what}); "
                "set PREFECT_API_AUTH_STRING or PREFECT_API_KEY"
            )
        if answer.status_code in _BUSY or answer.status_code >= 500:
            raise EngineUnavailable(f"Prefect answers {answer.status_code} for {what}")
        if answer.status_code >= 400:
            raise EngineRefused(f"Prefect refuses {what}: {_detail(answer)}")
        return answer.json() if answer.content else None


def _detail(answer: httpx.Response) -> str:
    try:
        found = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:500]
    return found if isinstance(found, str) else json.dumps(found)[:500]
