"""Real dnf against a real server: what it installs from frozen days, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pysequoia import Tsk

from slipway.database import Database
from slipway.mirrors.asgi import PREFIX, MirrorSite
from slipway.mirrors.days import Day
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import Fetch
from slipway.mirrors.sources import DAY_VARIABLE, dnf_sources
from slipway.mirrors.store import Store
from slipway.testing.fake_clock import FakeClock
from slipway.testing.rpm_archive import RpmArchive, RpmPackage
from slipway.testing.web import Web
from tests.mirrors.world import ACTOR, World
from tests.pages.serving import serving

NEEDED = [name for name in ("dnf", "rpm", "gpg") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(NEEDED), reason=f"not installed: {', '.join(NEEDED)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="dnf installs as root only, whatever the root"),
]


class Dnf:
    """A machine's package manager, with all that it keeps in one directory."""

    def __init__(self, root: Path, sources: str) -> None:
        self.root = root
        for name in ("vars", "repos", "empty"):
            (root / name).mkdir(parents=True)
        (root / "repos/slipway.repo").write_text(sources)
        (root / "dnf.conf").write_text(
            f"[main]\nreposdir={root}/repos\nvarsdir={root}/vars\npluginconfpath={root}/empty\n"
            f"cachedir={root}/cache\npersistdir={root}/state\nlogdir={root}/log\n"
            "plugins=0\nretries=1\ninstall_weak_deps=0\nzchunk=0\n"
        )

    def freeze(self, day: str) -> None:
        (self.root / "vars" / DAY_VARIABLE).write_text(f"{day}\n")

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                "dnf",
                "-y",
                "--quiet",
                f"--config={self.root}/dnf.conf",
                f"--installroot={self.root}/installed",
                "--releasever=9",
                *arguments,
            ],
            env={**os.environ, "LC_ALL": "C", "no_proxy": "127.0.0.1"},
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def installed(self) -> dict[str, str]:
        """What the files say that were installed, by name of the package."""
        return {
            path.parent.name: path.read_bytes().split(b"\n")[0].decode().partition(" ")[2]
            for path in (self.root / "installed").glob("usr/share/pkg*/version")
        }


def _key(home: Path) -> tuple[Tsk, bytes]:
    """A key that rpm takes, with its certificate."""
    home.mkdir(mode=0o700)

    def gpg(*arguments: str) -> bytes:
        command = ["gpg", "--quiet", "--batch", "--homedir", str(home), *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    try:
        gpg("--passphrase", "", "--quick-gen-key", "Rpms <rpms@example.org>", "ed25519", "sign")
        return Tsk.from_bytes(gpg("--export-secret-keys")), gpg("--armor", "--export")
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


@pytest.fixture
def world(tmp_path: Path, database: Database) -> Iterator[World]:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    key, certificate = _key(tmp_path / "gnupg")
    archive = RpmArchive(tmp_path / "upstream", start=start, key=key, certificate=certificate)
    with Web(archive.root) as web:
        yield World(archive, web, database, Store(tmp_path / "mirror"), FakeClock(start))


@pytest.mark.slow
def test_dnf_installs_from_three_days(world: World, tmp_path: Path) -> None:
    """On each day dnf installs the versions of that day with all they require, checks metadata and
    packages with the distribution's key, and goes from day to day by its variable alone. What was
    tampered with is refused by dnf, named by `verify` and healed by `repair`."""
    taken: list[tuple[Day, dict[str, RpmPackage]]] = []
    for _ in range(3):
        taken.append((world.synced(), dict(world.archive.packages)))
        world.next_day(change=12)
    name, mirror = max(world.archive.packages), world.mirror()
    with serving(MirrorSite(mirror.site())) as url:  # type: ignore[arg-type]
        dnf = Dnf(tmp_path / "dnf", dnf_sources(world.repository, url=f"{url}{PREFIX}/$slipday"))
        for number, (day, packages) in enumerate(taken):
            dnf.freeze(str(day.taken_at.date()))
            if number == 2:
                _tamper(world.store.path(packages[name].sha256))
                refused = dnf.run("upgrade", check=False)
                assert refused.returncode != 0
                assert f"{Path(packages[name].path).stem}: Cannot download" in refused.stderr
                [broken] = mirror.verify()
                assert broken.wanted.path.endswith(packages[name].path)
                mirror.repair({"rocky": world.repository}, actor=ACTOR)
            dnf.run(*(["upgrade"] if number else ["install", name]))
            found = dnf.installed()
            assert found == {each: packages[each].version for each in found}
            assert len(found) > 2


@pytest.mark.slow
def test_dnf_installs_from_a_closure(world: World, tmp_path: Path) -> None:
    """What it takes to install a package is here; when the upstream is gone, dnf has all of it,
    and nothing else is to be had."""
    name = max(world.archive.packages)
    world.fetch = Fetch(coverage=Coverage.CLOSURE, names=(name,))
    day, packages = world.synced(), dict(world.archive.packages)
    shutil.rmtree(world.archive.root)
    with serving(MirrorSite(world.mirror().site())) as url:  # type: ignore[arg-type]
        dnf = Dnf(tmp_path / "dnf", dnf_sources(world.repository, url=f"{url}{PREFIX}/$slipday"))
        dnf.freeze(str(day.taken_at.date()))
        dnf.run("install", name)
        found = dnf.installed()
        assert found == {each: packages[each].version for each in found}
        assert 2 < len(found) < len(packages)
        other = next(each for each in sorted(packages) if each not in found)
        assert dnf.run("install", other, check=False).returncode != 0
    here = {each.name for each in packages.values() if world.store.size(each.sha256) is not None}
    assert here == set(found)


def _tamper(blob: Path) -> None:
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
