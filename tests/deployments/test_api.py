"""The API as a process: what it binds to, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deployments.api import DRAIN_S, check_listening, main
from slipway import tokens
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.errors import InvalidInput
from slipway.settings import Settings
from tests.certificates import self_signed

#: Longer than anything here takes; what is waited for after this never comes.
DEADLINE_S = 60.0


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    return self_signed(tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_tls(settings: Settings, host: str) -> None:
    """On this machine tokens may travel as they are."""
    check_listening(settings, host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "api.example.org"])
def test_other_addresses_need_tls(
    settings: Settings, host: str, certificate: tuple[Path, Path]
) -> None:
    """Anywhere else it takes a certificate, or the word that a proxy in front speaks TLS."""
    with pytest.raises(InvalidInput, match="clear text"):
        check_listening(settings, host)
    check_listening(settings.model_copy(update={"api_behind_tls_proxy": True}), host)
    cert, key = certificate
    both = {"api_tls_certificate": cert, "api_tls_key": key}
    check_listening(settings.model_copy(update=both), host)


def test_half_a_certificate(settings: Settings, certificate: tuple[Path, Path]) -> None:
    """A certificate without its key, and a file that is not there, are refused by name."""
    cert, _ = certificate
    with pytest.raises(InvalidInput, match="SLIPWAY_API_TLS_KEY"):
        check_listening(settings.model_copy(update={"api_tls_certificate": cert}), "::1")
    missing = {"api_tls_certificate": cert, "api_tls_key": cert.parent / "nothing"}
    with pytest.raises(InvalidInput, match="there is no file"):
        check_listening(settings.model_copy(update=missing), "::1")


def test_refusing_to_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process ends with code 2 and one sentence, before it opens a port or a database."""
    monkeypatch.setenv("SLIPWAY_STATE_DIR", str(settings.state_dir))
    assert main(["--host", "0.0.0.0"]) == 2
    assert "SLIPWAY_API_TLS_CERTIFICATE" in capsys.readouterr().err
    assert not settings.state_dir.exists()
    monkeypatch.setenv("SLIPWAY_ENDED_LISTED_H", "0.5")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("SLIPWAY_ENDED_LISTED_H: ")


@dataclass
class Running:
    """A process of the API."""

    process: subprocess.Popen[str]
    url: str
    token: str


@contextmanager
def running(settings: Settings, database_url: str, **environment: str) -> Iterator[Running]:
    """The API in a process of its own, on a port that was free. Prefect is nowhere near."""
    database = Database(database_url)
    issued = tokens.create(
        database, SystemClock(), "test", scopes=["admin"], expires_in=None, actor="test"
    )
    database.close()
    given = {name: value for name, value in os.environ.items() if not name.startswith("SLIPWAY_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.api", "--port", "0"],
        env=given
        | {
            "SLIPWAY_STATE_DIR": str(settings.state_dir),
            "SLIPWAY_DATABASE_URL": database_url,
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
        }
        | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    said: list[str] = []
    found = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "Uvicorn running on" in line:
                found.set()
        found.set()

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    try:
        assert found.wait(DEADLINE_S), "it never came up"
        match = re.search(r"running on (https?)://127.0.0.1:(\d+)", "".join(said))
        assert match is not None, "".join(said)
        host = "localhost" if match[1] == "https" else "127.0.0.1"
        url = f"{match[1]}://{host}:{match[2]}"
        yield Running(process, url, issued.value.get_secret_value())
    finally:
        process.kill()
        process.wait()
        listening.join(DEADLINE_S)
        assert process.stderr is not None
        process.stderr.close()


@pytest.mark.slow
def test_stopping_with_streams_open(settings: Settings, database_url: str) -> None:
    """A process that is told to stop ends its event streams at once, and does not wait for what
    Prefect, which is away, has not taken; that is on record."""
    with (
        running(settings, database_url) as api,
        httpx.Client(
            base_url=api.url, headers={"Authorization": f"Bearer {api.token}"}, trust_env=False
        ) as client,
    ):
        assert client.get("/readyz").status_code == 200
        with client.stream("GET", "/v1/events", timeout=DEADLINE_S) as stream:
            lines = stream.iter_lines()
            assert next(lines) == ": following"
            made = client.post("/v1/environments", json={"name": "staging"})
            assert made.status_code == 201
            data = next(line for line in lines if line.startswith("data: "))
            assert json.loads(data.removeprefix("data: "))["kind"] == "environment.created"
            began = time.monotonic()
            api.process.send_signal(signal.SIGTERM)
            for _ in lines:
                pass
        # Having stopped in good order, uvicorn ends as whoever sent the signal expects.
        assert api.process.wait(DEADLINE_S) in (0, -signal.SIGTERM)
        assert time.monotonic() - began < DRAIN_S


@pytest.mark.slow
def test_serving_tls(settings: Settings, database_url: str, certificate: tuple[Path, Path]) -> None:
    """With a certificate it speaks TLS and nothing else."""
    import ssl

    cert, key = certificate
    tls = {"SLIPWAY_API_TLS_CERTIFICATE": str(cert), "SLIPWAY_API_TLS_KEY": str(key)}
    with running(settings, database_url, **tls) as api:
        context = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"{api.url}/healthz", verify=context, trust_env=False).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{api.url.partition('://')[2]}/healthz", trust_env=False)
