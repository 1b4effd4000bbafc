"""The content store: complete and checked under its name, or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.errors import BlobBroken, DiskFull
from slipway.mirrors.store import Store

DATA = b"content of a file\n" * 1000
NAME = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mirror")


def _receive(store: Store, data: bytes) -> int:
    """Receive the rest; answers how much there was before."""
    with store.receiving(NAME, len(DATA)) as incoming:
        before = incoming.have
        incoming.write(data)
        incoming.finish()
        return before


def test_a_blob_is_found_by_its_hash_and_is_read_only(store: Store) -> None:
    """What was put is read back, nobody may write to it, and nothing else is left behind."""
    assert store.put(DATA) == NAME
    assert store.read(NAME) == DATA
    assert store.size(NAME) == len(DATA)
    assert stat.S_IMODE(store.path(NAME).stat().st_mode) == 0o444
    assert store.put(DATA) == NAME
    assert list((store.root / "incoming").iterdir()) == []


def test_bytes_of_another_hash_never_get_the_name(store: Store) -> None:
    """A body that is not what it should be is refused and set aside; the next attempt succeeds."""
    bad = DATA[:-1] + b"X"
    with pytest.raises(BlobBroken, match=f"instead of {len(DATA)} bytes with {NAME}"):
        _receive(store, bad)
    assert store.size(NAME) is None
    assert (store.root / "quarantine" / NAME).read_bytes() == bad
    assert _receive(store, DATA) == 0
    assert store.read(NAME) == DATA


def test_what_was_cut_short_is_gone_on_with(store: Store) -> None:
    """The bytes of an attempt that was cut short are there for the next one, and are checked with
    the rest."""
    with store.receiving(NAME, len(DATA)) as incoming:
        incoming.write(DATA[:700])
    assert store.size(NAME) is None
    assert _receive(store, DATA[700:]) == 700
    assert store.read(NAME) == DATA


def test_more_than_there_can_be_is_forgotten(store: Store) -> None:
    """A leftover that is longer than the blob is not gone on with."""
    (store.root / "incoming").mkdir(parents=True)
    (store.root / "incoming" / NAME).write_bytes(DATA + b"more")
    with store.receiving(NAME, len(DATA)) as incoming:
        assert incoming.have == 0


def test_a_full_disk_is_said_and_given_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the error says so, and what was received makes room again."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="is full"):
        _receive(store, DATA)
    assert store.size(NAME) is None
    assert list((store.root / "incoming").iterdir()) == []


def test_other_hashes_lead_to_the_same_blob(store: Store) -> None:
    """apt asks by SHA512 where a release lists it: that leads to the one blob there is."""
    other = hashlib.sha512(DATA).hexdigest()
    assert store.find("sha512", other) is None
    store.put(DATA)
    store.alias("sha512", other, NAME)
    store.alias("sha512", other, NAME)
    assert store.find("sha512", other) == NAME
    assert store.find("sha256", NAME) == NAME
    store.path(NAME).unlink()
    assert store.find("sha512", other) is None


def test_a_damaged_blob_is_not_read(store: Store) -> None:
    """A bit that flipped on the disk is noticed when a document is read."""
    store.put(DATA)
    store.path(NAME).chmod(0o644)
    store.path(NAME).write_bytes(DATA[:-1] + b"X")
    with pytest.raises(BlobBroken, match="is damaged"):
        store.read(NAME)


def _together(store: Store) -> None:
    with store.receiving(NAME, len(DATA)) as incoming:
        if not incoming.have:
            incoming.write(DATA)
        incoming.finish(together=True)


def test_many_get_their_names_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is received with others has its name once the store is settled or enough have come,
    whoever else has received the same meanwhile."""
    _together(store)
    assert store.size(NAME) is None
    store.settle()
    assert store.read(NAME) == DATA
    assert stat.S_IMODE(store.path(NAME).stat().st_mode) == 0o444
    store.path(NAME).unlink()
    _together(store)
    assert _receive(Store(store.root), b"") == len(DATA)
    store.settle()
    assert store.read(NAME) == DATA
    store.path(NAME).unlink()
    monkeypatch.setattr("slipway.mirrors.store._TOGETHER", 1)
    _together(store)
    assert store.read(NAME) == DATA
    assert list((store.root / "incoming").iterdir()) == []


