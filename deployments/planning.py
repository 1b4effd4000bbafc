"""From what `slipway up` was asked to a plan: ports, addresses and databases. Starts nothing, and
refuses what would not work before anything is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import httpx
import psycopg
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from deployments.api import check_listening, is_loopback
from deployments.prefect_server import PREFERRED_PORT, PrefectServer, free_port
from deployments.service_table import TABLE, Plan, reachable
from slipway.cli.wiring import Part, StackRequest
from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.settings import Settings

#: Prefect's database is named like Slipway's, with this at the end. Two databases and not two
#: schemas: both keep their migrations in a table of the same name, and each can be restored alone.
PREFECT_SUFFIX = "_prefect"

_AUTH_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"


def make_plan(request: StackRequest, settings: Settings, environ: Mapping[str, str]) -> Plan:
    """What is to run here. Raises `InvalidInput`."""
    server = PrefectServer(settings.state_dir)
    given_url = environ.get("PREFECT_API_URL", "")
    parts: set[Part] = set(request.only or TABLE)
    if not request.only and given_url:
        # As for every other command: the server that is named is used.
        parts.discard("prefect")
    slipway_database, prefect_database = _databases(request.postgres)
    redis = _redis(request)
    auth = environ.get(_AUTH_VARIABLE) or environ.get("PREFECT_API_AUTH_STRING") or ""
    if "api" in parts:
        check_listening(settings, request.host)
    if "prefect" in parts:
        _check_prefect(request.prefect_host, auth)
        port = _prefect_port(request, server)
        api_url = f"http://{reachable(request.prefect_host)}:{port}/api"
        if prefect_database is not None and slipway_database is not None:
            _make_database(slipway_database, str(prefect_database.database))
    else:
        port = 0
        api_url = given_url or _found(server)
    return Plan(
        settings=settings,
        parts=frozenset(parts),
        prefect_home=server.home,
        prefect_host=request.prefect_host,
        prefect_port=port,
        prefect_api_url=api_url,
        host=request.host,
        port=_port(request.host, request.port, "--port") if "api" in parts else request.port,
        worker_limit=request.worker_limit,
        worker_ports=tuple(
            free_port("127.0.0.1", (0,)) for _ in range(request.workers if "worker" in parts else 0)
        ),
        slipway_database=slipway_database,
        prefect_database=prefect_database,
        redis=redis,
        auth_string=SecretStr(auth) if auth else None,
    )


def _check_prefect(host: str, auth: str) -> None:
    if auth and ":" not in auth:
        raise InvalidInput(Problem(where=_AUTH_VARIABLE, what="write it as USER:PASSWORD"))
    if not auth and not is_loopback(host):
        what = (
            f"{host} is not a loopback address, and whoever reaches Prefect's API may run anything "
            f"on the workers; set {_AUTH_VARIABLE}=USER:PASSWORD, and put a proxy that speaks TLS "
            "in front"
        )
        raise InvalidInput(Problem(where="--prefect-host", what=what))


def _prefect_port(request: StackRequest, server: PrefectServer) -> int:
    if request.prefect_port is not None:
        return _port(request.prefect_host, request.prefect_port, "--prefect-port")
    found = server.find()
    if found is not None:
        # Its clients know it by this address; it is stopped before ours begins.
        return found.port
    last = server.last_port
    return free_port(
        request.prefect_host, [*([last] if last is not None else []), PREFERRED_PORT, 0]
    )


def _port(host: str, port: int, option: str) -> int:
    try:
        return free_port(host, (port,))
    except SlipwayError as error:
        what = f"port {port} of {host} is taken or not ours to use; name another, 0 for any"
        raise InvalidInput(Problem(where=option, what=what)) from error


def _found(server: PrefectServer) -> str:
    found = server.find()
    if found is None:
        what = "set PREFECT_API_URL to the Prefect server that this is for; none runs here"
        raise InvalidInput(Problem(where="--only", what=what))
    return found.api_url


def _databases(given: SecretStr | None) -> tuple[URL | None, URL | None]:
    """The addresses of Slipway's and of Prefect's database on one server."""
    if given is None:
        return None, None
    try:
        url = make_url(given.get_secret_value())
    except ArgumentError as error:
        # Not what was given: there may be a password in it.
        what = "not a URL; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise InvalidInput(Problem(where="--postgres", what=what)) from error
    if url.get_backend_name() != "postgresql" or not url.database:
        what = (
            f"{url.get_backend_name()} without a database"
            if url.get_backend_name() == "postgresql"
            else f"a {url.get_backend_name()} URL"
        )
        what += "; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        raise InvalidInput(Problem(where="--postgres", what=what))
    query = dict(url.query)
    if "sslmode" in query:
        # The two drivers have different names for it.
        query["ssl"] = query.pop("sslmode")
    return (
        url.set(drivername="postgresql+psycopg"),
        url.set(
            drivername="postgresql+asyncpg", database=f"{url.database}{PREFECT_SUFFIX}", query=query
        ),
    )


def _redis(request: StackRequest) -> SecretStr | None:
    if request.redis is None:
        return None
    if request.postgres is None and (not request.only or "prefect" in request.only):
        what = "several Prefect servers need one PostgreSQL; give --postgres too, or leave it out"
        raise InvalidInput(Problem(where="--redis", what=what))
    with contextlib.suppress(httpx.InvalidURL):
        url = httpx.URL(request.redis.get_secret_value())
        if url.scheme in ("redis", "rediss") and url.host:
            return request.redis
    what = "write redis://:PASSWORD@HOST:PORT/NUMBER, or rediss:// with TLS"
    raise InvalidInput(Problem(where="--redis", what=what))


def _make_database(url: URL, name: str) -> None:
    """Create Prefect's database if there is none. Raises `SlipwayError`."""
    with _connected(url) as connection:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        if connection.execute(query, (name,)).fetchone():
            return
        try:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.errors.DuplicateDatabase:
            return  # Another machine was faster.
        except psycopg.errors.InsufficientPrivilege as error:
            raise SlipwayError(
                f"account {url.username} may not create the database {name} for Prefect; have an "
                f'administrator run: CREATE DATABASE "{name}" OWNER "{url.username}"'
            ) from error


@contextlib.contextmanager
def _connected(url: URL) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, autocommit=True, connect_timeout=10) as connection:
            yield connection
    except psycopg.OperationalError as error:
        said = " ".join(str(error).split())
        raise SlipwayError(
            f"PostgreSQL {url.host}/{url.database} cannot be used: {said}"
        ) from error
