"""Launches that are frozen to a day of a mirror."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path

import pytest

from slipway.errors import NotFound, PackagesMissing
from slipway.launches.environments import create_environment
from slipway.launches.freezing import read_system
from slipway.launches.frozen_sources import System, frozen_sources
from slipway.launches.mirror_file import declare, read_mirrors
from slipway.launches.mirroring import named_days, prune, to_take
from slipway.launches.services import Services
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.listing import Listing
from slipway.mirrors.sync import Mirror
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.rpm_archive import RpmArchive
from slipway.testing.web import Web
from tests.launches.world import World
from tests.mirrors.apt import APT, Apt
from tests.pages.serving import serving

BOOKWORM = System(
    id="debian", codename="bookworm", major="12", architecture="amd64", machine="x86_64"
)


@dataclass
class Mirrored:
    """``debian`` and ``extra`` (bookworm's updates), kept since 30 days ago."""

    world: World
    archives: dict[str, DebArchive]
    clock: FakeClock
    #: Declares both, with these words on what is fetched.
    write: Callable[[str], None]

    @property
    def services(self) -> Services:
        return self.world.services

    def sync(self, *names: str) -> date:
        """Take a day; the next one begins."""
        services = self.services
        mirror = Mirror(services.mirror.store, services.database, self.clock)
        for name in names:
            done = mirror.sync(to_take(services, name), actor="tests")
            assert not done.failures
        day = self.clock.now().date()
        self.clock.advance(24 * 3600)
        for archive in self.archives.values():
            archive.advance(change=4)
        return day


@pytest.fixture
def mirrored(world: World, tmp_path: Path) -> Iterator[Mirrored]:
    start = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)
    start -= timedelta(days=30)
    suites = {"debian": "bookworm", "extra": "bookworm-updates"}
    archives = {
        name: DebArchive(tmp_path / name, suites=(suite,), start=start, origin="Debian")
        for name, suite in suites.items()
    }
    with Web(tmp_path / "debian") as web, Web(tmp_path / "extra") as more:

        def write(fetch: str) -> None:
            entries = [
                f"  {name}: {{kind: apt, urls: ['{url}'], suites: [{suites[name]}], {fetch}, "
                f"keyring: '{archives[name].keyring}', "
                "keep: {daily: 1, weekly: 0, monthly: 0}}\n"
                for name, url in (("debian", web.url), ("extra", more.url))
            ]
            file = tmp_path / "mirrors.yaml"
            file.write_text("schema: slipway-mirrors/1\nmirrors:\n" + "".join(entries))
            services = world.services
            declare(services.database, services.clock, read_mirrors(file), actor="tests")

        write("fetch: complete")
        yield Mirrored(world=world, archives=archives, clock=FakeClock(start), write=write)


def _reached_at(world: World, url: str) -> None:
    settings = world.services.settings.model_copy(update={"mirror_url": url})
    world.services = replace(world.services, settings=settings)


def _installing(*packages: str) -> str:
    return f"# ---\n# packages: [{', '.join(packages)}]\n# ...\ntrue"


@APT
def test_a_frozen_server_installs_from_its_day(mirrored: Mirrored, tmp_path: Path) -> None:
    """What the launch writes on the machine makes real apt install the versions of that day,
    though two newer days are there; which state it is stands in the audit."""
    world = mirrored.world
    mirrored.sync("debian")
    wanted = {name: each.version for name, each in mirrored.archives["debian"].packages.items()}
    day = mirrored.sync("debian")
    mirrored.sync("debian", "extra")
    package = max(wanted)
    with serving(MirrorSite(world.services.mirror.site())) as url:  # type: ignore[arg-type]
        _reached_at(world, f"{url}/")
        template = world.template(boot={"install": _installing(package)})
        launch, outcome = world.launch(template, freeze=day)
        assert outcome.reason == ""
        written = (world.machine(launch) / "etc/apt/sources.list.d/slipway.sources").read_text()
        assert f"URIs: {url}/snapshots/{day}/debian\nSuites: bookworm\n" in written
        apt = Apt(tmp_path / "apt", written)
        apt.run("update")
        apt.run("install", "-y", "--download-only", package)
    found = apt.unpack()
    assert package in found
    assert found == {name: wanted[name] for name in found}
    notes = [each for each in world.summaries(launch) if each.startswith("packages come from")]
    used = f"debian as of {day:%Y%m%d}T020000Z, without extra, which was not mirrored then"
    assert notes == [f"packages come from {url}/: {used}"]


