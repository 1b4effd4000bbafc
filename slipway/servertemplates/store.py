"""Versions of templates: what was committed stays, whatever becomes of the directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from slipway import audit
from slipway.audit import Note
from slipway.changes import note_change
from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import Conflict, InvalidInput, NotFound, Problem, SlipwayError
from slipway.records import AuditKind, Blob, TemplateTag, TemplateVersion
from slipway.servertemplates.canonical import content_hash
from slipway.servertemplates.compose import Composition, compose
from slipway.servertemplates.diff import TemplateDiff, diff_templates
from slipway.servertemplates.library import TEMPLATE_FILE, Library
from slipway.servertemplates.resolve import inspect, resolve
from slipway.servertemplates.resolved import ResolvedTemplate
from slipway.servertemplates.write import write_working_copy
from slipway.spelling import nearest

# SQLModel gives its tables to type checkers as plain attributes.
_BLOB: sa.Table = Blob.__table__  # type: ignore[attr-defined]
_VERSION: sa.Table = TemplateVersion.__table__  # type: ignore[attr-defined]
_TAG: sa.Table = TemplateTag.__table__  # type: ignore[attr-defined]

_NUMBER = re.compile(r"r[0-9]+\Z")
_HASH = re.compile(r"[0-9a-f]+\Z")
_TAG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_SHORTEST_PREFIX = 6
#: Two processes committing at once collide at most once a commit; more means a broken database.
_COMMIT_ATTEMPTS = 20
#: What a subject's column holds.
_SUBJECT_LENGTH = 128
#: Bound of variables in one statement, well under SQLite's.
_BATCH = 500

#: Something to do in the same transaction.
Also = Callable[[sa.Connection], None]


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """One committed version."""

    name: str
    hash: str
    #: 1 for ``r1``.
    number: int
    parent: str | None
    message: str
    author: str
    created_at: datetime
    tags: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """``web@r3``."""
        return f"{self.name}@r{self.number}"


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What a commit did."""

    version: VersionInfo
    #: False when the content was committed before.
    created: bool
    #: One sentence for people.
    message: str


@dataclass(frozen=True, kw_only=True)
class TemplateSummary:
    """One line of a list of templates."""

    name: str
    description: str
    newest: VersionInfo | None
    tags: tuple[str, ...]
    #: ``committed``, ``changed`` since the newest version, ``new`` (never committed), ``invalid``,
    #: or ``none`` when there is no working copy.
    working_copy: str


