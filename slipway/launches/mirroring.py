"""Looking after mirrors in the background: what a flow's steps do, and what they show of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from slipway.changes import newest
from slipway.errors import PackagesMissing, SuitesNotTaken
from slipway.launches.environments import list_environments
from slipway.launches.listing import Slice
from slipway.launches.mirror_file import declared, find_declared
from slipway.launches.requests import list_launches
from slipway.launches.services import Services
from slipway.mirrors import manifest
from slipway.mirrors.care import Broken, Pruned
from slipway.mirrors.days import Day
from slipway.mirrors.difference import Difference, PackageChange, compare
from slipway.mirrors.progress import Progress
from slipway.mirrors.repository import Repository
from slipway.mirrors.site import when_of
from slipway.servertemplates import ResolvedTemplate, VersionInfo

#: Rows of a table that somebody looks at.
MOST_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Round:
    """A turn of taking days."""

    repositories: tuple[str, ...]
    began_at: datetime


@dataclass(frozen=True, kw_only=True)
class Night:
    """What came of one repository in a round."""

    repository: str
    #: The days it got.
    days: tuple[Day, ...] = ()
    #: One sentence each; by suite, or under an empty name when it concerns all of them.
    problems: Mapping[str, str]

    def count(self, key: str) -> int:
        """How many were ``added``, ``removed`` or ``changed``; ``new_bytes`` of files."""
        return sum(int(day.changes.get(key, 0)) for day in self.days)


def begin_round(services: Services, names: Sequence[str]) -> Round:
    """Those that are named, or all that are declared. Raises `NotFound`."""
    wanted = [find_declared(services.database, name).name for name in names]
    found = tuple(dict.fromkeys(wanted)) or tuple(declared(services.database))
    return Round(repositories=found, began_at=services.clock.now())


def to_take(services: Services, name: str) -> Repository:
    """A declared repository, with the packages that templates name if it is to have them. Raises
    `NotFound`."""
    repository = find_declared(services.database, name)
    if not repository.fetch.templates:
        return repository
    packages = tuple(sorted(_packages_of_templates(services)))
    return replace(repository, fetch=replace(repository.fetch, named_by_templates=packages))


def _packages_of_templates(services: Services) -> set[str]:
    """What scripts say they install, of all versions and of working copies that are valid."""
    working = [
        services.templates.head(each.name)
        for each in services.templates.list()
        if each.working_copy not in ("invalid", "none")
    ]
    committed = [template for _, template in _versions(services)]
    return {
        name
        for template in (*working, *committed)
        for script in template.scripts()
        for name in script.packages
    }


def _versions(services: Services) -> Iterator[tuple[VersionInfo, ResolvedTemplate]]:
    """All that were ever committed."""
    for template in services.templates.list():
        for version in services.templates.log(template.name) if template.newest else ():
            yield version, services.template(template.name, version.hash)


def take_day(
    services: Services, name: str, *, since: datetime, actor: str, progress: Progress
) -> None:
    """Take those suites of a repository that have no day since then: when it is tried again, a
    suite that was taken the first time keeps that day. Raises `SuitesNotTaken` when some could not
    be, `PackagesMissing` when they were and do not have all that is to be here, and what
    `Mirror.sync` raises."""
    repository = to_take(services, name)
    done = {day.suite for day in services.mirror.days.newest(name) if day.taken_at >= since}
    due = tuple(suite for suite in repository.suites if suite not in done)
    if not due:
        return
    synced = services.mirror.sync(replace(repository, suites=due), actor=actor, progress=progress)
    if synced.failures:
        raise SuitesNotTaken(synced.failures)
    if synced.missing:
        raise PackagesMissing(name, synced.missing)


def what_came(
    services: Services, name: str, *, since: datetime, error: BaseException | None
) -> Night:
    """The days that a repository has got since then, and what was wrong."""
    problems: dict[str, str] = {}
    if isinstance(error, SuitesNotTaken):
        problems = {suite: str(failure) for suite, failure in error.failures.items()}
    elif error is not None:
        problems = {"": str(error) or type(error).__name__}
    days = tuple(day for day in services.mirror.days.newest(name) if day.taken_at >= since)
    return Night(repository=name, days=days, problems=problems)


def night_rows(nights: Sequence[Night]) -> list[dict[str, str]]:
    """For a table: one row for each suite, what went wrong first."""
    rows = []
    for night in nights:
        taken = {day.suite: day for day in night.days}
        for suite in dict.fromkeys([*night.problems, *taken]):
            day = taken.get(suite)
            changes = {} if day is None else day.changes
            rows.append(
                {
                    "repository": night.repository,
                    "suite": suite,
                    # Before the numbers: the page cuts off what is far to the right.
                    "problem": night.problems.get(suite, ""),
                    "added": str(changes.get("added", 0)),
                    "removed": str(changes.get("removed", 0)),
                    "upgraded": str(changes.get("changed", 0)),
                    "bytes": str(changes.get("new_bytes", 0)),
                    "state": "" if day is None else when_of(day.taken_at),
                }
            )
    return sorted(rows, key=lambda row: row["problem"] == "")


def package_rows(services: Services, nights: Sequence[Night]) -> list[dict[str, str]]:
    """For a table: the packages that changed, `MOST_ROWS` at most. A suite's first day is left out:
    all of it is new."""
    rows: list[dict[str, str]] = []
    for night in nights:
        for day in night.days:
            before = _before(services, night.repository, day)
            if before is None or not day.changes or len(rows) >= MOST_ROWS:
                continue
            store = services.mirror.store
            found = compare(
                store, manifest.load(store, before.manifest), manifest.load(store, day.manifest)
            )
            rows += [
                {
                    "repository": night.repository,
                    "suite": day.suite,
                    "package": f"{change.package}:{change.architecture}",
                    "before": " ".join(change.before),
                    "after": " ".join(change.after),
                }
                for change in found.changes
            ]
    return rows[:MOST_ROWS]


def _before(services: Services, repository: str, day: Day) -> Day | None:
    # Moments are full seconds.
    moment = day.taken_at - timedelta(seconds=1)
    return next(
        (each for each in services.mirror.days.at(repository, moment) if each.suite == day.suite),
        None,
    )


def repair(services: Services, *, actor: str, progress: Progress) -> list[Broken]:
    """Fetch what is damaged or missing again; answers all that was."""
    return services.mirror.repair(declared(services.database), actor=actor, progress=progress)


def prune(
    services: Services,
    *,
    actor: str,
    dry_run: bool = False,
    shown: Pruned | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """Remove days, of those that were ``shown`` if given; those that somebody has pinned or that
    something names stay."""
    return services.mirror.prune(
        declared(services.database),
        actor=actor,
        named=named_days(services),
        dry_run=dry_run,
        shown=shown,
        progress=progress,
    )


def kept_days(services: Services, name: str) -> dict[date, str]:
    """The days of a repository that stay whatever their age, each with a reason."""
    return {**named_days(services), **services.mirror.pins.of(name)}


def named_days(services: Services) -> dict[date, str]:
    """The days that something is frozen to, each with the first that is: a version of a template,
    an environment, a server that is not terminated."""
    found: dict[date, str] = {}
    for launch in list_launches(services):
        if launch.freeze is not None:
            found[launch.freeze] = f"server {launch.server_name}"
    for environment in list_environments(services.database):
        if environment.freeze is not None:
            found[environment.freeze] = f"environment {environment.name}"
    for version, template in _versions(services):
        day = template.freeze_date(None)
        if day is not None:
            found[day] = f"template {version.ref}"
    return found


@dataclass(frozen=True, kw_only=True)
class PackageDifference:
    """A package that changed in a suite."""

    suite: str
    change: PackageChange

    @property
    def key(self) -> tuple[str, ...]:
        """Which it is among those of all suites, in order."""
        return self.suite, self.change.package, self.change.architecture


def changes_between(
    services: Services,
    name: str,
    before: str,
    after: str,
    *,
    behind: tuple[str, ...] | None,
    limit: int,
) -> Slice[PackageDifference]:
    """The packages that changed between two times, behind a key. Raises as `differences` does."""
    found = sorted(
        (
            PackageDifference(suite=suite, change=change)
            for suite, difference in differences(services, name, before, after)
            for change in difference.changes
        ),
        key=lambda each: each.key,
    )
    if behind is not None:
        found = [each for each in found if each.key > behind]
    with services.database.reading() as connection:
        as_of = newest(connection)
    return Slice(rows=tuple(found[:limit]), more=len(found) > limit, as_of=as_of)


def differences(
    services: Services, name: str, before: str, after: str
) -> Iterator[tuple[str, Difference]]:
    """What changed in each suite of a repository between two times, as addresses spell them.
    Raises `NotFound` for one that it has no state of."""
    site = services.mirror.site()
    old = {day.suite: site.state(day) for day in site.resolve(before, name).days}
    for day in site.resolve(after, name).days:
        yield day.suite, compare(services.mirror.store, old.get(day.suite), site.state(day))


def broken_rows(found: Sequence[Broken]) -> list[dict[str, str]]:
    """For a table: `MOST_ROWS` at most."""
    return [
        {
            "repository": each.wanted.repository,
            "file": each.named,
            "is": "missing" if each.missing else "damaged",
            "SHA-256": each.wanted.sha256,
            "repaired": "yes" if each.healed else "no",
        }
        for each in found[:MOST_ROWS]
    ]


def pruned_rows(found: Pruned) -> list[dict[str, str]]:
    """For a table: the days, `MOST_ROWS` at most."""
    return [
        {"repository": name, "suite": day.suite, "state": when_of(day.taken_at)}
        for name, day in found.days[:MOST_ROWS]
    ]
