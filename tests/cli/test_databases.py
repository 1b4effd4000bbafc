"""``slipway database``: upgrading, and a copy that a new machine can start from."""

from __future__ import annotations

import json
import shutil
import stat
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from typer.testing import CliRunner

from deployments.main import WIRING
from slipway import audit
from slipway.audit import Note
from slipway.cli import app
from slipway.clock import SystemClock
from slipway.database import SCHEMA_VERSION, Database
from slipway.errors import SchemaMismatch
from slipway.launches.services import build_services
from slipway.records import AuditKind
from slipway.settings import Settings


def _slipway(settings: Settings, *arguments: str) -> tuple[int, str, str]:
    kept = {"SLIPWAY_STATE_DIR": str(settings.state_dir)}
    if not settings.database_url.startswith("sqlite"):
        kept["SLIPWAY_DATABASE_URL"] = settings.database_url
    done = CliRunner().invoke(app, ["database", *arguments], obj=WIRING, env=kept)
    return done.exit_code, done.stdout, done.stderr


def test_status_tells_an_empty_database_from_an_upgraded_one(settings: Settings) -> None:
    """Status exits with 1 and changes nothing until the tables were upgraded."""
    code, out, _ = _slipway(settings, "status", "--json")
    assert (code, json.loads(out)["schema"]) == (1, None)
    assert not settings.state_dir.joinpath("slipway.db").exists()
    code, _, said = _slipway(settings, "upgrade")
    assert code == 0
    assert f"from none to {SCHEMA_VERSION}" in said
    code, out, _ = _slipway(settings, "status", "--json")
    assert (code, json.loads(out)["schema"]) == (0, SCHEMA_VERSION)
    assert f"at {SCHEMA_VERSION} already" in _slipway(settings, "upgrade")[2]


def test_a_newer_database_is_refused(any_database: Database) -> None:
    """A Slipway that was left behind says so instead of working on tables it does not know."""
    with any_database.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="at schema 9999, this Slipway knows"):
        any_database.migrate()


def test_a_backup_taken_under_load_restores_to_a_whole_slipway(
    settings: Settings, tmp_path: Path
) -> None:
    """The drill of docs/production.md: copy while others write, start from the copy elsewhere, and
    find every chain whole and the secrets readable."""
    services = build_services(settings)
    services.vault.put("db-password", SecretStr("correct horse"))
    installation = services.installation_id
    ended = threading.Event()
    wrote = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            note = Note(kind=AuditKind.INFO, summary=f"entry {number}")
            with services.database.transaction() as connection:
                now = services.clock.now()
                audit.append(connection, "drill/1", [note], actor="test", at=now)
            wrote.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert wrote.wait(60)
        code, _, said = _slipway(settings, "backup", str(tmp_path / "copy.db"))
    finally:
        ended.set()
        writer.join()
    assert code == 0, said
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600

    restored = Settings(state_dir=tmp_path / "restored")
    restored.state_dir.mkdir(mode=0o700)
    shutil.copyfile(tmp_path / "copy.db", restored.state_dir / "slipway.db")
    shutil.copytree(settings.state_dir / "keys", restored.state_dir / "keys")
    found = build_services(restored, clock=SystemClock())
    assert found.installation_id == installation
    assert found.vault.get("db-password").get_secret_value() == "correct horse"
    held = audit.verify(found.database, "drill/1")
    assert 1 <= held.entries <= audit.verify(services.database, "drill/1").entries


def test_a_backup_replaces_nothing(settings: Settings, tmp_path: Path) -> None:
    """An existing file is left as it is, and no draft stays beside it."""
    build_services(settings)
    target = tmp_path / "copies" / "copy.db"
    target.parent.mkdir()
    target.write_text("precious")
    code, _, said = _slipway(settings, "backup", str(target))
    assert code == 2
    assert "exists already" in said
    assert [path.name for path in target.parent.iterdir()] == ["copy.db"]
    assert target.read_text() == "precious"


def test_passwords_in_urls_are_not_shown(settings: Settings) -> None:
    """Whatever the database answers, its password is in nothing that is printed."""
    url = "postgresql://slipway:hunter2@127.0.0.1:1/slipway"
    found = Settings(state_dir=settings.state_dir, database_url=url)
    assert "hunter2" not in "".join(str(part) for part in _slipway(found, "status"))
