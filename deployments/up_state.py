"""What `slipway up` leaves on record about itself, for the other commands and for the next one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class KeptService:
    """A service in the state file."""

    name: str
    state: str
    pid: int | None
    #: `slipway.processes.identity` of the process; empty when there is none.
    identity: str
    url: str
    restarts: int
    problem: str


@dataclass(frozen=True, kw_only=True)
class KeptState:
    """The state file's content."""

    pid: int
    identity: str
    since: str
    log_file: str
    services: tuple[KeptService, ...]


class StateFile:
    """Written by the supervisor after each change, read by everybody."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> KeptState | None:
        """What it says; None when there is none, or of another version."""
        try:
            found = json.loads(self._path.read_text())
            kept = tuple(KeptService(**each) for each in found.pop("services"))
            return KeptState(**found, services=kept)
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def write(self, state: KeptState) -> None:
        """Replace it whole."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(state)))
        draft.replace(self._path)