def test_what_was_removed_before_it_got_its_name_is_missed(store: Store) -> None:
    """Nothing may name it: settling fails."""
    _together(store)
    (store.root / "incoming" / NAME).unlink()
    with pytest.raises(BlobBroken, match="was removed before it got its name"):
        store.settle()


def test_a_system_that_cannot_sync_all_syncs_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of many, and every directory."""
    synced: list[int] = []
    monkeypatch.setattr("slipway.mirrors.store._sync_all", lambda: None)
    monkeypatch.setattr(os, "fsync", synced.append)
    _together(store)
    store.settle()
    assert store.read(NAME) == DATA
    # The file, then where it was received, where it is now, and the directories above.
    assert len(synced) >= 5


# --- Small ones -----------------------------------------------------------------------------------


def test_small_ones_get_their_names_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the store is settled, or enough have come; one that comes twice is kept once."""
    store.add(NAME, DATA)
    store.add(NAME, DATA)
    assert store.size(NAME) is None
    store.settle()
    assert store.read(NAME) == DATA
    assert stat.S_IMODE(store.path(NAME).stat().st_mode) == 0o444
    assert [path for path in (store.root / "incoming").rglob("*") if path.is_file()] == []
    monkeypatch.setattr("slipway.mirrors.store._TOGETHER", 1)
    other = b"other"
    store.add(_name(other), other)
    assert store.read(_name(other)) == other


def _name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_small_ones_are_checked(store: Store) -> None:
    """What is not what it should be never gets the name, and is there to be looked at."""
    with pytest.raises(BlobBroken, match=f"received 3 bytes with SHA-256 .* instead of {NAME}"):
        store.add(NAME, b"bad")
    store.settle()
    assert store.size(NAME) is None
    assert (store.root / "quarantine" / NAME).read_bytes() == b"bad"


def test_what_a_killed_process_had_received_is_taken_up(store: Store) -> None:
    """What is whole, and not what is cut off; nothing of a process that is at work."""
    left = store.root / "incoming" / "99999-dead"
    left.mkdir(parents=True)
    (left / f"{NAME}-99999-0").write_bytes(DATA)
    cut = b"whole"
    (left / f"{_name(cut)}-99999-1").write_bytes(cut[:3])
    alive = Store(store.root)
    alive.add(_name(b"alive"), b"alive")
    store.take_up()
    assert store.read(NAME) == DATA
    assert (store.size(_name(cut)), store.size(_name(b"alive"))) == (None, None)
    assert not left.exists()
    alive.settle()
    assert store.read(_name(b"alive")) == b"alive"


def test_a_full_disk_leaves_no_small_ones(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when they are written nor when they are brought to disk."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFull, match=f"{len(DATA)} bytes were to be kept"):
            store.add(NAME, DATA)
    store.add(NAME, DATA)
    with monkeypatch.context() as patch:
        patch.setattr("slipway.mirrors.store._to_disk", full)
        with pytest.raises(DiskFull, match=f"{len(DATA)} bytes were to be kept"):
            store.settle()
    store.settle()
    assert store.size(NAME) is None
    assert [path for path in (store.root / "incoming").rglob("*") if path.is_file()] == []


def test_small_ones_are_readable_whatever_the_umask(tmp_path: Path) -> None:
    """A web server of another account may serve them."""
    program = (
        "import os, sys; os.umask(0o077); from pathlib import Path; "
        "from slipway.mirrors.store import Store; s = Store(Path(sys.argv[1])); "
        f"s.add({NAME!r}, {DATA!r}); s.settle()"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "s")], check=True)
    mode = Store(tmp_path / "s").path(NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o444
