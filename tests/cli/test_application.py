"""The application as a whole: starting, help, errors, doctor, completion."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import slipway as package
from slipway.cli import main
from slipway.cli.codes import ExitCode
from slipway.cli.doctoring import Level, checks
from slipway.cli.session import Session
from slipway.cli.wiring import EngineFailed
from slipway.errors import CloudUnavailable, Conflict, InvalidInput, NotFound, SlipwayError
from tests.cli.conftest import CommandLine

#: Each takes longer to import than the help may take to appear.
SLOW = {"prefect", "asyncssh", "fabric", "paramiko", "alembic", "sqlmodel", "sqlalchemy", "httpx"}
#: What records are made of; commands that read them import these, and none of the others.
RECORDS = {"sqlmodel", "sqlalchemy"}


def _imported(*arguments: str, environment: dict[str, str]) -> set[str]:
    code = (
        "import sys\nfrom deployments.main import main\n"
        f"sys.argv = ['slipway', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["--help"], set()),
        (["version"], set()),
        (["servers"], RECORDS),
        (["audit", "verify"], RECORDS),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_what_is_imported(slipway: CommandLine, arguments: list[str], allowed: set[str]) -> None:
    """Help needs no database, and reading records no engine, SSH library or migration."""
    import os

    imported = _imported(*arguments, environment=dict(os.environ))
    assert imported & SLOW == allowed


def test_the_lazy_groups_say_what_the_real_ones_say() -> None:
    """The help of a group that is loaded late is that of its module."""
    import typer

    from slipway.cli import local, template

    shown = {name: each.help for name, each in typer.main.get_command(main.app).commands.items()}
    assert shown["template"] == template.app.info.help
    assert shown["local"] == local.app.info.help


def test_lazy_groups_run(slipway: CommandLine) -> None:
    """A command of a group that is loaded late works as any other."""
    assert "web" in slipway.ok("template", "list").stdout


def test_errors_have_the_codes_of_the_table() -> None:
    """The codes of errors are those that commands document."""
    assert {InvalidInput.exit_code, NotFound.exit_code, Conflict.exit_code} == {ExitCode.BAD_INPUT}
    assert SlipwayError.exit_code == ExitCode.FAILED
    assert EngineFailed.exit_code == ExitCode.ENGINE


def test_a_bad_setting(slipway: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be is named as the variable it is."""
    monkeypatch.setenv("SLIPWAY_LEASE_S", "soon")
    result = slipway("doctor")
    assert result.exit_code == 2
    assert result.stderr.startswith("SLIPWAY_LEASE_S: ")


def test_version(slipway: CommandLine) -> None:
    """The version is the package's."""
    assert slipway.ok("version").stdout == f"slipway {package.__version__}\n"
    assert slipway.json("version")["slipway"] == package.__version__


def test_the_demo_is_wired_from_outside(slipway: CommandLine) -> None:
    """Its options reach it, and its code is the command's."""
    assert slipway("demo").exit_code == 10
    assert slipway("demo", "--faults", "--keep").exit_code == 13


def test_deploy_shows_what_changed(slipway: CommandLine) -> None:
    """A line for each thing, the values that changed below it, and the numbers at the end; the
    options reach whoever deploys."""
    result = slipway.ok("deploy", "--file", "mine.yaml", "--pool", "other", "--dry-run")
    assert result.stdout.splitlines() == [
        "  unchanged work pool   other",
        "~ changed   deployment  mine.yaml True",
        '      tags: ["a"] → ["a", "b"]',
        "! left out  block       b: nothing to notify with",
    ]
    counts = "1 unchanged, 1 changed, 1 left out (nothing was written: a dry run)"
    assert result.stderr.strip() == counts
    shown = slipway.json("deploy")
    assert [change["action"] for change in shown] == ["unchanged", "changed", "left out"]
    assert shown[1]["fields"] == [{"path": "tags", "before": ["a"], "after": ["a", "b"]}]


def test_engine(slipway: CommandLine) -> None:
    """The engine's server is started, asked and stopped; asking starts nothing."""
    assert slipway("engine", "status").exit_code == 3
    assert not slipway.server.running
    assert "http://127.0.0.1:4200" in slipway.ok("engine", "up").stdout
    assert slipway.json("engine", "status")["pid"] == 42
    slipway.ok("engine", "down")
    assert not slipway.server.running


