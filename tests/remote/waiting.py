"""Waiting for something another thread or process does, with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(holds: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Poll until it holds; fails with ``what`` at the deadline."""
    end = time.monotonic() + deadline_s
    tick = threading.Event()
    while not holds():
        assert time.monotonic() < end, f"waited {deadline_s:g} s in vain for: {what}"
        tick.wait(0.01)
