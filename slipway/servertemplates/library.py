"""The directory of working copies: one template a directory, image maps in ``images/``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict

from slipway.errors import Problem
from slipway.servertemplates import yaml_source
from slipway.servertemplates.canonical import blob_hash
from slipway.servertemplates.document import (
    DEFAULT_SCRIPT_TIMEOUT_S,
    STAND_IN,
    ImageMap,
    TemplateDocument,
    check_model,
)
from slipway.servertemplates.inputs import (
    InputDeclaration,
    declaration_problems,
    name_problem,
)
from slipway.servertemplates.scripts import ScriptKind, read_script
from slipway.servertemplates.yaml_source import Located
from slipway.spelling import nearest

TEMPLATE_FILE = "template.yaml"
IMAGES_DIR = "images"

#: A script larger than this is a package and belongs in a mirror.
_LARGEST_SCRIPT_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]")


class SourceScript(BaseModel):
    """A script of one template: its header, and its bytes by hash."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    kind: ScriptKind
    #: The header's; empty for one that is called by its file's name.
    name: str = ""
    description: str = ""
    timeout_s: int
    retry_safe: bool = False
    interpreter: str | None = None
    packages: tuple[str, ...] = ()
    inputs: dict[str, InputDeclaration] = {}


class Source(BaseModel):
    """One template as written, without what it includes: enough to write its directory again.

    Includes are names alone; which version each was is in the resolved template's layers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    document: TemplateDocument
    scripts: dict[str, SourceScript] = {}
    image: ImageMap | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A template read from its directory, with what is wrong with it."""

    name: str
    source: Source
    #: Includes as written, with their pins, and the position of each.
    includes: tuple[tuple[int, str], ...] = ()
    blobs: dict[str, bytes] = field(default_factory=dict)
    located: Located
    headers: dict[str, Located] = field(default_factory=dict)
    #: Inputs with a problem already reported; nothing more is said about them.
    broken_inputs: frozenset[str] = frozenset()
    #: A script could not be read: what it declares is not known.
    incomplete: bool = False
    problems: tuple[Problem, ...] = ()


