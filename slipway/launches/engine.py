"""The port to whatever runs the flows: the command line and the API hand work over through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

FlowName = Literal[
    "launch_server",
    "launch_servers",
    "resume_launch",
    "decommission_server",
    "run_operational_script",
    "sweep_orphans",
    "snapshot_mirrors",
    "verify_mirrors",
    "prune_mirrors",
]


class Submission(Protocol):
    """A flow run that was handed over."""

    @property
    def log_file(self) -> str:
        """Where whoever runs it writes what the audit does not know: its own crash."""

    def ended(self) -> int | None:
        """The exit code of whoever runs it, or None while it does."""


class Engine(Protocol):
    """Runs flows somewhere else than in this process."""

    def ready(self) -> str:
        """Make sure that flows can run; answers the address of the engine's UI."""

    def submit(self, flow: FlowName, parameters: Mapping[str, Any]) -> Submission:
        """Start a flow run. The parameters hold no secrets and are JSON values."""


class FlowStarter(Protocol):
    """Starts flow runs on whatever workers there are: whoever asks does not wait for them."""

    def start(
        self,
        flow: FlowName,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str,
        tags: Sequence[str] = (),
    ) -> str:
        """Hand a flow run over; answers its id. Asking again with the same key finds that run.

        The parameters hold no secrets and are JSON values. Raises `EngineUnavailable` when the
        engine cannot be reached, and `EngineRefused` when it does not want this run.
        """
