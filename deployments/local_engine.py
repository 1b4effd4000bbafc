"""The engine of one machine: Prefect's server where there is none, and a process per hand-over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.prefect_server import CLIENT_ENVIRONMENT, PrefectServer
from slipway.clock import SystemClock
from slipway.ids import new_id
from slipway.launches.engine import Engine, FlowName
from slipway.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A runner process. It outlives whoever started it: stopping to watch stops nothing."""

    process: subprocess.Popen[bytes]
    log_file: str

    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.process.poll()


class LocalEngine:
    """Runs each flow in a new process of this machine, in a session of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = PrefectServer(settings.state_dir)

    def ready(self) -> str:
        """Use the server of ``PREFECT_API_URL``, else find or start ours."""
        given = os.environ.get("PREFECT_API_URL")
        return given.removesuffix("/api") if given else self._server.up().ui_url

    def submit(self, flow: FlowName, parameters: Mapping[str, Any]) -> Runner:
        """Start the runner and give it its job on standard input."""
        logs = self._settings.state_dir / "logs"
        logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        log_file = logs / f"{new_id(flow.replace('_', '-'), SystemClock().now())}.log"
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                # -P: a module of ours must not be mistaken for one in the directory it runs in.
                [sys.executable, "-P", "-m", "deployments.runner"],
                env=self._environment(),
                cwd=Path.home(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdin is not None, "it was asked for"
        with process.stdin as stdin:
            stdin.write(json.dumps({"flow": flow, "parameters": dict(parameters)}).encode())
        return Runner(process=process, log_file=str(log_file))

    def _environment(self) -> dict[str, str]:
        ours = {
            "SLIPWAY_STATE_DIR": str(self._settings.state_dir),
            "SLIPWAY_DATABASE_URL": self._settings.database_url,
            "SLIPWAY_TEMPLATES_DIR": str(self._settings.templates_dir),
        }
        if os.environ.get("PREFECT_API_URL"):
            return {**CLIENT_ENVIRONMENT, **os.environ, **ours}
        return {**os.environ, **self._server.client_environment(self._server.up()), **ours}


_: type[Engine] = LocalEngine
