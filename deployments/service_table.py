"""What `slipway up` runs, as a table: one row per service, and the environment each gets."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import SecretStr
from sqlalchemy.engine import URL

from deployments.child_processes import HttpProbe
from deployments.prefect_server import CLIENT_ENVIRONMENT, SERVER_ENVIRONMENT, server_command
from deployments.supervisor import Service
from slipway.cli.wiring import Part
from slipway.settings import Settings

WORK_POOL = "slipway"
WORKER_TYPE = "slipway-inprocess"

#: After its drain a worker hands back what is left; then it has nothing to do any more.
_WORKER_ENDS_IN_S = 30.0

#: As many connections to PostgreSQL as Prefect's server has by default, but all of them kept: by
#: default it closes ten of the fifteen whenever they are not in use, and new ones cost a third of
#: PostgreSQL's share of a launch.
KEPT_CONNECTIONS: Mapping[str, str] = {
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "15",
    "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": "0",
}

#: What processes print goes through a pipe, and nobody there sees colours.
_PLAIN_OUTPUT: Mapping[str, str] = {
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "PREFECT_LOGGING_COLORS": "false",
}

#: Prefect's own choice of where its settings are would be taken for ours.
_NOT_PASSED_ON = frozenset({"PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"})


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is decided before anything is started."""

    settings: Settings
    #: The parts that run here, none of them twice.
    parts: frozenset[Part]
    prefect_home: Path
    prefect_host: str
    prefect_port: int
    #: Where this machine reaches Prefect, ours or not.
    prefect_api_url: str
    host: str
    port: int
    worker_limit: int | None = None
    #: A free port per worker, for its health.
    worker_ports: tuple[int, ...]
    slipway_database: URL | None = None
    prefect_database: URL | None = None
    redis: SecretStr | None = None
    #: ``user:password`` that Prefect's API asks for.
    auth_string: SecretStr | None = None

    @property
    def api_url(self) -> str:
        """The API on this machine."""
        scheme = "https" if self.settings.api_tls_certificate else "http"
        return f"{scheme}://{reachable(self.host)}:{self.port}"

    @property
    def prefect_ui_url(self) -> str:
        """Where a person looks at Prefect."""
        return self.prefect_api_url.removesuffix("/api")

    @property
    def secrets(self) -> list[SecretStr]:
        """What must not be in the log."""
        found = [each for each in (self.auth_string,) if each]
        if self.auth_string:
            _, _, password = self.auth_string.get_secret_value().partition(":")
            found.append(SecretStr(password))
        databases = [each for each in (self.slipway_database, self.prefect_database) if each]
        found += [SecretStr(str(each.password)) for each in databases if each.password]
        if self.redis:
            found.append(self.redis)
            password = httpx.URL(self.redis.get_secret_value()).password
            found.append(SecretStr(password))
        return [each for each in found if each.get_secret_value()]


#: One part's services. Adding a service to `slipway up` is adding a row.
Row = Callable[[Plan, httpx.AsyncClient], Sequence[Service]]


def _prefect(plan: Plan, client: httpx.AsyncClient) -> list[Service]:
    url = f"http://{reachable(plan.prefect_host)}:{plan.prefect_port}"
    return [
        Service(
            name="prefect",
            part="prefect",
            command=tuple(server_command(plan.prefect_host, plan.prefect_port)),
            environment=_environment(plan, _prefect_environment(plan)),
            probe=HttpProbe(url=f"{url}/api/ready", client=client),
            url=url,
        )
    ]


def _deploy(plan: Plan, _client: httpx.AsyncClient) -> list[Service]:
    return [
        Service(
            name="deploy",
            part="deploy",
            command=_python("deployments.main", "deploy"),
            environment=_environment(plan, _client_environment(plan)),
            needs=_needs(plan, "prefect"),
            once=True,
        )
    ]


def _api(plan: Plan, client: httpx.AsyncClient) -> list[Service]:
    return [
        Service(
            name="api",
            part="api",
            command=_python("deployments.api", "--host", plan.host, "--port", str(plan.port)),
            environment=_environment(
                plan,
                _client_environment(plan),
                # Where a browser reaches Prefect may be another address: said from outside.
                defaults={"SLIPWAY_PREFECT_UI_URL": _prefect_pages_url(plan)},
            ),
            probe=HttpProbe(url=f"{plan.api_url}/readyz", client=client),
            url=plan.api_url,
        )
    ]


