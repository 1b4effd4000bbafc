"""`slipway launch` and what watches it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from slipway.launches.requests import find_launch, list_launches
from slipway.vault import REFERENCE
from tests.cli.conftest import CommandLine

SECRET = "correct horse battery staple"

Launch = Callable[..., Any]


def _nothing_happened(slipway: CommandLine) -> bool:
    no_rows = list_launches(slipway.services, ended=True) == []
    return (
        no_rows and slipway.cloud.count("create_instance") == 0 and slipway.engine.submitted == []
    )


def test_a_launch_is_shown_step_by_step(slipway: CommandLine, launch: Launch) -> None:
    """Steps, their output and the address are printed, and the code is 0."""
    result = launch("--name", "web-1", "--input", "GREETING=hi")
    assert result.exit_code == 0, result.stderr
    for expected in ("Run script 10-say", "│ and goodbye", "web-1 is operational", "192.0.2.1"):
        assert expected in result.stdout
    assert find_launch(slipway.services, "web-1").inputs == {"GREETING": "hi"}


def test_the_engine_gets_the_recorded_launch(slipway: CommandLine, launch: Launch) -> None:
    """The flow's request carries the key under which the launch is on record."""
    launch("--name", "web-1", "--freeze", "2024-05-06")
    ((flow, parameters),) = slipway.engine.submitted
    recorded = find_launch(slipway.services, "web-1")
    assert (flow, parameters["request"]["key"]) == ("launch_server", recorded.idempotency_key)
    assert (parameters["request"]["freeze"], str(recorded.freeze)) == ("2024-05-06",) * 2
    assert len(list_launches(slipway.services)) == 1


def test_all_problems_come_at_once(slipway: CommandLine, launch: Launch) -> None:
    """A request with five mistakes is refused with a line for each, and changes nothing."""
    result = launch(
        *("--name", "Web_1", "--env", "nowhere", "--region", "moon", "--input", "COLOR=green"),
        *("--input", "GREETNG=hi", "--input", "noequals", "--input", "TOKEN=literal"),
    )
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    for part in ("Web_1", "nowhere", "moon", "'green'", "GREETNG", "NAME=VALUE", "input TOKEN:"):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert len(lines) == 7
    assert result.stdout == ""
    assert _nothing_happened(slipway)


def test_problems_of_several_servers(slipway: CommandLine, launch: Launch) -> None:
    """Of many servers none is recorded when one cannot be."""
    assert launch("--name", "web-2").exit_code == 0
    result = launch("--name", "web", "--count", "3")
    assert result.exit_code == 2
    assert "server web-2: this name is in use" in result.stderr
    assert [each.server_name for each in list_launches(slipway.services)] == ["web-2"]


def test_names_are_free_numbers(slipway: CommandLine, launch: Launch) -> None:
    """Without a name the template's is taken with the smallest number that is free."""
    launch("--name", "web-2")
    launch()
    launch("--count", "2")
    names = [each.server_name for each in list_launches(slipway.services)]
    assert names == ["web-1", "web-2", "web-3", "web-4"]
    assert slipway.engine.submitted[-1][0] == "launch_servers"


def test_an_unreachable_engine_is_code_3(slipway: CommandLine, launch: Launch) -> None:
    """When the engine cannot be started, nothing is recorded either."""
    slipway.engine.refuses_to_start = "port 4200 is taken"
    result = launch()
    assert (result.exit_code, "port 4200 is taken" in result.stderr) == (3, True)
    assert _nothing_happened(slipway)


def test_a_stranded_launch(slipway: CommandLine, launch: Launch) -> None:
    """Code 1, the step and cause, the last output, and what to do next."""
    slipway.engine.strands["web-1"] = "script Say it ended with exit code 7"
    result = launch("--name", "web-1")
    assert result.exit_code == 1
    for expected in (
        "web-1 is stranded",
        "Run script 10-say: script Say it ended with exit code 7",
        "│ and goodbye",
        "slipway resume web-1",
    ):
        assert expected in result.stdout


