"""What a server is told at its first boot: where we are, and a token that works once.

The agent itself is fetched from our API and run only if it has the SHA-256 that stands here: user
data is small (EC2 takes 16 KiB), is read by people who look for what went wrong, and has to have
room for the authority behind a private certificate. What it holds is readable from inside the
server for ever, so it holds nothing else.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from importlib import resources
from urllib.parse import urlsplit

from slipway.records import Agent

#: EC2's limit, before the encoding; the smallest of the clouds.
MOST_BYTES = 16 * 1024


def render(form: str, agent: Agent, token: str) -> str:
    """User data in the form that an image map names. Raises `KeyError` for one that is not in
    `FORMS`."""
    return FORMS[form](agent, token)


def _linux(agent: Agent, token: str) -> str:
    """A ``#!`` script, which cloud-init runs as root on the first boot."""
    template = resources.files("slipway.phonehome").joinpath("user_data.sh").read_text("utf-8")
    told = {**_told(agent), "token": token}
    # One line of ASCII without anything a here-document could end at.
    return template.replace("@CONFIG@", json.dumps(told))


def _windows(agent: Agent, token: str) -> str:
    """For EC2Launch: PowerShell, at every boot, because it is what starts the agent."""
    template = resources.files("slipway.phonehome").joinpath("user_data.ps1").read_text("utf-8")
    told = {**_told(agent), "token": token}
    # In a literal string of PowerShell, ' is written twice.
    return template.replace("@CONFIG@", json.dumps(told).replace("'", "''"))


#: Image map's ``user_data_format`` → how it is written.
FORMS: Mapping[str, Callable[[Agent, str], str]] = {
    "cloud-init": _linux,
    "shell": _linux,
    "powershell": _windows,
}


def _told(agent: Agent) -> dict[str, str | int]:
    return {
        "api": agent.api_url.rstrip("/"),
        "launch": agent.launch_id,
        "generation": agent.generation,
        "program": agent.program,
        "ca": agent.ca,
    }


def is_loopback(url: str) -> bool:
    """Whether an address only leads to the computer it is used on."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trouble_with(url: str, *, same_host: bool) -> str | None:
    """Why servers could not call this address, or None; ``same_host``: they run where we do."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"SLIPWAY_API_URL is {url!r}; give an address like https://slipway.example.com"
    if is_loopback(url):
        if same_host:
            return None
        return (
            f"SLIPWAY_API_URL is {url}, which leads a server to itself; "
            "give an address that servers reach"
        )
    if parts.scheme != "https":
        return (
            f"SLIPWAY_API_URL is {url}; agents carry secrets, so anything but loopback needs https"
        )
    return None
