"""The OpenAPI document: what FastAPI derives, with examples, errors and words added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from slipway.api.problems import ProblemDetails

DESCRIPTION = """\
Builds and launches servers, with every step on record.

Lists carry full detail. A creation answers with the resource and its id at once; its state is a
field of it, and there are no tasks to ask for. Whatever changes something takes an
`Idempotency-Key`. Terminated launches stay listed. Pages follow an opaque marker; instead of
asking again and again, follow `/v1/events`. Errors are problem details (RFC 9457).
"""

TAGS = {
    "launches": "Bringing servers up, and taking them down.",
    "servers": "The declared servers, each with its launch.",
    "environments": "Named sets of servers, with inputs and a freeze date they share.",
    "templates": "Recipes, their versions and tags, and image maps.",
    "events": "What has happened, as pages and as streams.",
    "audit": "Who did what, and the proof that nobody edited it.",
    "mirrors": "Package repositories that are kept by day; their files are at /snapshots.",
    "clouds": "Where servers can be launched.",
    "credentials": "Secrets: stored encrypted, never shown.",
    "tokens": "Who may call this API.",
    "health": "For whoever watches over this process.",
}

#: For a field that has no example of its own.
_ANYTHING = {"string": "…", "integer": 1, "number": 1.0, "boolean": True}

METHODS = ("get", "put", "post", "patch", "delete")


def install(app: FastAPI) -> None:
    """Let the application answer /openapi.json with this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = make(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to replace it


def make(app: FastAPI) -> dict[str, Any]:
    """The document of an application."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/"}],
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["ProblemDetails"] = problem
    for operation in operations(found):
        _add_examples(operation, schemas)
    return found


def operations(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every operation of a document."""
    for item in document["paths"].values():
        for method in METHODS:
            if method in item:
                yield item[method]


def _add_examples(operation: dict[str, Any], schemas: Mapping[str, Any]) -> None:
    contents = [answer.get("content", {}) for answer in operation["responses"].values()]
    contents.append(operation.get("requestBody", {}).get("content", {}))
    for content in contents:
        for media in content.values():
            if "example" not in media and "examples" not in media and media.get("schema"):
                media["example"] = example_of(media["schema"], schemas)


def example_of(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Any:
    """An example of a schema, put together from those of its parts."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for key in ("example", "const"):
        if key in schema:
            return schema[key]
    if schema.get("examples"):
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return example_of(schema[key][0], schemas)
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas)]
    if schema.get("type") == "object":
        return {
            name: example_of(part, schemas) for name, part in schema.get("properties", {}).items()
        }
    return _ANYTHING.get(schema.get("type", ""))
