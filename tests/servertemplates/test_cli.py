"""``slipway template``: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from slipway.cli import template
from slipway.servertemplates import TemplateStore
from tests.servertemplates.conftest import Templates, script

IMPORTED = Path(__file__).parent / "rightscale/app_server.yml"


@pytest.fixture(autouse=True)
def _use_store(monkeypatch: pytest.MonkeyPatch, store: TemplateStore) -> None:
    monkeypatch.setattr(template, "store", lambda: store)
    monkeypatch.setenv("COLUMNS", "200")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(template.app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def json_of(*arguments: str, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def web(templates: Templates) -> Templates:
    templates.image()
    return templates.write("web", "image: debian-12\nboot: [scripts/a.sh]\n", a=script(body="one"))


def test_a_new_template_is_valid(templates: Templates) -> None:
    """`new` writes a commented example that passes `check`, and never over another."""
    assert "next: slipway template check shop" in run("new", "shop").stdout
    assert "shop is good" in run("check", "shop").stdout
    text = (templates.directory / "shop/template.yaml").read_text()
    assert text.count("#") > 5
    assert "already" in run("new", "shop", code=2).stderr
    assert "is not a name" in run("new", "Shop!", code=2).stderr
    # Every commented-out line is valid as well.
    uncommented = text.replace("# settings:", "settings:").replace("# freeze:", "freeze:")
    assert uncommented != text
    templates.file("shop/template.yaml", uncommented)
    run("check", "shop")
    assert json_of("new", "other")["files"]


def test_problems_are_lines_on_stderr_and_exit_code_2(web: Templates) -> None:
    """Bad input ends with code 2 and one line for each problem, and nothing on stdout."""
    web.write("web", "imagee: x\nboot: [gone.sh]\n")
    done = run("check", code=2)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "web/template.yaml:3: imagee: 'imagee' is not a field here; did you mean 'image'?",
        "web/template.yaml:4: boot[0]: there is no file 'gone.sh' in web/",
    ]
    found = json_of("check", "web", code=2)
    assert found["error"] == "InvalidInput"
    assert found["problems"][0] == {
        "where": "web/template.yaml:3: imagee",
        "what": "'imagee' is not a field here; did you mean 'image'?",
    }
    assert "there is no template" in run("check", "wbe", code=2).stderr
    run("commit", "web", "-m", "x", code=2)


def test_a_life_of_versions(web: Templates, tmp_path: Path) -> None:
    """Commit, tag, log, show, diff, list and checkout tell one story, in words and in JSON."""
    assert run("commit", "web", "-m", "First").stdout.startswith("committed web@r1 (")
    assert "nothing changed" in run("commit", "web", "-m", "First").stdout
    assert run("tag", "web", "prod").stdout.startswith("web@prod is web@r1 (")
    assert "no difference" in run("diff", "web").stdout
    web.write("web", "settings: {instance_type: large}\n" + "image: debian-12\n"
              "boot: [scripts/a.sh]\n", a=script(body="two"))  # fmt: skip
    shown = run("diff", "web").stdout
    assert "+ large" in shown
    assert "-one" in shown
    assert "+two" in shown
    done = json_of("commit", "web", "-m", "Second", "--author", "ada")
    assert (done["created"], done["version"]["ref"], done["version"]["author"]) == (
        True,
        "web@r2",
        "ada",
    )
    versions = json_of("log", "web")
    assert [(v["number"], v["message"], v["tags"]) for v in versions] == [
        (2, "Second", []),
        (1, "First", ["prod"]),
    ]
    assert "First" in run("log", "web").stdout
    found = json_of("diff", "web@prod", "web@r2")
    assert [change["path"] for change in found["fields"]] == ["settings.instance_type"]
    assert [change["change"] for change in found["scripts"]] == ["changed"]
    assert json_of("tag", "web@r2", "v2")["tags"] == ["v2"]
    assert json_of("list")[0]["tags"] == ["prod", "v2"]
    assert "committed" in run("list").stdout
    target = tmp_path / "out"
    run("checkout", "web@prod", str(target))
    assert (target / "web/scripts/a.sh").read_text() == script(body="one")
    assert "nothing was written" in run("checkout", "web@v2", str(target), code=2).stderr
    assert json_of("checkout", "web@v2", str(target), "--force")["hash"] == versions[0]["hash"]
    assert "did you mean 'prod'?" in run("show", "web@pord", code=2).stderr
    assert json_of("show", "web@pord", code=2)["error"] == "NotFound"


def test_show(web: Templates) -> None:
    """`show` has layers, inputs and scripts, and prints one script whole."""
    web.write("base", "boot: [scripts/b.sh]\n", b=script(body="b"))
    web.write(
        "web",
        "include: [base]\nimage: debian-12\nboot: [scripts/a.sh]\n"
        "inputs:\n  P: {type: secret, description: '[bold]x'}\n",
    )
    shown = run("show", "web").stdout
    for word in ("not committed", "debian-12", "base", "(required)", "[bold]x", "20-a"):
        assert word in shown
    found = json_of("show", "web")
    assert found["version"] is None
    assert [each["key"] for each in found["template"]["boot"]] == ["10-b", "20-a"]
    assert run("show", "web", "--script", "20-a").stdout == script(body="one")
    assert "it has 10-b, 20-a" in run("show", "web", "--script", "x", code=2).stderr


def test_compose(web: Templates) -> None:
    """`compose` writes one template and names clashes on stderr; --strict refuses them."""
    web.write("one", "settings: {instance_type: small}\n")
    web.write("two", "settings: {instance_type: large}\nimage: debian-12\n")
    refused = run("compose", "one", "two", "--name", "all", "--strict", code=2)
    assert "clash: settings.instance_type: one says 'small', two says 'large'" in refused.stderr
    assert not (web.directory / "all").exists()
    done = run("compose", "one", "two", "--name", "all")
    assert "wrote " in done.stdout
    assert "taken: 'large'" in done.stderr
    assert "all is good" in run("check", "all").stdout
    assert json_of("compose", "one", "web", "-n", "both")["clashes"] == []


def test_import(templates: Templates) -> None:
    """`import` lists what came along and what did not."""
    shown = run("import", str(IMPORTED), "--name", "shop").stdout
    assert "app_server.yml → shop/template.yaml" in shown
    assert "Not carried over (" in shown
    assert "alert 'CPU Scale Down'" in shown
    assert "shop is good" in run("check", "shop").stdout
    found = json_of("import", str(IMPORTED), "--name", "again")
    assert found["problems"] == []
    assert len(found["not_carried"]) > 20
    assert "there is no file" in run("import", "nothing.yml", code=2).stderr


def test_the_store_is_that_of_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, templates: Templates
) -> None:
    """Without anything said, state and templates are where the environment says."""
    monkeypatch.undo()
    monkeypatch.setenv("SLIPWAY_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("SLIPWAY_TEMPLATES_DIR", str(templates.directory))
    templates.write("web")
    assert json_of("list")[0]["name"] == "web"
    assert (tmp_path / "state/slipway.db").exists()
