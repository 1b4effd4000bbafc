"""What a launch needs to be worked on, wired in one place."""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from slipway.clock import Clock, SystemClock
from slipway.clouds.base import Cloud
from slipway.database import Database
from slipway.keyfiles import read_or_make
from slipway.launches.cloud_file import LOCAL, maker, read_clouds
from slipway.phonehome.identity import Identities
from slipway.phonehome.instructions import Instructions
from slipway.records import Installation
from slipway.remote.base import Connector, Endpoint, Remote
from slipway.servertemplates import ResolvedTemplate, TemplateStore
from slipway.settings import Settings
from slipway.vault import Vault

if TYPE_CHECKING:
    from slipway.mirrors.sync import Mirror

_INSTALLATIONS = Installation.__table__  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True, eq=False)
class Services:
    """Everything a launch talks to; tests put fakes in place of any of it."""

    settings: Settings
    database: Database
    clock: Clock
    clouds: Mapping[str, Cloud]
    templates: TemplateStore
    vault: Vault
    connector: Connector

    @functools.cached_property
    def installation_id(self) -> str:
        """Which Slipway this is: on everything we create. Made on first use."""
        return _installation_id(self.database, self.clock)

    @functools.cached_property
    def identities(self) -> Identities:
        """The agents of servers that call us."""
        return Identities(self.database, self.vault, self.clock)

    @functools.cached_property
    def instructions(self) -> Instructions:
        """What waits for them."""
        return Instructions(self.database, self.vault, self.clock)

    @functools.cached_property
    def mirror(self) -> Mirror:
        """The repositories that are kept by day."""
        from slipway.launches.mirror_file import find_declared
        from slipway.mirrors.store import Store
        from slipway.mirrors.sync import Mirror

        def urls_of(name: str) -> tuple[str, ...]:
            return find_declared(self.database, name).urls

        directory = self.settings.mirror_dir or self.settings.state_dir / "mirror"
        return Mirror(Store(directory), self.database, self.clock, urls_of=urls_of)

    def template(self, name: str, content_hash: str) -> ResolvedTemplate:
        """A committed version; versions never change, so each is read once per process."""
        return _committed_template(self.templates, name, content_hash)

    def script(self, sha256: str) -> bytes:
        """The bytes of a committed script, read once per process."""
        return _committed_script(self.templates, sha256)

    @property
    def ssh_key_file(self) -> Path:
        """The private key our launches log in with; made on first use."""
        return self.settings.state_dir / "keys" / "id_ed25519"

    @functools.cached_property
    def ssh_public_key(self) -> str:
        """Its public half, as one line of ``authorized_keys``."""
        return _public_key(self.ssh_key_file)


@functools.lru_cache(maxsize=256)
def _committed_template(store: TemplateStore, name: str, content_hash: str) -> ResolvedTemplate:
    return store.get(f"{name}@{content_hash}")


@functools.lru_cache(maxsize=256)
def _committed_script(store: TemplateStore, sha256: str) -> bytes:
    return store.script(sha256)


class LazyClouds(Mapping[str, Cloud]):
    """Clouds by name, each made when it is first asked for: what speaks to it takes a while to
    import, and most commands only read records."""

    def __init__(self, makers: Mapping[str, Callable[[], Cloud]]) -> None:
        self._makers = makers
        self._made: dict[str, Cloud] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Cloud:
        maker = self._makers[name]
        with self._lock:
            if name not in self._made:
                self._made[name] = maker()
            return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


class LazySsh:
    """An `SshConnector` that is imported, fabric and all, for the first connection."""

    def __init__(self, *, max_connections: int) -> None:
        self._max_connections = max_connections
        self._made: Connector | None = None
        self._lock = threading.Lock()

    def connect(self, endpoint: Endpoint, *, timeout_s: float) -> Remote:
        """See `Connector`."""
        with self._lock:
            if self._made is None:
                from slipway.remote.ssh import SshConnector

                self._made = SshConnector(max_connections=self._max_connections)
        return self._made.connect(endpoint, timeout_s=timeout_s)


_: type[Connector] = LazySsh


def build_services(settings: Settings, *, clock: Clock | None = None) -> Services:
    """The real services for these settings, with the database at its newest schema."""
    clock = clock or SystemClock()
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    entries = {} if settings.clouds_file is None else read_clouds(settings.clouds_file)
    database = Database(settings.database_url)
    database.migrate()
    vault = Vault(database, settings.state_dir / "keys" / "vault.key", clock)
    return Services(
        settings=settings,
        database=database,
        clock=clock,
        clouds=LazyClouds(
            {
                LOCAL: lambda: _local_cloud(settings),
                **{
                    name: maker(name, entry, database, vault, clock)
                    for name, entry in entries.items()
                },
            }
        ),
        templates=TemplateStore(database, settings.templates_dir, clock),
        vault=vault,
        connector=LazySsh(max_connections=settings.max_connections),
    )


def _local_cloud(settings: Settings) -> Cloud:
    from slipway.clouds.local import LocalCloud

    return LocalCloud(settings)


def _installation_id(database: Database, clock: Clock) -> str:
    with database.reading() as connection:
        found = connection.execute(sa.select(_INSTALLATIONS.c.id)).scalar()
    if found is not None:
        return str(found)
    row = {"id": f"slipway-{secrets.token_hex(8)}", "created_at": clock.now()}
    with contextlib.suppress(IntegrityError), database.transaction() as connection:
        if connection.execute(sa.select(_INSTALLATIONS.c.id)).scalar() is None:
            connection.execute(sa.insert(_INSTALLATIONS).values(**row))
    with database.reading() as connection:
        return str(connection.execute(sa.select(_INSTALLATIONS.c.id)).scalar_one())


def _public_key(key_file: Path) -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    def make() -> bytes:
        return Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )

    private = serialization.load_ssh_private_key(read_or_make(key_file, make), password=None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return f"{public.decode()} slipway"
