"""Whether a configured server does its work: seen from here, or from the server itself where nobody
can look in."""

from __future__ import annotations

import socket

import httpx

from slipway.launches.connecting import connect
from slipway.launches.inputs import template_of
from slipway.launches.phoning import calls_us, failed_check_inside
from slipway.launches.work import Work
from slipway.records import Launch
from slipway.servertemplates import HttpCheck, TcpCheck

#: For one try; a service that has just been started is tried again.
CHECK_TIMEOUT_S = 5.0


def describe(check: HttpCheck | TcpCheck) -> str:
    """A check in words."""
    if isinstance(check, HttpCheck):
        return f"GET {check.http} on port {check.port} answers {check.status}"
    return f"port {check.tcp} accepts connections"


def outside_checks(work: Work) -> tuple[Launch, list[HttpCheck | TcpCheck]]:
    """The checks that are no scripts, and whom to ask."""
    launch = work.launch()
    template = template_of(work.services, launch)
    checks = [check for check in template.health if isinstance(check, HttpCheck | TcpCheck)]
    return launch, checks


def failed_check(work: Work, launch: Launch, checks: list[HttpCheck | TcpCheck]) -> str | None:
    """The first check that does not hold now, with what was seen, or None. Raises `RemoteError`
    when the server itself has to be asked and does not answer."""
    if not checks:
        return None
    if calls_us(launch):
        return _failed_inside(work, launch, checks)
    address = launch.public_ip or launch.private_ip or ""
    for check in checks:
        try:
            if isinstance(check, HttpCheck):
                url = f"http://{address}:{check.port}{check.http}"
                status = httpx.get(url, timeout=CHECK_TIMEOUT_S, trust_env=False).status_code
                if status != check.status:
                    return f"{describe(check)}: it answered {status}"
            else:
                where = (address, check.tcp)
                socket.create_connection(where, timeout=CHECK_TIMEOUT_S).close()
        except (OSError, httpx.HTTPError) as error:
            return f"{describe(check)}: {str(error) or type(error).__name__}"
    return None


def _failed_inside(work: Work, launch: Launch, checks: list[HttpCheck | TcpCheck]) -> str | None:
    asked = [check.model_dump(mode="json") for check in checks]
    with connect(work, launch) as remote:
        found = failed_check_inside(
            remote, launch.private_ip or "127.0.0.1", asked, timeout_s=CHECK_TIMEOUT_S
        )
    if found is None:
        return None
    number, said = found
    return f"{describe(checks[number])}, asked on the server itself: {said}"
