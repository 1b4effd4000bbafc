"""Whether a configured server does its work, seen from here."""

from __future__ import annotations

import socket

import httpx

from slipway.launches.inputs import template_of
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
    """The checks that are made from here, and whom to ask; scripts run on the server instead."""
    launch = work.launch()
    template = template_of(work.services, launch)
    checks = [check for check in template.health if isinstance(check, HttpCheck | TcpCheck)]
    return launch, checks


def failed_check(launch: Launch, checks: list[HttpCheck | TcpCheck]) -> str | None:
    """The first check that does not hold now, with what was seen, or None."""
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