def test_a_runner_that_ends_early(slipway: CommandLine, launch: Launch) -> None:
    """Code 3, its log file, and how to take the launch up; resuming then brings it up."""
    slipway.engine.dies.add("web-1")
    result = launch("--name", "web-1")
    assert result.exit_code == 3
    assert "/somewhere/runner.log" in result.stderr
    assert "slipway resume web-1" in result.stderr
    resumed = slipway.ok("resume", "web-1")
    assert "web-1 is operational" in resumed.stdout


def test_resuming_a_stranded_launch(slipway: CommandLine, launch: Launch) -> None:
    """Watching starts where the launch stranded, and ends with the new outcome."""
    slipway.engine.strands["web-1"] = "no luck"
    launch("--name", "web-1")
    result = slipway.ok("resume", "web-1")
    assert "no luck" not in result.stdout
    assert "web-1 is operational" in result.stdout


def test_many_servers(slipway: CommandLine, launch: Launch) -> None:
    """One line per server, the count, and code 1 when one strands."""
    slipway.engine.strands["s-2"] = "no luck"
    result = launch("--name", "s", "--count", "3")
    assert result.exit_code == 1
    assert "✔ s-1" in result.stdout
    assert "✘ s-2" in result.stdout
    assert "2 of 3 servers are operational" in result.stderr