def _workers(plan: Plan, client: httpx.AsyncClient) -> list[Service]:
    limit = [] if plan.worker_limit is None else ["--limit", str(plan.worker_limit)]
    host = socket.gethostname()
    return [
        Service(
            name=f"worker-{number}",
            part="worker",
            command=_python(
                *("prefect", "worker", "start", "--type", WORKER_TYPE, "--pool", WORK_POOL),
                *("--name", f"{host}-{number}-{port}", "--with-healthcheck", *limit),
            ),
            environment=_environment(
                plan,
                _client_environment(plan),
                {
                    "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                    "PREFECT_WORKER_WEBSERVER_PORT": str(port),
                },
                defaults={"PREFECT_WORKER_QUERY_SECONDS": "2"},
            ),
            probe=HttpProbe(url=f"http://127.0.0.1:{port}/health", client=client),
            # Its health is good from the moment its process begins.
            says_when_up="started: ",
            needs=_needs(plan, "prefect", "deploy"),
            stop_within_s=plan.settings.worker_drain_s + _WORKER_ENDS_IN_S,
        )
        for number, port in enumerate(plan.worker_ports, start=1)
    ]


#: In the order of starting; they are stopped from the last to the first, so workers drain while
#: the API and Prefect are still there.
TABLE: Mapping[Part, Row] = {
    "prefect": _prefect,
    "deploy": _deploy,
    "api": _api,
    "worker": _workers,
}


def services(plan: Plan, client: httpx.AsyncClient) -> list[Service]:
    """The rows of the table that this plan asks for."""
    return [
        service
        for part, row in TABLE.items()
        if part in plan.parts
        for service in row(plan, client)
    ]


def reachable(host: str) -> str:
    """How this machine calls what listens there."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return f"[{host}]" if address.version == 6 else host


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    # -P: a module of ours must not be mistaken for one in the directory it runs in.
    return (sys.executable, "-P", "-m", module, *arguments)


def _needs(plan: Plan, *parts: Part) -> tuple[str, ...]:
    return tuple(part for part in parts if part in plan.parts)


def _environment(
    plan: Plan, *ours: Mapping[str, str], defaults: Mapping[str, str] | None = None
) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
    found = {**_links(plan), **(defaults or {}), **given, **_PLAIN_OUTPUT}
    found |= _slipway_environment(plan)
    for each in ours:
        found |= each
    return found


def _links(plan: Plan) -> dict[str, str]:
    """Where run pages link to and agents call, unless somebody has said another address."""
    return {"SLIPWAY_API_URL": plan.api_url} if "api" in plan.parts else {}


def _prefect_pages_url(plan: Plan) -> str:
    """Prefect has two UIs, and its front page leads to the newer one: stay there. Another server
    than ours may not have it."""
    return f"{plan.prefect_ui_url}/v2" if "prefect" in plan.parts else plan.prefect_ui_url


def _slipway_environment(plan: Plan) -> dict[str, str]:
    url = plan.settings.database_url
    if plan.slipway_database is not None:
        url = plan.slipway_database.render_as_string(hide_password=False)
    return {
        "SLIPWAY_STATE_DIR": str(plan.settings.state_dir),
        "SLIPWAY_TEMPLATES_DIR": str(plan.settings.templates_dir),
        "SLIPWAY_DATABASE_URL": url,
        "PREFECT_HOME": str(plan.prefect_home),
    }


def _client_environment(plan: Plan) -> dict[str, str]:
    found = {
        **{name: os.environ.get(name, value) for name, value in CLIENT_ENVIRONMENT.items()},
        "PREFECT_API_URL": plan.prefect_api_url,
    }
    if plan.auth_string:
        found["PREFECT_API_AUTH_STRING"] = plan.auth_string.get_secret_value()
    return found


def _prefect_environment(plan: Plan) -> dict[str, str]:
    defaults = {
        **SERVER_ENVIRONMENT,
        # The address the browser asks; behind a proxy it is the proxy's, set from outside.
        "PREFECT_UI_API_URL": plan.prefect_api_url,
    }
    if plan.prefect_database is not None:
        defaults |= KEPT_CONNECTIONS
    found = {name: os.environ.get(name, value) for name, value in defaults.items()}
    if plan.auth_string:
        found["PREFECT_SERVER_API_AUTH_STRING"] = plan.auth_string.get_secret_value()
        # Its own services are its clients.
        found["PREFECT_API_AUTH_STRING"] = plan.auth_string.get_secret_value()
    if plan.prefect_database is not None:
        url = plan.prefect_database.render_as_string(hide_password=False)
        found["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    if plan.redis is not None:
        found |= _redis_environment(plan.redis.get_secret_value())
    return found


def _redis_environment(url: str) -> dict[str, str]:
    """Everything that Prefect servers would keep in their own memory otherwise."""
    return {
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_URL": url,
        "PREFECT_SERVER_DOCKET_URL": url,
    }