def test_a_day_that_is_not_there_strands(mirrored: Mirrored) -> None:
    """One sentence says why; the distribution's archive is not asked instead."""
    world = mirrored.world
    day = mirrored.sync("debian")
    _reached_at(world, "http://mirror.example.org")
    before = day - timedelta(days=1)
    launch, outcome = world.launch(world.template(), freeze=before)
    assert outcome.status == "stranded"
    first = f"the first is of {day:%Y%m%d}T020000Z"
    assert f"debian has no state of {before}; {first}" in outcome.reason
    assert not list((world.machine(launch) / "etc/apt/sources.list.d").glob("*"))


def test_packages_that_are_not_there_are_named(mirrored: Mirrored) -> None:
    """Those that no index has, and those whose files are not here; before a script has run."""
    world, services = mirrored.world, mirrored.services
    day = mirrored.sync("debian")
    _reached_at(world, "http://mirror.example.org")
    template = world.template(boot={"install": _installing("pkg00003", "nosuch")})
    _, outcome = world.launch(template, freeze=day)
    assert outcome.status == "stranded"
    where = f"debian as of {day:%Y%m%d}T020000Z"
    assert outcome.reason.endswith(f"{where}: not all that is to be installed is there: nosuch")
    # pkg00003 needs pkg00001.
    store, site = services.mirror.store, services.mirror.site()
    [needed] = [
        each.sha256
        for state in map(site.state, services.mirror.days.newest("debian"))
        for ref in state.listings.values()
        for each in Listing(store.path(ref.sha256))
        if each.package == "pkg00001"
    ]
    store.path(needed).unlink()
    with pytest.raises(PackagesMissing, match=r"is there: pkg00001 1\.1\+b1\Z"):
        frozen_sources(services, BOOKWORM, day, ["pkg00003"])


def test_what_templates_install_is_here(mirrored: Mirrored) -> None:
    """Of a repository that is to have it, with no name of a package in the file; a launch that
    installs something else is refused."""
    world, services = mirrored.world, mirrored.services
    world.template(boot={"install": _installing("pkg00003")})
    mirrored.write("fetch: {templates: true}")
    assert to_take(services, "debian").fetch.named_by_templates == ("pkg00003",)
    day = mirrored.sync("debian")
    assert frozen_sources(services, BOOKWORM, day, ["pkg00003"]) is not None
    with pytest.raises(PackagesMissing, match=r"is there: pkg00005 1\.1\+b1, pkg00002 1"):
        frozen_sources(services, BOOKWORM, day, ["pkg00005"])


def test_what_is_used_where(mirrored: Mirrored) -> None:
    """All repositories of the distribution and release; none of another; a removed day is refused,
    not left out."""
    services = mirrored.services
    days = [mirrored.sync("debian", "extra") for _ in range(3)]
    found = frozen_sources(services, BOOKWORM, days[0], [])
    assert found is not None
    assert found.text.count("Suites: bookworm\n") == found.text.count("bookworm-updates\n") == 1
    assert frozen_sources(services, replace(BOOKWORM, codename="trixie"), days[0], []) is None
    assert frozen_sources(services, replace(BOOKWORM, id="ubuntu"), days[0], []) is None
    pruning = replace(services, clock=mirrored.clock)
    services.mirror.pins.add("debian", days[0], "wanted", services.clock.now())
    assert len(prune(pruning, actor="tests").days) == 3
    with pytest.raises(NotFound, match=f"extra of {days[0]} was removed on"):
        frozen_sources(services, BOOKWORM, days[0], [])


def test_days_that_something_is_frozen_to_are_kept(mirrored: Mirrored) -> None:
    """A version of a template, an environment, a server that is there; all else goes."""
    world, services = mirrored.world, mirrored.services
    days = [mirrored.sync("debian") for _ in range(5)]
    world.template(name="old", freeze=days[0].isoformat())
    services.templates.commit("old", author="tests", message="m")
    create_environment(services.database, services.clock, "prod", freeze=days[1], actor="tests")
    world.record(world.template(), name="web-1", freeze=days[2])
    assert named_days(services) == {
        days[0]: "template old@r1",
        days[1]: "environment prod",
        days[2]: "server web-1",
    }
    removed = prune(replace(services, clock=mirrored.clock), actor="tests")
    assert [day.taken_at.date() for _, day in removed.days] == [days[3]]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            'ID=debian\nVERSION_CODENAME="bookworm"\nVERSION_ID="12"\nMACHINE=x86_64\n',
            BOOKWORM,
        ),
        (
            'ID="rocky"\nVERSION_ID="9.4"\nMACHINE=aarch64\n',
            System(id="rocky", codename="", major="9", architecture="arm64", machine="aarch64"),
        ),
        (
            "# a\nID='ubuntu'\nBROKEN='\nVERSION_CODENAME=noble\nMACHINE=riscv64",
            System(
                id="ubuntu",
                codename="noble",
                major="",
                architecture="riscv64",
                machine="riscv64",
            ),
        ),
        ("NAME=x\n", System(id="linux", codename="", major="", architecture="", machine="")),
    ],
)
def test_os_release(text: str, found: System) -> None:
    """As os-release(5) has it: quoted or not, with its default."""
    assert read_system(text) == found


