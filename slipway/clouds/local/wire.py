"""What crosses the socket between `LocalCloud` and its supervisor, and where that socket is."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slipway.clouds.base import Image, Instance, InstanceSpec
from slipway.errors import (
    CapacityUnavailable,
    CloudRefused,
    CloudUnavailable,
    Conflict,
    InstanceNotFound,
    NotFound,
    SlipwayError,
)

#: Client and supervisor must agree on this number; it changes with the form of any message.
PROTOCOL = 1

#: macOS allows 104 bytes for the path of a Unix socket, its closing zero included.
_SOCKET_PATH_BYTES = 103

REGION = "local"
INSTANCE_TYPE = "local.small"


@dataclass(frozen=True, kw_only=True)
class CreateInstance:
    """The body of ``POST /create-instance``."""

    spec: InstanceSpec
    token: str


@dataclass(frozen=True, kw_only=True)
class Named:
    """The body of every call about one thing, or about all that carry some tags."""

    id: str = ""
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Health:
    """What a supervisor says about itself."""

    protocol: int
    pid: int
    directory: str
    confined: bool
    confinement: str
    running: int


@dataclass(frozen=True, kw_only=True)
class SupervisorRecord:
    """``supervisor.json``: which process is the supervisor of a directory.

    A process id alone is used again by the system; with the creation time it names one process.
    """

    pid: int
    create_time_s: float
    socket: str
    started_at: datetime


CREATE = TypeAdapter(CreateInstance)
NAMED = TypeAdapter(Named)
HEALTH = TypeAdapter(Health)
SUPERVISOR = TypeAdapter(SupervisorRecord)
INSTANCE = TypeAdapter(Instance)
INSTANCES = TypeAdapter(list[Instance])
IMAGE = TypeAdapter(Image)
IMAGES = TypeAdapter(list[Image])
#: Answers that are a few named strings, and every error.
TEXT = TypeAdapter(dict[str, str])

#: Errors that cross the socket by name.
ERRORS: dict[str, type[SlipwayError]] = {
    each.__name__: each
    for each in (
        CapacityUnavailable,
        CloudRefused,
        CloudUnavailable,
        Conflict,
        InstanceNotFound,
        NotFound,
    )
}


def socket_path(directory: Path) -> Path:
    """Where the supervisor of this directory listens: short, and the same for every caller."""
    digest = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
    name = f"slipway-{os.getuid()}-{digest}/control"
    path = Path(tempfile.gettempdir()) / name
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        path = Path("/tmp") / name
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file so that a reader sees the old content or the new.

    No fsync: after a crash of the whole computer no machine is running anyway.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    temporary.replace(path)
