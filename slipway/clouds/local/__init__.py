"""The embedded local cloud: stand-in machines that speak SSH and run real bash."""

from __future__ import annotations

from slipway.clouds.local.cloud import LocalCloud
from slipway.clouds.local.faults import (
    BUILT_IN,
    DEFAULT_IMAGE,
    FOR_EVER,
    CloudInitError,
    Faults,
    TimeService,
)

__all__ = [
    "BUILT_IN",
    "DEFAULT_IMAGE",
    "FOR_EVER",
    "CloudInitError",
    "Faults",
    "LocalCloud",
    "TimeService",
]