def test_doctor_looks_at_everything(slipway: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check has a level, and whatever is not fine has a remedy."""
    _without_local_cloud(monkeypatch)
    data = slipway.json("doctor")
    assert [each["name"] for each in data] == [
        *("python", "state directory", "free disk", "database", "templates", "local cloud"),
        *("cloud fake", "engine", "clock", "ssh"),
    ]
    assert all(each["remedy"] for each in data if each["level"] != "OK")
    by_name = {each["name"]: each["level"] for each in data}
    assert (by_name["engine"], by_name["clock"], by_name["database"]) == ("WARN", "WARN", "OK")


def test_doctor_fails(
    slipway: CommandLine, monkeypatch: pytest.MonkeyPatch, templates: Any
) -> None:
    """A broken template and a key that others can read are failures, and code 1."""
    _without_local_cloud(monkeypatch)
    (templates / "web" / "template.yaml").write_text("schema: slipway/1\nname: web\nbot: []\n")
    key = slipway.services.settings.state_dir / "keys" / "vault.key"
    key.parent.mkdir()
    key.write_text("")
    key.chmod(0o644)
    result = slipway("doctor")
    assert result.exit_code == 1
    failed = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 2
    assert "vault.key" in failed[0]
    assert "template.yaml" in failed[1]


def test_doctor_asks_the_clouds(slipway: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not answer is a failure, with what it said."""
    _without_local_cloud(monkeypatch)
    slipway.cloud.fail_next("list_instances", CloudUnavailable("nobody there"))
    result = slipway("doctor")
    assert result.exit_code == 1
    [failed] = [line for line in result.stdout.splitlines() if line.startswith("FAIL")]
    assert "cloud fake" in failed
    assert "nobody there" in failed


def test_clouds_are_listed_and_checked(slipway: CommandLine) -> None:
    """In words and as JSON; a region that does not answer ends with code 1, an unknown name is
    refused."""
    [fake] = slipway.json("cloud", "list")
    assert (fake["name"], fake["kind"]) == ("fake", "fake")
    assert "fake (fake): " in slipway.ok("cloud", "list").stdout
    assert "answers" in slipway.ok("cloud", "check", "fake").stderr
    slipway.cloud.fail_next("list_instances", CloudUnavailable("nobody there"))
    result = slipway("cloud", "check", "fake")
    assert result.exit_code == 1
    assert "nobody there" in result.stderr
    assert "there is no cloud fke" in slipway("cloud", "check", "fke").stderr
    refused = slipway("cloud", "policy", "fake")
    assert refused.exit_code == 2
    assert "SLIPWAY_CLOUDS_FILE has no cloud of this name (it has none)" in refused.stderr


def test_a_check_that_cannot_be_made_is_a_failure(
    slipway: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that raises is reported like one that failed, and the others are still made."""

    def broken(_: object) -> None:
        raise SlipwayError("it does not start")

    monkeypatch.setattr("slipway.cli.doctoring._local_cloud", broken)
    found = {each.name: each for each in checks(Session(slipway.wiring))}
    assert found["local cloud"].level is Level.FAIL
    assert found["local cloud"].found == "it does not start"
    assert "ssh" in found


def _without_local_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    from slipway.cli.doctoring import Check

    fine = Check(name="local cloud", level=Level.OK, found="confined")
    monkeypatch.setattr("slipway.cli.doctoring._local_cloud", lambda _: fine)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("slipway launch w", ["web"]),
        ("slipway show we", ["web-1"]),
        ("slipway launch web --env s", ["staging"]),
        ("slipway run web-1 g", ["greet"]),
        ("slipway credential remove k", ["kept"]),
    ],
)
def test_completion(
    slipway: CommandLine,
    launch: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    expected: list[str],
) -> None:
    """Names on record are completed."""
    launch("--name", "web-1")
    slipway.ok("environments", "create", "staging")
    slipway.ok("credential", "set", "kept", stdin="x\n")
    monkeypatch.setenv("_SLIPWAY_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    from typer.testing import CliRunner

    result = CliRunner().invoke(main.app, [], obj=slipway.wiring, prog_name="slipway")
    assert result.stdout.split() == expected
