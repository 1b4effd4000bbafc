"""Writes docs/schema/openapi.json from the API itself: ``python -m tests.api.document``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from slipway.api.app import create_app
from slipway.launches.services import build_services
from slipway.settings import Settings
from tests.api.world import FakeStarter
from tests.docs.examples import ROOT

FILE = ROOT / "docs" / "schema" / "openapi.json"


def document() -> dict[str, Any]:
    """The document as the API gives it today."""
    with tempfile.TemporaryDirectory() as directory:
        services = build_services(Settings(state_dir=Path(directory)))
        found: dict[str, Any] = create_app(services, FakeStarter()).openapi()
        services.database.close()
    # As it goes over the wire.
    return dict(json.loads(json.dumps(found)))


def text() -> str:
    """What the file holds."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
