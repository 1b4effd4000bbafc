"""Credentials: encrypted at rest, and a sentence when they cannot be read."""

from __future__ import annotations

import base64
import stat
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from slipway.database import Database
from slipway.errors import NotFound, SlipwayError
from slipway.testing.fake_clock import FakeClock
from slipway.vault import Vault
from tests.records.rows import add_launch

SECRET = "correct horse battery staple\nwith \"quotes\" and 'more' ünïcode"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "vault.key"


@pytest.fixture
def vault(any_database: Database, key_file: Path) -> Vault:
    return Vault(any_database, key_file, FakeClock())


def test_a_credential_comes_back_as_it_was(vault: Vault) -> None:
    """Every character of it; a later value replaces an earlier one."""
    vault.put("db", SecretStr("old"))
    vault.put("db", SecretStr(SECRET))
    assert vault.get("db").get_secret_value() == SECRET
    assert vault.names() == ["db"]
    assert vault.has("db")
    assert SECRET not in repr(vault.get("db"))


def test_the_value_is_not_in_the_database(
    database: Database, key_file: Path, tmp_path: Path
) -> None:
    """No file of the database holds the value, in no usual form."""
    vault = Vault(database, key_file, FakeClock())
    vault.put("db", SecretStr(SECRET))
    files = b"".join(path.read_bytes() for path in tmp_path.glob("slipway.db*"))
    assert b"db" in files
    raw = SECRET.encode()
    for form in (raw, base64.b64encode(raw), raw.hex().encode(), raw.splitlines()[0]):
        assert form not in files
    assert key_file.read_bytes() not in files


def test_the_key_is_for_its_owner_only(vault: Vault, key_file: Path) -> None:
    """Nobody else can read the key file, nor list its directory."""
    vault.put("db", SecretStr("x"))
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700
    assert list(key_file.parent.iterdir()) == [key_file]


def test_another_key_is_named_in_one_sentence(
    any_database: Database, vault: Vault, tmp_path: Path
) -> None:
    """A copy of the database with another key gives nothing away and says why."""
    vault.put("db", SecretStr(SECRET))
    other_key = tmp_path / "other.key"
    other = Vault(any_database, other_key, FakeClock())
    with pytest.raises(SlipwayError, match=f"the key {other_key} .* is missing"):
        other.get("db")
    other.put("mine", SecretStr("mine"))
    with pytest.raises(SlipwayError) as caught:
        other.get("db")
    said = str(caught.value)
    assert said == f"credential db was encrypted with another key than {tmp_path / 'other.key'}"
    assert caught.value.__cause__ is None


def test_an_unknown_credential_is_named(vault: Vault) -> None:
    """The sentence says how to store it."""
    with pytest.raises(NotFound, match="no credential db: store it with 'slipway credential set"):
        vault.get("db")
    with pytest.raises(NotFound, match="no credential db"):
        vault.remove("db")


def test_the_credentials_of_a_launch_are_not_listed_and_end_with_it(
    any_database: Database, vault: Vault
) -> None:
    """People see what people keep."""
    add_launch(any_database)
    vault.put("kept", SecretStr("x"))
    with any_database.transaction() as connection:
        vault.put_in(connection, "launch/1/TOKEN", SecretStr("y"), launch_id="launch-1")
    assert vault.names() == ["kept"]
    assert vault.get("launch/1/TOKEN").get_secret_value() == "y"
    with any_database.transaction() as connection:
        vault.remove_of(connection, "launch-1")
    assert not vault.has("launch/1/TOKEN")
    assert vault.has("kept")


def test_of_two_first_uses_at_once_one_key_wins(database: Database, key_file: Path) -> None:
    """Whatever was stored by whoever was first can be read by everybody."""
    barrier = threading.Barrier(6)
    errors: list[BaseException] = []

    def store(number: int) -> None:
        try:
            barrier.wait()
            Vault(database, key_file, FakeClock()).put(f"c{number}", SecretStr(str(number)))
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = Vault(database, key_file, FakeClock())
    assert [found.get(f"c{number}").get_secret_value() for number in range(6)] == list("012345")
