"""The OpenAPI document: published, complete, and true of its own examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from slipway.api.openapi import METHODS, operations
from slipway.api.problems import MEDIA_TYPE, TITLES
from tests.api.document import FILE, document, text
from tests.docs.examples import ROOT


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The document as the API gives it today."""
    return document()


def test_the_published_document_is_current() -> None:
    """docs/schema/openapi.json is what the API says of itself."""
    # Refresh it with `.venv/bin/python -m tests.api.document`.
    assert FILE.read_text() == text()


def test_every_operation_is_described(found: dict[str, Any]) -> None:
    """Every operation has an id, a tag that is explained, words, and, but for the open ones, the
    security it needs and what it says without."""
    ids = [operation["operationId"] for operation in operations(found)]
    assert len(ids) == len(set(ids)) > 40
    tags = {tag["name"] for tag in found["tags"]}
    for operation in operations(found):
        name = operation["operationId"]
        assert operation.get("description"), name
        if "agent" in operation["tags"]:
            continue
        assert set(operation["tags"]) <= tags, name
        assert any(code.startswith("2") for code in operation["responses"]), name
        if name in ("getHealth", "getReadiness"):
            assert "security" not in operation
            continue
        assert operation["security"] == [{"bearer": []}], name
        assert {"401", "403"} <= operation["responses"].keys(), name
        for code, answer in operation["responses"].items():
            if code >= "400":
                assert list(answer["content"]) == [MEDIA_TYPE], (name, code)


def test_what_changes_something_takes_a_key(found: dict[str, Any]) -> None:
    """Every POST, PUT, PATCH and DELETE takes an Idempotency-Key."""
    for path, item in found["paths"].items():
        for method in set(METHODS) & item.keys() - {"get"}:
            if path.startswith("/v1"):
                names = [each["name"] for each in item[method]["parameters"]]
                assert "Idempotency-Key" in names, (method, path)


def _contents(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for operation in operations(found):
        name = operation["operationId"]
        for code, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                yield f"{name} {code}", media
        for media in operation.get("requestBody", {}).get("content", {}).values():
            yield f"{name} body", media


def test_every_example_is_one(found: dict[str, Any]) -> None:
    """Every body and answer has an example, and it is valid by its own schema."""
    count = 0
    for where, media in _contents(found):
        if "schema" not in media:
            # A file, such as the agent's program.
            continue
        assert "example" in media or media["schema"].get("examples"), where
        schema = {**media["schema"], "components": found["components"]}
        if "example" in media:
            jsonschema.Draft202012Validator(schema).validate(media["example"])
            count += 1
    assert count > 200


def test_every_problem_has_a_title() -> None:
    """The kinds of problems on the page are kinds there are."""
    page = (ROOT / "docs" / "api.md").read_text()
    rows = [line.split("|")[2] for line in page.splitlines() if line[:3] in ("| 4", "| 5")]
    named = {name.strip("` ") for row in rows for name in row.split(",")}
    assert len(named) > 12
    assert named <= TITLES.keys()
