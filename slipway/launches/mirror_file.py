"""The mirrors file: which package repositories are kept by day.

``slipway mirror add FILE`` reads it; what is in it is told in ``docs/mirrors.md`` and in its JSON
Schema. What was read is on record, so that every process that syncs, serves or lists knows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import sqlalchemy as sa
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    model_validator,
)

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import InvalidInput, NotFound, Problem
from slipway.mirrors.events import DECLARED, tell
from slipway.mirrors.manifest import Coverage
from slipway.mirrors.repository import AptRepository, Fetch, Keep, Repository, RpmRepository
from slipway.mirrors.signatures import Keyring
from slipway.records import MirrorRepository
from slipway.servertemplates.document import check_model
from slipway.servertemplates.yaml_source import load
from slipway.spelling import nearest

_REPOSITORIES = MirrorRepository.__table__  # type: ignore[attr-defined]

Text = Annotated[str, StringConstraints(min_length=1)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9+._-]*$")]
_ADDRESS = re.compile(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?\Z")


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    """What is wrong is not shown: it may hold a password."""
    if not values or not all(_ADDRESS.match(value) for value in values):
        raise ValueError(
            "these have to be one or more addresses such as https://deb.debian.org/debian, without "
            "a user or a password"
        )
    return values


Addresses = Annotated[tuple[str, ...], AfterValidator(_addresses)]
#: A suite, perhaps of several words (``stable/updates``), or the directory of a flat repository.
Suite = Annotated[str, StringConstraints(pattern=r"^(?:/|[A-Za-z0-9][A-Za-z0-9+._/-]*)$")]
#: Of an rpm repository, from its address on.
_NAME = "[A-Za-z0-9][A-Za-z0-9+._-]*"
Directory = Annotated[str, StringConstraints(pattern=rf"^(?:/|{_NAME}(?:/{_NAME})*/?)$")]
#: ID and the first number of VERSION_ID.
System = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*-[0-9]+$")]
Number = Annotated[int, Field(ge=0, le=10_000)]


class _Written(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KeepEntry(_Written):
    """Of how many of the last days, weeks and months the newest state is kept."""

    daily: Number = Field(default=Keep().daily, description="Days.")
    weekly: Number = Field(default=Keep().weekly, description="Weeks.")
    monthly: Number = Field(default=Keep().monthly, description="Months.")


class ClosureEntry(_Written):
    """Packages that all it takes to install them has to be here for. Others are fetched when
    somebody asks for them."""

    closure_of: tuple[Word, ...] = Field(default=(), description="By name.")
    templates: bool = Field(
        default=False,
        description="What the scripts of templates say they install (`packages`), as far as the "
        "repository has it.",
    )


#: For all packages at once.
Fetching = Literal["complete", "lazy"]


class _Entry(_Written):
    urls: Addresses = Field(description="Where it is mirrored from, in order of preference.")
    keyring: Text = Field(
        description="File with the OpenPGP certificates that may sign it, binary or armored; "
        "relative to this file."
    )
    signed_by: Text | None = Field(
        default=None,
        description="Where clients have those certificates; without it, where this file says.",
    )
    keep: KeepEntry = Field(default=KeepEntry(), description="What 'slipway mirror prune' leaves.")


class AptEntry(_Entry):
    """A Debian repository."""

    kind: Literal["apt"] = Field(title="kind of repository", description="Which clients it is for.")
    suites: tuple[Suite, ...] = Field(
        min_length=1,
        description="Names below dists/; one that ends in a slash is the directory of a flat "
        "repository.",
    )
    components: tuple[Word, ...] = Field(
        default=(), description="Without it, all that the release names."
    )
    architectures: tuple[Word, ...] = Field(
        default=("amd64",), min_length=1, description="Debian's names for them."
    )
    languages: tuple[Word, ...] = Field(
        default=("en",), description="Of translated descriptions of packages."
    )
    sources: bool = Field(default=False, description="Source packages as well.")
    contents: bool = Field(default=False, description="Lists of which file is in which package.")
    installer: bool = Field(default=False, description="Packages of the Debian installer.")
    fetch: Fetching | ClosureEntry = Field(
        default="complete",
        description="Which packages are here before somebody asks for them: all (complete), none "
        "(lazy), or what it takes to install some.",
    )


class RpmEntry(_Entry):
    """Repositories for dnf below one address."""

    kind: Literal["rpm"] = Field(title="kind of repository", description="Which clients it is for.")
    directories: tuple[Directory, ...] = Field(
        default=("/",),
        min_length=1,
        description="Those that have a repodata, from the address on; '/' is the address itself.",
    )
    signed: Literal["metadata", "packages"] = Field(
        default="metadata",
        description="'packages' where there is no repomd.xml.asc: then what says which packages "
        "there are is believed because it comes over https.",
    )
    architectures: tuple[Word, ...] = Field(
        default=("x86_64",),
        min_length=1,
        description="Those that packages are wanted for where not all are fetched.",
    )
    system: System | None = Field(
        default=None,
        description="The distribution whose frozen launches take their packages from here: ID and "
        "the first number of VERSION_ID in its os-release, as in rocky-9.",
    )
    supplementary: bool = Field(
        default=False,
        description="It only adds to that distribution: launches that are frozen to a day on which "
        "it was not mirrored yet do without.",
    )
    fetch: Fetching | ClosureEntry = Field(
        default="complete",
        description="Which packages are here before somebody asks for them: all (complete), none "
        "(lazy), or what it takes to install some.",
    )

    @model_validator(mode="after")
    def _is_believable(self) -> Self:
        """Clients check each package; that one is held back or an old one offered, they cannot."""
        if self.signed == "packages" and any(not url.startswith("https:") for url in self.urls):
            raise ValueError(
                "where packages alone are signed, all addresses have to begin with https://"
            )
        return self


Entry = Annotated[AptEntry | RpmEntry, Field(discriminator="kind")]
_ENTRY: TypeAdapter[AptEntry | RpmEntry] = TypeAdapter(Entry)


class MirrorsFile(_Written):
    """Repositories by the names that addresses and commands use."""

    schema_: Literal["slipway-mirrors/1"] = Field(
        alias="schema", title="mirrors schema", description="Which rules the file follows."
    )
    mirrors: dict[
        Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")], Entry
    ] = Field(min_length=1, description="By name.")


def read_mirrors(path: Path) -> Mapping[str, tuple[Entry, bytes]]:
    """The repositories in a file, each with its keyring. Raises `InvalidInput` with every problem
    in it."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"the mirrors file cannot be read ({error})"
        raise InvalidInput(Problem(where=str(path), what=what)) from error
    located, problems = load(text, path.name)
    if located.data is None and problems:
        raise InvalidInput(problems)
    file, more, _ = check_model(located, MirrorsFile)
    problems += more
    found: dict[str, tuple[Entry, bytes]] = {}
    for name, entry in file.mirrors.items() if file is not None else ():
        where = located.where(("mirrors", name, "keyring"))
        try:
            found[name] = (entry, _keyring(path.parent / entry.keyring, where))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(problems)
    return found


