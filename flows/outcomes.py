"""How a launch ended, as flows pass it on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a launch ended."""

    launch_id: str
    server: str
    status: str
    #: The step that failed and why, in one sentence; empty when it is operational.
    reason: str = ""