class Library:
    """Reads working copies. ``today`` is the last date repositories can be frozen at."""

    def __init__(self, directory: Path, *, today: date) -> None:
        self.directory = directory
        self.today = today

    def names(self) -> list[str]:
        """Every template with a ``template.yaml``, sorted."""
        if not self.directory.is_dir():
            return []
        return sorted(
            found.parent.name
            for found in self.directory.glob(f"*/{TEMPLATE_FILE}")
            if found.parent.name != IMAGES_DIR
        )

    def has(self, name: str) -> bool:
        """Whether there is a working copy of this name."""
        # A name may come from far away: it must not lead out of the directory.
        return (
            _NAME.fullmatch(name) is not None and (self.directory / name / TEMPLATE_FILE).is_file()
        )

    def image_names(self) -> list[str]:
        """Every image map, sorted."""
        return sorted(found.stem for found in (self.directory / IMAGES_DIR).glob("*.yaml"))

    def read(self, name: str) -> Draft:
        """One template's directory, checked by itself: what it includes is not looked at."""
        home = self.directory / name
        shown = f"{name}/{TEMPLATE_FILE}"
        located, problems = _read_yaml(home / TEMPLATE_FILE, shown)
        stand_ins = {"schema": "slipway/1", "name": name}
        document: TemplateDocument | None = None
        dropped: set[yaml_source.Path] = set()
        if located.data is not None or not problems:
            document, found, dropped = check_model(located, TemplateDocument, defaults=stand_ins)
            problems += found
        if document is None:
            document = TemplateDocument.model_validate(stand_ins)
            source = Source(document=document)
            return Draft(
                name=name,
                source=source,
                located=located,
                problems=tuple(problems),
                incomplete=True,
            )
        if document.name != name and ("name",) not in dropped:
            what = f"{document.name!r} is not the name of the directory, {name!r}; make them equal"
            problems.append(Problem(where=located.where(("name",)), what=what))
            document = document.model_copy(update={"name": name})
        if document.freeze and document.freeze > self.today.isoformat() and "-" in document.freeze:
            what = f"{document.freeze} is in the future; the newest possible date is {self.today}"
            problems.append(Problem(where=located.where(("freeze",)), what=what))
        broken = {str(path[1]) for path in dropped if len(path) > 1 and path[0] == "inputs"}
        broken |= self._check_inputs(document, located, broken, problems)
        self._check_tags(document, located, problems)
        scripts, blobs, headers, script_broken, whole = self._read_scripts(
            home, name, document, located, problems
        )
        image = self._read_image(document, located, problems)
        return Draft(
            name=name,
            source=Source(
                document=_without_pins(_without_stand_ins(document)), scripts=scripts, image=image
            ),
            includes=tuple(
                (index, ref) for index, ref in enumerate(document.include) if ref != STAND_IN
            ),
            blobs=blobs,
            located=located,
            headers=headers,
            broken_inputs=frozenset(broken | script_broken),
            incomplete=not whole,
            problems=tuple(problems),
        )

    def read_image_map(self, name: str) -> tuple[ImageMap | None, list[Problem]]:
        """One image map. A missing one is for the caller to report: it knows who asked."""
        shown = f"{IMAGES_DIR}/{name}.yaml"
        located, problems = _read_yaml(self.directory / shown, shown)
        if located.data is None and problems:
            return None, problems
        defaults = {"schema": "slipway-image-map/1", "name": name, "entries": {}}
        found, more, dropped = check_model(located, ImageMap, defaults=defaults)
        problems += more
        if found and found.name != name and ("name",) not in dropped:
            what = f"{found.name!r} is not the name of the file, {name!r}; make them equal"
            problems.append(Problem(where=located.where(("name",)), what=what))
            found = found.model_copy(update={"name": name})
        empty = found and not any(a for regions in found.entries.values() for a in regions.values())
        if empty and not problems:
            what = "there is no image in this map; write entries: {CLOUD: {REGION: {ARCH: …}}}"
            problems.append(Problem(where=located.where(("entries",)), what=what))
        return found, problems

    def _check_inputs(
        self,
        document: TemplateDocument,
        located: Located,
        broken: set[str],
        problems: list[Problem],
    ) -> set[str]:
        wrong: set[str] = set()
        folded: dict[str, str] = {}
        for name, declared in document.inputs.items():
            problem = name_problem(name)
            other = folded.setdefault(name.lower(), name)
            if not problem and other != name:
                problem = f"{name!r} and {other!r} are one name to Windows; rename one"
            if problem:
                problems.append(Problem(where=located.where(("inputs", name)), what=problem))
                wrong.add(name)
            if name in broken:
                continue
            for part, sentence in declaration_problems(declared, complete=False):
                wrong.add(name)
                where = located.where(("inputs", name, part))
                problems.append(Problem(where=where, what=sentence))
        return wrong

    def _check_tags(
        self, document: TemplateDocument, located: Located, problems: list[Problem]
    ) -> None:
        for key in document.settings.tags:
            if key.startswith("slipway:"):
                what = f"{key!r}: tags that begin with 'slipway:' say what is ours; choose another"
                problems.append(Problem(where=located.where(("settings", "tags", key)), what=what))

    def _read_scripts(
        self,
        home: Path,
        name: str,
        document: TemplateDocument,
        located: Located,
        problems: list[Problem],
    ) -> tuple[dict[str, SourceScript], dict[str, bytes], dict[str, Located], set[str], bool]:
        scripts: dict[str, SourceScript] = {}
        blobs: dict[str, bytes] = {}
        headers: dict[str, Located] = {}
        broken: set[str] = set()
        whole = True
        listed: set[tuple[Any, str]] = set()
        tried: set[str] = set()
        for place, path in document.scripts():
            if path == STAND_IN:
                whole = False
                continue
            if place[0] in ("boot", "decommission"):
                if (place[0], path) in listed:
                    what = f"{path} is in this list already; a script runs once"
                    problems.append(Problem(where=located.where(place), what=what))
                listed.add((place[0], path))
            if path in tried:
                continue
            tried.add(path)
            content, problem = _read_inside(home, path)
            if content is None:
                problems.append(Problem(where=located.where(place), what=problem))
                whole = False
                continue
            script, found = read_script(content, f"{name}/{path}")
            problems += found
            if script is None:
                whole = False
                continue
            broken |= script.broken_inputs
            sha256 = blob_hash(content)
            blobs[sha256] = content
            headers[path] = script.located
            header = script.header
            scripts[path] = SourceScript(
                sha256=sha256,
                kind=script.kind,
                name=header.name or "",
                description=header.description,
                timeout_s=header.timeout or DEFAULT_SCRIPT_TIMEOUT_S,
                retry_safe=header.retry_safe,
                interpreter=header.interpreter,
                packages=header.packages,
                inputs=header.inputs,
            )
        return scripts, blobs, headers, broken, whole

    def _read_image(
        self, document: TemplateDocument, located: Located, problems: list[Problem]
    ) -> ImageMap | None:
        if document.image is None:
            return None
        known = self.image_names()
        if document.image not in known:
            what = f"there is no image map {document.image!r} in {IMAGES_DIR}/"
            what += nearest(document.image, known) or (
                f" (there are {', '.join(known)})" if known else ""
            )
            problems.append(Problem(where=located.where(("image",)), what=what))
            return None
        image, found = self.read_image_map(document.image)
        problems += found
        return image


