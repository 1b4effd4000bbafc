"""From what `slipway up` was asked to a table of services; nothing is started here."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from deployments import planning
from deployments.planning import make_plan
from deployments.service_table import TABLE, Plan, reachable, services
from deployments.supervisor import Service
from slipway.cli.wiring import StackRequest
from slipway.errors import InvalidInput, SlipwayError
from slipway.settings import Settings
from tests.postgres import Postgres

POSTGRES = SecretStr("postgresql://slipway:p%40ss@db.example:5433/slipway?sslmode=require")
REDIS = SecretStr("redis://:r3dis@cache.example:6379/2")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The databases that would have been created."""
    found: list[str] = []
    monkeypatch.setattr(planning, "_make_database", lambda _, name: found.append(name))
    return found


def request(**fields: Any) -> StackRequest:
    return StackRequest(port=0, prefect_port=0, **fields)


def table(plan: Plan) -> dict[str, Service]:
    async def look() -> list[Service]:
        async with httpx.AsyncClient() as client:
            return services(plan, client)

    return {each.name: each for each in asyncio.run(look())}


def test_all_parts_of_the_table_run_unless_some_are_named(settings: Settings) -> None:
    """`--only` leaves the rest out."""
    assert make_plan(request(), settings, {}).parts == set(TABLE)
    only = request(only=frozenset({"prefect"}))
    assert make_plan(only, settings, {}).parts == {"prefect"}


def test_a_prefect_server_that_is_named_is_used(settings: Settings) -> None:
    """With PREFECT_API_URL none is started, as for every other command."""
    plan = make_plan(request(), settings, {"PREFECT_API_URL": "http://127.0.0.1:1/api"})
    assert "prefect" not in plan.parts
    assert table(plan)["api"].environment["PREFECT_API_URL"] == "http://127.0.0.1:1/api"


def test_parts_without_prefect_need_to_know_where_it_is(settings: Settings) -> None:
    """Nothing is started that could not find Prefect."""
    with pytest.raises(InvalidInput, match="PREFECT_API_URL"):
        make_plan(request(only=frozenset({"api"})), settings, {})


def test_a_port_that_is_taken_is_refused(settings: Settings) -> None:
    """With the option that would help, before anything is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"--port: port {port} of 127.0.0.1 is taken"):
            make_plan(StackRequest(port=port, prefect_port=0), settings, {})
        with pytest.raises(InvalidInput, match="--prefect-port"):
            make_plan(StackRequest(port=0, prefect_port=port), settings, {})


def test_prefect_listens_to_others_only_with_a_login(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its API runs anything for anybody."""
    # No test listens to other machines, and be it to see which port is free.
    monkeypatch.setattr(planning, "free_port", lambda *_: 4299)
    with pytest.raises(InvalidInput, match="PREFECT_SERVER_API_AUTH_STRING"):
        make_plan(request(prefect_host="0.0.0.0"), settings, {})
    environ = {"PREFECT_SERVER_API_AUTH_STRING": "ops:s3cret"}
    plan = make_plan(request(prefect_host="0.0.0.0"), settings, environ)
    assert plan.prefect_api_url == "http://127.0.0.1:4299/api"
    found = table(plan)
    assert found["prefect"].environment["PREFECT_SERVER_API_AUTH_STRING"] == "ops:s3cret"
    assert found["api"].environment["PREFECT_API_AUTH_STRING"] == "ops:s3cret"


def test_slipway_and_prefect_have_a_database_each(settings: Settings, made: list[str]) -> None:
    """On one PostgreSQL server, with the driver and the spelling of TLS that each needs."""
    found = table(make_plan(request(postgres=POSTGRES), settings, {}))
    assert made == ["slipway_prefect"]
    assert found["api"].environment["SLIPWAY_DATABASE_URL"] == (
        "postgresql+psycopg://slipway:p%40ss@db.example:5433/slipway?sslmode=require"
    )
    assert found["prefect"].environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == (
        "postgresql+asyncpg://slipway:p%40ss@db.example:5433/slipway_prefect?ssl=require"
    )


