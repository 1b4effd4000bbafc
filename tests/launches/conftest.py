"""Fixtures of every test that launches."""

from __future__ import annotations

from tests.launches.fixtures import launch_cloud, quick_gates, world

__all__ = ["launch_cloud", "quick_gates", "world"]
