"""Hands work over to Prefect's deployments: whichever worker has room runs it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.prefect_api import PrefectApi
from slipway.clock import Clock, SystemClock
from slipway.errors import EngineUnavailable
from slipway.launches.engine import Engine, FlowName, FlowStarter, Submission

#: Exit codes as `deployments.runner` has them.
_CAME_UP, _FAILED = 0, 1

#: How often a run is asked for.
ASK_EVERY_S = 1.0

#: A run that stays crashed for this long is taken up by nobody.
RESCUED_WITHIN_S = 10.0


class FlowRun:
    """A flow run on Prefect's server: a `Submission` that asks how it is, at most once a second
    however often it is asked itself."""

    def __init__(self, api: PrefectApi, run_id: str, clock: Clock) -> None:
        self.api = api
        self.id = run_id
        self._clock = clock
        self._asked_at: float | None = None
        self._crashed_since: float | None = None
        self._code: int | None = None

    @property
    def log_file(self) -> str:
        """The run's page, which has its log."""
        return f"{self.api.api_url.removesuffix('/api')}/runs/flow-run/{self.id}"

    def ended(self) -> int | None:
        """0 when it completed, 1 when it ended otherwise or was deleted, None while it may go on.
        A server that does not answer says nothing about the run."""
        now = self._clock.monotonic()
        if self._asked_at is None or now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            with contextlib.suppress(EngineUnavailable):
                self._code = self._ask(now)
        return self._code

    def _ask(self, now: float) -> int | None:
        found = self.api.get(f"/flow_runs/{self.id}")
        state = "GONE" if found is None else found["state_type"]
        if state == "CRASHED":
            # On its way to another worker it is so for a moment.
            self._crashed_since = self._crashed_since or now
            return _FAILED if now - self._crashed_since >= RESCUED_WITHIN_S else None
        self._crashed_since = None
        if state == "COMPLETED":
            return _CAME_UP
        return _FAILED if state in ("FAILED", "CANCELLED", "GONE") else None


_submission: type[Submission] = FlowRun


def deployment_name(flow: FlowName) -> str:
    """Deployments are named like their flow: ``launch-server/launch-server``."""
    name = flow.replace("_", "-")
    return f"{name}/{name}"


class DeploymentEngine:
    """Creates flow runs from deployments, as the Prefect UI does. `slipway deploy` makes those."""

    def __init__(
        self, api: PrefectApi, *, work_queue: str | None = None, clock: Clock | None = None
    ) -> None:
        self.api = api
        self._clock = clock or SystemClock()
        #: Another queue of the pool than the deployments' own.
        self._work_queue = work_queue
        self._deployment_ids: dict[FlowName, str] = {}

    def start(
        self,
        flow: FlowName,
        parameters: Mapping[str, Any],
        *,
        idempotency_key: str,
        tags: Sequence[str] = (),
    ) -> str:
        """See `FlowStarter`."""
        body: dict[str, Any] = {
            "parameters": dict(parameters),
            "idempotency_key": idempotency_key,
            # Besides those of its deployment.
            "tags": list(tags),
            # The deployment's schema is a form: a value made a second ago, or a version named by
            # its hash, is not among its choices. What is wrong is told by the flow, in a sentence.
            "enforce_parameter_schema": False,
        }
        if self._work_queue is not None:
            body["work_queue_name"] = self._work_queue
        run = self.api.post(f"/deployments/{self._deployment(flow)}/create_flow_run", body)
        if run is None:
            # Deployed anew under another id since we looked.
            del self._deployment_ids[flow]
            run = self.api.post(f"/deployments/{self._deployment(flow)}/create_flow_run", body)
        if run is None:
            raise EngineUnavailable(_missing(flow))
        return str(run["id"])

    def ready(self) -> str:
        """See `Engine`. Starts nothing: a server and workers of somebody else are to be there."""
        self._deployment("launch_server")
        return self.api.api_url.removesuffix("/api")

    def submit(self, flow: FlowName, parameters: Mapping[str, Any]) -> FlowRun:
        """See `Engine`."""
        run_id = self.start(flow, parameters, idempotency_key=secrets.token_hex(16))
        return FlowRun(self.api, run_id, self._clock)

    def _deployment(self, flow: FlowName) -> str:
        if flow not in self._deployment_ids:
            found = self.api.get(f"/deployments/name/{deployment_name(flow)}")
            if found is None:
                raise EngineUnavailable(_missing(flow))
            self._deployment_ids[flow] = str(found["id"])
        return self._deployment_ids[flow]


_engine: type[Engine] = DeploymentEngine
_starter: type[FlowStarter] = DeploymentEngine


def _missing(flow: FlowName) -> str:
    return f"Prefect has no deployment {deployment_name(flow)}; make it with 'slipway deploy'"
