"""How far a sync is: numbers that threads add to and somebody looks at."""

from __future__ import annotations

import threading


class Progress:
    """What there is to fetch and what has arrived. The numbers only grow, but for `suite`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: The suite that is being worked on.
        self.suite = ""
        self.files = self.files_wanted = 0
        self.bytes = self.bytes_wanted = 0

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
