"""Differences between templates."""

from __future__ import annotations

from slipway.servertemplates import diff_templates
from tests.servertemplates.conftest import Templates, script

TEXT = """\
image: debian-12
settings: {instance_type: small}
inputs:
  PORT: {type: int, default: 80}
boot: [scripts/a.sh, scripts/b.sh]
"""


def test_a_template_does_not_differ_from_itself(templates: Templates) -> None:
    """No difference is an empty difference."""
    templates.image().write("web", TEXT, a=script(body="a"), b=script(body="b"))
    found = diff_templates(templates.resolve("web"), templates.resolve("web"))
    assert found.is_empty
    assert (found.fields, found.scripts) == ((), ())


def test_differences_by_section_and_script(templates: Templates) -> None:
    """Fields are named by their path with both values, scripts shown as a unified diff."""
    templates.image().write("web", TEXT, a=script(body="a\nsame"), b=script(body="b"))
    before = templates.resolve("web")
    templates.write(
        "web",
        TEXT.replace("small", "large")
        .replace("default: 80", "default: 81, max: 99")
        .replace("scripts/b.sh", "scripts/c.sh"),
        a=script(body="changed\nsame"),
        c=script(body="c"),
    )
    found = diff_templates(before, templates.resolve("web"), before="web@r1", after="web@head")
    assert [(c.path, c.before, c.after) for c in found.fields] == [
        ("settings.instance_type", "small", "large"),
        ("inputs.PORT.default", 80, 81),
        ("inputs.PORT.max", None, 99),
        (
            "boot",
            ["web/scripts/a.sh", "web/scripts/b.sh"],
            ["web/scripts/a.sh", "web/scripts/c.sh"],
        ),
    ]
    assert [(c.path, c.change) for c in found.scripts] == [
        ("web/scripts/a.sh", "changed"),
        ("web/scripts/b.sh", "removed"),
        ("web/scripts/c.sh", "added"),
    ]
    assert found.scripts[0].diff.splitlines() == [
        "--- a/web/scripts/a.sh",
        "+++ b/web/scripts/a.sh",
        "@@ -1,4 +1,4 @@",
        " #!/bin/bash",
        "-a",
        "+changed",
        " same",
        " ",
    ]
    assert found.as_data()["after"] == {"ref": "web@head", "hash": found.after_hash}


def test_the_order_of_scripts_is_a_difference(templates: Templates) -> None:
    """Moved scripts show in the list, without a text diff."""
    templates.image().write("web", TEXT, a=script(body="a"), b=script(body="b"))
    before = templates.resolve("web")
    templates.write("web", TEXT.replace("a.sh, scripts/b.sh", "b.sh, scripts/a.sh"))
    found = diff_templates(before, templates.resolve("web"))
    assert [change.path for change in found.fields] == ["boot"]
    assert found.scripts == ()
