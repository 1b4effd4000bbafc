"""The mirrors file: read whole or refused with file and line; on record for every process."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.database import Database
from slipway.errors import InvalidInput, NotFound
from slipway.launches.mirror_file import declare, declared, find_declared, read_mirrors
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import Fetch, Keep, RpmRepository
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock

GOOD = """\
schema: slipway-mirrors/1
mirrors:
  debian:
    kind: apt
    urls: [https://deb.debian.org/debian]
    suites: [bookworm, bookworm-updates]
    components: [main, contrib]
    keyring: keyring.gpg
    signed_by: /usr/share/keyrings/debian-archive-keyring.gpg
    keep: {daily: 7}
  tools:
    kind: apt
    urls: ["http://tools.example.org/apt", "https://spare.example.org/apt"]
    suites: [/]
    keyring: keyring.gpg
    fetch: {closure_of: [nginx], templates: true}
  rocky:
    kind: rpm
    urls: ["https://rocky.example.org/9"]
    directories: [BaseOS/x86_64/os, AppStream/x86_64/os/]
    keyring: keyring.gpg
    signed: packages
    fetch: lazy
"""


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    archive = DebArchive(tmp_path_factory.mktemp("upstream") / "debian", packages=1)
    return archive.keyring.read_bytes()


def _file(tmp_path: Path, keyring: bytes, text: str = GOOD) -> Path:
    (tmp_path / "keyring.gpg").write_bytes(keyring)
    path = tmp_path / "mirrors.yaml"
    path.write_text(text)
    return path


def test_a_file_is_read_and_put_on_record(
    tmp_path: Path, keyring: bytes, any_database: Database
) -> None:
    """What is on record is what the file says, with its keyrings; a second time nothing changes."""
    path, clock = _file(tmp_path, keyring), FakeClock()
    found = read_mirrors(path)
    for outcome in ("added", "unchanged"):
        assert declare(any_database, clock, found, actor="tests") == dict.fromkeys(found, outcome)
    debian = find_declared(any_database, "debian")
    assert debian.suites == ("bookworm", "bookworm-updates")
    assert debian.components == ("main", "contrib")
    assert debian.keyring == keyring
    assert debian.signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert debian.keep == Keep(daily=7)
    assert debian.fetch == Fetch()
    assert find_declared(any_database, "tools").fetch == Fetch(
        coverage=Coverage.CLOSURE, names=("nginx",), templates=True
    )
    rocky = find_declared(any_database, "rocky")
    assert isinstance(rocky, RpmRepository)
    assert rocky.suites == ("BaseOS/x86_64/os/", "AppStream/x86_64/os/")
    assert (rocky.signed_metadata, rocky.signed_by) == (False, "keyring.gpg")
    assert (rocky.keyring, rocky.fetch) == (keyring, Fetch(coverage=Coverage.LAZY))
    changed = read_mirrors(_file(tmp_path, keyring, GOOD.replace("main, contrib", "main")))
    expected = {**dict.fromkeys(found, "unchanged"), "debian": "changed"}
    assert declare(any_database, clock, changed, actor="tests") == expected
    assert declared(any_database)["debian"].components == ("main",)
    with pytest.raises(NotFound, match=r"no repository debain is mirrored.*debian"):
        find_declared(any_database, "debain")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "kind: apt\n    urls: [https",
            "kind: deb\n    urls: [https",
            "mirrors.yaml:4: mirrors.debian.kind: 'deb' is not a kind (allowed: 'apt', 'rpm')",
        ),
        ("    kind: rpm\n", "", "mirrors.rocky: 'kind' is missing here"),
        ("https://rocky", "http://rocky", "all addresses have to begin with https://"),
        (
            "BaseOS/",
            "../",
            "mirrors.yaml:20: mirrors.rocky.directories[0]: '../x86_64/os' is not of",
        ),
        ("directories", "suites", "mirrors.rocky.suites: 'suites' is not a field here"),
        ("suites: [/]", "suits: [/]", "did you mean 'suites'"),
        ("suites: [/]", "suites: []", "mirrors.yaml:14: mirrors.tools.suites"),
        (
            "https://deb.debian.org",
            "ftp://deb.debian.org",
            "mirrors.yaml:5: mirrors.debian.urls: these",
        ),
        ("https://deb.", "https://me:secret@deb.", "mirrors.yaml:5: mirrors.debian.urls: these"),
        ("keyring: keyring.gpg\n    signed", "keyring: none.gpg\n    signed", "none.gpg cannot be"),
        (
            "keyring: keyring.gpg\n    signed",
            "keyring: mirrors.yaml\n    signed",
            "holds no OpenPGP",
        ),
        ("{daily: 7}", "{daily: -1}", "mirrors.debian.keep.daily"),
        ("  tools:", "  Tools/x:", "mirrors.yaml:1"),
        ("slipway-mirrors/1", "slipway-mirrors/2", "mirrors.yaml:1"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, keyring: bytes, old: str, new: str, message: str
) -> None:
    """File and line, and what would be right; nothing of the file is used."""
    assert old in GOOD
    with pytest.raises(InvalidInput) as caught:
        read_mirrors(_file(tmp_path, keyring, GOOD.replace(old, new)))
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Is said to be missing, by its name."""
    with pytest.raises(InvalidInput, match=r"none\.yaml: the mirrors file cannot be read"):
        read_mirrors(tmp_path / "none.yaml")