class TemplateStore:
    """Working copies in a directory, versions in the database.

    A reference is ``NAME``, ``NAME@head``, ``NAME@r4``, ``NAME@TAG`` or ``NAME@HASH`` with at
    least six characters of the hash. A name alone is the working copy, or the newest version
    where there is no working copy. Safe to use from any thread.
    """

    def __init__(self, database: Database, templates_dir: Path, clock: Clock) -> None:
        self._database = database
        self._directory = templates_dir
        self._clock = clock

    @property
    def templates_dir(self) -> Path:
        """Where the working copies are."""
        return self._directory

    def library(self) -> Library:
        """The working copies as they are now."""
        return Library(self._directory, today=self._clock.now().date())

    def head(self, name: str) -> ResolvedTemplate:
        """The working copy, resolved. Raises `InvalidInput` with every problem."""
        if not self.library().has(name):
            raise NotFound(self._no_template(name))
        return resolve(name, self.library(), self.get)

    def check(self, name: str) -> Sequence[Problem]:
        """Everything that is wrong with a working copy; empty when it can be committed."""
        return inspect(name, self.library(), self.get)[1]

    def get(self, ref: str) -> ResolvedTemplate:
        """The template a reference stands for.

        Raises `NotFound` or `InvalidInput` with the nearest spelling, and `InvalidInput` when a
        working copy is not valid.
        """
        name, _, pin = ref.partition("@")
        if (not pin and self.library().has(name)) or pin == "head":
            return self.head(name)
        return self._load(self.version(ref))

    def pin(self, ref: str, *, author: str) -> ResolvedTemplate:
        """Like `get`, and certain to be in the database: a working copy that was not committed is
        committed now. What a launch uses."""
        resolved = self.get(ref)
        with self._database.reading() as connection:
            known = self._row(connection, resolved.name, resolved.hash)
        if known is None:
            self._save(resolved, "Committed when it was launched.", author)
        return resolved

    def commit(self, name: str, message: str, author: str, *, also: Also | None = None) -> Commit:
        """Keep the working copy as a version, with everything it includes. ``also`` runs in the
        same transaction, whether there was something new to keep or not.

        Raises `InvalidInput` with every problem of the working copy; nothing is kept then.
        """
        if not message.strip():
            what = "a version needs a message that says what changed"
            raise InvalidInput(Problem(where="message", what=what))
        return self._save(self.head(name), message.strip(), author, also)

    def tag(
        self, name: str, ref: str, tag: str, *, actor: str, also: Also | None = None
    ) -> VersionInfo:
        """Point a tag at a version, moving it if it points elsewhere.

        ``ref`` is a full reference or the part after ``@``. The name alone is the newest version;
        ``head`` is the version with the content of the working copy, which must be committed.
        """
        problem = _tag_problem(tag)
        if problem:
            raise InvalidInput(Problem(where=f"tag {tag}", what=problem))
        full = ref if "@" in ref else (name if ref == name else f"{name}@{ref}")
        base, _, pin = full.partition("@")
        if base != name:
            what = f"{ref!r} is a version of another template; tag {base} instead"
            raise InvalidInput(Problem(where=f"tag {tag}", what=what))
        if pin == "head":
            committed = self.show(full)[1]
            if committed is None:
                raise NotFound(f"the working copy of {name} is not committed; commit it, then tag")
            version = committed
        else:
            version = self.version(full)
        now = self._clock.now()
        with self._database.transaction() as connection:
            statement = self._insert(_TAG).values(
                name=name, tag=tag, hash=version.hash, moved_at=now
            )
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=["name", "tag"],
                    set_={"hash": version.hash, "moved_at": now},
                )
            )
            said = {"tag": tag, "version": version.number, "hash": version.hash}
            summary = f"tag {tag} of template {name} points at {version.ref}"
            self._tell(connection, name, "tagged", summary, said, actor)
            if also is not None:
                also(connection)
        return self.version(f"{name}@r{version.number}")

    def version(self, ref: str) -> VersionInfo:
        """The committed version a reference stands for: a name alone, or ``@latest``, is the
        newest. Raises `NotFound` naming what is nearest."""
        name, _, pin = ref.partition("@")
        with self._database.reading() as connection:
            versions = self._versions(connection, name)
        if not versions:
            raise NotFound(self._no_version(name, pin))
        if pin in ("", "latest"):
            return versions[-1]
        for version in versions:
            if pin == f"r{version.number}" or pin in version.tags:
                return version
        if _HASH.match(pin) and len(pin) >= _SHORTEST_PREFIX:
            found = [version for version in versions if version.hash.startswith(pin)]
            if len(found) > 1:
                what = f"{pin!r} begins {len(found)} versions; give more of the hash: "
                what += ", ".join(version.hash[: len(pin) + 4] for version in found)
                raise InvalidInput(Problem(where=ref, what=what))
            if found:
                return found[0]
        known = [tag for version in versions for tag in version.tags]
        names = [*known, *(f"r{version.number}" for version in versions), "head", "latest"]
        hint = nearest(pin, names)
        newest = versions[-1].number
        numbers = "r1" if newest == 1 else f"r1…r{newest}"
        shown = ", ".join([*sorted(known), numbers, "head"])
        raise NotFound(f"template {name} has no version {pin!r}{hint} (it has {shown})")

    def show(self, ref: str) -> tuple[ResolvedTemplate, VersionInfo | None]:
        """A template and the version its content was committed as, if it was."""
        resolved = self.get(ref)
        with self._database.reading() as connection:
            found = [
                v for v in self._versions(connection, resolved.name) if v.hash == resolved.hash
            ]
        return resolved, found[0] if found else None

    def log(self, name: str) -> Sequence[VersionInfo]:
        """All versions, newest first. Raises `NotFound` when there are none."""
        with self._database.reading() as connection:
            versions = self._versions(connection, name)
        if not versions:
            raise NotFound(self._no_version(name, ""))
        return tuple(reversed(versions))

    def list(self) -> Sequence[TemplateSummary]:
        """Every template that has a working copy or a version, by name."""
        library = self.library()
        working = set(library.names())
        with self._database.reading() as connection:
            committed = set(connection.scalars(sa.select(_VERSION.c.name).distinct()))
            versions = {name: self._versions(connection, name) for name in committed}
        summaries: list[TemplateSummary] = []
        for name in sorted(working | committed):
            known = versions.get(name, [])
            newest = known[-1] if known else None
            state, description = "none", ""
            if name in working:
                resolved, problems = inspect(name, library, self.get)
                description = resolved.description if resolved else ""
                if problems or resolved is None:
                    state = "invalid"
                elif newest is None:
                    state = "new"
                else:
                    state = "committed" if resolved.hash == newest.hash else "changed"
            elif newest is not None:
                description = self._load(newest).description
            summaries.append(
                TemplateSummary(
                    name=name,
                    description=description,
                    newest=newest,
                    tags=tuple(sorted(tag for version in known for tag in version.tags)),
                    working_copy=state,
                )
            )
        return summaries

    def diff(self, a: str, b: str) -> TemplateDiff:
        """What changes from one reference to another."""
        return diff_templates(self.get(a), self.get(b), before=a, after=b)

    def compose(self, refs: Iterable[str], name: str) -> Composition:
        """Merge several templates into one working copy; nothing is written yet."""
        return compose([self.get(ref) for ref in refs], name)

    def checkout(self, ref: str, directory: Path, *, force: bool = False) -> ResolvedTemplate:
        """Write a version, its layers and their image maps as working copies into a directory of
        templates; they resolve to the same hash there.

        Raises `Conflict` when something else is there already, unless ``force``.
        """
        resolved = self.get(ref)
        write_working_copy(resolved.sources, resolved.blobs, directory, force=force)
        return resolved

    def script(self, sha256: str) -> bytes:
        """A committed script's bytes. Raises `NotFound`."""
        with self._database.reading() as connection:
            found = self._blobs(connection, [sha256])
        if sha256 not in found:
            raise NotFound(f"no script with the hash {sha256} was ever committed")
        return found[sha256]

    def _load(self, version: VersionInfo) -> ResolvedTemplate:
        with self._database.reading() as connection:
            row = self._row(connection, version.name, version.hash)
            if row is None:
                raise NotFound(f"template {version.name} has no version {version.hash}")
            if content_hash(row.document) != version.hash:
                raise SlipwayError(
                    f"the stored content of {version.ref} does not have its hash {version.hash}; "
                    "the database was changed by something else"
                )
            resolved = ResolvedTemplate.model_validate_json(row.document)
            wanted = {s.sha256 for source in resolved.sources for s in source.scripts.values()}
            blobs = self._blobs(connection, sorted(wanted))
        missing = wanted - blobs.keys()
        if missing:
            raise SlipwayError(f"{version.ref} lacks the script {min(missing)} in the database")
        return resolved.model_copy(update={"blobs": blobs})

    def _save(
        self, resolved: ResolvedTemplate, message: str, author: str, also: Also | None = None
    ) -> Commit:
        for attempt in range(_COMMIT_ATTEMPTS):
            try:
                created = self._try_save(resolved, message, author, also)
                break
            except sa.exc.IntegrityError:
                # Another process took the number, or committed the same content: look again.
                if attempt == _COMMIT_ATTEMPTS - 1:
                    raise
        with self._database.reading() as connection:
            versions = self._versions(connection, resolved.name)
        version = next(v for v in versions if v.hash == resolved.hash)
        if created:
            words = f"committed {version.ref} ({version.hash[:12]})"
        elif version == versions[-1]:
            words = f"nothing changed since {version.ref}; nothing was committed"
        else:
            words = f"this is the content of {version.ref} again; nothing was committed"
        return Commit(version=version, created=created, message=words)

    def _try_save(
        self, resolved: ResolvedTemplate, message: str, author: str, also: Also | None
    ) -> bool:
        with self._database.transaction() as connection:
            created = self._row(connection, resolved.name, resolved.hash) is None
            if created:
                self._insert_version(connection, resolved, message, author)
            # Last, as everywhere: whatever locks it takes are taken in one order.
            if also is not None:
                also(connection)
        return created

    def _insert_version(
        self, connection: sa.Connection, resolved: ResolvedTemplate, message: str, author: str
    ) -> None:
        newest = connection.execute(
            sa.select(_VERSION.c.number, _VERSION.c.hash)
            .where(_VERSION.c.name == resolved.name)
            .order_by(_VERSION.c.number.desc())
            .limit(1)
        ).first()
        blobs = [
            {"sha256": sha256, "content": content}
            for sha256, content in sorted(resolved.blobs.items())
        ]
        if blobs:
            connection.execute(self._insert(_BLOB).on_conflict_do_nothing(), blobs)
        number = newest.number + 1 if newest else 1
        connection.execute(
            sa.insert(_VERSION).values(
                name=resolved.name,
                hash=resolved.hash,
                number=number,
                parent=newest.hash if newest else None,
                message=message,
                author=author,
                created_at=self._clock.now(),
                document=resolved.document,
            )
        )
        said = {"version": number, "hash": resolved.hash}
        summary = f"{resolved.name}@r{number} committed: {message}"
        self._tell(connection, resolved.name, "committed", summary, said, author)

    def _tell(
        self,
        connection: sa.Connection,
        name: str,
        what: str,
        summary: str,
        said: Mapping[str, Any],
        actor: str,
    ) -> None:
        subject, now = f"template/{name}"[:_SUBJECT_LENGTH], self._clock.now()
        note = Note(kind=AuditKind.INFO, summary=summary, detail=said)
        audit.append(connection, subject, [note], actor=actor, at=now)
        note_change(connection, f"template.{what}", subject, actor=actor, at=now, detail=said)

    def _versions(self, connection: sa.Connection, name: str) -> Sequence[VersionInfo]:
        tags: dict[str, list[str]] = {}
        for row in connection.execute(
            sa.select(_TAG.c.hash, _TAG.c.tag).where(_TAG.c.name == name).order_by(_TAG.c.tag)
        ):
            tags.setdefault(row.hash, []).append(row.tag)
        columns = [column for column in _VERSION.c if column.name != "document"]
        rows = connection.execute(
            sa.select(*columns).where(_VERSION.c.name == name).order_by(_VERSION.c.number)
        )
        return [VersionInfo(**row._mapping, tags=tuple(tags.get(row.hash, ()))) for row in rows]

    def _row(self, connection: sa.Connection, name: str, hash_: str) -> sa.Row[Any] | None:
        return connection.execute(
            sa.select(_VERSION).where(_VERSION.c.name == name, _VERSION.c.hash == hash_)
        ).first()

    def _blobs(self, connection: sa.Connection, wanted: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            for row in connection.execute(sa.select(_BLOB).where(_BLOB.c.sha256.in_(batch))):
                found[row.sha256] = bytes(row.content)
        return found

    def _insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._database.is_sqlite else postgresql.insert(table)

    def _no_template(self, name: str) -> str:
        known = self.library().names()
        hint = nearest(name, known) or (f" (there are {', '.join(known)})" if known else "")
        return f"there is no template {name!r} in the templates directory{hint}"

    def _no_version(self, name: str, pin: str) -> str:
        if self.library().has(name):
            wanted = f" to be {pin!r}" if pin else ""
            return f"template {name} was never committed, so it has no version{wanted}"
        with self._database.reading() as connection:
            committed = set(connection.scalars(sa.select(_VERSION.c.name).distinct()))
        known = committed | set(self.library().names())
        listed = f" (there are {', '.join(sorted(known))})" if known else ""
        return f"there is no template {name!r}{nearest(name, known) or listed}"


def _tag_problem(tag: str) -> str | None:
    if not _TAG_NAME.match(tag):
        return f"{tag!r} is not a tag; use letters, digits, '.', '-' and '_', like prod or v3"
    if tag in ("head", "latest") or _NUMBER.match(tag):
        return f"{tag!r} already means something: head, latest and r1, r2, … are not for tags"
    if _HASH.match(tag) and len(tag) >= _SHORTEST_PREFIX:
        return f"{tag!r} looks like the beginning of a hash; choose a word"
    return None


__all__ = [
    "TEMPLATE_FILE",
    "Commit",
    "Conflict",
    "TemplateStore",
    "TemplateSummary",
    "VersionInfo",
]
