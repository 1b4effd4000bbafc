"""Layers: order, what wins, what clashes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.servertemplates.document import Settings, TemplateDocument
from slipway.servertemplates.inputs import InputDeclaration
from slipway.servertemplates.library import Source
from slipway.servertemplates.resolved import HealthScript, assemble
from tests.servertemplates.conftest import Templates, script


def keys(templates: Templates, name: str) -> list[str]:
    return [found.key for found in templates.resolve(name).boot]


def test_base_first_and_each_script_once(templates: Templates) -> None:
    """Layers run base first; a diamond's base is there once, and so is a script with the same
    bytes, at its first position."""
    shared = script("name: shared")
    templates.write("base", "boot: [scripts/base.sh]\n", base=script(body="base"))
    templates.write("left", "include: [base]\nboot: [scripts/a.sh]\n", a=shared)
    templates.write(
        "right",
        "include: [base]\nboot: [scripts/own.sh, scripts/copy.sh]\n",
        own=script(body="right"),
        copy=shared,
    )
    templates.write(
        "top", "include: [left, right]\nboot: [scripts/10-top.sh]\n", **{"10-top": script(body="t")}
    )
    resolved = templates.resolve("top")
    assert [found.key for found in resolved.boot] == ["10-base", "20-a", "30-own", "40-top"]
    assert [found.path for found in resolved.boot][1] == "left/scripts/a.sh"
    assert [layer.name for layer in resolved.layers] == ["base", "left", "right"]
    assert [layer.hash for layer in resolved.layers][:2] == [
        templates.resolve("base").hash,
        templates.resolve("left").hash,
    ]


def test_decommission_undoes_in_reverse(templates: Templates) -> None:
    """What came last goes first: the application is drained before the base lets go."""
    templates.write("base", "decommission: [scripts/x.sh]\n", x=script(body="base"))
    templates.write(
        "app",
        "include: [base]\ndecommission: [scripts/one.sh, scripts/two.sh]\n",
        one=script(body="1"),
        two=script(body="2"),
    )
    assert [found.key for found in templates.resolve("app").decommission] == [
        "decommission-10-one",
        "decommission-20-two",
        "decommission-30-x",
    ]


def test_later_layers_win_along_a_chain(templates: Templates) -> None:
    """What a template says wins over what it includes, part by part."""
    templates.image().image(
        name="other",
        text=(
            "schema: slipway-image-map/1\nname: other\n"
            "entries: {local: {'*': {x86_64: {image: o}}}}\n"
        ),
    )
    templates.write(
        "base",
        "image: debian-12\nfreeze: 2026-01-01\n"
        "settings: {instance_type: small, root_disk_gib: 10, tags: {team: a, cost: x}}\n"
        "inputs:\n  PORT: {type: int, default: 80, min: 1}\n"
        "ready: {linux: [ssh]}\nclock: {max_offset_ms: 500, servers: [ntp-1]}\n"
        "connect: agent\n",
    )
    assert templates.resolve("base").connect == "agent"
    templates.write(
        "app",
        "include: [base]\nimage: other\nfreeze: none\n"
        "settings: {root_disk_gib: 20, tags: {team: b}}\n"
        "inputs:\n  PORT: {default: 8080}\nclock: {max_offset_ms: 100}\nconnect: ssh\n",
    )
    found = templates.resolve("app")
    assert found.image is not None
    assert found.image.name == "other"
    assert found.freeze == "none"
    assert found.connect == "ssh"
    assert found.settings == Settings(
        instance_type="small", root_disk_gib=20, tags={"team": "b", "cost": "x"}
    )
    assert (found.inputs["PORT"].default, found.inputs["PORT"].min) == (8080, 1)
    assert found.inputs["PORT"].default_from == "template app"
    assert found.inputs["PORT"].declared_in == ("layer base", "template app")
    assert found.ready.linux == ("ssh",)
    assert (found.clock.max_offset_ms, found.clock.servers) == (100, ("ntp-1",))


def test_a_script_is_weaker_than_any_layer(templates: Templates) -> None:
    """A script's default gives way even to the base layer's, wherever the script is."""
    templates.write("base", "inputs:\n  PORT: {default: 80}\n")
    templates.write(
        "app",
        "include: [base]\nboot: [scripts/a.sh]\n",
        a=script("inputs:", "  PORT: {type: int, default: 8080}"),
    )
    found = templates.resolve("app").inputs["PORT"]
    assert (found.type, found.default, found.default_from) == ("int", 80, "layer base")
    assert templates.resolve("app").boot[0].inputs == ("PORT",)


def test_siblings_that_disagree_are_an_error(templates: Templates) -> None:
    """Neither of two layers wins over the other: the sentence names both and what to do."""
    templates.write(
        "one", "settings: {instance_type: small}\ninputs:\n  X: {type: int, default: 1}\n"
    )
    templates.write(
        "two", "settings: {instance_type: large}\ninputs:\n  X: {type: int, default: 2}\n"
    )
    templates.write("top", "include: [one, two]\n")
    place = "top/template.yaml:3: include: layers disagree about"
    assert templates.problems("top") == [
        (
            f"{place} inputs.X.default: one (1) and two (2); say it in top to decide, or "
            "'override: true' there to let the later layer win"
        ),
        f"{place} settings.instance_type: one ('small') and two ('large'); say it in top to decide",
    ]


@pytest.mark.parametrize(
    ("one", "two", "top", "wanted"),
    [
        ("", "", "inputs:\n  X: {default: 3}\n", 3),
        ("", "", "inputs:\n  X: {override: true}\n", 2),
        (", override: true", "", "", 1),
        ("", ", override: true", "", 2),
    ],
)
def test_how_a_clash_is_decided(
    templates: Templates, one: str, two: str, top: str, wanted: int
) -> None:
    """The including template's own word decides, or 'override: true' on any side."""
    templates.write("one", f"inputs:\n  X: {{type: int, default: 1{one}}}\n")
    templates.write("two", f"inputs:\n  X: {{type: int, default: 2{two}}}\n")
    templates.write("top", f"include: [one, two]\n{top}")
    assert templates.resolve("top").inputs["X"].default == wanted


