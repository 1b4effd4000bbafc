"""``slipway mirror``: from a file to a day, its sources, what changed, and what is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from slipway.clock import SystemClock
from slipway.database import Database
from slipway.launches.mirror_file import declared
from slipway.mirrors.asgi import MirrorSite
from slipway.mirrors.store import Store
from slipway.mirrors.sync import Mirror
from slipway.testing.deb_archive import DebArchive
from slipway.testing.rpm_archive import RpmArchive
from slipway.testing.web import Web
from tests.cli.conftest import CommandLine
from tests.pages.serving import serving
from tests.remote.waiting import until


@pytest.fixture
def archive(tmp_path: Path) -> DebArchive:
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30)
    return DebArchive(tmp_path / "upstream", start=start)


@pytest.fixture
def web(archive: DebArchive) -> Iterator[Web]:
    with Web(archive.root) as served:
        yield served


@pytest.fixture
def file(tmp_path: Path, archive: DebArchive, web: Web) -> Path:
    path = tmp_path / "mirrors.yaml"
    path.write_text(
        "schema: slipway-mirrors/1\nmirrors:\n  debian:\n    kind: apt\n"
        f"    urls: ['{web.url}']\n    suites: [stable]\n    keyring: {archive.keyring}\n"
    )
    return path


def test_from_a_file_to_sources(slipway: CommandLine, archive: DebArchive, file: Path) -> None:
    """Declared, synced twice, compared, and what a machine needs is printed ready to paste."""
    assert "no repository is mirrored" in slipway("mirror", "list").stderr
    assert slipway.json("mirror", "add", str(file)) == [
        {"repository": "debian", "outcome": "added"}
    ]
    [first] = slipway.json("mirror", "sync")
    assert first["failures"] == {}
    archive.advance(change=2, add=1)
    assert "1 added, 0 removed, 2 changed" in slipway.ok("mirror", "sync", "debian").stderr
    [listed] = slipway.json("mirror", "list")
    assert (listed["repository"], listed["states"]) == ("debian", 2)
    history = slipway.json("mirror", "days", "debian")
    assert [day["changes"]["changed"] for day in history] == [2, 0]
    assert "stable" in slipway.ok("mirror", "days", "debian").stdout
    when = datetime.fromisoformat(first["taken_at"]).strftime("%Y%m%dT%H%M%SZ")
    [difference] = slipway.json("mirror", "diff", "debian", when)
    assert len(difference["packages"]) == 3
    shown = slipway.ok("mirror", "diff", "debian", when).stdout.splitlines()
    assert sorted(line[0] for line in shown) == ["+", "~", "~"]
    printed = slipway.ok(
        "mirror", "sources", "debian", "--day", when, "--url", "http://mirror.example.org/"
    ).stdout
    assert printed == (
        f"Types: deb\nURIs: http://mirror.example.org/snapshots/{when}/debian\nSuites: stable\n"
        f"Components: main\nSigned-By: {archive.keyring}\nCheck-Valid-Until: no\n"
        "X-Repository: debian\n"
    )
    latest = slipway.ok("mirror", "sources", "debian", "--url", "http://m").stdout
    assert "Check-Valid-Until" not in latest


def test_what_dnf_needs_is_printed(slipway: CommandLine, tmp_path: Path) -> None:
    """One file for all days; which day that is, and whose form was asked for, is said."""
    archive = RpmArchive(tmp_path / "rpms", start=datetime.now(UTC) - timedelta(days=30))
    with Web(archive.root) as web:
        (tmp_path / "mirrors.yaml").write_text(
            "schema: slipway-mirrors/1\nmirrors:\n  rocky:\n    kind: rpm\n"
            f"    urls: ['{web.url}']\n    directories: [BaseOS/x86_64/os]\n"
            f"    keyring: {archive.keyring}\n"
        )
        slipway.ok("mirror", "add", str(tmp_path / "mirrors.yaml"))
        [synced] = slipway.json("mirror", "sync")
    assert synced["failures"] == {}
    day = synced["taken_at"][:10]
    asked = ("mirror", "sources", "rocky", "--day", day, "--url", "http://m/", "--client")
    printed = slipway.ok(*asked, "dnf")
    assert "baseurl=http://m/snapshots/$slipday/rocky/BaseOS/x86_64/os\n" in printed.stdout
    assert f"beside it, {day} has to be in /etc/dnf/vars/slipday" in printed.stderr
    refused = slipway(*asked, "apt")
    assert (refused.exit_code, "rocky is a repository for dnf" in refused.stderr) == (2, True)


def test_what_cannot_be_taken_ends_with_code_1(
    slipway: CommandLine, archive: DebArchive, file: Path
) -> None:
    """The sentence says what was wrong, also as JSON."""
    slipway.ok("mirror", "add", str(file))
    release = archive.root / "dists/stable/InRelease"
    release.write_bytes(release.read_bytes().replace(b"Origin: S", b"Origin: s"))
    archive.write_suite("stable", date=datetime.now(UTC) + timedelta(days=1))
    done = slipway("mirror", "sync", "--json")
    assert done.exit_code == 1
    assert "which is in the future" in done.stdout
    assert slipway("mirror", "sync").exit_code == 1


def test_days_are_kept_verified_and_removed(slipway: CommandLine, file: Path) -> None:
    """A pin keeps a day, a prune says what it does, a damaged file is named and healed."""
    slipway.ok("mirror", "add", str(file))
    slipway.ok("mirror", "sync")
    [day] = slipway.json("mirror", "days", "debian")
    on = day["taken_at"][:10]
    slipway.ok("mirror", "pin", "debian", on, "--reason", "release 4.2")
    assert slipway.json("mirror", "days", "debian")[0]["pinned"] == "release 4.2"
    slipway.ok("mirror", "pin", "debian", on, "--remove")
    assert slipway.json("mirror", "days", "debian")[0]["pinned"] is None
    assert slipway.json("mirror", "prune", "--dry-run") == {"days": [], "files": 0, "bytes": 0}
    assert "0 not as they should be" in slipway.ok("mirror", "verify").stderr
    blob = max(slipway.services.mirror.store.blobs(), key=lambda path: path.stat().st_size)
    blob.unlink()
    verified = slipway("mirror", "verify")
    assert (verified.exit_code, "is missing" in verified.stdout) == (1, True)
    [repaired] = slipway.json("mirror", "repair")
    assert repaired["repaired"] is True
    slipway.ok("mirror", "verify")


def test_days_are_laid_out_for_another_web_server(
    slipway: CommandLine, archive: DebArchive, file: Path, tmp_path: Path
) -> None:
    """Once, and then what is new."""
    slipway.ok("mirror", "add", str(file))
    slipway.ok("mirror", "sync")
    tree = tmp_path / "export"
    assert "debian: " in slipway.ok("mirror", "export", str(tree)).stderr
    release = archive.root / "dists/stable/InRelease"
    exported = tree / "snapshots/latest/debian/dists/stable/InRelease"
    assert exported.read_bytes() == release.read_bytes()
    [again] = slipway.json("mirror", "export", str(tree), "debian")
    assert (again["states"], again["links"]) == (0, 0)
    refused = slipway("mirror", "export", str(tmp_path))
    assert (refused.exit_code, "files in it that are no export" in refused.stderr) == (2, True)


def test_days_are_taken_from_another_mirror(
    slipway: CommandLine, tmp_path: Path, archive: DebArchive, file: Path, database: Database
) -> None:
    """Each is told; a second time there is nothing new."""
    (tmp_path / "peer.db").touch()
    theirs = Database(f"sqlite:///{tmp_path / 'peer.db'}")
    theirs.migrate()
    slipway.ok("mirror", "add", str(file))
    repository = declared(database)["debian"]
    peer = Mirror(Store(tmp_path / "peer"), theirs, SystemClock(), reserve_bytes=0)
    peer.sync(repository, actor="test")
    archive.advance(change=1)
    peer.sync(repository, actor="test")
    with serving(MirrorSite(peer.site(), remembered_s=0.0)) as url:  # type: ignore[arg-type]
        told = slipway.ok("mirror", "replicate", url).stderr
        assert "0 added, 0 removed, 1 changed" in told
        assert "debian: nothing new" in slipway.ok("mirror", "replicate", url, "debian").stderr
        assert slipway.json("mirror", "replicate", f"{url}/snapshots/") == []
    theirs.close()
    history = slipway.json("mirror", "days", "debian")
    assert [day["changes"]["changed"] for day in history] == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["days", "none"], "no repository none is mirrored"),
        (["sync", "none"], "no repository none is mirrored"),
        (["sync"], "no repository is mirrored; 'slipway mirror add FILE' declares some"),
        (["pin", "debian", "yesterday"], "'yesterday' is not a date"),
        (["sources", "debian"], "give it, or set SLIPWAY_MIRROR_URL"),
        (["add", "none.yaml"], "the mirrors file cannot be read"),
    ],
)
def test_bad_input_is_refused(slipway: CommandLine, arguments: list[str], message: str) -> None:
    """Code 2 and one sentence."""
    result = slipway("mirror", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_it_is_served(slipway: CommandLine, archive: DebArchive, file: Path) -> None:
    """`slipway mirror serve` is a server of its own, until it is stopped."""
    slipway.ok("mirror", "add", str(file))
    slipway.ok("mirror", "sync")
    program = "from deployments.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "mirror", "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split()[1].rstrip(";")
        answers: list[httpx.Response] = []

        def answered() -> bool:
            try:
                answers.append(httpx.get(f"{url}latest/debian/dists/stable/InRelease"))
            except httpx.TransportError:
                return False
            return True

        until(answered, "the mirror serves")
        assert answers[0].content == (archive.root / "dists/stable/InRelease").read_bytes()
    finally:
        process.terminate()
        # It ends in good order, and then by the signal it was sent.
        assert process.wait(30) == -signal.SIGTERM
        process.stderr.close()
