"""The published JSON Schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from slipway.launches.schemas import SCHEMAS, json_schema, published, write_schemas
from slipway.servertemplates.yaml_source import load
from tests.servertemplates.conftest import IMAGE_MAP
from tests.servertemplates.test_document import WRONG

DOCS = Path(__file__).parents[2] / "docs/schema"

RIGHT = """\
schema: slipway/1
name: web
include: [base, other@v3]
image: debian-12
settings: {instance_type: small, root_disk_gib: 8, tags: {a: b}}
freeze: 2026-01-01
inputs:
  A: {type: env, from: db.private_ip}
  B: {type: list, of: [a, 1], default: [a]}
  C: {default: true, override: true}
ready: {linux: [ssh, cloud-init]}
clock: {max_offset_ms: 500, servers: [ntp-1]}
health: [{http: /, port: 80}, {tcp: 22}, {script: a.sh}]
boot: [a.sh]
operational: {rotate: a.sh}
"""


@pytest.mark.parametrize("file", sorted(SCHEMAS))
def test_the_published_schemas_are_current(file: str) -> None:
    """docs/schema holds what the models say; `python -m slipway.launches.schemas
    docs/schema` writes it."""
    assert (DOCS / file).read_text() == published()[file]
    jsonschema.Draft202012Validator.check_schema(json_schema(file))


def test_nothing_else_is_published() -> None:
    """Each schema in docs/schema has a model."""
    assert {file.name for file in DOCS.iterdir()} >= set(SCHEMAS)


def test_the_schemas_can_be_written(tmp_path: Path) -> None:
    """Writing them gives exactly the published files."""
    assert sorted(file.name for file in write_schemas(tmp_path / "new")) == sorted(SCHEMAS)


def errors(file: str, text: str) -> list[str]:
    data: Any = load(text, "f")[0].data
    validator = jsonschema.Draft202012Validator(json_schema(file))
    return [error.json_path for error in validator.iter_errors(json.loads(json.dumps(data)))]


def test_what_is_valid_is_valid_in_an_editor() -> None:
    """The schema accepts what we accept."""
    assert errors("server-template.schema.json", RIGHT) == []
    assert errors("image-map.schema.json", IMAGE_MAP) == []
    header = "name: x\ninputs: [A]\ntimeout: 10m\nretry_safe: true\npackages: [a]\n"
    assert errors("script-header.schema.json", header) == []


def test_what_is_wrong_in_form_is_wrong_in_an_editor() -> None:
    """The schema finds what can be told from one file's form."""
    found = errors("server-template.schema.json", WRONG)
    assert {"$", "$.schema", "$.inputs.DB_HOST.type", "$.settings", "$.health[0]"} <= set(found)
    assert "$.boot[1]" in found
    assert errors("script-header.schema.json", "timeout: soon\n") == ["$.timeout"]


def test_the_examples_of_the_documentation_are_valid() -> None:
    """Each whole document shown in docs/templates.md has the form it teaches."""
    page = (DOCS.parent / "templates.md").read_text()
    blocks = re.findall(r"^```yaml\n(schema: .*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    files = {"schema: slipway/1": "server-template", "schema: slipway-image-map/1": "image-map"}
    assert len(blocks) == 2
    for block in blocks:
        assert errors(f"{files[block.splitlines()[0]]}.schema.json", block) == []
