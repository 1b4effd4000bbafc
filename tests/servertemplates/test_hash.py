"""Content hashes: equal content has one, other content another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipway.servertemplates.canonical import canonical_json
from tests.servertemplates.conftest import IMAGE_MAP, Templates, script

TEMPLATE = """\
description: Web
image: debian-12
freeze: none
settings: {instance_type: small, root_disk_gib: 20}
inputs:
  ROLE: {type: choice, of: [blue, green], default: blue}
boot: [scripts/a.sh]
"""


def test_the_hash_is_of_the_content_only(tmp_path: Path) -> None:
    """Directory, key order, comments, quoting, line endings of the YAML, file times and modes,
    spelled-out defaults and Unicode forms do not change the hash."""
    one = Templates(tmp_path / "one").image().write("web", TEMPLATE, a=script(body="echo hi"))
    two = Templates(tmp_path / "elsewhere/two").image(
        "# a map\r\n" + IMAGE_MAP.replace("\n", "\r\n")
    )
    two.file(
        "web/template.yaml",
        "# a comment\r\nboot:\r\n  - scripts/a.sh\r\ninputs:\r\n  ROLE:\r\n    default: 'blue'\r\n"
        '    of: ["blue", green]\r\n    type: choice\r\nname: web\r\nfreeze: none\r\n'
        "settings:\r\n  root_disk_gib: 20\r\n  instance_type: small\r\n  tags: {}\r\n"
        "image: debian-12\r\nschema: slipway/1\r\ndescription: Web\r\noperational: {}\r\n",
    )
    file = two.file("web/scripts/a.sh", script(body="echo hi"))
    file.chmod(0o700)
    os.utime(file, (0, 0))
    assert one.resolve("web").hash == two.resolve("web").hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("description: Web", "description: Web server"),
        ("root_disk_gib: 20", "root_disk_gib: 21"),
        ("default: blue", "default: green"),
        ("of: [blue, green]", "of: [green, blue]"),
        ("freeze: none", "freeze: 2026-01-01"),
        ("boot: [scripts/a.sh]", "boot: [scripts/a.sh]\nhealth: [{tcp: 80}]"),
        ("boot: [scripts/a.sh]", "boot: [scripts/a.sh]\ndecommission: [scripts/a.sh]"),
    ],
)
def test_any_changed_meaning_changes_the_hash(templates: Templates, old: str, new: str) -> None:
    """Each part of a template counts."""
    before = templates.image().write("web", TEMPLATE, a=script()).resolve("web").hash
    assert old in TEMPLATE
    assert templates.write("web", TEMPLATE.replace(old, new)).resolve("web").hash != before


def test_a_changed_image_or_layer_changes_the_hash(templates: Templates) -> None:
    """What a template takes from elsewhere is part of it."""
    templates.image().write("base").write("web", "include: [base]\nimage: debian-12\n")
    hashes = [templates.resolve("web").hash]
    templates.image(IMAGE_MAP.replace("local-debian-12", "other"))
    hashes.append(templates.resolve("web").hash)
    templates.write("base", "description: Changed\n")
    hashes.append(templates.resolve("web").hash)
    assert len(set(hashes)) == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(body=st.binary(max_size=40), position=st.integers(0, 39), bit=st.integers(0, 7))
def test_every_bit_of_a_script_counts(
    templates: Templates, body: bytes, position: int, bit: int
) -> None:
    """Flipping any bit of a script's body changes the hash, and no byte of it is changed."""
    body = b"A" + body
    content = b"#!/usr/bin/pwsh\n" + body
    templates.file("web/template.yaml", "schema: slipway/1\nname: web\nboot: [a.ps1]\n")
    templates.file("web/a.ps1", content)
    before = templates.resolve("web")
    assert list(before.blobs.values()) == [content]
    at = len(content) - len(body) + position % len(body)
    flipped = bytearray(content)
    flipped[at] ^= 1 << bit
    templates.file("web/a.ps1", bytes(flipped))
    after = templates.resolve("web")
    assert after.hash != before.hash


def test_the_hash_is_the_same_in_another_process_and_locale(templates: Templates) -> None:
    """Locale, hash seed and working directory of a process do not reach the hash."""
    templates.image().write("web", TEMPLATE + "# Gruß\n", a=script(body="echo Gruß"))
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]);"
        "from tests.servertemplates.conftest import Templates;"
        "print(Templates(pathlib.Path(sys.argv[1])).resolve('web').hash)"
    )
    root = str(Path(__file__).parents[2])
    found = {templates.resolve("web").hash}
    for locale, seed in (("C", "1"), ("tr_TR.UTF-8", "2")):
        environment = {**os.environ, "LC_ALL": locale, "PYTHONHASHSEED": seed, "PYTHONUTF8": "0"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(templates.directory), root],
            env=environment, cwd="/", capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout.strip())
    assert len(found) == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(_JSON)
def test_canonical_json_is_stable(data: object) -> None:
    """Reading canonical JSON and writing it again gives the same text."""
    text = canonical_json(data)
    assert canonical_json(json.loads(text)) == text


def test_fractions_have_no_canonical_form() -> None:
    """A float is refused rather than written in one of its many texts."""
    with pytest.raises(TypeError, match=r"1\.5"):
        canonical_json({"a": 1.5})


def test_the_hash_of_a_known_template(templates: Templates) -> None:
    """The hash of this template never changes: versions in databases depend on it."""
    templates.image().write("web", TEMPLATE, a=script("name: A", "timeout: 1m"))
    assert templates.resolve("web").hash == (
        "fdc550bd2fb58a8ef537716ca7dadf13b3b8f27702bcbe963f568845fe51d31a"
    )
