"""The HTTP API as a process: ``python -m deployments.api``, or any ASGI server on `create_app`."""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import sys

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

from deployments.deployment_engine import DeploymentEngine
from deployments.prefect_api import PrefectApi
from slipway.api.app import create_app as create_api
from slipway.api.app import let_go
from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.launches.services import build_services
from slipway.mirrors.serving import FileProtocol
from slipway.settings import Settings

DEFAULT_PORT = 4280
DEFAULT_PREFECT_API_URL = "http://127.0.0.1:4200/api"

#: Requests that run when the process is told to stop get this long; event streams end at once.
DRAIN_S = 10


def create_app() -> FastAPI:
    """The API on the services of the environment's settings, and on Prefect's deployments."""
    return _app(Settings())


def _app(settings: Settings) -> FastAPI:
    api_url = os.environ.get("PREFECT_API_URL") or DEFAULT_PREFECT_API_URL
    return create_api(build_services(settings), DeploymentEngine(PrefectApi.from_environ(api_url)))


def check_listening(settings: Settings, host: str) -> None:
    """Tokens travel in clear text without TLS: only loopback may do without. Raises
    `InvalidInput`."""
    certificate, key = settings.api_tls_certificate, settings.api_tls_key
    if (certificate is None) != (key is None):
        missing = "SLIPWAY_API_TLS_KEY" if key is None else "SLIPWAY_API_TLS_CERTIFICATE"
        raise InvalidInput(Problem(where=missing, what="certificate and key go together; set both"))
    for variable, path in (
        ("SLIPWAY_API_TLS_CERTIFICATE", certificate),
        ("SLIPWAY_API_TLS_KEY", key),
    ):
        if path is not None and not path.is_file():
            raise InvalidInput(Problem(where=variable, what=f"there is no file {path}"))
    if certificate is not None or settings.api_behind_tls_proxy or is_loopback(host):
        return
    what = (
        f"{host} is not a loopback address, and bearer tokens would travel in clear text; set "
        "SLIPWAY_API_TLS_CERTIFICATE and SLIPWAY_API_TLS_KEY, or SLIPWAY_API_BEHIND_TLS_PROXY=true "
        "when a proxy in front speaks TLS"
    )
    raise InvalidInput(Problem(where="--host", what=what))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server(uvicorn.Server):
    """Does not wait for those who only wait for us."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        app = self.config.app
        assert isinstance(app, FastAPI), "it is what `main` serves"
        let_go(app)
        await super().shutdown(sockets)


def main(arguments: list[str] | None = None) -> int:
    """Serve until told to stop; answers the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0: any that is free"
    )
    given = parser.parse_args(arguments)
    try:
        settings = Settings()
        check_listening(settings, given.host)
        app = _app(settings)
    except SlipwayError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except ValidationError as error:
        for each in error.errors():
            sys.stderr.write(f"SLIPWAY_{str(each['loc'][0]).upper()}: {each['msg']}\n")
        return InvalidInput.exit_code
    server = Server(
        uvicorn.Config(
            app,
            http=FileProtocol,
            host=given.host,
            port=given.port,
            ssl_certfile=settings.api_tls_certificate,
            ssl_keyfile=settings.api_tls_key,
            timeout_graceful_shutdown=DRAIN_S,
            # Which address a request came from is a proxy's word only where there is one.
            proxy_headers=settings.api_behind_tls_proxy,
            server_header=False,
            access_log=False,
            log_level="info",
        )
    )
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
