"""A directory of templates that a test writes as it needs it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from slipway.database import Database
from slipway.errors import InvalidInput, NotFound
from slipway.servertemplates import Library, ResolvedTemplate, TemplateStore
from slipway.servertemplates.resolve import inspect, resolve

TODAY = date(2026, 6, 30)

IMAGE_MAP = """\
schema: slipway-image-map/1
name: debian-12
entries:
  local:
    "*":
      x86_64: {image: local-debian-12, instance_type: small, user: admin}
"""


class FixedClock:
    """Noon of `TODAY`, for ever."""

    def now(self) -> datetime:
        return datetime(TODAY.year, TODAY.month, TODAY.day, 12, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing here waits {seconds} s")


class Templates:
    """Writes templates and reads what becomes of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, text: str = "", **scripts: str | bytes) -> Templates:
        """A template of this name: ``text`` goes on after schema and name; each script is
        ``scripts/<keyword>.sh``."""
        head = "" if text.startswith("schema:") else f"schema: slipway/1\nname: {name}\n"
        self.file(f"{name}/template.yaml", head + text)
        for stem, content in scripts.items():
            self.file(f"{name}/scripts/{stem}.sh", content)
        return self

    def file(self, path: str, content: str | bytes) -> Path:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def image(self, text: str = IMAGE_MAP, name: str = "debian-12") -> Templates:
        self.file(f"images/{name}.yaml", text)
        return self

    def library(self) -> Library:
        return Library(self.directory, today=TODAY)

    def resolve(self, name: str) -> ResolvedTemplate:
        return resolve(name, self.library(), _no_versions)

    def problems(self, name: str) -> list[str]:
        return [str(problem) for problem in inspect(name, self.library(), _no_versions)[1]]


def _no_versions(ref: str) -> ResolvedTemplate:
    raise NotFound(f"no version {ref}")


def script(*lines: str, body: str = "true") -> str:
    """A bash script with these lines in its header."""
    header = "".join(f"# {line}\n" for line in lines)
    return f"#!/bin/bash\n# ---\n{header}# ...\n{body}\n" if lines else f"#!/bin/bash\n{body}\n"


def refusal(error: pytest.ExceptionInfo[InvalidInput]) -> list[str]:
    return [str(problem) for problem in error.value.problems]


@pytest.fixture
def templates(tmp_path: Path) -> Templates:
    return Templates(tmp_path / "templates")


@pytest.fixture
def store(templates: Templates, database: Database) -> TemplateStore:
    return TemplateStore(database, templates.directory, FixedClock())


@pytest.fixture
def any_store(templates: Templates, any_database: Database) -> TemplateStore:
    return TemplateStore(any_database, templates.directory, FixedClock())