# --- dnf ------------------------------------------------------------------------------------------

ROCKY = System(id="rocky", codename="", major="9", architecture="arm64", machine="x86_64")


def _declare_rpm(world: World, tmp_path: Path, url: str, keyring: Path) -> None:
    file = tmp_path / "mirrors.yaml"
    file.write_text(
        "schema: slipway-mirrors/1\nmirrors:\n"
        + "".join(
            f"  {name}: {{kind: rpm, urls: ['{url}'], directories: [{directory}], "
            f"keyring: '{keyring}', system: rocky-9, supplementary: {extra}}}\n"
            for name, directory, extra in (
                ("rocky-9", "BaseOS/x86_64/os", "false"),
                ("extra", "extra", "true"),
            )
        )
    )
    services = world.services
    declare(services.database, services.clock, read_mirrors(file), actor="tests")


def test_a_system_with_dnf_is_frozen(world: World, tmp_path: Path) -> None:
    """To the repositories that are declared for it, with what it takes to install its packages; by
    a file that stays and a day that is written beside it."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    archive = RpmArchive(tmp_path / "rpms", start=start, suites=("BaseOS/x86_64/os/", "extra/"))
    clock = FakeClock(start)
    with Web(archive.root) as web:
        _declare_rpm(world, tmp_path, web.url, archive.keyring)
        _reached_at(world, "http://mirror.example.org")
        services = world.services
        mirror = Mirror(services.mirror.store, services.database, clock)
        day = clock.now().date()
        assert not mirror.sync(to_take(services, "rocky-9"), actor="tests").failures
        clock.advance(24 * 3600)
        assert not mirror.sync(to_take(services, "extra"), actor="tests").failures
    name = max(archive.packages)
    with pytest.raises(NotFound, match="rocky-9 has no state of"):
        frozen_sources(services, ROCKY, day - timedelta(days=1), [])
    with pytest.raises(PackagesMissing, match="to be installed is there: nosuch"):
        frozen_sources(services, ROCKY, day, [name, "nosuch", "@core"])
    assert frozen_sources(services, replace(ROCKY, major="8"), day, []) is None
    found = frozen_sources(services, ROCKY, day, [name, "@core"])
    assert found is not None
    assert found.notes[0] == "without extra, which was not mirrored then"
    assert found.notes[1].startswith("rocky-9 as of ")
    root = _frozen_by_script(tmp_path, found.text, day)
    assert (root / "etc/dnf/vars/slipday").read_text() == f"{day}\n"
    repository = (root / "etc/yum.repos.d/slipway.repo").read_text()
    where = "http://mirror.example.org/snapshots/$slipday/rocky-9/BaseOS/x86_64/os"
    assert f"baseurl={where}\n" in repository
    assert [each.name for each in (root / "etc/yum.repos.d").glob("rocky*")] == [
        "rocky.repo.before-slipway"
    ]


def test_a_system_with_dnf_and_no_mirror_is_not_frozen(tmp_path: Path) -> None:
    """There is no archive by date to fall back to; what to do is said."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        _frozen_by_script(tmp_path, "", date(2026, 11, 1))
    assert "declare its repositories with 'system: rocky-9'" in failed.value.stderr


def _frozen_by_script(tmp_path: Path, sources: str, day: date) -> Path:
    """What the script makes of a machine with dnf; answers its root."""
    root = tmp_path / "machine"
    (root / "etc/yum.repos.d").mkdir(parents=True)
    (root / "etc/os-release").write_text('ID="rocky"\nVERSION_ID="9.4"\n')
    (root / "etc/yum.repos.d/rocky.repo").write_text("[base]\n")
    (root / "bin").mkdir()
    (root / "bin/dnf").write_text("#!/bin/sh\n")
    (root / "bin/dnf").chmod(0o755)
    script = resources.files("slipway.launches").joinpath("freeze.sh").read_bytes()
    subprocess.run(
        ["sh", "-s"],
        input=script.decode(),
        text=True,
        check=True,
        capture_output=True,
        env={
            "PATH": f"{root}/bin:{os.environ['PATH']}",
            "SLIPWAY_ROOT": str(root),
            "FREEZE_DATE": day.isoformat(),
            "MIRROR_URL": "http://mirror.example.org",
            "MIRROR_SOURCES": sources,
        },
    )
    return root
