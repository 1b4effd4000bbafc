"""rpm repositories: taken as they are signed, kept by day, compared, healed and served."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pysequoia import Tsk

from slipway.database import Database
from slipway.errors import ReleaseRefused, UpstreamInconsistent
from slipway.mirrors import manifest, primary, repomd, rpm_versions
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.difference import compare
from slipway.mirrors.repository import RpmRepository
from slipway.mirrors.sources import dnf_sources
from slipway.mirrors.store import Store
from slipway.testing import web as faults
from slipway.testing.fake_clock import FakeClock
from slipway.testing.rpm_archive import RpmArchive
from slipway.testing.web import Web
from tests.mirrors.world import ACTOR, World

OS = "BaseOS/x86_64/os"
REPOMD = f"{OS}/repodata/repomd.xml"


@pytest.fixture
def archive(tmp_path: Path) -> RpmArchive:
    return RpmArchive(tmp_path / "upstream")


@pytest.fixture
def world(tmp_path: Path, database: Database, archive: RpmArchive) -> Iterator[World]:
    with Web(archive.root) as web:
        store = Store(tmp_path / "mirror")
        yield World(archive, web, database, store, FakeClock(archive.now))


def _refused(world: World) -> str:
    """What was wrong with the only directory; nothing was published."""
    before = world.days()
    done = world.sync()
    assert (done.days, world.days()) == ((), before)
    world.assert_sound()
    [error] = done.failures.values()
    assert "\n" not in str(error)
    return f"{type(error).__name__}: {error}"


# --- Taking ---------------------------------------------------------------------------------------


def test_a_day_is_what_the_distribution_has(world: World) -> None:
    """Every package and all metadata, byte for byte, also what nothing here reads; each once."""
    done = world.sync()
    assert done.failures == {}
    assert world.packages(done.days[0]) == world.expected()
    assert max(world.web.requests.values()) == 1
    assert done.days[0].changes["added"] == len(world.archive.packages)
    state = manifest.load(world.store, done.days[0].manifest)
    there = sorted((world.archive.root / OS / "repodata").iterdir())
    assert sorted(state.files) == [f"{OS}/repodata/{path.name}" for path in there]
    names = {path.name.partition("-")[2] for path in there}
    assert {"modules.yaml.gz", "updateinfo.xml.gz", "filelists.xml.gz"} < names
    for path in there:
        found = state.files[f"{OS}/repodata/{path.name}"]
        assert world.store.read(found.sha256) == path.read_bytes()


def test_only_what_changed_is_fetched(world: World) -> None:
    """A night without changes is one request and no room; then new packages and metadata alone."""
    first, before = world.synced(), world.expected()
    blobs = sorted(world.store.root.rglob("*"))
    world.clock.advance(24 * 3600)
    with world.web.counting() as requests:
        assert world.synced().manifest == first.manifest
    assert requests == {REPOMD: 1}
    assert sorted(world.store.root.rglob("*")) == blobs
    world.next_day(change=2, add=1, remove=1)
    with world.web.counting() as requests:
        third = world.synced()
    assert len([path for path in requests if path.endswith(".rpm")]) == 3
    assert not any("modules" in path for path in requests)
    assert world.packages(third) == world.expected()
    assert world.packages(first) == before
    counts = {name: third.changes[name] for name in ("added", "removed", "changed")}
    assert counts == {"added": 1, "removed": 1, "changed": 2}


def test_several_directories_are_one_moment(tmp_path: Path, database: Database) -> None:
    """Each is taken by itself; one that cannot be taken keeps its day, and is named."""
    archive = RpmArchive(tmp_path / "upstream", suites=("/", "AppStream/"))
    with Web(archive.root) as web:
        world = World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(archive.now))
        done = world.sync()
        assert len({day.taken_at for day in done.days}) == 1
        assert [world.packages(day) for day in done.days] == [world.expected()] * 2
        world.next_day(change=1)
        (archive.root / "AppStream/repodata/repomd.xml.asc").unlink()
        done = world.sync()
    assert [day.suite for day in done.days] == ["/"]
    assert "rocky AppStream/: the upstream has no AppStream/repodata/repomd.xml.asc" in str(
        done.failures["AppStream/"]
    )


def test_metadata_that_nobody_signs(world: World) -> None:
    """Is taken where somebody has said so, without its signature being asked for."""
    (world.archive.root / f"{REPOMD}.asc").unlink()
    assert "BadSignature" in _refused(world)
    repository = dataclasses.replace(world.repository, signed_metadata=False)
    with world.web.counting() as requests:
        done = world.mirror().sync(repository, actor=ACTOR)
    assert done.failures == {}
    assert f"{REPOMD}.asc" not in requests
    assert world.packages(done.days[0]) == world.expected()


# --- Upstreams that misbehave ---------------------------------------------------------------------


@pytest.mark.parametrize("at", ["repomd.xml.asc", "primary.xml.gz", "filelists", ".rpm"])
def test_an_upstream_that_changes_meanwhile(world: World, at: str) -> None:
    """Between repomd.xml and any later file, with the old files gone: one consistent state."""
    left = [1]

    def before(path: str, _count: int) -> None:
        if at in path and left:
            left.pop()
            world.archive.advance(change=12, days=0.01)
            world.archive.clean()

    world.web.before = before
    world.clock.advance(3600)
    assert world.packages(world.synced()) == world.expected()
    world.assert_sound()


@pytest.mark.parametrize("path", ["*.rpm", "*primary.xml.gz", "*modules.yaml.gz", "*repomd.xml"])
def test_a_body_that_is_wrong_once_costs_no_day(world: World, path: str) -> None:
    """A page for logging in, a flipped bit and half a body are fetched again until it is right."""
    # What is signed is looked at once more only.
    for fault in (faults.html, faults.bit_flipped, faults.cut_off)["repomd" in path :]:
        world.web.fault(path, fault)
    assert world.packages(world.synced()) == world.expected()
    world.assert_sound()


def _rewrite(world: World, old: bytes, new: bytes) -> None:
    path = world.archive.root / REPOMD
    path.write_bytes(path.read_bytes().replace(old, new))


REFUSED: dict[str, tuple[Callable[[World], None], str]] = {
    "wrong key": (
        lambda world: world.archive.write_metadata(f"{OS}/", key=Tsk.generate("Evil <e@example>")),
        "BadSignature: rocky: BaseOS/x86_64/os/repodata/repomd.xml: no valid signature by a key",
    ),
    "changed": (
        lambda world: _rewrite(world, b"<size>", b"<size>1"),
        "no valid signature by a key",
    ),
    "future": (
        lambda world: world.archive.write_metadata(
            f"{OS}/", date=world.archive.now + timedelta(hours=1)
        ),
        "its repomd.xml is of 2026-11-02 01:00 UTC, which is in the future",
    ),
    "rolled back": (
        lambda world: world.archive.write_metadata(
            f"{OS}/", date=world.archive.now - timedelta(days=3)
        ),
        "the upstream was rolled back",
    ),
    "gone": (
        lambda world: (world.archive.root / REPOMD).unlink(),
        "UpstreamUnavailable: rocky BaseOS/x86_64/os/: the upstream has no BaseOS/x86_64/os/",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_not_be_published(world: World, name: str) -> None:
    """Nothing is, the newest day stays, one sentence says why; mended, it is taken."""
    damage, message = REFUSED[name]
    world.synced()
    world.next_day(change=1)
    damage(world)
    assert message in _refused(world)
    world.archive.write_metadata(f"{OS}/")
    assert world.packages(world.synced()) == world.expected()


def test_a_package_that_is_never_there_is_named(world: World) -> None:
    """After looking again a bounded number of times."""
    package = next(iter(world.archive.packages.values()))
    (world.archive.root / OS / package.path).unlink()
    found = _refused(world)
    assert UpstreamInconsistent.__name__ in found
    assert f"{OS}/{package.path} is listed and not there" in found


# --- Reading --------------------------------------------------------------------------------------

_XML = {
    "common": "http://linux.duke.edu/metadata/common",
    "repo": "http://linux.duke.edu/metadata/repo",
}
PACKAGE = (
    "<package type='rpm'><name>a&amp;b</name><arch>noarch</arch>"
    "<version rel='3.el9' epoch='2' ver='1.0'/><checksum pkgid='YES' type='sha256'>"
    f"{'d' * 64}</checksum><size archive='9' package='12'/><location href='Packages/a&amp;b.rpm'/>"
    "<format><r:license xmlns:r='x'>name</r:license><file>/name</file></format></package>"
)


def _primary(package: str, prolog: str = "") -> list[primary.Entry]:
    text = f"{prolog}<c:metadata xmlns:c='{_XML['common']}'>{package}</c:metadata>"
    text = text.replace("</", "</c:").replace("<c:/", "</").replace("</c:c:", "</c:")
    for name in ("package", "name", "arch", "version", "checksum", "size", "location", "format"):
        text = text.replace(f"<{name}", f"<c:{name}")
    text = text.replace("</c:r:", "</r:").replace("<file>", "<c:file>")
    return list(primary.packages([text[:200].encode(), text[200:].encode()], "primary"))


def test_a_package_is_read_whatever_its_xml_looks_like() -> None:
    """Prefixes, order and quotes of attributes, entities, pieces that end anywhere."""
    [entry] = _primary(PACKAGE)
    assert entry == ("Packages/a&b.rpm", "d" * 64, 12, "a&b", "2:1.0-3.el9", "noarch")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'sha256'", "'sha'", "a checksum of type 'sha'; only sha256 is kept here"),
        ("href='Packages", "href='../x", "names the file '../x/a&b.rpm'"),
        ("href=", "xml:base='http://e/' href=", "is in another place, 'http://e/'"),
        ("package='12'", "package='-1'", "with size '-1'"),
        ("d" * 64, "d" * 63, "SHA-256"),
        ("<name>", "<nam>", "this is not XML: mismatched tag"),
    ],
)
def test_a_package_that_cannot_be_kept_is_named(old: str, new: str, message: str) -> None:
    """The index is refused with what is wrong."""
    with pytest.raises(ReleaseRefused) as caught:
        _primary(PACKAGE.replace(old, new))
    assert message in str(caught.value)


def test_no_entities_of_their_own() -> None:
    """A document type, which could make a small file a large one, is refused."""
    with pytest.raises(ReleaseRefused, match="has a document type"):
        _primary(PACKAGE, "<!DOCTYPE x [<!ENTITY a 'b'>]>")
    with pytest.raises(ReleaseRefused, match="has a document type"):
        repomd.parse(b"<!DOCTYPE x [<!ENTITY a 'b'>]><repomd/>", "repomd.xml")
    with pytest.raises(ReleaseRefused, match="it is empty"):
        list(primary.packages([], "primary"))


DATA = (
    f"<repomd xmlns='{_XML['repo']}'><data type='primary'><checksum type='sha256'>{'a' * 64}"
    f"</checksum><open-checksum type='sha256'>{'b' * 64}</open-checksum>"
    "<location href='repodata/primary.xml.gz'/><timestamp>1793491200.5</timestamp>"
    "<size>7</size><open-size>9</open-size></data></repomd>"
)


def test_a_repomd_is_read() -> None:
    """Of each file the hash and size as it lies there, not those of what is in it."""
    found = repomd.parse(DATA.encode(), "repomd.xml")
    assert found.primary == "repodata/primary.xml.gz"
    [file] = found.files.values()
    assert (file.sha256, file.size) == ("a" * 64, 7)
    assert found.date.isoformat() == "2026-11-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<checksum type='sha256'>", "<checksum type='sha512'>", "of type 'sha512'; only sha256"),
        ("href='repodata/", "href='/etc/", "is the file '/etc/primary.xml.gz'"),
        ("href='repodata/", "href='Packages/", "is the file 'Packages/primary.xml.gz'"),
        ("<size>7", "<size>", "with size ''"),
        ("type='primary'", "type='other'", "it names 0 files of type 'primary'"),
        ("1793491200.5", "soon", "none of its files has a timestamp"),
        ("</data>", "", "this is not XML"),
    ],
)
def test_a_repomd_that_is_wrong_is_refused(old: str, new: str, message: str) -> None:
    """With what is wrong."""
    assert old in DATA
    with pytest.raises(ReleaseRefused) as caught:
        repomd.parse(DATA.replace(old, new).encode(), "repomd.xml")
    assert message in str(caught.value)


# --- What changed ---------------------------------------------------------------------------------

#: Each is older than the next; from the tests of rpm's own rpmvercmp.
ORDERED = [
    "0.9", "1.0~rc1", "1.0~rc2", "1.0", "1.0^20160101", "1.0^20160102", "1.0a", "1.0.1", "1.1",
    "1.9", "1.10", "2.0", "2.0.0a", "2.0.1", "20101121", "20101122", "1:0.1-1", "1:0.1-2.el9",
    "1:0.1-10.el9", "2:0",
]  # fmt: skip


def test_versions_are_ordered_as_rpm_does() -> None:
    """Epochs, numbers, words, tildes and carets; what only signs tell apart is the same."""
    assert sorted(sorted(ORDERED), key=rpm_versions.order) == ORDERED
    for at, one in enumerate(ORDERED):
        for place, other in enumerate(ORDERED):
            sign = rpm_versions.compare(one, other)
            assert (sign > 0) - (sign < 0) == (at > place) - (at < place), (one, other)
    for one, other in (("1.0-1", "1_0-1"), ("0:1-1", "1-1"), ("1.001", "1.1"), ("a", "a.")):
        assert rpm_versions.compare(one, other) == 0
    assert rpm_versions.compare("2a", "2.0") < 0


def test_the_difference_knows_what_is_newer(world: World) -> None:
    """A package of which an older version stays is upgraded and not new, one that goes back is
    downgraded; the newest version comes last."""
    names = sorted(world.archive.packages)
    kept, back = (world.archive.packages[name] for name in names[:2])
    world.archive.packages[back.name] = dataclasses.replace(back, revision=11)
    world.archive.publish()
    first = world.synced()
    world.archive.packages["kept"] = dataclasses.replace(kept, revision=10)
    world.archive.packages[back.name] = dataclasses.replace(back, revision=9)
    world.next_day(change=0)
    second = world.synced()
    found = compare(
        world.store, *(manifest.load(world.store, each.manifest) for each in (first, second))
    )
    by_name = {each.package: each for each in found.changes}
    assert set(by_name) == {kept.name, back.name}
    assert len(by_name[kept.name].before) == 1
    assert by_name[kept.name].after == (
        *by_name[kept.name].before,
        world.archive.packages["kept"].version,
    )
    assert [each.downgraded for each in (by_name[kept.name], by_name[back.name])] == [False, True]
    assert second.changes == {
        "added": 0,
        "removed": 0,
        "changed": 2,
        "downgraded": 1,
        "new_bytes": found.new_bytes,
    }


# --- Looking after it, serving --------------------------------------------------------------------


def _blob_of(world: World, kind: str) -> tuple[Path, str]:
    state = manifest.load(world.store, world.days()[0].manifest)
    if kind == "package":
        package = next(iter(world.archive.packages.values()))
        return world.store.path(package.sha256), f"{OS}/{package.path}"
    if kind == "listing":
        [ref] = state.listings.values()
        return world.store.path(ref.sha256), "a document of the mirror's own"
    [name] = [name for name in state.files if kind in name]
    return world.store.path(state.files[name].sha256), name


@pytest.mark.parametrize("kind", ["package", "modules", "primary", "listing"])
def test_what_is_damaged_is_named_and_healed(world: World, kind: str) -> None:
    """Also on the day after, when the upstream has newer metadata beside the old."""
    day, versions = world.synced(), world.expected()
    path, name = _blob_of(world, kind)
    world.next_day(change=3)
    world.synced()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    [broken] = world.mirror().verify()
    assert str(broken).startswith(f"rocky: {name} is damaged")
    healed = world.mirror().repair({"rocky": world.repository}, actor=ACTOR)
    assert [each.healed for each in healed] == [True]
    assert world.mirror().verify() == []
    assert world.packages(day) == versions


def _ask(world: World, path: str) -> httpx.Response:
    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(MirrorSite(world.mirror().site()))
        async with httpx.AsyncClient(transport=transport, base_url="http://mirror") as client:
            return await client.get(f"/snapshots/{path}")

    return asyncio.run(request())


def test_every_day_is_served(world: World) -> None:
    """Metadata and packages of each day, and metadata of an older one by the hash in its name: a
    client may have read the `repomd.xml` of before."""
    first = world.synced()
    old = (world.archive.root / REPOMD).read_bytes()
    [primary_path] = [
        path
        for path in manifest.load(world.store, first.manifest).files
        if path.endswith("primary.xml.gz")
    ]
    content = (world.archive.root / primary_path).read_bytes()
    world.next_day(change=12)
    world.synced()
    assert _ask(world, f"{first.taken_at.date()}/rocky/{REPOMD}").content == old
    new = _ask(world, f"latest/rocky/{REPOMD}")
    assert new.content == (world.archive.root / REPOMD).read_bytes() != old
    assert _ask(world, f"latest/rocky/{primary_path}").content == content
    missing = f"{OS}/repodata/{hashlib.sha256(b'').hexdigest()}-primary.xml.gz"
    assert _ask(world, f"latest/rocky/{missing}").status_code == 404
    package = next(iter(world.archive.packages.values()))
    assert _ask(world, f"latest/rocky/{OS}/{package.path}").content == package.rpm
    assert _ask(world, f"{first.taken_at.date()}/rocky/{OS}/{package.path}").status_code == 404
    assert 'href="Packages/"' in _ask(world, f"latest/rocky/{OS}/").text


def test_what_dnf_is_given() -> None:
    """A section for each directory, with the day as a variable."""
    repository = RpmRepository(
        name="rocky-9",
        urls=("http://x",),
        suites=("BaseOS/x86_64/os/", "/"),
        keyring=b"",
        signed_by="/etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9",
    )
    text = dnf_sources(repository, url="http://mirror/snapshots/$slipday")
    assert text == (
        "[rocky-9-BaseOS-x86_64-os]\nname=rocky-9 BaseOS/x86_64/os as of $slipday\n"
        "baseurl=http://mirror/snapshots/$slipday/rocky-9/BaseOS/x86_64/os\nenabled=1\ngpgcheck=1\n"
        "repo_gpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9\n\n"
        "[rocky-9]\nname=rocky-9 as of $slipday\n"
        "baseurl=http://mirror/snapshots/$slipday/rocky-9/\nenabled=1\ngpgcheck=1\n"
        "repo_gpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9\n"
    )
