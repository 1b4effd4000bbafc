"""A clock that only moves when it is told to."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from slipway.clock import Clock


class FakeClock:
    """Time in the hands of a test: sleeping moves it on at once.

    ``slept`` remembers every pause. Safe to use from several threads; they share one time.
    """

    def __init__(self, now: datetime | None = None) -> None:
        self._lock = threading.Lock()
        self._start = now or datetime(2026, 1, 1, tzinfo=UTC)
        self._passed_s = 0.0
        self._step_s = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        with self._lock:
            return self._start + timedelta(seconds=self._passed_s + self._step_s)

    def monotonic(self) -> float:
        with self._lock:
            return self._passed_s

    def sleep(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"cannot sleep {seconds} s")
        with self._lock:
            self.slept.append(seconds)
            self._passed_s += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody sleeping."""
        if seconds < 0:
            raise ValueError(f"monotonic time cannot go back {seconds} s; use step()")
        with self._lock:
            self._passed_s += seconds

    def step(self, seconds: float) -> None:
        """Correct the wall clock, as NTP does; monotonic time does not notice."""
        with self._lock:
            self._step_s += seconds


_: type[Clock] = FakeClock
