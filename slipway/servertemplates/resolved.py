"""Several layers become one template that launches by itself.

Within a layer the includes come first, then its own words, so what it says wins over what it
includes. Of two layers that do not include one another neither wins: where they disagree, the
template that brings them together decides, or it is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from slipway.errors import InvalidInput, NotFound, Problem
from slipway.servertemplates.canonical import canonical_json, content_hash
from slipway.servertemplates.document import (
    Arch,
    ClockBounds,
    Connect,
    HttpCheck,
    ImageChoice,
    ImageMap,
    Ready,
    ScriptCheck,
    Settings,
    TcpCheck,
    TemplateDocument,
)
from slipway.servertemplates.inputs import (
    DeclaredInput,
    InputDeclaration,
    canonical_default,
    declaration_problems,
)
from slipway.servertemplates.library import Source, SourceScript
from slipway.servertemplates.scripts import ScriptKind
from slipway.servertemplates.yaml_source import Path, show_path
from slipway.spelling import nearest

#: ``(layer, path, script or None)`` to the place a problem is shown at.
Where = Callable[[str, Path, str | None], str]

#: What a declaration says, attribute by attribute; ``from`` is a default under another name.
_ATTRIBUTES = ("type", "required", "default", "of", "pattern", "min", "max", "description")
_DEFAULT_ARCH: Arch = "x86_64"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Script(_Frozen):
    """One script of a resolved template."""

    #: Stable and unique within the template: ``10-install``, ``operational-rotate-logs``.
    key: str
    #: Its title, for people.
    name: str
    description: str = ""
    kind: ScriptKind
    #: The layer's name and the path in its directory: ``base-linux/scripts/install.sh``.
    path: str
    #: Its bytes are in the template's ``blobs`` and in the database.
    sha256: str
    timeout_s: int
    retry_safe: bool = False
    #: Command line to run it with, instead of its ``#!`` line.
    interpreter: str | None = None
    packages: tuple[str, ...] = ()
    #: The inputs it sees, sorted.
    inputs: tuple[str, ...] = ()


class HealthScript(_Frozen):
    """A script on the server ends with exit code 0."""

    script: Script


def _kind_of_health(value: Any) -> str:
    for kind in ("http", "tcp"):
        if kind in value if isinstance(value, Mapping) else hasattr(value, kind):
            return kind
    return "script"


Health = Annotated[
    Annotated[HttpCheck, Tag("http")]
    | Annotated[TcpCheck, Tag("tcp")]
    | Annotated[HealthScript, Tag("script")],
    Discriminator(_kind_of_health),
]


class Layer(_Frozen):
    """A template that is part of another, and the content it had."""

    name: str
    hash: str


class ResolvedTemplate(_Frozen):
    """Everything a launch needs, whatever becomes of the directory it was written in."""

    schema_: Literal["slipway-resolved/1"] = Field(alias="schema")
    name: str
    description: str = ""
    image: ImageMap | None = None
    settings: Settings = Settings()
    #: ``YYYY-MM-DD``, ``none`` or ``environment``; see `freeze_date`.
    freeze: str = "none"
    connect: Connect = "ssh"
    inputs: dict[str, DeclaredInput] = {}
    ready: Ready = Ready()
    clock: ClockBounds = ClockBounds()
    health: tuple[Health, ...] = ()
    boot: tuple[Script, ...] = ()
    operational: dict[str, Script] = {}
    decommission: tuple[Script, ...] = ()
    #: What it includes, base first; not itself.
    layers: tuple[Layer, ...] = ()
    #: Every layer and at last itself, as written: what `checkout` writes again.
    sources: tuple[Source, ...]
    #: Script bytes by SHA-256; beside the document, not in it.
    blobs: dict[str, bytes] = Field(default_factory=dict, exclude=True, repr=False)

    @cached_property
    def document(self) -> str:
        """The canonical JSON that is hashed and stored."""
        return canonical_json(self.model_dump(mode="json", by_alias=True, exclude_defaults=True))

    @cached_property
    def hash(self) -> str:
        """The content hash: equal content has it on every machine, other content never."""
        return content_hash(self.document)

    def inputs_to_ask(self) -> dict[str, DeclaredInput]:
        """The inputs in the order a person is asked for them: the template's own first, those of
        what it is built upon last."""
        height = {layer.name: at for at, layer in enumerate(self.layers)}

        def depth(name: str) -> int:
            # ``layer base-linux``, ``script base-linux/scripts/logging.sh``
            owners = [each.split()[1].split("/")[0] for each in self.inputs[name].declared_in]
            return -max((height.get(owner, len(height)) for owner in owners), default=len(height))

        return {name: self.inputs[name] for name in sorted(self.inputs, key=depth)}

    def scripts(self) -> list[Script]:
        """Every script: boot, operational, decommission, health."""
        return [
            *self.boot,
            *self.operational.values(),
            *self.decommission,
            *(check.script for check in self.health if isinstance(check, HealthScript)),
        ]

    def freeze_date(self, environment: date | None) -> date | None:
        """The date repositories are frozen at, given the environment's; None for not frozen."""
        if self.freeze == "none":
            return None
        return environment if self.freeze == "environment" else date.fromisoformat(self.freeze)

    def image_choice(
        self, cloud: str, region: str, arch: Arch | None = None, *, kind: str = ""
    ) -> ImageChoice:
        """The image map's entry, with the template's own instance type where it has one.

        ``arch`` is the template's setting when not given, else the only one there is, else
        x86_64. Raises `InvalidInput` when the template has no image, `NotFound` listing what the
        map has.
        """
        if self.image is None:
            what = "this template has no image; it is a layer for others, or lacks 'image: NAME'"
            raise InvalidInput(Problem(where=f"template {self.name}", what=what))
        choice = choose_image(self.image, cloud, region, arch or self.settings.arch, kind=kind)
        if self.settings.instance_type:
            choice = choice.model_copy(update={"instance_type": self.settings.instance_type})
        return choice