def _keyring(path: Path, where: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        what = f"the keyring {path} cannot be read: {error.strerror}"
        raise InvalidInput(Problem(where=where, what=what)) from error
    Keyring.from_bytes(data, where)
    return data


def declare(
    database: Database,
    clock: Clock,
    found: Mapping[str, tuple[Entry, bytes]],
    *,
    actor: str,
) -> dict[str, Literal["added", "changed", "unchanged"]]:
    """Put repositories on record, all or none; answers what became of each. Those of another file
    stay."""
    outcomes: dict[str, Literal["added", "changed", "unchanged"]] = {}
    with database.transaction() as connection:
        for name, (entry, keyring) in found.items():
            document = entry.model_dump(mode="json")
            values = {"document": document, "keyring": keyring, "declared_at": clock.now()}
            row = connection.execute(
                sa.select(_REPOSITORIES.c.document, _REPOSITORIES.c.keyring).where(
                    _REPOSITORIES.c.name == name
                )
            ).first()
            if row is None:
                connection.execute(sa.insert(_REPOSITORIES).values(name=name, **values))
                outcomes[name] = "added"
            elif (row.document, row.keyring) == (document, keyring):
                outcomes[name] = "unchanged"
            else:
                connection.execute(
                    sa.update(_REPOSITORIES).where(_REPOSITORIES.c.name == name).values(**values)
                )
                outcomes[name] = "changed"
            if outcomes[name] != "unchanged":
                detail = {"outcome": outcomes[name]}
                tell(connection, DECLARED, name, actor=actor, at=clock.now(), detail=detail)
    return outcomes


def declared(database: Database) -> dict[str, Repository]:
    """The repositories on record, by name."""
    with database.reading() as connection:
        rows = connection.execute(sa.select(_REPOSITORIES).order_by(_REPOSITORIES.c.name)).all()
    return {row.name: repository_of(row) for row in rows}


def find_declared(database: Database, name: str) -> Repository:
    """One of them. Raises `NotFound`."""
    known = declared(database)
    if name not in known:
        raise NotFound(f"no repository {name} is mirrored{nearest(name, known)}")
    return known[name]


def repository_of(row: Any) -> Repository:
    """A repository from its record."""
    entry = _ENTRY.validate_json(_json(row.document))
    keep = Keep(daily=entry.keep.daily, weekly=entry.keep.weekly, monthly=entry.keep.monthly)
    signed_by = entry.signed_by or entry.keyring
    if isinstance(entry, RpmEntry):
        return RpmRepository(
            name=row.name,
            urls=entry.urls,
            suites=tuple(f"{each.rstrip('/')}/" for each in entry.directories),
            keyring=row.keyring,
            signed_by=signed_by,
            architectures=entry.architectures,
            signed_metadata=entry.signed == "metadata",
            system=entry.system or "",
            supplementary=entry.supplementary,
            keep=keep,
            fetch=_fetch(entry.fetch),
        )
    return AptRepository(
        name=row.name,
        urls=entry.urls,
        suites=entry.suites,
        keyring=row.keyring,
        signed_by=signed_by,
        components=entry.components,
        architectures=entry.architectures,
        languages=entry.languages,
        sources=entry.sources,
        contents=entry.contents,
        installer=entry.installer,
        keep=keep,
        fetch=_fetch(entry.fetch),
    )


def _fetch(entry: str | ClosureEntry) -> Fetch:
    if isinstance(entry, ClosureEntry):
        return Fetch(coverage=Coverage.CLOSURE, names=entry.closure_of, templates=entry.templates)
    return Fetch(coverage=Coverage(entry))


def _json(document: Mapping[str, Any]) -> str:
    # Strict models take tuples from JSON alone.
    return json.dumps(document)
