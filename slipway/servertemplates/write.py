"""Working copies written from what was resolved: the way back from a version to a directory."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from slipway.errors import Conflict
from slipway.servertemplates.library import IMAGES_DIR, TEMPLATE_FILE, Source
from slipway.servertemplates.yaml_source import load

#: What stays unquoted: text every YAML reader agrees on.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*(?: [A-Za-z0-9_./@(-][A-Za-z0-9_./@,;()-]*)*\Z")
_WORDS = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "none"}


class _Dumper(yaml.SafeDumper):
    """Readable YAML that `yaml_source.load` reads back as it was."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  PyYAML's hook
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002  PyYAML's hook
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style: str | None = '"'
    if "\n" in value:
        style = "|"
    elif _PLAIN.match(value) and (value.lower() not in _WORDS or value == "none"):
        style = None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(data: Any) -> str:
    """Plain data as YAML text that `yaml_source.load` reads back as the same data."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, line_break="\n"
    )


def document_yaml(document: BaseModel) -> str:
    """A written document (template, image map) as YAML, without what is default."""
    return to_yaml(document.model_dump(mode="json", by_alias=True, exclude_defaults=True))


def working_copy_files(
    sources: Iterable[Source], blobs: Mapping[str, bytes]
) -> dict[str, tuple[bytes, int]]:
    """Path below the templates directory → (content, mode) of everything these sources are."""
    files: dict[str, tuple[bytes, int]] = {}
    for source in sources:
        name = source.document.name
        files[f"{name}/{TEMPLATE_FILE}"] = (document_yaml(source.document).encode(), 0o644)
        for path, script in source.scripts.items():
            files[f"{name}/{path}"] = (blobs[script.sha256], 0o755)
        if source.image is not None:
            content = document_yaml(source.image).encode()
            files[f"{IMAGES_DIR}/{source.image.name}.yaml"] = (content, 0o644)
    return files


def write_working_copy(
    sources: Iterable[Source],
    blobs: Mapping[str, bytes],
    directory: Path,
    *,
    force: bool = False,
    keep: Iterable[str] = (),
) -> list[Path]:
    """Write sources as working copies into a directory of templates; returns the files.

    A file that is there with other content is a `Conflict` and nothing is written, unless
    ``force``. Paths in ``keep`` are left as they are when they exist.
    """
    files = {
        path: found
        for path, found in working_copy_files(sources, blobs).items()
        if not (path in set(keep) and (directory / path).exists())
    }
    if not force:
        taken = [
            path
            for path, (content, _) in files.items()
            if (directory / path).exists() and not _same(directory / path, path, content)
        ]
        if taken:
            shown = ", ".join(taken[:5]) + (" and more" if len(taken) > 5 else "")
            raise Conflict(
                f"{directory} has other content already ({shown}); nothing was written. "
                "Choose an empty directory, or say that it may be replaced"
            )
    for path, (content, mode) in files.items():
        _write(directory / path, content, mode)
    return [directory / path for path in files]


def _same(file: Path, path: str, content: bytes) -> bool:
    if not file.is_file():
        return False
    present = file.read_bytes()
    if present == content:
        return True
    if path.endswith(".yaml"):
        # Comments and order are not content.
        try:
            return bool(
                load(present.decode(), path)[0].data == load(content.decode(), path)[0].data
            )
        except UnicodeDecodeError:
            return False
    return False


def _write(file: Path, content: bytes, mode: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
