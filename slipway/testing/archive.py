"""What archives made up from a seed have in common: packages that change from day to day."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, TypeVar

from pysequoia import Tsk

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Revised:
    """A package as it is on some day."""

    name: str
    revision: int
    payload_bytes: int


_P = TypeVar("_P", bound=Revised)


class Archive(ABC, Generic[_P]):
    """One or more suites with the same packages, in a directory."""

    def __init__(
        self,
        root: Path,
        *,
        key: Tsk,
        seed: int,
        packages: int,
        suites: Iterable[str],
        payload_bytes: int,
        start: datetime,
    ) -> None:
        self.root = root
        self.now = start
        self.suites = tuple(suites)
        self.key = key
        self._random = random.Random(seed)
        self._payload_bytes = payload_bytes
        self.packages: dict[str, _P] = {
            package.name: package for package in map(self._invent, range(packages))
        }

    def advance(self, *, change: int = 1, add: int = 0, remove: int = 0, days: float = 1) -> None:
        """Let days go by: packages get new versions, appear and disappear."""
        self.now += timedelta(days=days)
        names = sorted(self.packages)
        for name in self._random.sample(names, change):
            old = self.packages[name]
            self.packages[name] = replace(old, revision=old.revision + 1)
        for name in self._random.sample(names, remove):
            del self.packages[name]
        for _ in range(add):
            fresh = self._invent(len(names) + self._random.randrange(10**6))
            self.packages[fresh.name] = fresh
        self.publish()

    @abstractmethod
    def publish(self) -> None:
        """Write packages and what lists them as they are now. Old files stay."""

    @abstractmethod
    def _invent(self, number: int) -> _P:
        """A new package."""


def write_whole(path: Path, data: bytes) -> None:
    """Whoever reads the file meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    draft.write_bytes(data)
    draft.replace(path)