def test_a_layer_that_only_inherits_does_not_clash(templates: Templates) -> None:
    """In a diamond, the side that changed the base's value wins over the side that did not."""
    templates.write("base", "settings: {instance_type: small}\n")
    templates.write("left", "include: [base]\nsettings: {instance_type: large}\n")
    templates.write("right", "include: [base]\n")
    for order in ("left, right", "right, left"):
        templates.write("top", f"include: [{order}]\n")
        assert templates.resolve("top").settings.instance_type == "large"


def test_scripts_that_disagree_are_an_error(templates: Templates) -> None:
    """Two scripts with different defaults for one input need the template's word."""
    text = "boot: [scripts/a.sh, scripts/b.sh]\n"
    templates.write(
        "web",
        text,
        a=script("inputs:", "  PORT: {type: int, default: 1}"),
        b=script("inputs:", "  PORT: {type: int, default: 2}"),
    )
    assert templates.problems("web") == [
        (
            "web/scripts/b.sh:4: inputs.PORT: 'default' is 2 here and 1 in web/scripts/a.sh; "
            "say it under 'inputs' in web to decide"
        )
    ]
    templates.write("web", text + "inputs:\n  PORT: {default: 3}\n")
    assert templates.resolve("web").inputs["PORT"].default == 3


@pytest.mark.parametrize(
    ("script_type", "template_type", "allowed"),
    [
        ("text", "secret", True),
        ("text", "env", True),
        ("text", "int", True),
        ("int", "env", True),
        ("int", "text", False),
        ("secret", "text", False),
        ("list", "text", False),
    ],
)
def test_which_types_a_template_may_give_a_script(
    templates: Templates, script_type: str, template_type: str, allowed: bool
) -> None:
    """A template may make a script's text stricter, never show a secret or feed words to an int."""
    templates.write(
        "web",
        f"inputs:\n  X: {{type: {template_type}}}\nboot: [scripts/a.sh]\n",
        a=script("inputs:", f"  X: {{type: {script_type}}}"),
    )
    problems = templates.problems("web")
    assert (problems == []) is allowed
    if not allowed:
        assert (
            f"X is '{template_type}' here, but web/scripts/a.sh takes '{script_type}'"
            in problems[0]
        )


def test_an_input_without_a_type_is_a_typo(templates: Templates) -> None:
    """A default for an input that no script declares names the one that was meant."""
    templates.write(
        "web",
        "inputs:\n  ROEL: {default: x}\nboot: [scripts/a.sh]\n",
        a=script("inputs:", "  ROLE: {type: text}"),
    )
    assert templates.problems("web") == [
        (
            "web/template.yaml:4: inputs.ROEL: ROEL has no type, and no script or layer declares "
            "one; did you mean 'ROLE'?"
        )
    ]


def test_circles_are_shown(templates: Templates) -> None:
    """A circle of includes is a sentence with the circle in it, not an endless walk."""
    templates.write("a", "include: [b]\n").write("b", "include: [c]\n").write("c", "include: [a]\n")
    assert templates.problems("a") == [
        "c/template.yaml:3: include[0]: templates include each other in a circle: a → b → c → a"
    ]
    assert "x → x" in templates.write("x", "include: [x]\n").problems("x")[0]


