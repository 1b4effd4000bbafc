"""Credentials: encrypted in the database, the key in a file beside it, named in all else.

A secret is written once by a person and named as ``cred:NAME`` wherever a value would stand. The
value is decrypted at the moment of use and held in a `SecretStr`. A copy of the database alone
gives nothing away.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from pydantic import SecretStr

from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import InvalidInput, NotFound, Problem, SlipwayError
from slipway.keyfiles import read_or_make
from slipway.records import Credential

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_CREDENTIALS = Credential.__table__  # type: ignore[attr-defined]

#: How a value says that it names a credential.
REFERENCE = "cred:"


#: What may stand behind ``cred:``, without the part that is kept for launches.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")
_OF_LAUNCHES = "launch/"


def check_credential_name(name: str) -> None:
    """Raises `InvalidInput` for what a credential of a person cannot be called."""
    if not _NAME.fullmatch(name) or name.startswith(_OF_LAUNCHES):
        what = "a name is letters, digits, '_', '-', '.' and '/', and does not begin with launch/"
        raise InvalidInput(Problem(where=f"credential {name}", what=what))


class Vault:
    """The credentials of this installation."""

    def __init__(self, database: Database, key_file: Path, clock: Clock) -> None:
        self._database = database
        self._key_file = key_file
        self._clock = clock

    def put(self, name: str, value: SecretStr) -> None:
        """Store a credential, over one of the same name."""
        with self._database.transaction() as connection:
            self.put_in(connection, name, value)

    def put_in(
        self,
        connection: sa.Connection,
        name: str,
        value: SecretStr,
        *,
        launch_id: str | None = None,
    ) -> None:
        """Store a credential in the caller's transaction. One with a launch ends with it."""
        connection.execute(sa.delete(_CREDENTIALS).where(_CREDENTIALS.c.name == name))
        connection.execute(
            sa.insert(_CREDENTIALS).values(
                name=name,
                ciphertext=self._cipher().encrypt(value.get_secret_value().encode()),
                launch_id=launch_id,
                created_at=self._clock.now(),
            )
        )

    def get(self, name: str) -> SecretStr:
        """The value of a credential. Raises `NotFound`."""
        with self._database.reading() as connection:
            query = sa.select(_CREDENTIALS.c.ciphertext).where(_CREDENTIALS.c.name == name)
            ciphertext = connection.execute(query).scalar()
        if ciphertext is None:
            raise NotFound(
                f"there is no credential {name}: store it with 'slipway credential set NAME'"
            )
        if not self._key_file.exists():
            raise SlipwayError(
                f"the key {self._key_file} that credential {name} was encrypted with is missing"
            )
        return SecretStr(self._decrypt(ciphertext, f"credential {name}").decode())

    def names(self) -> list[str]:
        """The credentials that people keep, in order."""
        with self._database.reading() as connection:
            query = (
                sa.select(_CREDENTIALS.c.name)
                .where(_CREDENTIALS.c.launch_id.is_(None))
                .order_by(_CREDENTIALS.c.name)
            )
            return list(connection.execute(query).scalars())

    def has(self, name: str) -> bool:
        """Whether a credential of this name exists."""
        with self._database.reading() as connection:
            query = sa.select(_CREDENTIALS.c.name).where(_CREDENTIALS.c.name == name)
            return connection.execute(query).first() is not None

    def remove(self, name: str, *, also: Callable[[sa.Connection], None] | None = None) -> None:
        """Forget a credential. ``also`` runs in the same transaction. Raises `NotFound`."""
        with self._database.transaction() as connection:
            gone = connection.execute(sa.delete(_CREDENTIALS).where(_CREDENTIALS.c.name == name))
            if gone.rowcount == 0:
                raise NotFound(f"there is no credential {name}")
            if also is not None:
                also(connection)

    def remove_of(self, connection: sa.Connection, launch_id: str) -> None:
        """Forget what a launch was given, in the caller's transaction."""
        connection.execute(sa.delete(_CREDENTIALS).where(_CREDENTIALS.c.launch_id == launch_id))

    def seal(self, value: SecretStr) -> bytes:
        """A secret encrypted, for whoever keeps it in a table of their own."""
        return self.encrypt(value.get_secret_value().encode())

    def unseal(self, ciphertext: bytes) -> SecretStr:
        """What `seal` has sealed. Raises `SlipwayError` when the key is another one now."""
        return SecretStr(self.decrypt(ciphertext).decode())

    def derive_key(self, purpose: str) -> bytes:
        """32 bytes for one purpose: the same in every process that has the key file, of no use for
        any other purpose, and telling nothing of the key they come from."""
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        root = read_or_make(self._key_file, Fernet.generate_key)
        kdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"slipway/{purpose}".encode())
        return kdf.derive(root)

    def encrypt(self, data: bytes) -> bytes:
        """Bytes encrypted, for whoever keeps them in a table of their own."""
        return self._cipher().encrypt(data)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """The opposite of `encrypt`. Raises `SlipwayError`."""
        return self._decrypt(ciphertext, "this")

    def _decrypt(self, ciphertext: bytes, what: str) -> bytes:
        from cryptography.fernet import InvalidToken

        try:
            return self._cipher().decrypt(ciphertext)
        except InvalidToken:
            raise SlipwayError(
                f"{what} was encrypted with another key than {self._key_file}"
            ) from None

    def _cipher(self) -> Fernet:
        # Imported where it is used: most commands need no secret, and it takes 5 MB and 30 ms.
        from cryptography.fernet import Fernet

        return Fernet(read_or_make(self._key_file, Fernet.generate_key))
