"""How far a sync is: numbers that threads add to and somebody looks at."""

from __future__ import annotations

import threading

from slipway.errors import Stopped


class Progress:
    """What there is to fetch and what has arrived. The numbers only grow, but for `suite`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The suite that is being worked on.
        self.suite = ""
        self.files = self.files_wanted = 0
        self.bytes = self.bytes_wanted = 0
        self._stopped = False

    @property
    def fraction(self) -> float:
        """How much of what is known to be wanted has arrived, from 0 to 1."""
        wanted = self.bytes_wanted
        return min(self.bytes / wanted, 1.0) if wanted else 0.0

    def stop(self) -> None:
        """Whoever works is to end soon, with `Stopped`."""
        self._stopped = True

    def check(self) -> None:
        """Raises `Stopped` once somebody has asked for it."""
        if self._stopped:
            raise Stopped

    def expect(self, files: int, size: int) -> None:
        """So much more is to be fetched."""
        with self._lock:
            self.files_wanted += files
            self.bytes_wanted += size

    def arrived(self, size: int) -> None:
        """Bytes of a file."""
        with self._lock:
            self.bytes += size

    def finished(self) -> None:
        """One file is complete."""
        with self._lock:
            self.files += 1
