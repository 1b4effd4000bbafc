"""What the tests of a new user's ways share with those of the flows."""

from tests.flows.conftest import api, left_behind, prefect_home
from tests.launches.fixtures import launch_cloud, quick_gates, world

__all__ = ["api", "launch_cloud", "left_behind", "prefect_home", "quick_gates", "world"]
