"""From a name to a resolved template: read the directory, follow the includes, put it together."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.servertemplates.library import TEMPLATE_FILE, Draft, Library, Source
from slipway.servertemplates.resolved import ResolvedTemplate, assemble
from slipway.servertemplates.yaml_source import Path
from slipway.spelling import nearest

_LINE = re.compile(r"(?P<file>[^:]+):(?P<line>[0-9]+)")

#: Gives the committed version behind ``NAME@PIN``; raises what explains that there is none.
Pinned = Callable[[str], ResolvedTemplate]


def resolve(name: str, library: Library, pinned: Pinned) -> ResolvedTemplate:
    """The working copy of a template with everything it includes.

    Raises `InvalidInput` with every problem there is, in this template and in its layers.
    """
    resolved, problems = inspect(name, library, pinned)
    if problems or resolved is None:
        raise InvalidInput(problems)
    return resolved


def inspect(
    name: str, library: Library, pinned: Pinned
) -> tuple[ResolvedTemplate | None, list[Problem]]:
    """Like `resolve`, but hands back what could be made of it beside the problems."""
    if not library.has(name):
        hint = nearest(name, library.names())
        what = f"there is no template of this name in the templates directory{hint}"
        return None, [Problem(where=f"{name}/{TEMPLATE_FILE}", what=what)]
    gathered = _Gathering(library, pinned)
    gathered.visit(name, ())
    resolved, problems = assemble(
        name,
        gathered.sources,
        where=gathered.where,
        broken_inputs=frozenset().union(*(d.broken_inputs for d in gathered.drafts.values())),
        incomplete=gathered.incomplete,
    )
    found = sorted({*gathered.problems, *problems, *gathered.image_clashes()}, key=_place)
    return resolved.model_copy(update={"blobs": gathered.blobs}), found


def _place(problem: Problem) -> tuple[str, int, str]:
    """Problems are read from the top of a file to its end."""
    found = _LINE.match(problem.where)
    if found is None:
        return problem.where, 0, problem.what
    return found["file"], int(found["line"]), problem.where + problem.what


@dataclass
class _Gathering:
    library: Library
    pinned: Pinned
    sources: dict[str, Source] = field(default_factory=dict)
    drafts: dict[str, Draft] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    incomplete: bool = False
    _asked_by: dict[str, str] = field(default_factory=dict)

    def visit(self, name: str, trail: tuple[str, ...]) -> None:
        draft = self.library.read(name)
        self.drafts[name] = draft
        self.problems += draft.problems
        self.blobs.update(draft.blobs)
        self.incomplete = self.incomplete or draft.incomplete
        followed: list[str] = []
        for index, ref in draft.includes:
            place = draft.located.where(("include", index))
            base, _, pin = ref.partition("@")
            if base in followed:
                self._problem(place, f"{base} is included here already; once is enough")
            elif self._follow(ref, base, pin, place, (*trail, name)):
                followed.append(base)
        document = draft.source.document.model_copy(update={"include": tuple(followed)})
        self._add(name, draft.source.model_copy(update={"document": document}), "")

    def _follow(self, ref: str, base: str, pin: str, place: str, trail: tuple[str, ...]) -> bool:
        if base in trail:
            cycle = " → ".join((*trail[trail.index(base) :], base))
            self._problem(place, f"templates include each other in a circle: {cycle}")
            return False
        if pin and pin != "head":
            try:
                version = self.pinned(ref)
            except SlipwayError as error:
                self._problem(place, str(error))
                self.incomplete = True
                return False
            self.blobs.update(version.blobs)
            asked_by = f"{place.partition(': ')[0]} ({ref})"
            for source in version.sources:
                self._add(source.document.name, source, asked_by, place)
            return True
        if base in self.drafts:
            return True
        if base in self.sources:
            self._clash(base, place, f"the working copy at {place.split(': ', maxsplit=1)[0]}")
            return True
        if not self.library.has(base):
            known = self.library.names()
            hint = nearest(base, known) or f" (there are {', '.join(known)})"
            self._problem(place, f"there is no template {base!r} to include{hint}")
            self.incomplete = True
            return False
        self.visit(base, trail)
        return True

    def _add(self, name: str, source: Source, asked_by: str, place: str = "") -> None:
        known = self.sources.get(name)
        if known is not None and known != source:
            self._clash(name, place or f"{name}/{TEMPLATE_FILE}", asked_by or "the working copy")
            return
        self.sources.setdefault(name, source)
        self._asked_by.setdefault(name, asked_by or "the working copy")

    def _clash(self, name: str, place: str, other: str) -> None:
        first = self._asked_by.get(name, "the working copy")
        self._problem(
            place,
            f"layer {name} comes in with two different contents, from {first} and from {other}; "
            "include one version of it everywhere",
        )

    def image_clashes(self) -> list[Problem]:
        """Image maps that two layers bring in with different contents, one of them pinned."""
        known: dict[str, tuple[str, object]] = {}
        problems: list[Problem] = []
        for name, source in self.sources.items():
            if source.image is None:
                continue
            first, content = known.setdefault(source.image.name, (name, source.image))
            if content != source.image:
                what = (
                    f"image map {source.image.name} is not the same in the layers {first} and "
                    f"{name}, because one is an older version; include newer versions of both"
                )
                problems.append(Problem(where=self.where(name, ("image",), None), what=what))
        return problems

    def _problem(self, where: str, what: str) -> None:
        self.problems.append(Problem(where=where, what=what))

    def where(self, layer: str, path: Path, script: str | None) -> str:
        """The line a part of a layer stands on."""
        draft = self.drafts.get(layer)
        if draft is None:
            return f"layer {layer}" + (f": {path[0]}" if path else "")
        if script is not None and script in draft.headers:
            return draft.headers[script].where(path)
        return draft.located.where(path)
