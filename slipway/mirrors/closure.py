"""What has to be here so that packages can be installed: they, all they depend on, and so on.

More is taken than one machine needs, so that what it has already makes no difference: every version
that will do, and everything that stands in for a name. What is recommended is taken where it is
there, because apt and dnf install it unless they are told not to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from slipway.mirrors.stanzas import Entry


@dataclass(frozen=True, kw_only=True)
class Closure:
    """All that is needed, and what of it no index has."""

    #: By path.
    entries: Mapping[str, Entry]
    #: In words: ``libfoo (>= 2), which bar needs``.
    missing: tuple[str, ...]


class Package(Protocol):
    """A package of an index."""

    @property
    def entry(self) -> Entry:
        """Its file."""


#: Something that is needed, in the words of one kind of repository.
_N = TypeVar("_N")
_P = TypeVar("_P", bound=Package)


class Universe(ABC, Generic[_N, _P]):
    """All packages for an architecture that some suites have; use it in a ``with`` statement."""

    def __init__(self, architecture: str) -> None:
        self._architecture = architecture
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has(self, name: str) -> bool:
        """Whether there is a package of this name, or something that stands in for it."""
        return bool(self._candidates(self._named(name)))

    def closure(self, names: Sequence[str]) -> Closure:
        """Of packages by name."""
        found: dict[str, _P] = {}
        fresh: list[_P] = []
        missing: list[tuple[_N, _P | None]] = []

        def take(need: _N, needed_by: _P | None, *, required: bool) -> None:
            candidates = self._candidates(need)
            if not candidates and required:
                missing.append((need, needed_by))
            for each in candidates:
                if each.entry.path not in found:
                    found[each.entry.path] = each
                    fresh.append(each)

        for name in names:
            take(self._named(name), None, required=True)
        while fresh:
            each = fresh.pop()
            for need, required in self._needs(each):
                take(need, each, required=required)
        return Closure(
            entries={path: each.entry for path, each in found.items()},
            missing=tuple(self._in_words(missing)),
        )

    @abstractmethod
    def _named(self, name: str) -> _N:
        """The need for a package by its name."""

    @abstractmethod
    def _needs(self, package: _P) -> Iterator[tuple[_N, bool]]:
        """What a package needs, and whether it does not work without."""

    @abstractmethod
    def _candidates(self, need: _N) -> list[_P]:
        """All packages that will do."""

    @abstractmethod
    def _words(self, need: _N) -> str:
        """A need for people."""

    @abstractmethod
    def _versions(self, package: str) -> list[_P]:
        """All versions of a package by its name."""

    #: A key that versions can be sorted by.
    _order: Callable[[str], Any]

    def _in_words(self, missing: Iterable[tuple[_N, _P | None]]) -> Iterator[str]:
        seen: set[str] = set()
        for need, needed_by in missing:
            if needed_by is not None and self._is_outdone(needed_by.entry):
                # Nobody installs it: a suite of updates has removed what the old version needs.
                continue
            what = self._words(need)
            if what not in seen:
                seen.add(what)
                yield (
                    what if needed_by is None else f"{what}, which {needed_by.entry.package} needs"
                )

    def _is_outdone(self, entry: Entry) -> bool:
        order = type(self)._order
        mine = order(entry.version)
        return any(order(each.entry.version) > mine for each in self._versions(entry.package))
