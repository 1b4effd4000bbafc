"""``/v1/mirrors``: what is kept, its days, and what changed between two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from slipway.launches.mirror_file import declare, find_declared, read_mirrors
from slipway.mirrors.sync import Mirror
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.web import Web
from tests.api.world import ApiWorld


def _mirrored(world: ApiWorld, directory: Path) -> list[datetime]:
    """Three days of a repository of two suites; answers their moments."""
    services = world.services
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=10)
    archive = DebArchive(directory / "upstream", suites=("stable", "updates"), start=start)
    clock = FakeClock(start)
    with Web(archive.root) as web:
        file = directory / "mirrors.yaml"
        file.write_text(
            "schema: slipway-mirrors/1\nmirrors:\n"
            f"  debian: {{kind: apt, urls: ['{web.url}'], suites: [stable, updates], "
            f"keyring: '{archive.keyring}'}}\n"
            f"  empty: {{kind: apt, urls: ['{web.url}'], suites: [stable], "
            f"keyring: '{archive.keyring}'}}\n"
        )
        declare(services.database, clock, read_mirrors(file), actor="tests")
        mirror = Mirror(services.mirror.store, services.database, clock)
        repository = find_declared(services.database, "debian")
        moments = []
        for _ in range(3):
            done = mirror.sync(repository, actor="tests")
            assert done.taken_at is not None
            moments.append(done.taken_at)
            archive.advance(change=2, add=1)
            clock.advance(24 * 3600)
    return moments


async def test_mirrors_days_and_differences(world: ApiWorld, tmp_path: Path) -> None:
    """In pages like all lists; a day says why it is kept, a name that is not there is 404."""
    first, second, last = _mirrored(world, tmp_path)
    world.services.mirror.pins.add("debian", second.date(), "wanted", last)
    async with world.client("read") as client:
        listed = (await client.get("/v1/mirrors")).json()["items"]
        assert [each["name"] for each in listed] == ["debian", "empty"]
        assert (listed[0]["states"], listed[1]["states"], listed[1]["last"]) == (3, 0, None)
        assert datetime.fromisoformat(listed[0]["first"]) == first
        assert (await client.get("/v1/mirrors/debian")).json() == listed[0]

        days, query = [], {"limit": "4"}
        while True:
            page = (await client.get("/v1/mirrors/debian/days", params=query)).json()
            days += page["items"]
            if page["next"] is None:
                break
            query["marker"] = page["next"]
        shown = [(datetime.fromisoformat(each["taken_at"]), each["suite"]) for each in days]
        assert shown == [(m, s) for m in (last, second, first) for s in ("stable", "updates")]
        assert [each["pinned"] for each in days] == ["", "", "wanted", "wanted", "", ""]
        assert [each["changed"] for each in days] == [2, 2, 2, 2, 0, 0]

        between = {"before": f"{first:%Y%m%dT%H%M%SZ}", "after": "latest", "limit": "500"}
        whole = (await client.get("/v1/mirrors/debian/diff", params=between)).json()["items"]
        assert {each["suite"] for each in whole} == {"stable", "updates"}
        assert sum(each["before"] == [] for each in whole) == 4
        some = {**between, "limit": "3"}
        page = (await client.get("/v1/mirrors/debian/diff", params=some)).json()
        rest = {**between, "marker": page["next"]}
        behind = (await client.get("/v1/mirrors/debian/diff", params=rest)).json()["items"]
        assert page["items"] + behind == whole

        for path in ("nothing", "nothing/days", "debian/diff?before=2001-01-01"):
            answer = await client.get(f"/v1/mirrors/{path}")
            assert answer.status_code == 404, path
        since = {"kind": "mirror.day-taken"}
        told = (await client.get("/v1/changes", params={**since, "changes_since": "0"})).json()
        assert [each["subject"] for each in told["items"]] == ["mirror/debian"] * 3
        files = await client.get(f"/snapshots/{second:%Y-%m-%d}/debian/dists/stable/InRelease")
        assert files.status_code == 200
