"""Sweeping: what may go goes, what is foreign, fresh or in use stays, and a dry run tells."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from slipway import audit
from slipway.clouds.base import (
    TAG_EXPIRES,
    TAG_INSTALLATION,
    TAG_LAUNCH,
    TAG_SERVER,
    Cloud,
    InstanceSpec,
    InstanceState,
    ResourceKind,
)
from slipway.database import Database
from slipway.errors import CloudUnavailable
from slipway.launches.creating import TAG_GENERATION
from slipway.launches.services import Services
from slipway.launches.sweeping import Look, look, rows, subject_of, sweep
from slipway.records import LaunchStatus
from slipway.remote.base import Connector
from slipway.servertemplates import TemplateStore
from slipway.settings import Settings
from slipway.testing.fake_clock import FakeClock
from slipway.testing.fake_cloud import FakeCloud
from slipway.vault import Vault
from tests.records.rows import add_launch

REGIONS = ("north", "south")
DAY = timedelta(days=1)
#: Where launches on record live.
HOME = ("one", "north")


class Yard:
    """Two clouds, records of launches, and whatever a test leaves lying about."""

    def __init__(self, database: Database, directory: Path) -> None:
        self.clock = FakeClock()
        directory.mkdir(parents=True, exist_ok=True)
        self.clouds = {
            name: FakeCloud(name, clock=self.clock, regions=REGIONS) for name in ("one", "two")
        }
        self.services = Services(
            settings=Settings(state_dir=directory, templates_dir=directory),
            database=database,
            clock=self.clock,
            clouds=dict[str, Cloud](self.clouds),
            templates=TemplateStore(database, directory, self.clock),
            vault=Vault(database, directory / "vault.key", self.clock),
            connector=NoConnector(),
        )
        self.count = 0

    def launch(self, status: LaunchStatus, **columns: Any) -> str:
        """A launch on record, of a server of its own."""
        self.count += 1
        launch_id = f"launch-{self.count}"
        where = dict(zip(("cloud", "region"), HOME, strict=True))
        columns = {"server_name": f"s-{self.count}", **where, **columns}
        return add_launch(self.services.database, launch_id, status=status.value, **columns)

    def tags(
        self, launch: str | None, *, expires: Any = -DAY, owner: str | None = None, **more: str
    ) -> dict[str, str]:
        """Tags of something of ours that expired a day ago."""
        found = {TAG_INSTALLATION: owner or self.services.installation_id, **more}
        if launch is not None:
            found |= {TAG_LAUNCH: launch, TAG_SERVER: f"of-{launch}"}
        if isinstance(expires, timedelta):
            expires = (self.clock.now() + expires).isoformat()
        return found if expires is None else {**found, TAG_EXPIRES: expires}

    def instance(self, tags: dict[str, str], *, cloud: str = "one", region: str = "north") -> str:
        """An instance in a cloud, made by whoever."""
        self.count += 1
        image = self.clouds[cloud].resolve_image(region, "debian-12").id
        spec = InstanceSpec(
            name="x", region=region, image_id=image, instance_type="small",
            ssh_public_key="", login_user="admin", tags=tags,
        )  # fmt: skip
        return self.clouds[cloud].create_instance(spec, token=f"token-{self.count}").id

    def alive(self) -> set[tuple[str, str]]:
        """Everything that is in the clouds: (cloud, id)."""
        found = set()
        for name, cloud in self.clouds.items():
            for region in REGIONS:
                found |= {
                    (name, each.id)
                    for each in cloud.list_instances(region, tags={})
                    if each.state not in (InstanceState.TERMINATED, InstanceState.STOPPING)
                }
                found |= {(name, each.id) for each in cloud.list_images(region, tags={})}
                for kind in ResourceKind:
                    left = cloud.list_resources(region, kind, tags={})
                    found |= {(name, each.id) for each in left}
        return found

    def summaries(self, found: Look) -> list[str]:
        subject = subject_of(found.id)
        audit.verify(self.services.database, subject)
        return [each.summary for each in audit.entries(self.services.database, subject)]


class NoConnector:
    """A sweep connects to nothing."""

    def connect(self, endpoint: Any, *, timeout_s: float) -> Any:
        raise AssertionError(f"a sweep wanted to connect to {endpoint} within {timeout_s}")


_: type[Connector] = NoConnector


@pytest.fixture
def yard(database: Database, tmp_path: Path) -> Yard:
    return Yard(database, tmp_path / "templates")


def ids(found: Look) -> list[str]:
    return [each.thing.id for each in found.leftovers]


def test_what_an_ended_launch_left_goes(yard: Yard) -> None:
    """Expired, ours, and its launch is terminated; the sweep is on record before and after."""
    launch = yard.launch(LaunchStatus.TERMINATED)
    left = yard.instance(yard.tags(launch))
    found = look(yard.services)
    assert ids(found) == [left]
    assert found.leftovers[0].why == f"launch {launch} is terminated"
    assert yard.alive() >= {("one", left)}, "a look removes nothing"
    swept = sweep(yard.services, found, actor="tests", because="asked")
    assert [each.outcome for each in swept.removals] == ["removed"]
    assert ("one", left) not in yard.alive()
    name = f"instance {left} in one/north"
    assert yard.summaries(found) == [
        f"sweep of 1: {name}; asked",
        f"removing {name}: launch {launch} is terminated",
        f"{name} removed",
    ]
    assert look(yard.services).leftovers == ()


def test_what_nobody_knows_goes(yard: Yard) -> None:
    """An instance of our installation whose launch is not on record, and one without a launch."""
    unknown = yard.instance(yard.tags("launch-lost"), cloud="two", region="south")
    without = yard.instance(yard.tags(None))
    found = look(yard.services)
    assert {(each.cloud, each.thing.id): each.why for each in found.leftovers} == {
        ("two", unknown): "launch launch-lost is not on record",
        ("one", without): "no launch uses it",
    }


@pytest.mark.parametrize("status", [each for each in LaunchStatus if each != "terminated"])
def test_what_a_launch_uses_stays(yard: Yard, status: LaunchStatus) -> None:
    """However long ago it expired, whatever state its launch is in."""
    launch = yard.launch(status)
    yard.instance(yard.tags(launch, expires=-400 * DAY, **{TAG_GENERATION: "1"}))
    assert look(yard.services).leftovers == ()


def test_an_earlier_instance_of_a_launch_goes(yard: Yard) -> None:
    """A launch that was resumed with another instance uses the newer one only."""
    launch = yard.launch(LaunchStatus.OPERATIONAL, generation=2)
    old = yard.instance(yard.tags(launch, **{TAG_GENERATION: "1"}))
    yard.instance(yard.tags(launch, **{TAG_GENERATION: "2"}))
    found = look(yard.services)
    assert ids(found) == [old]
    assert found.leftovers[0].why == f"launch {launch} has made another instance since"


@pytest.mark.parametrize("expires", [DAY, None, "soon", "2020-01-01T00:00:00"])
def test_what_has_not_expired_stays(yard: Yard, expires: Any) -> None:
    """Nor does what has no expiry, or one that cannot be read or has no zone."""
    yard.instance(yard.tags("launch-lost", expires=expires))
    assert look(yard.services).leftovers == ()


def test_what_is_not_ours_stays(yard: Yard) -> None:
    """Another installation's things stay even where a cloud ignores the filter by tags."""
    yard.instance(yard.tags("launch-lost", owner="slipway-of-somebody-else"))
    cloud = yard.clouds["one"]
    everything = cloud.list_instances("north", tags={})
    with mock.patch.object(cloud, "list_instances", return_value=everything):
        assert look(yard.services).leftovers == ()


