"""The services the tasks of this process work with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from slipway.launches.services import Services, build_services
from slipway.settings import Settings

_current: tuple[int, Services] | None = None


def current_services() -> Services:
    """Built from the environment at first use, once per process: a forked child builds its own, as
    connections do not survive a fork."""
    global _current
    if _current is None or _current[0] != os.getpid():
        _current = (os.getpid(), build_services(Settings()))
    return _current[1]


@contextmanager
def use_services(services: Services) -> Iterator[Services]:
    """Work with these services inside the block, whoever asks."""
    global _current
    before, _current = _current, (os.getpid(), services)
    try:
        yield services
    finally:
        _current = before
