"""Whatever is in a file, the answer is a template or sentences, never a crash."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.errors import SlipwayError
from slipway.servertemplates.rightscale import import_rightscale
from tests.servertemplates.conftest import IMAGE_MAP, Templates, script
from tests.servertemplates.test_document import WRONG
from tests.servertemplates.test_schema import RIGHT

RIGHTSCALE = Path(__file__).parent / "rightscale"
HEADER = script("name: x", "inputs:", "  A: {type: env, from: a.name}", "timeout: 10m")
BITS = [
    "[",
    "]",
    "{",
    "}",
    ":",
    "-",
    "",
    "null",
    "true",
    "1.5",
    "0644",
    "'",
    '"',
    "\n",
    "\t",
    "&a",
    "*a",
    "!!x",
    "inputs",
    "boot",
    "~",
    "type",
    "of",
    "default",
    "[1]",
    "{a:",
    "b}",
    "é",
    "#",
    "|",
    ">",
    "---",
    "...",
    "\x07",
    "\r\n",
]


def spoiled(text: str, seed: int) -> str:
    """A text with a few places changed the way typing and merging change them."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(text))
        what = chance.choice(["insert", "delete", "line", "value"])
        if what == "insert":
            text = text[:at] + chance.choice(BITS) + text[at:]
        elif what == "delete":
            text = text[:at] + text[at + chance.randint(1, 12) :]
        elif what == "line":
            lines = text.split("\n")
            lines[chance.randrange(len(lines))] = chance.choice(lines)
            text = "\n".join(lines)
        else:
            parts = text.split(": ")
            position = chance.randrange(len(parts))
            parts[position] = chance.choice(BITS) + parts[position]
            text = ": ".join(parts)
        text = text or "x"
    return text


_OFTEN = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)


@_OFTEN
@given(seed=st.integers(0, 2**32), whole=st.booleans())
def test_a_spoiled_template_is_a_list_of_sentences(
    templates: Templates, seed: int, whole: bool
) -> None:
    """A template, script or image map with arbitrary damage resolves or says what is wrong."""
    templates.write("base").write("other", "inputs:\n  A: {type: int}\n")
    good = RIGHT.replace("other@v3", "other").replace("a.sh", "scripts/a.sh")
    templates.file("web/template.yaml", spoiled(good if whole else WRONG, seed))
    templates.file("web/scripts/a.sh", spoiled(HEADER, seed + 1))
    templates.image(spoiled(IMAGE_MAP, seed + 2) if seed % 3 == 0 else IMAGE_MAP)
    with warnings.catch_warnings():
        # Python warns about some patterns that are valid now.
        warnings.simplefilter("ignore", FutureWarning)
        problems = templates.problems("web")
    assert all("\n" not in problem for problem in problems)


@_OFTEN
@given(seed=st.integers(0, 2**32))
def test_a_spoiled_servertemplate_imports_or_is_refused(templates: Templates, seed: int) -> None:
    """An import of damaged files is a valid template with a report, or a refusal."""
    shutil.rmtree(templates.directory, ignore_errors=True)
    source = templates.directory.parent / "in"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(RIGHTSCALE, source)
    server = source / "app_server.yml"
    server.write_text(spoiled(server.read_text(), seed))
    install = source / "scripts/install.sh"
    install.write_text(spoiled(install.read_text(), seed + 1))
    try:
        report = import_rightscale(server, templates.directory, name="web")
    except SlipwayError:
        assert not (templates.directory / "web").exists()
    else:
        assert report.not_carried
        assert templates.problems("web") == []
