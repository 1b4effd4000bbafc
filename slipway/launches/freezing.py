"""Package repositories as they were on a day."""

from __future__ import annotations

from datetime import date
from importlib import resources

from slipway.launches.scripts import Job
from slipway.settings import Settings

#: Refreshing the lists from a busy archive takes minutes, not hours.
TIMEOUT_S = 900.0


def freeze_job(settings: Settings, day: date) -> Job:
    """The script that points the server's package manager at that day. Safe to run again."""
    body = resources.files("slipway.launches").joinpath("freeze.sh").read_bytes()
    return Job(
        name="freeze-repositories",
        body=body,
        timeout_s=TIMEOUT_S,
        retry_safe=True,
        env={"FREEZE_DATE": day.isoformat(), "MIRROR_URL": settings.mirror_url},
        secrets={},
    )
