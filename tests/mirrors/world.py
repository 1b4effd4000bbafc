"""What the tests of mirrors have in common: one repository, upstream and here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from slipway.database import Database
from slipway.mirrors import manifest
from slipway.mirrors.days import Day
from slipway.mirrors.listing import Listing
from slipway.mirrors.repository import AptRepository, Fetch, Repository, RpmRepository
from slipway.mirrors.store import Store
from slipway.mirrors.sync import Mirror, Synced
from slipway.testing.deb_archive import DebArchive
from slipway.testing.fake_clock import FakeClock
from slipway.testing.rpm_archive import RpmArchive
from slipway.testing.web import Web

ACTOR = "test"


@dataclass
class World:
    """An upstream, what serves it, and our mirror of it."""

    archive: DebArchive | RpmArchive
    web: Web
    database: Database
    store: Store
    clock: FakeClock
    fetch: Fetch = Fetch()  # noqa: RUF009  (frozen)

    @property
    def repository(self) -> Repository:
        if isinstance(self.archive, RpmArchive):
            return RpmRepository(
                name="rocky",
                urls=(self.web.url,),
                suites=self.archive.suites,
                keyring=self.archive.keyring.read_bytes(),
                signed_by=str(self.archive.keyring),
                fetch=self.fetch,
            )
        return AptRepository(
            name="debian",
            urls=(self.web.url,),
            suites=self.archive.suites,
            keyring=self.archive.keyring.read_bytes(),
            signed_by=str(self.archive.keyring),
            fetch=self.fetch,
        )

    def mirror(self, **options: int | float) -> Mirror:
        """Without a reserve, and with few connections."""
        given = {"reserve_bytes": 0, "stall_s": 20.0, "connections": 4, **options}
        return Mirror(
            self.store,
            self.database,
            self.clock,
            urls_of=lambda _name: (self.web.url,),
            **given,  # type: ignore[arg-type]
        )

    def sync(self, **options: int | float) -> Synced:
        return self.mirror(**options).sync(self.repository, actor=ACTOR)

    def synced(self, **options: int | float) -> Day:
        """The day of the first suite; nothing may have failed."""
        done = self.sync(**options)
        assert done.failures == {}
        return done.days[0]

    def next_day(self, **changes: int) -> None:
        """The upstream changes, and time passes here as well."""
        self.archive.advance(**changes)
        self.clock.advance(24 * 3600)

    def packages(self, day: Day) -> dict[str, str]:
        """The versions a day has by name of the package; each of its files is here and sound."""
        state = manifest.load(self.store, day.manifest)
        found: dict[str, str] = {}
        for path, file in state.files.items():
            assert self.store.size(file.sha256) == file.size, path
            self.store.read(file.sha256)
        for ref in state.listings.values():
            with Listing(self.store.path(ref.sha256)) as listing:
                for entry in listing:
                    assert len(self.store.read(entry.sha256)) == entry.size
                    found[entry.package] = entry.version
        return found

    def expected(self) -> dict[str, str]:
        """The versions the upstream has."""
        return {package.name: package.version for package in self.archive.packages.values()}

    def days(self) -> list[Day]:
        return self.mirror().days.history(self.repository.name)

    def assert_sound(self) -> None:
        """No blob has other bytes than its name says."""
        for path in (self.store.root / "cas").rglob("*/*/*"):
            if path.is_file():
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    def with_urls(self, *urls: str) -> Repository:
        return replace(self.repository, urls=urls)