def test_images(yard: Yard) -> None:
    """An expired image goes, unless a launch that has not ended was made from it or an image map
    names it, by id, name or pattern."""
    cloud = yard.clouds["one"]
    tags = yard.tags(None)
    names = ("gone", "used", "by-id", "by-name", "web-2026-01", "fresh")
    made = {name: cloud.add_image(name, region="north", tags=tags) for name in names[:-1]}
    cloud.add_image("fresh", region="north", tags=yard.tags(None, expires=DAY))
    yard.launch(LaunchStatus.OPERATIONAL, image_id=made["used"].id)
    for image in (made["by-id"].id, "self/by-name", "self/web-*"):
        write_image_map(yard, f"map-{yard.count}", image)
        yard.count += 1
    found = look(yard.services)
    assert ids(found) == [made["gone"].id]
    sweep(yard.services, found, actor="tests", because="asked")
    left = {each.name for each in cloud.list_images("north", tags={})}
    assert left == {*names, "debian-12"} - {"gone"}


def test_a_key_pair_stays_while_a_launch_lives_in_its_region(yard: Yard) -> None:
    """All launches of a region share it, whichever brought it; elsewhere it goes."""
    yard.launch(LaunchStatus.OPERATIONAL)
    cloud, region = HOME
    for where, kind in (
        (cloud, ResourceKind.KEY_PAIR),
        (cloud, ResourceKind.VOLUME),
        ("two", ResourceKind.KEY_PAIR),
    ):
        yard.clouds[where].add_resource(kind, region=region, tags=yard.tags(None))

    def left() -> set[tuple[str, str]]:
        return {(each.cloud, each.thing.kind) for each in look(yard.services).leftovers}

    assert left() == {(cloud, "volume"), ("two", "key pair")}
    with yard.services.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE launch SET status = 'terminated'")
    assert left() == {(cloud, "volume"), ("two", "key pair"), (cloud, "key pair")}


