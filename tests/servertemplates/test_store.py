"""Versions: what was committed can be had again, by every name it has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from slipway.database import Database
from slipway.errors import Conflict, InvalidInput, NotFound, SlipwayError
from slipway.servertemplates import TemplateStore
from tests.servertemplates.conftest import FixedClock, Templates, refusal, script

WEB = "include: [base]\nimage: debian-12\nboot: [scripts/a.sh]\n"


def write(templates: Templates, body: str = "one") -> None:
    templates.image()
    templates.write("base", "boot: [scripts/base.sh]\n", base=script(body="base"))
    templates.write("web", WEB, a=script(body=body))


def test_a_version_needs_no_directory(templates: Templates, any_store: TemplateStore) -> None:
    """A committed version is the same template after its directory is gone, layers and scripts
    included; its hash is checked when it is read."""
    write(templates)
    done = any_store.commit("web", "First", "ada")
    working = any_store.head("web")
    assert (done.created, done.version.number, done.message) == (
        True,
        1,
        f"committed web@r1 ({working.hash[:12]})",
    )
    shutil.rmtree(templates.directory)
    stored = any_store.get("web@r1")
    assert stored == working
    assert stored.blobs == working.blobs
    assert stored.hash == done.version.hash
    assert any_store.script(stored.boot[1].sha256) == script(body="one").encode()
    # Without a working copy, a name alone is the newest version.
    assert any_store.get("web") == working


def test_committing_twice_is_one_version(templates: Templates, any_store: TemplateStore) -> None:
    """Unchanged content makes no version and says so, also content that comes back."""
    write(templates)
    any_store.commit("web", "First", "ada")
    again = any_store.commit("web", "Again", "ada")
    assert (again.created, again.message) == (
        False,
        "nothing changed since web@r1; nothing was committed",
    )
    write(templates, body="two")
    assert any_store.commit("web", "Second", "ada").version.number == 2
    write(templates, body="one")
    back = any_store.commit("web", "Back", "ada")
    assert (back.created, back.version.number) == (False, 1)
    assert [(v.number, v.message) for v in any_store.log("web")] == [(2, "Second"), (1, "First")]
    assert any_store.log("web")[0].parent == any_store.log("web")[1].hash


def test_every_way_to_name_a_version(templates: Templates, any_store: TemplateStore) -> None:
    """Number, tag, hash and beginning of a hash name one version; tags move."""
    write(templates)
    first = any_store.commit("web", "First", "ada").version
    write(templates, body="two")
    second = any_store.commit("web", "Second", "ada").version
    any_store.tag("web", "r1", "prod", actor="ada")
    refs = ["web@r1", "web@prod", f"web@{first.hash}", f"web@{first.hash[:6]}"]
    assert {any_store.get(ref).hash for ref in refs} == {first.hash}
    assert {any_store.get(ref).hash for ref in ("web", "web@head", "web@latest", "web@r2")} == {
        second.hash
    }
    moved = any_store.tag("web", "web@head", "prod", actor="ada")
    assert (moved.number, moved.tags) == (2, ("prod",))
    assert any_store.get("web@prod").hash == second.hash
    assert any_store.version("web@r1").tags == ()


@pytest.mark.parametrize(
    ("ref", "what"),
    [
        ("web@pord", "template web has no version 'pord'; did you mean 'prod'? (it has prod, r1"),
        ("web@r7", "has no version 'r7'"),
        ("web@ffffffffff", "has no version 'ffffffffff'"),
        ("wbe@r1", "there is no template 'wbe'; did you mean 'web'?"),
        ("wbe", "there is no template 'wbe'; did you mean 'web'?"),
        ("base@r1", "template base was never committed, so it has no version to be 'r1'"),
        ("wbe@head", "there is no template 'wbe' in the templates directory; did you mean 'web'?"),
    ],
)
def test_a_wrong_reference_names_the_nearest(
    templates: Templates, store: TemplateStore, ref: str, what: str
) -> None:
    """A reference to nothing says what there is."""
    write(templates)
    store.commit("web", "First", "ada")
    store.tag("web", "web", "prod", actor="ada")
    with pytest.raises(NotFound) as error:
        store.get(ref)
    assert what in str(error.value)


@pytest.mark.parametrize("tag", ["head", "latest", "r3", "abcdef12", "a b", ""])
def test_tags_that_mean_something_else(
    templates: Templates, store: TemplateStore, tag: str
) -> None:
    """A tag that could be read as a number, a hash or a fixed word is refused."""
    write(templates)
    store.commit("web", "First", "ada")
    with pytest.raises(InvalidInput):
        store.tag("web", "r1", tag, actor="ada")


def test_an_uncommitted_working_copy_cannot_be_tagged(
    templates: Templates, store: TemplateStore
) -> None:
    """Tagging 'head' tags the version with its content, and asks for a commit without one."""
    write(templates)
    store.commit("web", "First", "ada")
    assert store.tag("web", "head", "prod", actor="ada").number == 1
    write(templates, body="two")
    with pytest.raises(NotFound, match="is not committed"):
        store.tag("web", "head", "prod", actor="ada")


def test_pin_commits_what_is_launched(templates: Templates, store: TemplateStore) -> None:
    """A working copy that is launched is on record from then on; a version just is."""
    write(templates)
    launched = store.pin("web", author="ada")
    assert store.log("web")[0].hash == launched.hash
    assert store.log("web")[0].message == "Committed when it was launched."
    assert store.pin("web@r1", author="ada") == launched
    assert len(store.log("web")) == 1


def test_nothing_is_kept_of_an_invalid_template(templates: Templates, store: TemplateStore) -> None:
    """A working copy with problems is not committed, and neither is one without a message."""
    write(templates)
    with pytest.raises(InvalidInput, match="message"):
        store.commit("web", "  ", "ada")
    templates.file("web/scripts/a.sh", "no shebang\n")
    with pytest.raises(InvalidInput):
        store.commit("web", "First", "ada")
    with pytest.raises(NotFound):
        store.log("web")


def test_checkout_resolves_to_the_same_hash(
    templates: Templates, any_store: TemplateStore, tmp_path: Path, any_database: Database
) -> None:
    """A version written out again, layers and images included, is the same content."""
    write(templates)
    templates.write(
        "web",
        WEB + "description: |\n  Two\n  lines\nfreeze: 2026-01-01\nsettings: {tags: {a: 'no'}}\n"
        "inputs:\n  P: {type: env, from: db.private_ip}\n  L: {type: list, of: [1, 'on']}\n"
        "health: [{http: /x, port: 8080}, {script: scripts/a.sh}]\n",
    )
    version = any_store.commit("web", "First", "ada").version
    target = tmp_path / "elsewhere"
    any_store.checkout("web@r1", target)
    there = TemplateStore(any_database, target, FixedClock())
    assert there.head("web").hash == version.hash
    # The same once more is no conflict; other content is, and is left alone.
    any_store.checkout("web@r1", target)
    (target / "web/scripts/a.sh").write_text("mine\n")
    with pytest.raises(Conflict, match=r"web/scripts/a\.sh"):
        any_store.checkout("web@r1", target)
    assert (target / "web/scripts/a.sh").read_text() == "mine\n"
    any_store.checkout("web@r1", target, force=True)
    assert there.head("web").hash == version.hash


def test_a_pinned_layer_stays_as_it_was(templates: Templates, store: TemplateStore) -> None:
    """`base@v1` is the committed base whatever becomes of the working copy; a pin and the
    working copy of one layer together are refused when they differ."""
    write(templates)
    store.commit("base", "First", "ada")
    store.tag("base", "r1", "v1", actor="ada")
    templates.write("web", "include: [base@v1]\nimage: debian-12\nboot: [scripts/a.sh]\n")
    pinned = store.head("web")
    templates.write("base", "boot: [scripts/base.sh]\n", base=script(body="changed"))
    assert store.head("web").hash == pinned.hash
    assert store.head("web").layers[0].hash == store.version("base@v1").hash
    assert store.commit("web", "First", "ada").created
    templates.write("other", "include: [base]\n")
    templates.write("top", "include: [web, other]\n")
    with pytest.raises(InvalidInput) as error:
        store.head("top")
    assert "layer base comes in with two different contents" in refusal(error)[0]
    assert "web/template.yaml:3 (base@v1)" in refusal(error)[0]
    templates.write("bad", "include: [base@v2]\n")
    problems = [str(problem) for problem in store.check("bad")]
    assert problems == [
        "bad/template.yaml:3: include[0]: template base has no version 'v2' (it has v1, r1, head)"
    ]


def test_a_changed_database_is_noticed(
    templates: Templates, store: TemplateStore, database: Database
) -> None:
    """A stored document that does not have its hash any more is not launched."""
    write(templates)
    store.commit("web", "First", "ada")
    with database.transaction() as connection:
        connection.execute(
            sa.text("UPDATE template_version SET document = replace(document, 'admin', 'root')")
        )
    with pytest.raises(SlipwayError, match="does not have its hash"):
        store.get("web@r1")


def test_list_says_how_the_working_copy_stands(templates: Templates, store: TemplateStore) -> None:
    """Every template is listed, with its newest version, tags and working copy."""
    write(templates)
    store.commit("web", "First", "ada")
    store.tag("web", "r1", "prod", actor="ada")
    templates.write("gone").write("broken", "boot: [nothing.sh]\n").write("same")
    store.commit("gone", "First", "ada")
    store.commit("same", "First", "ada")
    shutil.rmtree(templates.directory / "gone")
    write(templates, body="two")
    found = {summary.name: summary for summary in store.list()}
    assert {name: summary.working_copy for name, summary in found.items()} == {
        "base": "new",
        "broken": "invalid",
        "gone": "none",
        "same": "committed",
        "web": "changed",
    }
    assert found["web"].tags == ("prod",)


_COMMITTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from slipway.database import Database
from slipway.servertemplates import TemplateStore
from tests.servertemplates.conftest import FixedClock, Templates, script
url, directory, who = sys.argv[1:4]
templates = Templates(Path(directory))
store = TemplateStore(Database(url), templates.directory, FixedClock())
for number in range(8):
    body = f"{who}{number}" if number else "the same"
    templates.write("web", "boot: [scripts/a.sh]\\n", a=script(body=body))
    store.commit("web", f"{who} {number}", who)
"""


def test_two_processes_commit_at_once(any_database_url: str, tmp_path: Path) -> None:
    """Commits of two processes at the same time get distinct numbers, lose none, and equal
    content is one version."""
    root = str(Path(__file__).parents[2])
    running = [
        subprocess.Popen(
            [sys.executable, "-c", _COMMITTER, any_database_url, str(tmp_path / who), who, root],
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in ("ada", "bob")
    ]
    errors = [process.communicate(timeout=100)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    database = Database(any_database_url)
    versions = TemplateStore(database, tmp_path, FixedClock()).log("web")
    database.close()
    assert [version.number for version in versions] == list(range(15, 0, -1))
    assert len({version.hash for version in versions}) == 15
    by_number = {version.number: version for version in versions}
    assert all(by_number[n].parent == by_number[n - 1].hash for n in range(2, 16))