def choose_image(
    image: ImageMap, cloud: str, region: str, arch: Arch | None = None, *, kind: str = ""
) -> ImageChoice:
    """The entry for a cloud, region and architecture; a region's own entry wins over ``*``, and
    the cloud's own over that of its kind (``ec2``).

    Raises `NotFound` naming what the map has.
    """
    regions = image.entries.get(cloud) or image.entries.get(kind, {})
    arches = {**regions.get("*", {}), **regions.get(region, {})}
    if arch is None:
        arch = next(iter(arches)) if len(arches) == 1 else _DEFAULT_ARCH
    if arch in arches:
        return arches[arch]
    known = [
        f"{c}/{r}/{a}" for c in image.entries for r in image.entries[c] for a in image.entries[c][r]
    ]
    hint = nearest(cloud, image.entries) if cloud not in image.entries else ""
    raise NotFound(
        f"image map {image.name} has no image for {cloud}/{region}/{arch}{hint} "
        f"(it has {', '.join(known) or 'none at all'})"
    )


@dataclass(frozen=True)
class _Fact:
    """A value, and the layers that say so."""

    value: Any
    origins: frozenset[str]


@dataclass(frozen=True)
class _ScriptAt:
    """A script in a layer: the same bytes are the same script."""

    sha256: str
    layer: str = field(compare=False)
    path: str = field(compare=False)


_View = dict[Path, _Fact]


def assemble(
    name: str,
    sources: Mapping[str, Source],
    *,
    where: Where | None = None,
    broken_inputs: frozenset[str] = frozenset(),
    incomplete: bool = False,
) -> tuple[ResolvedTemplate, list[Problem]]:
    """Resolve one template from its sources and those of everything it includes.

    Pure. ``broken_inputs`` and ``incomplete`` keep quiet about what follows from problems that
    are already reported. The template returned beside problems is a best effort.
    """
    return _Assembly(sources, where or _plain_where, broken_inputs, incomplete).assemble(name)


def _plain_where(layer: str, path: Path, script: str | None) -> str:
    place = f"{layer}/{script}" if script else layer
    return f"{place}: {show_path(path)}" if path else place