def test_an_image_map_that_cannot_be_read_keeps_all_images(yard: Yard) -> None:
    """Nobody knows what it names; the look says so."""
    yard.clouds["one"].add_image("old", tags=yard.tags(None))
    write_image_map(yard, "broken", "x")
    (yard.services.settings.templates_dir / "images/broken.yaml").write_text("entries: [")
    found = look(yard.services)
    assert found.leftovers == ()
    [problem] = found.problems
    assert problem.startswith("no image is removed while image map broken is wrong: ")


def write_image_map(yard: Yard, name: str, image: str) -> None:
    path = yard.services.settings.templates_dir / "images" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    entries = {"one": {"*": {"x86_64": {"image": image, "user": "admin"}}}}
    path.write_text(json.dumps({"schema": "slipway-image-map/1", "name": name, "entries": entries}))


def test_each_is_looked_at_again(yard: Yard) -> None:
    """What came into use, or went away, between look and sweep is kept and said."""
    adopted = yard.instance(yard.tags("launch-4"))
    gone = yard.instance(yard.tags("launch-lost"))
    left = yard.instance(yard.tags("launch-lost"))
    found = look(yard.services)
    assert len(found.leftovers) == 3
    assert yard.launch(LaunchStatus.OPERATIONAL, instance_id=adopted) == "launch-4"
    yard.clouds["one"].set_state(gone, InstanceState.TERMINATED)
    later = yard.instance(yard.tags("launch-lost"))
    swept = sweep(yard.services, found, actor="tests", because="asked")
    outcomes = {each.leftover.thing.id: each.outcome for each in swept.removals}
    assert outcomes == {adopted: "kept", gone: "kept", left: "removed"}
    assert ("one", later) in yard.alive(), "nobody was told of this one"
    assert f"instance {adopted} in one/north kept: it is gone, or in use by now" in (
        yard.summaries(found)
    )


