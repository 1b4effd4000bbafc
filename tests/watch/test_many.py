"""Many who wait, through the EC2 adapter: what `bench.waiting` measures, in small."""

from __future__ import annotations

from bench.waiting import measure, picture, table


def test_however_many_wait_one_listing_serves_them() -> None:
    """Everybody is told, one call a tick."""
    found = measure("ours", 300, boot_s=(0.1, 0.6), tick_s=0.1, apart=False)
    assert (found["told"], found["failed"], found["throttled"]) == (300, 0, 0)
    assert found["describe_calls"] == found["ticks"]
    assert found["ticks"] < 30


def test_few_calls_are_enough() -> None:
    """With a bucket that two listings empty, ticks are left out; nobody is refused or fails."""
    scarce = {"size": 4.0, "per_s": 4.0}
    found = measure("ours", 20, boot_s=(0.1, 1.0), bucket=scarce, tick_s=0.05, apart=False)
    assert (found["told"], found["failed"], found["throttled"]) == (20, 0, 0)
    both = [{**found, "count": 10}, {**found, "mode": "boto3", "count": 10}]
    assert table(both).count("\n") == 2
    assert picture(both).count("<rect ") == 1 + 3 * 2 + 2