class _Assembly:
    def __init__(
        self,
        sources: Mapping[str, Source],
        where: Where,
        broken_inputs: frozenset[str],
        incomplete: bool,
    ) -> None:
        self.sources = sources
        self.where = where
        self.broken_inputs = broken_inputs
        self.incomplete = incomplete
        self.problems: list[Problem] = []
        self._orders: dict[str, list[str]] = {}
        self._hashes: dict[str, str] = {}

    def order(self, name: str) -> list[str]:
        """A template and everything it includes, each once, base first."""
        if name not in self._orders:
            found: dict[str, None] = {}
            for included in self.sources[name].document.include:
                if included in self.sources:
                    found.update(dict.fromkeys(self.order(included)))
            found[name] = None
            self._orders[name] = list(found)
        return self._orders[name]

    def hash(self, name: str) -> str:
        """A layer's own content hash."""
        if name not in self._hashes:
            inner = _Assembly(self.sources, _plain_where, frozenset(), True)
            inner._hashes = self._hashes
            inner._orders = self._orders
            self._hashes[name] = inner.assemble(name)[0].hash
        return self._hashes[name]

    def assemble(self, name: str) -> tuple[ResolvedTemplate, list[Problem]]:
        order = self.order(name)
        view = self.view(name, report=True)
        boot = self._once(
            [self._at(layer, p) for layer in order for p in self._document(layer).boot]
        )
        decommission = self._once(
            [
                self._at(layer, p)
                for layer in reversed(order)
                for p in self._document(layer).decommission
            ]
        )
        operational = {
            str(path[1]): fact.value
            for path, fact in sorted(view.items(), key=lambda item: item[0][:1] + item[0][1:2])
            if path[0] == "operational"
        }
        health = self._health(order)
        checks = [item for item in health if isinstance(item, _ScriptAt)]
        used = [*boot, *operational.values(), *decommission, *checks]
        inputs = self._inputs(name, view, used)
        image = view.get(("image",))
        resolved = ResolvedTemplate(
            schema="slipway-resolved/1",
            name=name,
            description=self._document(name).description,
            image=self._image(image) if image else None,
            settings=_gathered(Settings, "settings", view),
            freeze=view[("freeze",)].value if ("freeze",) in view else "none",
            connect=view[("connect",)].value if ("connect",) in view else "ssh",
            inputs=inputs,
            ready=_gathered(Ready, "ready", view),
            clock=_gathered(ClockBounds, "clock", view),
            health=tuple(
                HealthScript(script=self._script(f"health-{_numbered(i, item.path)}", item))
                if isinstance(item, _ScriptAt)
                else item
                for i, item in enumerate(health)
            ),
            boot=tuple(self._script(_numbered(i, at.path), at) for i, at in enumerate(boot)),
            operational={
                label: self._script(f"operational-{label}", at) for label, at in operational.items()
            },
            decommission=tuple(
                self._script(f"decommission-{_numbered(i, at.path)}", at)
                for i, at in enumerate(decommission)
            ),
            layers=tuple(Layer(name=n, hash=self.hash(n)) for n in order if n != name),
            sources=tuple(self.sources[n] for n in order),
        )
        return resolved, self.problems

    def view(self, name: str, *, report: bool) -> _View:
        """What a template says together with everything it includes."""
        document = self._document(name)
        own = dict(self._own_facts(name))
        candidates: dict[Path, list[_Fact]] = {}
        for included in document.include:
            if included in self.sources:
                for path, fact in self.view(included, report=report).items():
                    candidates.setdefault(path, []).append(fact)
        merged: _View = {}
        for path, facts in candidates.items():
            merged[path] = self._decide(name, path, facts, report=report and path not in own)
        merged.update(own)
        return merged

    def _decide(self, name: str, path: Path, facts: list[_Fact], *, report: bool) -> _Fact:
        """One value of those that equal layers give."""
        strongest = [fact for fact in facts if not self._is_overruled(fact, facts)] or facts
        groups: list[_Fact] = []
        for fact in strongest:
            for position, group in enumerate(groups):
                if group.value == fact.value:
                    groups[position] = _Fact(group.value, group.origins | fact.origins)
                    break
            else:
                groups.append(fact)
        if len(groups) == 1:
            return groups[0]
        if path[-1] == "description":
            return groups[-1]
        if path[0] == "inputs":
            insistent = [g for g in groups if any(self._overrides(o, path[1]) for o in g.origins)]
            if len(insistent) == 1:
                return insistent[0]
            if self._overrides(name, path[1]):
                return _Fact(groups[-1].value, frozenset({name}))
            if path[1] in self.broken_inputs:
                return groups[-1]
        if report:
            sides = " and ".join(
                f"{' and '.join(sorted(g.origins))} ({_shown(g.value)})" for g in groups
            )
            what = f"layers disagree about {show_path(path)}: {sides}; say it in {name} to decide"
            if path[0] == "inputs":
                what += ", or 'override: true' there to let the later layer win"
            include = self.where(name, ("include",), None)
            self.problems.append(Problem(where=include, what=what))
        return groups[-1]

    def _is_overruled(self, fact: _Fact, facts: list[_Fact]) -> bool:
        """Whether each layer behind a fact is included by one behind another fact."""
        return all(
            any(
                origin != other and origin in self.order(other)
                for rival in facts
                if rival is not fact
                for other in rival.origins
            )
            for origin in fact.origins
        )

    def _overrides(self, layer: str, name: str | int) -> bool:
        declared = self._document(layer).inputs.get(str(name))
        return bool(declared and declared.override)

    def _own_facts(self, name: str) -> list[tuple[Path, _Fact]]:
        document = self._document(name)
        values: list[tuple[Path, Any]] = [
            (("image",), document.image),
            (("freeze",), document.freeze),
            (("connect",), document.connect),
            (("settings", "instance_type"), document.settings.instance_type),
            (("settings", "root_disk_gib"), document.settings.root_disk_gib),
            (("settings", "arch"), document.settings.arch),
            *((("settings", "tags", k), v) for k, v in document.settings.tags.items()),
            (("ready", "linux"), document.ready.linux),
            (("ready", "windows"), document.ready.windows),
            (("ready", "ignore_cloud_init_errors"), document.ready.ignore_cloud_init_errors),
            (("clock", "max_offset_ms"), document.clock.max_offset_ms),
            (("clock", "servers"), document.clock.servers),
            *(
                (("operational", label), self._at(name, path))
                for label, path in document.operational.items()
            ),
        ]
        for label, declared in document.inputs.items():
            values += [(("inputs", label, a), v) for a, v in _attributes(declared)]
            # Present even when it says nothing, so that the name counts as declared.
            values.append((("inputs", label), True))
        origin = frozenset({name})
        return [(path, _Fact(value, origin)) for path, value in values if value is not None]

    def _inputs(self, name: str, view: _View, used: list[_ScriptAt]) -> dict[str, DeclaredInput]:
        by_script: dict[str, dict[str, list[tuple[Any, _ScriptAt]]]] = {}
        mentioned: dict[str, list[_ScriptAt]] = {}
        for at in dict.fromkeys(used):
            for label, declared in self.sources[at.layer].scripts[at.path].inputs.items():
                mentioned.setdefault(label, []).append(at)
                for attribute, value in _attributes(declared):
                    said = by_script.setdefault(label, {}).setdefault(attribute, [])
                    said.append((value, at))
        labels = {str(path[1]) for path in view if path[0] == "inputs"} | set(mentioned)
        found: dict[str, DeclaredInput] = {}
        for label in sorted(labels):
            merged = self._input(name, label, view, by_script.get(label, {}), mentioned, labels)
            if merged is not None:
                found[label] = merged
        return found

    def _input(
        self,
        name: str,
        label: str,
        view: _View,
        by_script: dict[str, list[tuple[Any, _ScriptAt]]],
        mentioned: dict[str, list[_ScriptAt]],
        labels: set[str],
    ) -> DeclaredInput | None:
        quiet = label in self.broken_inputs
        chosen: dict[str, Any] = {}
        from_layers: dict[str, frozenset[str]] = {}
        for attribute in _ATTRIBUTES:
            fact = view.get(("inputs", label, attribute))
            if fact is not None:
                chosen[attribute] = fact.value
                from_layers[attribute] = fact.origins
                continue
            said = by_script.get(attribute, [])
            if not said:
                continue
            chosen[attribute] = said[0][0]
            others = [at for value, at in said if value != said[0][0]]
            if others and attribute != "description" and not quiet:
                first, other = said[0][1], others[0]
                values = [value for value, _ in said if value != said[0][0]]
                self._report(
                    self.where(other.layer, ("inputs", label), other.path),
                    f"{attribute!r} is {_shown(values[0])} here and {_shown(said[0][0])} in "
                    f"{first.layer}/{first.path}; say it under 'inputs' in {name} to decide",
                )
        declared_in = tuple(
            self._layer_words(layer, name)
            for layer in self.order(name)
            if label in self._document(layer).inputs
        ) + tuple(f"script {at.layer}/{at.path}" for at in mentioned.get(label, []))
        place = self._place_of(name, label, mentioned)
        if "type" not in chosen:
            if not quiet:
                known = {other for other in labels if other != label}
                what = f"{label} has no type, and no script or layer declares one"
                if not any(label in self._document(layer).inputs for layer in self.order(name)):
                    what = f"{label} is used here and declared nowhere"
                    known = {str(p[1]) for p in view if p[0] == "inputs" and len(p) == 2} - {label}
                if not self.incomplete or "used here" in what:
                    self._report(place, what + (nearest(label, known) or "; add 'type: text'"))
            return None
        script_types = [value for value, _ in by_script.get("type", [])]
        kind = chosen["type"]
        if "type" in from_layers and script_types and kind != script_types[0]:
            if not _may_become(script_types[0], kind) and not quiet:
                at = by_script["type"][0][1]
                self._report(
                    place,
                    f"{label} is {kind!r} here, but {at.layer}/{at.path} takes "
                    f"{script_types[0]!r}; make them agree",
                )
            # What a script says about its own type means nothing for another.
            for attribute in ("default", "of", "pattern", "min", "max"):
                if attribute not in from_layers:
                    chosen.pop(attribute, None)
        default_from = None
        if "default" in chosen:
            if "default" in from_layers:
                origin = [n for n in self.order(name) if n in from_layers["default"]][-1]
                default_from = self._layer_words(origin, name)
            else:
                at = by_script["default"][0][1]
                default_from = f"script {at.layer}/{at.path}"
        declared = DeclaredInput(**chosen, declared_in=declared_in, default_from=default_from)
        if not quiet:
            wrong = declaration_problems(declared, complete=True)
            for _, sentence in wrong:
                self._report(place, f"{label}: {sentence}")
            if wrong:
                return None
        try:
            default = canonical_default(declared)
        except ValueError:  # already reported, or quiet because it was
            return None
        return declared.model_copy(
            update={"default": list(default) if isinstance(default, tuple) else default}
        )

    def _place_of(self, name: str, label: str, mentioned: dict[str, list[_ScriptAt]]) -> str:
        for layer in reversed(self.order(name)):
            if label in self._document(layer).inputs:
                return self.where(layer, ("inputs", label), None)
        at = mentioned[label][0]
        return self.where(at.layer, ("inputs", label), at.path)

    def _report(self, where: str, what: str) -> None:
        problem = Problem(where=where, what=what)
        if problem not in self.problems:
            self.problems.append(problem)

    def _layer_words(self, layer: str, name: str) -> str:
        return f"template {name}" if layer == name else f"layer {layer}"

    def _document(self, name: str) -> TemplateDocument:
        return self.sources[name].document

    def _image(self, fact: _Fact) -> ImageMap | None:
        for layer in sorted(fact.origins):
            image = self.sources[layer].image
            if image is not None:
                return image
        return None

    def _at(self, layer: str, path: str) -> _ScriptAt | None:
        script = self.sources[layer].scripts.get(path)
        return _ScriptAt(script.sha256, layer, path) if script else None

    def _once(self, scripts: list[_ScriptAt | None]) -> list[_ScriptAt]:
        return list(dict.fromkeys(at for at in scripts if at is not None))

    def _health(self, order: list[str]) -> list[_ScriptAt | HttpCheck | TcpCheck]:
        found: list[_ScriptAt | HttpCheck | TcpCheck] = []
        for layer in order:
            for check in self._document(layer).health:
                item = self._at(layer, check.script) if isinstance(check, ScriptCheck) else check
                if item is not None and item not in found:
                    found.append(item)
        return found

    def _script(self, key: str, at: _ScriptAt) -> Script:
        source: SourceScript = self.sources[at.layer].scripts[at.path]
        same = {part: getattr(source, part) for part in SourceScript.model_fields}
        same["name"] = source.name or PurePosixPath(at.path).stem
        same["inputs"] = tuple(sorted(source.inputs))
        return Script(key=key, path=f"{at.layer}/{at.path}", **same)


def _attributes(declared: InputDeclaration) -> list[tuple[str, Any]]:
    found = [(a, getattr(declared, a)) for a in _ATTRIBUTES if getattr(declared, a) is not None]
    if declared.source is not None:
        found.append(("default", declared.source))
    return found


def _may_become(script: str, template: str) -> bool:
    """Whether a template may give a script's input another type: everything reaches a script as
    text, but a number must stay one and a secret must stay hidden."""
    if script == "text":
        return True
    return template == "env" and script in ("int", "choice")


def _gathered(model: type[Any], section: str, view: _View) -> Any:
    values: dict[str, Any] = {}
    for path, fact in view.items():
        if path[0] == section:
            if len(path) == 3:
                values.setdefault(str(path[1]), {})[str(path[2])] = fact.value
            else:
                values[str(path[1])] = fact.value
    return model(**values)


def _numbered(index: int, path: str) -> str:
    stem = re.sub(r"^[0-9]+[-_.]*", "", PurePosixPath(path).stem) or PurePosixPath(path).stem
    slug = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "script"
    return f"{(index + 1) * 10:02d}-{slug}"


def _shown(value: Any) -> str:
    if isinstance(value, _ScriptAt):
        return f"{value.layer}/{value.path}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