def test_one_that_fails_stops_no_other(yard: Yard) -> None:
    """Its sentence is on record; the next sweep finds it again."""
    first, second = (yard.instance(yard.tags("launch-lost")) for _ in range(2))
    found = look(yard.services)
    yard.clouds["one"].fail_next("terminate", CloudUnavailable("one is away"))
    swept = sweep(yard.services, found, actor="tests", because="asked")
    assert [each.outcome for each in swept.removals] == ["failed", "removed"]
    assert f"instance {first} in one/north failed: one is away" in yard.summaries(found)
    assert second != first
    assert ids(look(yard.services)) == [first]


def test_a_cloud_that_is_away_is_told(yard: Yard) -> None:
    """The others are looked at all the same."""
    left = yard.instance(yard.tags("launch-lost"), cloud="two")
    yard.clouds["one"].fail_next("regions", CloudUnavailable("one is away"))
    yard.clouds["two"].fail_next("list_images", CloudUnavailable("try later"))
    found = look(yard.services)
    assert ids(found) == [left]
    assert found.problems == (
        "the regions of cloud one could not be listed: one is away",
        "images of two/north could not be listed: try later",
    )


def test_rows_for_people(yard: Yard) -> None:
    """A table says what, where, since when and why."""
    left = yard.instance(yard.tags("launch-lost"))
    [row] = rows(look(yard.services).leftovers)
    assert (row["kind"], row["id"]) == ("instance", left)
    assert row["cloud"] == "one/north"
    assert row["what"].endswith("server of-launch-lost")
    assert row["why"] == "launch launch-lost is not on record"


THING = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(("instance", "image", *ResourceKind)),
        "cloud": st.sampled_from(("one", "two")),
        "region": st.sampled_from(REGIONS),
        "owner": st.sampled_from((None, None, "slipway-other")),
        "launch": st.sampled_from((None, "unknown", *LaunchStatus)),
        "expires": st.sampled_from((-DAY, -DAY, DAY, None, "never")),
        "old": st.booleans(),
    }
)


@examples(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(things=st.lists(THING, max_size=12))
def test_a_real_run_does_what_a_dry_run_says(
    things: list[dict[str, Any]], database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever lies about: exactly what the look has found goes, and nothing foreign, fresh or
    used was among it."""
    with database.transaction() as connection:
        for table in ("launch", "server", "audit_entry", "audit_head"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    yard = Yard(database, tmp_path_factory.mktemp("yard"))
    may_go: set[tuple[str, str]] = set()
    key_pairs: list[str] = []
    for thing in things:
        launch, generation = thing["launch"], "1" if thing["old"] else "2"
        if isinstance(launch, LaunchStatus):
            launch = yard.launch(launch, generation=2)
        tags = yard.tags(launch, expires=thing["expires"], owner=thing["owner"])
        tags[TAG_GENERATION] = generation
        cloud = yard.clouds[thing["cloud"]]
        if isinstance(thing["kind"], ResourceKind):
            made = cloud.add_resource(thing["kind"], region=thing["region"], tags=tags).id
        elif thing["kind"] == "image":
            made = cloud.add_image(f"image-{yard.count}", region=thing["region"], tags=tags).id
        else:
            made = yard.instance(tags, cloud=thing["cloud"], region=thing["region"])
        in_use = isinstance(thing["launch"], LaunchStatus) and thing["launch"] != "terminated"
        in_use = in_use and (thing["kind"] != "instance" or not thing["old"])
        # Launches of this test live in one region; its key pairs are shared by all of them.
        if thing["kind"] is ResourceKind.KEY_PAIR and (thing["cloud"], thing["region"]) == HOME:
            key_pairs.append(made)
        if thing["expires"] == -DAY and thing["owner"] is None and not in_use:
            may_go.add((thing["cloud"], made))
    if any(each["launch"] in set(LaunchStatus) - {"terminated"} for each in things):
        may_go -= {("one", made) for made in key_pairs}
    before = yard.alive()
    found = look(yard.services)
    assert {(each.cloud, each.thing.id) for each in found.leftovers} == may_go & before
    assert yard.alive() == before, "a look changes nothing"
    sweep(yard.services, found, actor="tests", because="asked")
    assert before - yard.alive() == may_go & before
