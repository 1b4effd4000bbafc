"""From which of our mirrors a system takes its packages as of a day, and what that is in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from slipway.errors import NotFound, PackagesMissing
from slipway.launches.mirror_file import declared
from slipway.launches.services import Services
from slipway.mirrors import release
from slipway.mirrors.asgi import PREFIX
from slipway.mirrors.filling import universe_of
from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.release import Release
from slipway.mirrors.repository import Repository, RpmRepository
from slipway.mirrors.site import LATEST, Resolved, Site, when_of
from slipway.mirrors.sources import DAY_VARIABLE, apt_sources, dnf_sources
from slipway.mirrors.store import Store


@dataclass(frozen=True, kw_only=True)
class System:
    """What runs on a server."""

    #: As in its ``os-release``: ``debian``.
    id: str
    #: ``bookworm``.
    codename: str
    #: The first number of its version: ``12``.
    major: str
    #: As Debian calls it: ``amd64``.
    architecture: str
    #: As the kernel calls it, and rpm: ``x86_64``.
    machine: str


@dataclass(frozen=True, kw_only=True)
class FrozenSources:
    """What a server is given."""

    #: For ``/etc/apt/sources.list.d/``, or for ``/etc/yum.repos.d/``.
    text: str
    #: Which state of which repositories that is, and what is left out.
    notes: tuple[str, ...]


def sources_text(
    site: Site, repository: Repository, resolved: Resolved, *, when: str, base: str
) -> str:
    """What to put on a machine for a repository as of ``when``; ``base`` is where clients reach the
    mirror. For dnf, ``when`` is a variable of its own."""
    if isinstance(repository, RpmRepository):
        return dnf_sources(repository, url=f"{base.rstrip('/')}{PREFIX}/${DAY_VARIABLE}")
    return apt_sources(
        [site.state(day) for day in resolved.days],
        url=f"{base.rstrip('/')}{PREFIX}/{when}/{repository.name}",
        keyring=repository.signed_by,
        name=repository.name,
        frozen=when != LATEST,
    )


def frozen_sources(
    services: Services, system: System, day: date, packages: Sequence[str]
) -> FrozenSources | None:
    """The sources of a system as of a day, from the repositories here that are of its distribution
    and release; None when its base is not mirrored. Raises `NotFound` saying why the day cannot be
    had from those that are, and `PackagesMissing` when not all that it takes to install these
    packages is here."""
    site = services.mirror.site()
    ours = {
        name: (repository, is_base)
        for name, repository in declared(services.database).items()
        if (is_base := _is_base_of(services, site, repository, system)) is not None
    }
    if not any(is_base for _, is_base in ours.values()):
        return None
    when = day.isoformat()
    base = services.settings.mirror_url
    texts: list[str] = []
    notes: list[str] = []
    states: list[SuiteState] = []
    for name, (repository, is_base) in ours.items():
        try:
            resolved = site.resolve(when, name)
        except NotFound:
            # What began to be mirrored later was not there then; what was removed, was.
            if is_base or services.mirror.days.on(name, day):
                raise
            notes.append(f"without {name}, which was not mirrored then")
            continue
        texts.append(sources_text(site, repository, resolved, when=when, base=base))
        notes.append(f"{name} as of {when_of(resolved.taken_at)}")
        states += [site.state(each) for each in resolved.days]
    _check_closure(services.mirror.store, states, system, packages, where=", ".join(notes))
    return FrozenSources(text="\n".join(texts), notes=tuple(notes))


def _check_closure(
    store: Store, states: Sequence[SuiteState], system: System, packages: Sequence[str], where: str
) -> None:
    if not packages:
        return
    is_rpm = any(state.is_rpm for state in states)
    architecture = system.machine if is_rpm else system.architecture
    with universe_of(store, states, architecture) as universe:
        # dnf's groups are not looked into.
        found = universe.closure([name for name in packages if not name.startswith("@")])
    absent = [
        f"{entry.package} {entry.version}"
        for entry in found.entries.values()
        if store.size(entry.sha256) != entry.size
    ]
    if found.missing or absent:
        raise PackagesMissing(where, [*found.missing, *absent])


def _is_base_of(
    services: Services, site: Site, repository: Repository, system: System
) -> bool | None:
    """Whether a repository has a whole distribution that is a system's, and not what is added to
    one; None when it is not for that system."""
    if isinstance(repository, RpmRepository):
        # Nothing in it says what it is for.
        fits = repository.system == f"{system.id}-{system.major}"
        return not repository.supplementary if fits else None
    releases = list(_releases(services, site, repository.name, system))
    return any("-" not in each.suite for each in releases) if releases else None


def _releases(services: Services, site: Site, name: str, system: System) -> Iterator[Release]:
    """Of a repository's newest suites, those that are for a system."""
    for day in services.mirror.days.newest(name):
        found = release.read(services.mirror.store, site.state(day))
        # "bookworm-security" and "bookworm/updates" are for "bookworm".
        codename = (found.codename or found.suite).replace("/", "-").partition("-")[0]
        if (found.origin.lower(), codename) == (system.id, system.codename):
            yield found
