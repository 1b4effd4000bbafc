"""What runs on a server that calls us. Nothing here is imported by the rest: these are files that
servers fetch, each complete in itself."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

#: By the name they are fetched under: what is in the package, and what it is.
PROGRAMS = {
    "agent.py": ("slipway_agent.py", "text/x-python"),
    "agent.ps1": ("slipway-agent.ps1", "text/plain"),
}


@functools.cache
def program(name: str) -> bytes:
    """The agent of this version of Slipway, by the name it is fetched under."""
    return resources.files("slipway.agent").joinpath(PROGRAMS[name][0]).read_bytes()


def digest_of(content: bytes) -> str:
    """What a server compares before it runs an agent."""
    return hashlib.sha256(content).hexdigest()
