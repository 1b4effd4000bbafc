"""Reading what a distribution signs: releases, signatures, indexes and their listings."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pysequoia import SignatureMode, Tsk, sign

from slipway.errors import BlobBroken, InvalidInput, ReleaseRefused
from slipway.mirrors import listing, manifest, paths, release, stanzas
from slipway.mirrors.manifest import FileRef, ListingRef, SuiteState
from slipway.mirrors.signatures import Keyring
from slipway.mirrors.stanzas import Entry
from slipway.mirrors.store import Store
from slipway.testing.deb_archive import DebArchive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> DebArchive:
    return DebArchive(tmp_path_factory.mktemp("upstream") / "debian", valid_for=timedelta(days=7))


@pytest.fixture(scope="module")
def in_release(archive: DebArchive) -> bytes:
    return (archive.root / "dists/stable/InRelease").read_bytes()


@pytest.fixture(scope="module")
def keyring(archive: DebArchive) -> Keyring:
    return Keyring.from_bytes(archive.keyring.read_bytes(), "debian-keyring.gpg")


# --- Signatures -----------------------------------------------------------------------------------


def test_the_signed_text_is_the_release(
    archive: DebArchive, in_release: bytes, keyring: Keyring
) -> None:
    """What is read is what was signed, inline and detached."""
    text = (archive.root / "dists/stable/Release").read_bytes()
    assert keyring.signed_text(in_release, "InRelease") == text
    keyring.check_detached(text, (archive.root / "dists/stable/Release.gpg").read_bytes(), "R")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: b"Extra: 1\n" + text, "outside the signed block"),
        (lambda text: text + b"Extra: 1\n", "outside the signed block"),
        (lambda text: text + text, "more than one signed block"),
        (lambda text: text.replace(b"Origin: S", b"Origin: s"), "no valid signature"),
        (lambda text: text[: len(text) // 2], "outside the signed block"),
        (lambda _: b"<html>Not found</html>", "outside the signed block"),
        (lambda _: b"", "outside the signed block"),
    ],
    ids=["prefix", "suffix", "twice", "tampered", "truncated", "html", "empty"],
)
def test_what_is_not_signed_as_it_is_is_refused(in_release, keyring, damage, message) -> None:
    """Every byte of the file has to be covered by the signature, in one sentence if not."""
    with pytest.raises(ReleaseRefused, match=f"^InRelease: .*{message}") as caught:
        keyring.signed_text(damage(in_release), "InRelease")
    assert "\n" not in str(caught.value)


def test_another_key_is_refused(archive: DebArchive, keyring: Keyring) -> None:
    """A valid signature by a key that is not in the keyring is none."""
    text = (archive.root / "dists/stable/Release").read_bytes()
    stranger = Tsk.generate("Somebody else <else@example.org>").signer()
    with pytest.raises(ReleaseRefused, match=r"no valid signature by a key of debian-keyring\.gpg"):
        keyring.signed_text(sign(stranger, text, mode=SignatureMode.CLEAR), "InRelease")
    detached = sign(stranger, text, mode=SignatureMode.DETACHED)
    with pytest.raises(ReleaseRefused, match="no valid signature"):
        keyring.check_detached(text, detached, "Release")


def test_one_known_key_of_several_is_enough(archive: DebArchive, keyring: Keyring) -> None:
    """Distributions sign with the keys of several releases, in whichever order."""
    text = (archive.root / "dists/stable/Release").read_bytes()
    stranger = Tsk.generate("Next release <next@example.org>")
    each = [
        sign(key.signer(), text, mode=SignatureMode.DETACHED, armor=False)
        for key in (stranger, archive.key)
    ]
    for both in (each[0] + each[1], each[1] + each[0]):
        keyring.check_detached(text, both, "Release")
        with pytest.raises(ReleaseRefused, match="no valid signature"):
            keyring.check_detached(text + b"x", both, "Release")
    with pytest.raises(ReleaseRefused, match="no valid signature"):
        keyring.check_detached(text, b"<html>", "Release")


def test_gpgv_agrees(archive: DebArchive, in_release: bytes, tmp_path: Path) -> None:
    """The generator signs as distributions do: GnuPG, which apt asks, accepts it."""
    if shutil.which("gpgv") is None:
        pytest.skip("gpgv is not installed")
    signed = tmp_path / "InRelease"
    signed.write_bytes(in_release)
    command = ["gpgv", "--homedir", str(tmp_path), "--keyring", str(archive.keyring), str(signed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_keyring_that_is_none_is_refused() -> None:
    """Something else than certificates is named as such."""
    with pytest.raises(InvalidInput, match=r"page\.gpg: this holds no OpenPGP certificates"):
        Keyring.from_bytes(b"<html>", "page.gpg")


# --- Releases -------------------------------------------------------------------------------------


def test_a_release_is_read(archive: DebArchive) -> None:
    """Dates, components and the files with all their hashes."""
    found = release.parse((archive.root / "dists/stable/Release").read_bytes(), "Release")
    assert (found.suite, found.components) == ("stable", ("main",))
    assert found.date == archive.now
    assert found.valid_until == archive.now + timedelta(days=7)
    assert found.by_hash
    assert not found.all_apart
    name = "main/binary-amd64/Packages.xz"
    data = (archive.root / "dists/stable" / name).read_bytes()
    assert found.files[name] == release.ListedFile(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        others={"SHA512": hashlib.sha512(data).hexdigest()},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Suite: x\n", "it has no Date"),
        ("Date: yesterday\n", "date 'yesterday' is not a date"),
        ("Date: Sat, 22 Nov 2025 08:12:33 UTC\n", "lists no files with SHA256"),
        (f"Date: Sat, 22 Nov 2025 08:12:33 UTC\nSHA256:\n {'a' * 64} 1 ../x\n", "has the line"),
        (f"Date: Sat, 22 Nov 2025 08:12:33 UTC\nSHA256:\n {'a' * 63} 1 x\n", "has the line"),
        (f"Date: Sat, 22 Nov 2025 08:12:33 UTC\nSHA256:\n {'a' * 64} -1 x\n", "has the line"),
    ],
)
def test_a_release_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    """The sentence says what is wrong."""
    with pytest.raises(ReleaseRefused, match=message):
        release.parse(text.encode(), "Release")


# --- Indexes --------------------------------------------------------------------------------------


def _entries(archive: DebArchive, suffix: str = ".xz") -> list[Entry]:
    path = archive.root / f"dists/stable/main/binary-amd64/Packages{suffix}"
    return list(stanzas.packages(stanzas.read_chunks(path, suffix, "Packages"), "Packages"))


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
def test_packages_are_read(archive: DebArchive, suffix: str) -> None:
    """Every package of the generator, with where its file is and what it has to be."""
    expected = {
        Entry(
            package.path,
            hashlib.sha256(package.deb).hexdigest(),
            len(package.deb),
            package.name,
            package.version,
            package.architecture,
        )
        for package in archive.packages.values()
    }
    assert set(_entries(archive, suffix)) == expected


def test_sources_are_read() -> None:
    """Each file of a source package, wherever the block of its checksums stands."""
    digests = ["a" * 64, "b" * 64]
    text = (
        f"Package: hello\nVersion: 2.10-3\nFiles:\n 0 1 other\nChecksums-Sha256:\n {digests[0]} 10 "
        f"hello.dsc\n {digests[1]} 20 hello.tar.xz\nDirectory: pool/main/h/hello\n\n"
    )
    assert list(stanzas.sources([text.encode()], "Sources")) == [
        Entry("pool/main/h/hello/hello.dsc", digests[0], 10, "hello", "2.10-3", "source"),
        Entry("pool/main/h/hello/hello.tar.xz", digests[1], 20, "hello", "2.10-3", "source"),
    ]


@given(st.integers(min_value=1, max_value=400))
def test_where_chunks_end_does_not_matter(size: int) -> None:
    """Stanzas are the same however the bytes of an index arrive."""
    text = b"".join(
        b"Package: p%d\nVersion: 1\nArchitecture: all\nFilename: ./p%d\nSize: 1\nSHA256: %s\n\n"
        % (number, number, b"c" * 64)
        for number in range(7)
    )
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    found = [entry.path for entry in stanzas.packages(chunks, "Packages")]
    assert found == [f"p{number}" for number in range(7)]


@pytest.mark.parametrize(
    "wrong",
    ["Filename: ../../etc/passwd", "Filename: /etc/passwd", "Size: many", "SHA256: abc"],
)
def test_an_index_that_points_elsewhere_is_refused(wrong: str) -> None:
    """A path out of the repository, or no size or hash to check, is refused with the package."""
    fields = {"Filename": "pool/a", "Size": "1", "SHA256": "d" * 64}
    name, _, value = wrong.partition(": ")
    fields[name] = value
    text = "Package: evil\n" + "".join(f"{key}: {word}\n" for key, word in fields.items())
    with pytest.raises(ReleaseRefused, match="package 'evil' names the file"):
        list(stanzas.packages([text.encode()], "Packages"))


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".bz2", ".zst"])
def test_a_damaged_index_is_refused(tmp_path: Path, suffix: str) -> None:
    """What cannot be decompressed is not read as an empty index."""
    path = tmp_path / "Packages"
    path.write_bytes(b"<html>not an index at all</html>" * 9)
    with pytest.raises(ReleaseRefused, match="cannot be decompressed"):
        list(stanzas.read_chunks(path, suffix, "Packages"))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("pool/a", "pool/a"), ("./a", "a"), ("", None), ("/a", None), ("a//b", None), ("a/", None),
        ("a/../b", None), ("..", None), ("a\nb", None), ("a\\b", None), ("a/./b", None),
    ],
)  # fmt: skip
def test_paths_stay_inside(path: str, found: str | None) -> None:
    """Only plain relative paths are used."""
    assert paths.safe(path) == found


# --- Listings -------------------------------------------------------------------------------------


def _many(number: int, changed: int = 0) -> list[Entry]:
    """That many entries, the first ``changed`` of every hundred in a newer version."""
    return [
        Entry(
            f"pool/main/p{at}_{2 if at % 100 < changed else 1}.deb",
            hashlib.sha256(f"{at} {at % 100 < changed}".encode()).hexdigest(),
            at,
            f"p{at}",
            "2" if at % 100 < changed else "1",
            "all",
        )
        for at in range(number)
    ]


def _listing(tmp_path: Path, name: str, entries: list[Entry]) -> listing.Listing:
    path = tmp_path / name
    path.write_bytes(listing.write(entries, name))
    return listing.Listing(path)


def test_a_listing_finds_every_path_and_no_other(tmp_path: Path) -> None:
    """Also the first and the last of a block, and nothing beside them."""
    entries = _many(3000)
    with _listing(tmp_path, "one", entries) as found:
        assert list(found) == sorted(entries)
        assert all(found.find(entry.path) == entry for entry in entries)
        for path in ("", "pool", "pool/main/p1_1.de", "pool/main/p1_1.deb2", "zzz", "aaa"):
            assert found.find(path) is None
        below = [entry for entry in sorted(entries) if entry.path.startswith("pool/main/p29")]
        assert list(found.below("pool/main/p29")) == below
    with _listing(tmp_path, "none", []) as found:
        assert list(found) == []
        assert found.find("pool/main/p1_1.deb") is None


def test_changes_are_what_the_other_day_lacks(tmp_path: Path) -> None:
    """Exactly the entries that are new, and nearly all blocks are the same on both days."""
    before, after = _many(3000), _many(3000, changed=1)
    with _listing(tmp_path, "one", before) as old, _listing(tmp_path, "two", after) as new:
        assert sorted(new.changes(old)) == sorted(set(after) - set(before))
        assert sorted(old.changes(new)) == sorted(set(before) - set(after))
        assert list(new.changes(new)) == []
    single = [*before, Entry("pool/main/p15000_1.deb", "e" * 64, 1, "x", "1", "all")]
    old, new = _listing(tmp_path, "one", before), _listing(tmp_path, "three", single)
    with old, new:
        assert len(set(new._table._by_block()) - set(old._table._by_block())) == 1


def test_one_path_with_two_contents_is_refused() -> None:
    """An index that names a path twice with different bytes cannot be served."""
    entry = _many(1)[0]
    other = entry._replace(sha256="f" * 64)
    with pytest.raises(ReleaseRefused, match=r"names pool/main/p0_1\.deb twice"):
        listing.write([entry, other], "Packages")
    assert listing.write([entry, entry], "Packages") == listing.write([entry], "Packages")


def test_what_is_no_listing_is_not_read(tmp_path: Path) -> None:
    """A truncated listing is an error, not an empty one."""
    path = tmp_path / "cut"
    path.write_bytes(listing.write(_many(10), "x")[:-3])
    with pytest.raises(BlobBroken, match="is not a listing"):
        listing.Listing(path)


# --- Manifests ------------------------------------------------------------------------------------


def test_a_state_is_named_by_its_content(tmp_path: Path) -> None:
    """What is saved is loaded, the same state has the same name, another one another."""
    store = Store(tmp_path / "mirror")
    state = SuiteState(
        suite="stable",
        date=datetime(2026, 11, 1, tzinfo=UTC),
        valid_until=None,
        files={"dists/stable/InRelease": FileRef(sha256="a" * 64, size=3)},
        listings={"dists/stable/Packages": ListingRef(index="b" * 64, sha256="c" * 64)},
    )
    name = manifest.save(store, state)
    assert manifest.load(store, name) == state
    assert manifest.save(store, state) == name
    assert manifest.save(store, dataclasses.replace(state, suite="other")) != name