def test_prefect_keeps_its_connections_to_postgresql(
    settings: Settings, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as by default, none beyond those that are kept; unless somebody says otherwise."""
    names = [f"PREFECT_SERVER_DATABASE_SQLALCHEMY_{each}" for each in ("POOL_SIZE", "MAX_OVERFLOW")]
    monkeypatch.delenv(names[0], raising=False)
    monkeypatch.setenv(names[1], "3")
    found = table(make_plan(request(postgres=POSTGRES), settings, {}))["prefect"].environment
    assert [found[each] for each in names] == ["15", "3"]
    assert names[0] not in table(make_plan(request(), settings, {}))["prefect"].environment


def test_redis_takes_all_that_servers_would_keep_for_themselves(
    settings: Settings, made: list[str]
) -> None:
    """Prefect's own check for several servers finds nothing left in memory."""
    found = table(make_plan(request(postgres=POSTGRES, redis=REDIS), settings, {}))
    environment = found["prefect"].environment
    in_redis = [
        name
        for name, value in environment.items()
        if value.startswith(("prefect_redis.", "redis:"))
    ]
    assert sorted(in_redis) == [
        "PREFECT_REDIS_MESSAGING_URL",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE",
        "PREFECT_SERVER_DOCKET_URL",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING",
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE",
    ]
    assert "PREFECT_REDIS_MESSAGING_URL" not in found["api"].environment


def test_no_password_is_in_an_argument(settings: Settings, made: list[str]) -> None:
    """The process list is for everybody to read; and all of them are known to the log's mask."""
    environ = {"PREFECT_SERVER_API_AUTH_STRING": "ops:s3cret"}
    plan = make_plan(request(postgres=POSTGRES, redis=REDIS), settings, environ)
    passwords = ("p%40ss", "p@ss", "r3dis", "s3cret")
    for service in table(plan).values():
        assert not any(each in " ".join(service.command) for each in passwords)
    assert {"p@ss", "r3dis", "s3cret"} <= {each.get_secret_value() for each in plan.secrets}


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"postgres": SecretStr("mysql://db/slipway")}, "a mysql URL"),
        ({"postgres": SecretStr("postgresql://db")}, "without a database"),
        ({"postgres": SecretStr("s3cret")}, "not a URL"),
        ({"redis": REDIS}, "several Prefect servers need one PostgreSQL"),
        ({"redis": SecretStr("http://s3cret"), "postgres": POSTGRES}, "write redis://"),
    ],
)
def test_addresses_that_do_not_fit_are_refused(
    settings: Settings, made: list[str], fields: dict[str, Any], complaint: str
) -> None:
    """With what would be right, and without repeating what may be a secret."""
    with pytest.raises(InvalidInput, match=complaint) as refused:
        make_plan(request(**fields), settings, {})
    assert "s3cret" not in str(refused.value)
    assert made == []


@pytest.fixture
def account(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database on the tests' server."""
    with postgres.database("planned", migrated=False) as url:
        yield url


def test_prefects_database_is_made_once(account: str) -> None:
    """The second machine finds it."""
    from sqlalchemy.engine import make_url

    url = make_url(account)
    planning._make_database(url, "planned_prefect")
    planning._make_database(url, "planned_prefect")
    with planning._connected(url.set(database="planned_prefect")) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == ("planned_prefect",)
    with planning._connected(url) as connection:
        connection.execute("DROP DATABASE planned_prefect WITH (FORCE)")


def test_a_server_that_is_not_there_is_named(settings: Settings) -> None:
    """One sentence, without the password."""
    lost = SecretStr("postgresql://slipway:s3cret@127.0.0.1:1/slipway")
    with pytest.raises(SlipwayError, match=r"PostgreSQL .* cannot be used") as failed:
        make_plan(request(postgres=lost), settings, {})
    assert "s3cret" not in str(failed.value)


def test_a_worker_has_time_to_drain(settings: Settings) -> None:
    """It is not killed before it has handed back what it does."""
    plan = make_plan(request(workers=2), settings, {})
    drain_s = settings.worker_drain_s
    workers = [each for each in table(plan).values() if each.part == "worker"]
    assert all(each.stop_within_s > drain_s + 20 for each in workers)
    limited = table(dataclasses.replace(plan, worker_limit=7))
    assert all(each.command[-1] == "7" for each in limited.values() if each.part == "worker")


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("fe80::1", "[fe80::1]"),
        ("localhost", "localhost"),
    ],
)
def test_reachable(host: str, called: str) -> None:
    """Probes ask this machine, whatever the address is that a service listens on."""
    assert reachable(host) == called
