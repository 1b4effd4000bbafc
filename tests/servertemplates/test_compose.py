"""Composition: several templates become one that stands alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.errors import InvalidInput
from slipway.servertemplates import ResolvedTemplate, compose
from slipway.servertemplates.canonical import blob_hash
from slipway.servertemplates.document import Settings, TemplateDocument
from slipway.servertemplates.inputs import InputDeclaration
from slipway.servertemplates.library import Source, SourceScript
from slipway.servertemplates.resolved import assemble
from slipway.servertemplates.write import write_working_copy
from tests.servertemplates.conftest import IMAGE_MAP, Templates, script


def test_a_composition_stands_alone(templates: Templates) -> None:
    """The merged template has everything of its parts, is valid, and includes nothing."""
    templates.image()
    templates.write("base", "boot: [scripts/base.sh]\n", base=script(body="base"))
    templates.write(
        "db",
        "include: [base]\nimage: debian-12\nsettings: {root_disk_gib: 20}\n"
        "boot: [scripts/install.sh]\noperational: {backup: scripts/install.sh}\n"
        "decommission: [scripts/stop.sh]\nhealth: [{tcp: 5432}]\n",
        install=script("inputs:", "  DB_NAME: {type: text, default: app}", body="db"),
        stop=script(body="stop db"),
    )
    templates.write(
        "app",
        "include: [base]\nimage: debian-12\nboot: [scripts/install.sh]\n"
        "decommission: [scripts/stop.sh]\nhealth: [{http: /, port: 80}]\n"
        "inputs:\n  DB_HOST: {type: env, from: db-1.private_ip}\n",
        install=script("inputs: [DB_HOST]", body="app"),
        stop=script(body="stop app"),
    )
    done = compose([templates.resolve("db"), templates.resolve("app")], "all")
    assert done.clashes == ()
    assert [found.path for found in done.template.boot] == [
        "all/scripts/base.sh",
        "all/scripts/install.sh",
        "all/scripts/app-install.sh",
    ]
    assert [found.path for found in done.template.decommission] == [
        "all/scripts/app-stop.sh",
        "all/scripts/stop.sh",
    ]
    write_working_copy([done.source], done.blobs, templates.directory)
    written = templates.resolve("all")
    assert written.document == done.template.document
    assert written.hash == done.template.hash
    assert written.layers == ()
    assert written.inputs["DB_HOST"].default == "db-1.private_ip"
    assert written.inputs["DB_NAME"].default == "app"
    assert [type(check).__name__ for check in written.health] == ["TcpCheck", "HttpCheck"]
    assert [name for name, _ in done.parts] == ["db", "app"]


def test_every_clash_is_named_and_the_later_wins(templates: Templates) -> None:
    """Wherever the parts disagree, the report has the place, both sides and what was taken."""
    templates.image().image(IMAGE_MAP.replace("debian-12", "other"), name="other")
    templates.write(
        "one",
        "image: debian-12\nsettings: {instance_type: small, tags: {t: a}}\nfreeze: 2026-01-01\n"
        "inputs:\n  PORT: {type: int, default: 80}\n  KIND: {type: text, default: x}\n"
        "operational: {report: scripts/a.sh}\nclock: {max_offset_ms: 500}\n",
        a=script(body="a"),
    )
    templates.write(
        "two",
        "image: other\nsettings: {instance_type: large, tags: {t: b}}\nfreeze: environment\n"
        "inputs:\n  PORT: {type: int, default: 81}\n  KIND: {type: int, default: 1}\n"
        "operational: {report: scripts/a.sh}\nclock: {max_offset_ms: 100}\n",
        a=script(body="b"),
    )
    done = compose([templates.resolve("one"), templates.resolve("two")], "all")
    assert sorted(clash.path for clash in done.clashes) == [
        "clock.max_offset_ms",
        "freeze",
        "image",
        "inputs.KIND.type",
        "inputs.PORT.default",
        "operational.report",
        "settings.instance_type",
        "settings.tags.t",
    ]
    port = next(clash for clash in done.clashes if clash.path == "inputs.PORT.default")
    assert str(port) == "inputs.PORT.default: one says 80, two says 81; taken: 81"
    found = done.template
    assert (found.settings.instance_type, found.freeze) == ("large", "environment")
    assert (found.inputs["PORT"].default, found.inputs["KIND"].type) == (81, "int")


def test_nothing_and_bad_names_are_refused(templates: Templates) -> None:
    """Composing needs a template and a name a directory can have."""
    with pytest.raises(InvalidInput, match="no template"):
        compose([], "all")
    with pytest.raises(InvalidInput, match="is not a name"):
        compose([templates.write("a").resolve("a")], "../all")


# --- Properties -----------------------------------------------------------------------------------

_BODIES = [f"#!/bin/bash\necho {letter}\n".encode() for letter in "abcd"]
_PICK = st.lists(st.integers(0, 3), max_size=3, unique=True)


@st.composite
def resolved(draw: st.DrawFn, name: str) -> ResolvedTemplate:
    """A template whose values are functions of their names: any two of them agree."""
    boot, stop = draw(_PICK), draw(_PICK)
    scripts = {
        f"scripts/{n}.sh": SourceScript(
            sha256=blob_hash(_BODIES[n]), kind="bash", name=str(n), timeout_s=60
        )
        for n in {*boot, *stop}
    }
    document = TemplateDocument(
        schema="slipway/1",
        name=name,
        settings=Settings(root_disk_gib=draw(st.none() | st.just(7))),
        inputs={
            label: InputDeclaration(type="int", default=draw(st.none() | st.just(len(label))))
            for label in draw(st.lists(st.sampled_from(["A", "BB", "CCC"]), unique=True))
        },
        boot=tuple(f"scripts/{n}.sh" for n in boot),
        decommission=tuple(f"scripts/{n}.sh" for n in stop),
    )
    found, problems = assemble(name, {name: Source(document=document, scripts=scripts)})
    assert problems == []
    blobs = {blob_hash(_BODIES[n]): _BODIES[n] for n in {*boot, *stop}}
    return found.model_copy(update={"blobs": blobs})


def meaning(template: ResolvedTemplate) -> tuple[object, ...]:
    """What a template does, without what it is called."""
    return (
        [found.sha256 for found in template.boot],
        [found.sha256 for found in template.decommission],
        {label: (d.type, d.default, d.required) for label, d in template.inputs.items()},
        template.settings,
    )


@given(resolved("a"), resolved("b"), resolved("c"))
def test_composing_is_associative(
    a: ResolvedTemplate, b: ResolvedTemplate, c: ResolvedTemplate
) -> None:
    """Where nothing clashes, it does not matter which two are merged first."""
    left = compose([compose([a, b], "x").template, c], "x")
    right = compose([a, compose([b, c], "x").template], "x")
    flat = compose([a, b, c], "x")
    assert left.clashes == right.clashes == flat.clashes == ()
    assert meaning(left.template) == meaning(right.template) == meaning(flat.template)


@given(resolved("a"), resolved("b"))
def test_composing_twice_changes_nothing(a: ResolvedTemplate, b: ResolvedTemplate) -> None:
    """A template merged with itself, or with what it is already part of, stays what it is."""
    assert meaning(compose([a, a], "x").template) == meaning(a)
    once = compose([a, b], "x").template
    assert compose([once, once], "x").template.hash == once.hash


@given(resolved("a"), resolved("b"))
def test_composing_loses_nothing(a: ResolvedTemplate, b: ResolvedTemplate) -> None:
    """Every script and input of every part is in the composition, and its bytes with it."""
    done = compose([a, b], "x")
    found = done.template
    for part in (a, b):
        assert {each.sha256 for each in part.boot} <= {each.sha256 for each in found.boot}
        assert set(part.inputs) <= set(found.inputs)
    assert set(done.blobs) == {each.sha256 for each in found.scripts()}