def _read_yaml(path: Path, shown: str) -> tuple[Located, list[Problem]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        what = f"this file cannot be read: {error.strerror or error}"
        return Located(source=shown, data=None), [Problem(where=shown, what=what)]
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        what = f"byte {error.start} is not UTF-8; save the file as UTF-8"
        return Located(source=shown, data=None), [Problem(where=f"{shown}:{line}", what=what)]
    return yaml_source.load(text, shown)


def _read_inside(home: Path, path: str) -> tuple[bytes | None, str]:
    """A file below a template's directory, or why not."""
    pure = PurePosixPath(path)
    if "\\" in path or pure.is_absolute() or ".." in pure.parts:
        return None, f"{path!r} does not stay in the template's directory; write scripts/NAME.sh"
    target = home / pure
    if target.exists() and not target.resolve().is_relative_to(home.resolve()):
        return None, f"{path!r} is a link out of the template's directory; copy the file"
    if not target.is_file():
        present = [
            found.relative_to(home).as_posix()
            for found in home.rglob("*")
            if found.is_file() and found.name != TEMPLATE_FILE
        ]
        return None, f"there is no file {path!r} in {home.name}/{nearest(path, present)}"
    if target.stat().st_size > _LARGEST_SCRIPT_BYTES:
        return None, f"{path!r} is larger than {_LARGEST_SCRIPT_BYTES} bytes; put it in a package"
    try:
        return target.read_bytes(), ""
    except OSError as error:
        return None, f"{path!r} cannot be read: {os.strerror(error.errno or 0)}"


def _without_pins(document: TemplateDocument) -> TemplateDocument:
    names = tuple(dict.fromkeys(ref.partition("@")[0] for ref in document.include))
    return document.model_copy(update={"include": names})


def _without_stand_ins(document: TemplateDocument) -> TemplateDocument:
    return document.model_copy(
        update={
            "include": tuple(ref for ref in document.include if ref != STAND_IN),
            "boot": tuple(path for path in document.boot if path != STAND_IN),
            "decommission": tuple(path for path in document.decommission if path != STAND_IN),
        }
    )
