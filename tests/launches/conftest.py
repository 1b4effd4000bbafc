"""Fixtures of every test that launches."""

from __future__ import annotations

import pytest

from tests.launches.fixtures import keep_outputs, launch_cloud, quick_gates, world

__all__ = ["keep_outputs", "launch_cloud", "quick_gates", "world"]


@pytest.fixture(autouse=True)
def comparing(keep_outputs: None) -> None:
    """The record is compared with what the machine has kept."""
