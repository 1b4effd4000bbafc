"""Handing work over to deployments: what is asked of Prefect, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from deployments.deployment_engine import (
    ASK_EVERY_S,
    RESCUED_WITHIN_S,
    DeploymentEngine,
    FlowRun,
)
from deployments.prefect_api import PrefectApi
from slipway.errors import EngineRefused, EngineUnavailable, SlipwayError
from slipway.testing.fake_clock import FakeClock

URL = "http://127.0.0.1:4200/api"


class Prefect:
    """A server that knows one deployment, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.deployment: str | None = "d-1"
        self.state = "RUNNING"
        #: What it says to everything …
        self.answer: httpx.Response | Exception | None = None
        #: … or to what comes next.
        self.answers: list[httpx.Response] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            return self.answer
        if self.answers:
            return self.answers.pop()
        path = request.url.path.removeprefix("/api")
        known = self.deployment
        if path == "/deployments/name/launch-server/launch-server" and known:
            return httpx.Response(200, json={"id": known})
        if path == f"/deployments/{known}/create_flow_run":
            return httpx.Response(201, json={"id": "run-1"})
        if path == "/flow_runs/run-1":
            return httpx.Response(200, json={"id": "run-1", "state_type": self.state})
        return httpx.Response(404, json={"detail": "Not found"})

    def api(self, **login: Any) -> PrefectApi:
        transport = httpx.MockTransport(self)
        return PrefectApi(URL, transport=transport, clock=FakeClock(), **login)

    def engine(self, clock: FakeClock | None = None) -> DeploymentEngine:
        return DeploymentEngine(self.api(), clock=clock)


def test_a_run_is_asked_for_once_per_key() -> None:
    """The run is created from the deployment that is named like the flow, with the caller's key,
    and the deployment is looked up once."""
    prefect = Prefect()
    engine = prefect.engine()
    for number in range(2):
        key = f"launch/{number}"
        run_id = engine.start("launch_server", {"request": {}}, idempotency_key=key, tags=["x"])
        assert run_id == "run-1"
    looked, *created = prefect.asked
    assert looked.url.path == "/api/deployments/name/launch-server/launch-server"
    assert [json.loads(each.content) for each in created] == [
        {
            "parameters": {"request": {}},
            "idempotency_key": f"launch/{number}",
            "tags": ["x"],
            "enforce_parameter_schema": False,
        }
        for number in range(2)
    ]


def test_a_deployment_that_was_made_anew_is_found_again() -> None:
    """The id that was looked up before is not trusted for ever."""
    prefect = Prefect()
    engine = prefect.engine()
    engine.start("launch_server", {}, idempotency_key="1")
    prefect.deployment = "d-2"
    assert engine.start("launch_server", {}, idempotency_key="2") == "run-1"
    assert prefect.asked[-1].url.path == "/api/deployments/d-2/create_flow_run"


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx.ConnectError("refused"), EngineUnavailable, "does not answer"),
        (httpx.ReadTimeout(""), EngineUnavailable, "ReadTimeout"),
        (httpx.Response(503), EngineUnavailable, "answers 503"),
        (httpx.Response(429), EngineUnavailable, "answers 429"),
        (httpx.Response(401), EngineUnavailable, "PREFECT_API_AUTH_STRING"),
        (httpx.Response(409, json={"detail": "name: too long"}), EngineRefused, "name: too long"),
        (httpx.Response(422, json={"detail": [{"loc": ["x"]}]}), EngineRefused, "loc"),
        (httpx.Response(400, text="no"), EngineRefused, "no"),
        (httpx.Response(404), EngineUnavailable, "slipway deploy"),
    ],
)
def test_what_answers_mean(
    answer: httpx.Response | Exception, error: type[SlipwayError], words: str
) -> None:
    """What may be different next time is `EngineUnavailable`, the rest is `EngineRefused`."""
    prefect = Prefect()
    prefect.answer = answer
    with pytest.raises(error, match=words):
        prefect.engine().start("launch_server", {}, idempotency_key="1")
    assert error.retryable is (error is EngineUnavailable)


def test_a_busy_server_is_asked_again() -> None:
    """Its database may be locked for a moment; nobody is told of that."""
    prefect = Prefect()
    prefect.answers = [httpx.Response(503), httpx.Response(429)]
    assert prefect.engine().start("launch_server", {}, idempotency_key="1") == "run-1"


@pytest.mark.parametrize(
    ("state", "code"),
    [("SCHEDULED", None), ("PAUSED", None), ("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 1)],
)
def test_how_a_run_ended(state: str, code: int | None) -> None:
    """The code is that of the runner process: 0 when it completed, 1 when it ended otherwise."""
    prefect, clock = Prefect(), FakeClock()
    run = prefect.engine(clock).submit("launch_server", {})
    assert run.ended() is None
    prefect.state = state
    clock.advance(ASK_EVERY_S)
    assert run.ended() == code
    assert run.log_file == "http://127.0.0.1:4200/runs/flow-run/run-1"


def test_a_run_that_crashed_may_go_on_elsewhere() -> None:
    """It is over when nobody has taken it up for a while."""
    prefect, clock = Prefect(), FakeClock()
    run = prefect.engine(clock).submit("launch_server", {})
    for state in ("CRASHED", "SCHEDULED", "CRASHED"):
        prefect.state = state
        clock.advance(RESCUED_WITHIN_S - 1)
        assert run.ended() is None
    clock.advance(RESCUED_WITHIN_S)
    assert run.ended() == 1


def test_a_run_is_not_asked_for_all_the_time() -> None:
    """Whoever watches a launch looks several times a second; the server is asked once."""
    prefect, clock = Prefect(), FakeClock()
    run = prefect.engine(clock).submit("launch_server", {})
    before = len(prefect.asked)
    for _ in range(10):
        clock.advance(ASK_EVERY_S / 10)
        run.ended()
    assert len(prefect.asked) == before + 1


def test_a_server_that_is_away_says_nothing_about_a_run() -> None:
    """The run goes on as far as anyone knows; one that was deleted does not."""
    prefect, clock = Prefect(), FakeClock()
    prefect.answer = httpx.ConnectError("refused")
    assert FlowRun(prefect.api(), "run-1", clock).ended() is None
    prefect.answer = None
    assert FlowRun(prefect.api(), "run-2", clock).ended() == 1


def test_the_login_of_prefects_own_clients_is_used() -> None:
    """The shared login, else the key; both as Prefect's clients send them."""
    prefect = Prefect()
    prefect.api(auth_string="admin:pass", api_key="k").get("/health")
    prefect.api(api_key="k").get("/health")
    sent = [each.headers.get("Authorization") for each in prefect.asked]
    assert sent == ["Basic YWRtaW46cGFzcw==", "Bearer k"]