def test_problems_of_a_layer_are_said_where_they_are(templates: Templates) -> None:
    """Checking a template finds what is wrong in its layers, in their files."""
    templates.write("base", "boot: [scripts/gone.sh]\n").write("top", "include: [base]\n")
    assert templates.problems("top")[0].startswith(
        "base/template.yaml:3: boot[0]: there is no file"
    )


def test_operational_and_health_come_from_all_layers(templates: Templates) -> None:
    """Named scripts and checks add up; a name said again replaces the layer's."""
    templates.write(
        "base",
        "operational: {report: scripts/a.sh, rotate: scripts/a.sh}\nhealth: [{tcp: 22}]\n",
        a=script(body="a"),
    )
    templates.write(
        "app",
        "include: [base]\noperational: {rotate: scripts/b.sh}\n"
        "health: [{tcp: 22}, {script: scripts/b.sh}, {http: /, port: 80}]\n",
        b=script(body="b"),
    )
    found = templates.resolve("app")
    assert {label: each.path for label, each in found.operational.items()} == {
        "report": "base/scripts/a.sh",
        "rotate": "app/scripts/b.sh",
    }
    assert [type(check).__name__ for check in found.health] == [
        "TcpCheck",
        "HealthScript",
        "HttpCheck",
    ]
    assert isinstance(found.health[1], HealthScript)
    assert found.health[1].script.key == "health-20-b"
    assert len({each.key for each in found.scripts()}) == len(found.scripts())


# --- Properties -----------------------------------------------------------------------------------

_NAMES = ["a", "b", "c", "d", "e"]


def source(name: str, include: list[str], value: int | None, disk: int | None) -> Source:
    inputs = {} if value is None else {"X": InputDeclaration(type="int", default=value)}
    return Source(
        document=TemplateDocument(
            schema="slipway/1",
            name=name,
            include=tuple(include),
            inputs=inputs,
            settings=Settings(root_disk_gib=disk),
        )
    )


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Source]:
    """Templates that include earlier ones only, so without circles."""
    found: dict[str, Source] = {}
    for position, name in enumerate(_NAMES):
        include = (
            draw(st.lists(st.sampled_from(_NAMES[:position]), unique=True)) if position else []
        )
        value = draw(st.none() | st.integers(1, 2))
        disk = draw(st.none() | st.integers(1, 2))
        found[name] = source(name, include, value, disk)
    return found


def closure(name: str, graph: dict[str, Source]) -> set[str]:
    return {name}.union(*(closure(each, graph) for each in graph[name].document.include))


@given(graphs())
def test_a_resolved_value_is_one_nobody_overrules(graph: dict[str, Source]) -> None:
    """Without a reported clash, a setting is what the templates say that no other template which
    includes them says otherwise; with one, the setting is still some template's word."""
    for name in graph:
        resolved, problems = assemble(name, graph)
        said = {
            each: graph[each].document.settings.root_disk_gib
            for each in closure(name, graph)
            if graph[each].document.settings.root_disk_gib is not None
        }
        standing = {
            value
            for each, value in said.items()
            if not any(each != other and each in closure(other, graph) for other in said)
        }
        clash = any("settings.root_disk_gib" in problem.what for problem in problems)
        found = resolved.settings.root_disk_gib
        if not said:
            assert found is None
        elif len(standing) == 1 and not clash:
            assert {found} == standing
        else:
            assert found in set(said.values())
            assert clash or len(standing) > 1


@given(graphs())
def test_the_order_of_layers_respects_every_include(graph: dict[str, Source]) -> None:
    """Each layer is there once, after everything it includes."""
    resolved, _ = assemble("e", graph)
    order = [layer.name for layer in resolved.layers] + ["e"]
    assert len(order) == len(set(order))
    assert set(order) == closure("e", graph)
    for position, name in enumerate(order):
        assert set(graph[name].document.include) <= set(order[:position])


@given(graphs())
def test_including_again_what_is_included_changes_nothing(graph: dict[str, Source]) -> None:
    """Naming a layer that another layer brings in already does not change any value."""
    before, _ = assemble("e", graph)
    document = graph["e"].document
    more = tuple(dict.fromkeys([*sorted(closure("e", graph) - {"e"}), *document.include]))
    changed = graph["e"].model_copy(
        update={"document": document.model_copy(update={"include": more})}
    )
    after, _ = assemble("e", {**graph, "e": changed})
    if not assemble("e", graph)[1]:
        assert after.settings == before.settings
        assert {n: d.default for n, d in after.inputs.items()} == {
            n: d.default for n, d in before.inputs.items()
        }
