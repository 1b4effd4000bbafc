"""Several templates merged into one that stands alone, with every disagreement named.

Unlike layers, which stay apart and are merged anew at each resolution, a composition is written
out once and is from then on a template like any other. The later template wins, and whatever it
wins over is a `Clash`. Where nothing clashes, composing is associative, and composing a template
with itself changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any

from slipway.errors import InvalidInput, Problem
from slipway.servertemplates.document import (
    ClockBounds,
    HttpCheck,
    ImageMap,
    Ready,
    ScriptCheck,
    Settings,
    TcpCheck,
    TemplateDocument,
)
from slipway.servertemplates.inputs import DeclaredInput, InputDeclaration
from slipway.servertemplates.library import Source, SourceScript
from slipway.servertemplates.resolved import HealthScript, ResolvedTemplate, Script, assemble
from slipway.servertemplates.write import working_copy_files

_ATTRIBUTES = ("type", "required", "default", "of", "pattern", "min", "max")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}\Z")


@dataclass(frozen=True, kw_only=True)
class Clash:
    """Two templates that say different things in one place."""

    #: ``settings.instance_type``, ``inputs.PORT.default``, ``operational.rotate-logs``.
    path: str
    #: Template and what it says, in order; the last one was taken.
    said: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        sides = ", ".join(f"{template} says {value}" for template, value in self.said)
        return f"{self.path}: {sides}; taken: {self.said[-1][1]}"


@dataclass(frozen=True, kw_only=True)
class Composition:
    """One template made of several, not written yet."""

    source: Source
    blobs: dict[str, bytes]
    clashes: tuple[Clash, ...]
    #: Names and hashes of what it was made of.
    parts: tuple[tuple[str, str], ...]

    @property
    def template(self) -> ResolvedTemplate:
        """The composition, resolved. Raises `InvalidInput` when the parts cannot live together:
        a script's input of one type against a template's of another."""
        name = self.source.document.name
        resolved, problems = assemble(name, {name: self.source})
        if problems:
            raise InvalidInput(problems)
        return resolved.model_copy(update={"blobs": self.blobs})

    @property
    def files(self) -> dict[str, bytes]:
        """Path below the templates directory → content."""
        return {
            path: content
            for path, (content, _) in working_copy_files([self.source], self.blobs).items()
        }


def compose(templates: Sequence[ResolvedTemplate], name: str) -> Composition:
    """Merge templates, later ones winning, into one called ``name``."""
    if not templates:
        raise InvalidInput(Problem(where="compose", what="there is no template to compose"))
    if not _NAME.match(name):
        what = f"{name!r} is not a name; use small letters, digits, '-' and '_', like all-in-one"
        raise InvalidInput(Problem(where="compose", what=what))
    return _Composing(templates, name).composition()


@dataclass
class _Composing:
    templates: Sequence[ResolvedTemplate]
    name: str
    clashes: list[Clash] = field(default_factory=list)
    scripts: dict[str, SourceScript] = field(default_factory=dict)
    _paths: dict[str, str] = field(default_factory=dict)

    def composition(self) -> Composition:
        blobs: dict[str, bytes] = {}
        for template in self.templates:
            blobs.update(template.blobs)
            # Names are given in the order of the templates, whatever list is made first.
            for script in template.scripts():
                self._path(script)
        boot = self._listed(script for t in self.templates for script in t.boot)
        operational = self._operational()
        decommission = self._listed(
            script for t in reversed(self.templates) for script in t.decommission
        )
        health: list[HttpCheck | TcpCheck | ScriptCheck] = []
        for template in self.templates:
            for check in template.health:
                item = (
                    ScriptCheck(script=self._path(check.script))
                    if isinstance(check, HealthScript)
                    else check
                )
                if item not in health:
                    health.append(item)
        image = self._last("image", lambda t: t.image, _image_words)
        descriptions = [line for t in self.templates for line in t.description.splitlines()]
        settings: dict[str, Any] = {
            part: self._last(f"settings.{part}", attrgetter(f"settings.{part}"))
            for part in ("instance_type", "root_disk_gib", "arch")
        }
        settings["tags"] = {
            key: self._last(f"settings.tags.{key}", partial(_tag, key))
            for key in dict.fromkeys(key for t in self.templates for key in t.settings.tags)
        }
        freeze = self._last("freeze", lambda t: None if t.freeze == "none" else t.freeze)
        connect = self._last("connect", lambda t: None if t.connect == "ssh" else t.connect)
        document = TemplateDocument(
            schema="slipway/1",
            name=self.name,
            description="\n".join(dict.fromkeys(descriptions)),
            image=image.name if image else None,
            settings=Settings(**settings),
            freeze=freeze,
            connect=connect,
            inputs=self._inputs(),
            ready=Ready(
                **{
                    part: self._last(f"ready.{part}", attrgetter(f"ready.{part}"))
                    for part in ("linux", "ignore_cloud_init_errors", "windows")
                }
            ),
            clock=ClockBounds(
                **{
                    part: self._last(f"clock.{part}", attrgetter(f"clock.{part}"))
                    for part in ("max_offset_ms", "servers")
                }
            ),
            health=tuple(health),
            boot=boot,
            operational=operational,
            decommission=decommission,
        )
        scripts = {path: self.scripts[path] for _, path in document.scripts()}
        used = {script.sha256 for script in scripts.values()}
        return Composition(
            source=Source(document=document, scripts=scripts, image=image),
            blobs={sha256: content for sha256, content in blobs.items() if sha256 in used},
            clashes=tuple(self.clashes),
            parts=tuple((t.name, t.hash) for t in self.templates),
        )

    def _last(
        self,
        path: str,
        get: Callable[[ResolvedTemplate], Any],
        words: Callable[[Any], str] = repr,
    ) -> Any:
        said = [(t.name, get(t)) for t in self.templates]
        said = [(name, value) for name, value in said if value is not None]
        if not said:
            return None
        if any(value != said[0][1] for _, value in said):
            sides = tuple((name, words(value)) for name, value in said)
            self.clashes.append(Clash(path=path, said=sides))
        return said[-1][1]

    def _inputs(self) -> dict[str, InputDeclaration]:
        found: dict[str, InputDeclaration] = {}
        for label in sorted({label for t in self.templates for label in t.inputs}):
            having = [(t.name, t.inputs[label]) for t in self.templates if label in t.inputs]
            if len({declared.type for _, declared in having}) > 1:
                sides = tuple((name, str(declared.type)) for name, declared in having)
                self.clashes.append(Clash(path=f"inputs.{label}.type", said=sides))
                having = having[-1:]
            values: dict[str, Any] = {
                attribute: self._last_said(f"inputs.{label}.{attribute}", attribute, having)
                for attribute in _ATTRIBUTES
            }
            texts = [declared.description for _, declared in having if declared.description]
            values["description"] = texts[-1] if texts else None
            found[label] = InputDeclaration(**values)
        return found

    def _last_said(
        self, path: str, attribute: str, having: Sequence[tuple[str, DeclaredInput]]
    ) -> Any:
        said = [(name, getattr(declared, attribute)) for name, declared in having]
        said = [(name, value) for name, value in said if value is not None]
        if said and any(value != said[0][1] for _, value in said):
            sides = tuple((name, repr(value)) for name, value in said)
            self.clashes.append(Clash(path=path, said=sides))
        return said[-1][1] if said else None

    def _operational(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for label in sorted({label for t in self.templates for label in t.operational}):
            having = [
                (t.name, t.operational[label]) for t in self.templates if label in t.operational
            ]
            if len({script.sha256 for _, script in having}) > 1:
                sides = tuple((name, script.path) for name, script in having)
                self.clashes.append(Clash(path=f"operational.{label}", said=sides))
            found[label] = self._path(having[-1][1])
        return found

    def _listed(self, scripts: Iterable[Script]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._path(script) for script in scripts))

    def _path(self, script: Script) -> str:
        """Where a script goes in the composition: its own file name, with its layer's name in
        front when another script has that name already."""
        if script.sha256 in self._paths:
            return self._paths[script.sha256]
        layer, _, inside = script.path.partition("/")
        file = PurePosixPath(inside).name
        candidates = [f"scripts/{file}", f"scripts/{layer}-{file}"]
        path = next(
            (c for c in candidates if c not in self.scripts),
            f"scripts/{script.sha256[:12]}-{file}",
        )
        self._paths[script.sha256] = path
        self.scripts[path] = self._source_of(script)
        return path

    def _source_of(self, script: Script) -> SourceScript:
        layer, _, inside = script.path.partition("/")
        for template in self.templates:
            for source in template.sources:
                found = source.scripts.get(inside)
                if source.document.name == layer and found and found.sha256 == script.sha256:
                    return found
        raise LookupError(f"{script.path} is in no source of its template")


def _image_words(image: ImageMap) -> str:
    count = sum(len(arches) for regions in image.entries.values() for arches in regions.values())
    return f"{image.name} with {count} image{'s' if count != 1 else ''}"


def _tag(key: str, template: ResolvedTemplate) -> str | None:
    return template.settings.tags.get(key)
