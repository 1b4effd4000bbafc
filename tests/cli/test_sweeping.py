"""``slipway sweep``: list, ask, remove."""

from __future__ import annotations

import pytest

from slipway.clouds.base import TAG_EXPIRES, TAG_INSTALLATION, TAG_LAUNCH, InstanceSpec
from slipway.errors import CloudUnavailable
from tests.cli.conftest import CommandLine

EXPIRED = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def left(slipway: CommandLine) -> str:
    """An instance that expired, of a launch nobody knows."""
    tags = {
        TAG_INSTALLATION: slipway.services.installation_id,
        TAG_LAUNCH: "launch-lost",
        TAG_EXPIRES: EXPIRED,
    }
    image = slipway.cloud.resolve_image("region-1", "debian-12").id
    spec = InstanceSpec(
        name="x", region="region-1", image_id=image, instance_type="small",
        ssh_public_key="", login_user="admin", tags=tags,
    )  # fmt: skip
    return slipway.cloud.create_instance(spec, token="token").id


def test_a_dry_run_lists(slipway: CommandLine, left: str) -> None:
    """What, where, since when and why; nothing is removed."""
    result = slipway.ok("sweep", "--dry-run")
    for word in ("instance", left, "fake/region-1", "2026-01-01", "launch-lost is not on record"):
        assert word in result.stdout
    assert slipway.cloud.count("terminate") == 0


def test_yes_removes_what_is_listed(slipway: CommandLine, left: str) -> None:
    """And says where the record of it is."""
    [listed] = slipway.json("sweep", "--dry-run")["leftovers"]
    assert (listed["id"], listed["outcome"]) == (left, None)
    result = slipway.ok("sweep", "--yes")
    assert f"instance {left} in fake/region-1: removed" in result.stderr
    subject = result.stderr.split("slipway audit show ")[1].strip()
    shown = slipway.ok("audit", "show", subject).stdout
    assert f"sweep of 1: instance {left} in fake/region-1; not asked (--yes)" in shown
    assert slipway.json("sweep")["leftovers"] == []
    assert "nothing is left behind" in slipway.ok("sweep").stderr


def test_nobody_to_ask_removes_nothing(slipway: CommandLine, left: str) -> None:
    """Without a terminal and without --yes it lists, and ends with a code that is noticed."""
    result = slipway("sweep")
    assert result.exit_code == 1
    assert "give --yes" in result.stderr
    assert slipway.cloud.count("terminate") == 0


@pytest.mark.parametrize("answer", ["y", "n"])
def test_asked_at_the_terminal(
    slipway: CommandLine, left: str, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """Only yes removes; the record says that somebody agreed."""
    monkeypatch.setattr("slipway.cli.sweeping._is_terminal", lambda: True)
    result = slipway("sweep", stdin=f"{answer}\n")
    assert result.exit_code == (0 if answer == "y" else 1)
    assert slipway.cloud.count("terminate") == (1 if answer == "y" else 0)
    if answer == "n":
        assert "nothing was removed" in result.stderr


def test_what_could_not_be_removed_is_told(slipway: CommandLine, left: str) -> None:
    """With the cause, in words and as JSON; the exit code says so too."""
    slipway.cloud.fail_next("terminate", CloudUnavailable("the cloud is away"))
    result = slipway("sweep", "--yes", "--json")
    assert result.exit_code == 1
    assert '"outcome": "failed"' in result.stdout
    assert "the cloud is away" in result.stdout
    slipway.cloud.fail_next("regions", CloudUnavailable("still away"))
    result = slipway("sweep", "--dry-run")
    assert result.exit_code == 1
    assert "the regions of cloud fake could not be listed: still away" in result.stderr
