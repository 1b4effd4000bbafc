"""The published JSON Schemas: what an editor checks while somebody writes.

``python -m slipway.launches.schemas docs/schema`` writes them; a test holds them current.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from slipway.launches.cloud_file import CloudsFile
from slipway.launches.mirror_file import MirrorsFile
from slipway.servertemplates.document import ImageMap, ScriptHeader, TemplateDocument

#: File name → (what it describes, its model).
SCHEMAS: dict[str, tuple[str, type[BaseModel]]] = {
    "server-template.schema.json": ("ServerTemplate", TemplateDocument),
    "image-map.schema.json": ("Image map", ImageMap),
    "script-header.schema.json": ("Script header", ScriptHeader),
    "clouds.schema.json": ("Clouds file", CloudsFile),
    "mirrors.schema.json": ("Mirrors file", MirrorsFile),
}


def json_schema(file: str) -> dict[str, Any]:
    """One published schema, by file name (JSON Schema 2020-12)."""
    title, model = SCHEMAS[file]
    schema = model.model_json_schema()
    _drop_titles(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **{key: value for key, value in schema.items() if key != "title"},
    }


def published() -> dict[str, str]:
    """Every schema as the text of its file."""
    return {
        file: json.dumps(json_schema(file), indent=2, ensure_ascii=False) + "\n" for file in SCHEMAS
    }


def write_schemas(directory: Path) -> list[Path]:
    """Write every schema into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in published().items():
        (directory / file).write_text(text, encoding="utf-8")
    return [directory / file for file in SCHEMAS]


def _drop_titles(schema: Any) -> None:
    """Titles made from field names say nothing that the names do not."""
    if isinstance(schema, dict):
        for key in ("properties", "$defs"):
            for described in schema.get(key, {}).values():
                described.pop("title", None)
        for value in schema.values():
            _drop_titles(value)
    elif isinstance(schema, list):
        for item in schema:
            if isinstance(item, dict):
                item.pop("title", None)
            _drop_titles(item)


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