def test_json_stands_alone(slipway: CommandLine, launch: Launch) -> None:
    """With --json stdout is one JSON document; the story goes to stderr."""
    result = launch("--name", "web-1", "--json")
    data = json.loads(result.stdout)
    assert (data["server"], data["status"]) == ("web-1", "operational")
    assert [step["key"] for step in data["steps"]] == ["resolve-inputs", "run-script:10-say"]
    assert "Run script 10-say" in result.stderr
    refused = launch("--name", "web-1", "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["problems"][0]["where"] == "server web-1"


def test_handing_over_only(slipway: CommandLine, launch: Launch) -> None:
    """--no-wait prints the launch's id and does not watch."""
    result = launch("--name", "web-1", "--no-wait")
    assert result.exit_code == 0
    assert result.stdout.split() == ["web-1", find_launch(slipway.services, "web-1").id]


def test_the_same_key_is_the_same_launch(slipway: CommandLine, launch: Launch) -> None:
    """Asking twice with one key launches once."""
    assert launch("--key", "order-7").exit_code == 0
    again = launch("--key", "order-7")
    assert again.exit_code == 0, again.stderr
    assert "this key is known" in again.stderr
    assert len(list_launches(slipway.services)) == 1
    assert len(slipway.engine.submitted) == 1


def test_interrupting_stops_watching_only(
    slipway: CommandLine, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends with code 130, says that the launch goes on, and how to follow or stop it."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("slipway.cli.watching.get_launch", interrupt)
    result = launch("--name", "web-1")
    assert result.exit_code == 130
    for expected in ("the launch goes on", "slipway audit follow web-1", "slipway cancel web-1"):
        assert expected in result.stderr
    assert find_launch(slipway.services, "web-1").cancel_requested_at is None


def test_inputs_from_a_file(slipway: CommandLine, launch: Launch, tmp_path: Path) -> None:
    """A YAML file gives typed inputs; the command line wins over it."""
    file = tmp_path / "inputs.yaml"
    file.write_text("GREETING: from the file\nCOUNT: 3\nCOLOR: blue\n")
    result = launch("--name", "web-1", "--inputs-file", str(file), "--input", "GREETING=mine")
    assert result.exit_code == 0, result.stderr
    inputs = find_launch(slipway.services, "web-1").inputs
    assert inputs == {"GREETING": "mine", "COUNT": 3, "COLOR": "blue"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b\n", "write one NAME: value a line"),
        ("GREETING: [\n", "not YAML"),
        ("TOKEN: in the open\n", "a secret never stands in"),
        ("GREETING: {a: b}\n", "write it in quotes"),
    ],
    ids=["list", "broken", "secret", "nested"],
)
def test_a_bad_inputs_file(
    slipway: CommandLine, launch: Launch, tmp_path: Path, text: str, complaint: str
) -> None:
    """A file that is not what it should be is refused with one sentence that says so."""
    file = tmp_path / "inputs.yaml"
    file.write_text(text)
    result = launch("--inputs-file", str(file))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert complaint in result.stderr
    assert "in the open" not in result.stderr
    assert _nothing_happened(slipway)


@pytest.mark.parametrize("form", ["file", "stdin", "variable", "credential"])
def test_a_secret_stays_secret(
    slipway: CommandLine,
    launch: Launch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    """However a secret is given, it is in no output, no parameter and no table but encrypted."""
    file = tmp_path / "secret.txt"
    file.write_text(SECRET + "\n")
    monkeypatch.setenv("THE_TOKEN", SECRET)
    slipway.services.vault.put("kept", _secret(SECRET)) if form == "credential" else None
    given = {"file": f"@{file}", "stdin": "-", "variable": "var:THE_TOKEN"}
    value = given.get(form, "cred:kept")
    result = launch(
        "--name",
        "web-1",
        "--input",
        f"TOKEN={value}",
        stdin=SECRET + "\n" if value == "-" else None,
    )
    assert result.exit_code == 0, result.stderr
    shown = slipway.ok("show", "web-1")
    data = slipway.ok("show", "web-1", "--json")
    record = slipway.ok("audit", "show", "web-1")
    for each in (result, shown, data, record):
        assert SECRET not in each.stdout + each.stderr
    assert SECRET not in json.dumps(slipway.engine.submitted)
    for file in tmp_path.rglob("slipway.db*"):
        assert SECRET.encode() not in file.read_bytes()
    assert json.loads(data.stdout)["inputs"]["TOKEN"].startswith("<hidden")
    name = find_launch(slipway.services, "web-1").inputs["TOKEN"].removeprefix(REFERENCE)
    assert slipway.services.vault.get(name).get_secret_value() == SECRET


def _secret(value: str) -> Any:
    from pydantic import SecretStr

    return SecretStr(value)


@pytest.mark.parametrize(
    ("form", "complaint"),
    [
        ("hunter2", "a secret never stands in an argument"),
        ("@missing-file", "No such file"),
        ("var:NOT_SET_AT_ALL", "is not set"),
        ("-", "is empty"),
        ("cred:unknown", "there is no credential unknown"),
    ],
)
def test_a_secret_given_wrongly(
    slipway: CommandLine, launch: Launch, form: str, complaint: str
) -> None:
    """A secret that cannot be had is one sentence, which never repeats a literal."""
    result = launch("--input", f"TOKEN={form}", stdin="")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert complaint in result.stderr
    assert "hunter2" not in result.stderr
    assert _nothing_happened(slipway)


def test_a_plan_creates_nothing(slipway: CommandLine, launch: Launch) -> None:
    """It shows what was looked up, where each input came from and no secret; nothing is on
    record."""
    slipway.services.vault.put("token", SecretStr(SECRET))
    given = ("--name", "web-1", "--input", "GREETING=hi", "--input", "TOKEN=cred:token")
    result = launch(*given, "--freeze", "2024-05-06", "--plan")
    assert result.exit_code == 0, result.stderr
    for part in ("web-1", "fake", "hi  (launch request)", "cred:token", "as of 2024-05-06"):
        assert part in result.stdout, result.stdout
    assert "nothing was created" in result.stderr
    told = json.loads(launch(*given, "--plan", "--json").stdout)
    assert told["inputs"]["GREETING"] == {"value": "hi", "from": "launch request"}
    assert [script["key"] for script in told["scripts"]] == ["10-say"]
    assert SECRET not in result.stdout + json.dumps(told)
    assert _nothing_happened(slipway)


def test_a_plan_hides_secrets_that_were_handed_over(
    slipway: CommandLine, launch: Launch, tmp_path: Path
) -> None:
    """A secret from a file is checked and not shown."""
    (tmp_path / "token").write_text(SECRET)
    result = launch("--input", f"TOKEN=@{tmp_path / 'token'}", "--plan", "--json")
    assert json.loads(result.stdout)["inputs"]["TOKEN"]["value"] == "(secret)"
    assert SECRET not in result.stdout
    assert _nothing_happened(slipway)
