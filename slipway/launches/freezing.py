"""Package repositories as they were on a day."""

from __future__ import annotations

from importlib import resources

from slipway.launches.scripts import Job
from slipway.launches.work import Work
from slipway.steps import StepRun

#: Refreshing the lists from a busy archive takes minutes, not hours.
TIMEOUT_S = 900.0


def freeze_job(work: Work, run: StepRun) -> Job | None:
    """The script that points the server's package manager at the launch's day, safe to run again;
    None for a launch that is not frozen, whose step is then done."""
    day = work.launch().freeze
    if day is None:
        run.succeed("not frozen: packages are today's")
        return None
    body = resources.files("slipway.launches").joinpath("freeze.sh").read_bytes()
    return Job(
        name="freeze-repositories",
        body=body,
        timeout_s=TIMEOUT_S,
        retry_safe=True,
        env={"FREEZE_DATE": day.isoformat(), "MIRROR_URL": work.services.settings.mirror_url},
        secrets={},
    )
