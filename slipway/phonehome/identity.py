"""Who an agent is: a one-time token turned into a secret that one instance alone has.

The token stands in the user data, where everything that runs on the instance may read it for as
long as the instance lives. So it works once: the agent makes a secret of its own, keeps it on its
disk, and shows the hash of it with the token. From then on that secret is what it calls with, and
the token is worth nothing to anybody else. A reply that was lost costs nothing, because the same
token with the same secret is the same call again.

==================================================  ========  =================================
who calls                                           answer    on the launch's record
==================================================  ========  =================================
first use, from the instance that was made          accepted  yes
the same agent again, because the reply was lost    accepted  no
another secret with a used token: a replay          409       yes
from another instance: a stolen token, or a copy    403       yes
a token or secret that is wrong or has expired      401       yes, when it names a launch of ours
the launch has ended, or has another instance       410       no
==================================================  ========  =================================

Hashes are SHA-256 without salt: what is hashed are 256 random bits, not a password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql, sqlite

from slipway import audit
from slipway.audit import Note
from slipway.clock import Clock
from slipway.database import Database
from slipway.errors import AgentRefused
from slipway.lifecycle import subject_of
from slipway.records import Agent, AgentInstruction, AuditKind, Blob, Launch, LaunchStatus
from slipway.vault import Vault

_AGENTS = Agent.__table__  # type: ignore[attr-defined]
_BLOBS: sa.Table = Blob.__table__  # type: ignore[attr-defined]
_INSTRUCTIONS = AgentInstruction.__table__  # type: ignore[attr-defined]
_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

#: How long after its instance was asked for a token may be used first. A server that boots later
#: than this has no launch waiting for it any more; resuming the launch starts the time anew.
TOKEN_LIFE = timedelta(hours=1)

#: How long a secret is good for. An agent changes it every day, so only a server that was off, or
#: cut off, for longer than this is locked out.
SECRET_LIFE = timedelta(days=30)
SECRET_CHANGES_AFTER = timedelta(days=1)

#: So many refused calls of one launch are on record within the period; then one entry says that
#: there are more.
REFUSALS_ON_RECORD = 20
REFUSALS_PERIOD = timedelta(hours=1)

_FIRST_WORD = "slipway-boot"
_LONGEST_CREDENTIAL = 512
_LONGEST_TEXT = 512


class Refusal(StrEnum):
    """Why a call is refused."""

    WRONG = "wrong"
    EXPIRED = "expired"
    OTHER_INSTANCE = "other instance"
    USED = "used"
    OVER = "over"
    #: Too early: which instance the launch has is not on record yet. To be tried again.
    EARLY = "early"


@dataclass(frozen=True, kw_only=True)
class Caller:
    """An agent that has shown who it is."""

    launch_id: str
    generation: int
    instance_id: str
    #: It should make itself a new secret.
    secret_is_old: bool


def hash_of(text: str) -> str:
    """SHA-256 in hexadecimal, which is how tokens and secrets are kept."""
    return hashlib.sha256(text.encode()).hexdigest()


def token_of(vault: Vault, launch_id: str, generation: int) -> SecretStr:
    """The one-time token of an instance. Derived from the installation's key and not stored, so a
    creation that is tried again has the same user data, and a copy of the database is no token."""
    key = vault.derive_key(f"agent token {launch_id} {generation}")
    text = base64.urlsafe_b64encode(key).decode().rstrip("=")
    return SecretStr(f"{_FIRST_WORD}.{launch_id}.{generation}.{text}")


class Identities:
    """The agents of this installation."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._vault = vault
        self._clock = clock

    # -- what the launch does ----------------------------------------------------------------

    def expect(
        self,
        connection: sa.Connection,
        launch_id: str,
        generation: int,
        *,
        api_url: str,
        program: bytes,
        ca: str,
    ) -> None:
        """An instance is about to be made, and its agent will call. In the transaction of the
        intent; what is given here is what its user data will say however often it is asked for."""
        digest = hashlib.sha256(program).hexdigest()
        # Kept, because a server fetches exactly this one, whatever version of us it then asks.
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        connection.execute(
            insert(_BLOBS).values(sha256=digest, content=program).on_conflict_do_nothing()
        )
        token = token_of(self._vault, launch_id, generation).get_secret_value()
        agent = Agent(
            launch_id=launch_id,
            generation=generation,
            api_url=api_url,
            program=digest,
            ca=ca,
            token_hash=hash_of(token),
            token_expires_at=self._clock.now() + TOKEN_LIFE,
        )
        connection.execute(sa.insert(_AGENTS).values(**agent.model_dump()))

    def extend(self, launch_id: str, generation: int) -> None:
        """Give a token that nobody has used yet its whole life again."""
        until = self._clock.now() + TOKEN_LIFE
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(_AGENTS)
                .where(*_this(launch_id, generation), _AGENTS.c.secret_hash.is_(None))
                .values(token_expires_at=until)
            )

    def program(self, sha256: str) -> bytes | None:
        """The agent's program that some server was told to fetch, by its hash."""
        query = (
            sa.select(_BLOBS.c.content)
            .join(_AGENTS, _AGENTS.c.program == _BLOBS.c.sha256)
            .where(_BLOBS.c.sha256 == sha256)
            .limit(1)
        )
        with self._database.reading() as connection:
            found: bytes | None = connection.execute(query).scalar()
        return found

    def find(self, launch_id: str, generation: int) -> Agent | None:
        """The agent of an instance, whether it has called or not."""
        with self._database.reading() as connection:
            return _find(connection, launch_id, generation)

    # -- what agents do ----------------------------------------------------------------------

    def hello(
        self,
        *,
        token: str,
        secret_hash: str,
        instance_id: str,
        facts: Mapping[str, Any],
        peer: str,
    ) -> Caller:
        """An agent's first call, or the same again. ``peer`` is where it came from, for the record.
        Raises `AgentRefused`."""
        launch_id, generation, _ = _parts(token, prefix=_FIRST_WORD)
        now = self._clock.now()
        # Without a lock on anything: whoever guesses must not keep others from writing.
        known = self.find(launch_id, generation)
        if known is None:
            raise AgentRefused(Refusal.WRONG, "this token is not one of ours")
        why = AgentRefused(Refusal.WRONG, "the token is wrong")
        if not _same(known.token_hash, hash_of(token)):
            self._put_on_record(launch_id, generation, why, peer=peer, instance_id=instance_id)
            raise why
        # One transaction: of two first uses at the same moment one is the second.
        with self._database.transaction() as connection:
            agent = _find(connection, launch_id, generation, lock=True)
            assert agent is not None, "agents are never removed"
            launch = _launch(connection, launch_id)
            try:
                _check_first_use(agent, launch, secret_hash, instance_id, now)
            except AgentRefused as refused:
                why = refused
            else:
                if agent.secret_hash is None:
                    self._accept(
                        connection, agent, secret_hash=secret_hash, instance_id=instance_id,
                        facts=facts, peer=peer,
                    )  # fmt: skip
                return Caller(
                    launch_id=launch_id,
                    generation=generation,
                    instance_id=instance_id,
                    secret_is_old=False,
                )
        self._put_on_record(launch_id, generation, why, peer=peer, instance_id=instance_id)
        raise why

    def recognise(
        self, credential: str, *, instance_id: str, peer: str, changing: bool = False
    ) -> Caller:
        """Who calls with this credential, ``LAUNCH.GENERATION.SECRET``. Raises `AgentRefused`.

        The secret before the newest counts only for ``changing`` it: a reply may have been lost.
        """
        launch_id, generation, secret = _parts(credential)
        with self._database.reading() as connection:
            agent = _find(connection, launch_id, generation)
            launch = _launch(connection, launch_id) if agent is not None else None
        if agent is None or launch is None:
            raise AgentRefused(Refusal.WRONG, "this credential is not one of ours")
        try:
            _check_secret(agent, launch, secret, instance_id, self._clock.now(), changing=changing)
        except AgentRefused as refused:
            self._put_on_record(launch_id, generation, refused, peer=peer, instance_id=instance_id)
            raise
        if agent.previous_secret_hash is not None and not changing:
            # The new secret has arrived: from now on the old one is worth nothing.
            with self._database.transaction() as connection:
                connection.execute(
                    sa.update(_AGENTS)
                    .where(*_this(launch_id, generation), _AGENTS.c.secret_hash == hash_of(secret))
                    .values(previous_secret_hash=None)
                )
        age = self._clock.now() - (agent.secret_since or self._clock.now())
        return Caller(
            launch_id=launch_id,
            generation=generation,
            instance_id=agent.instance_id or "",
            secret_is_old=age >= SECRET_CHANGES_AFTER,
        )

    def change_secret(
        self, credential: str, secret_hash: str, *, instance_id: str, peer: str
    ) -> None:
        """Let the agent go on with another secret. Doing it again with the same one is harmless.
        Raises `AgentRefused`."""
        caller = self.recognise(credential, instance_id=instance_id, peer=peer, changing=True)
        shown = hash_of(_parts(credential)[2])
        refused: AgentRefused | None = None
        with self._database.transaction() as connection:
            agent = _find(connection, caller.launch_id, caller.generation, lock=True)
            assert agent is not None, "it was recognised, and agents are never removed"
            if _same(agent.secret_hash, secret_hash):
                return
            if _same(agent.secret_hash, shown):
                connection.execute(
                    sa.update(_AGENTS)
                    .where(*_this(caller.launch_id, caller.generation))
                    .values(
                        secret_hash=secret_hash,
                        previous_secret_hash=shown,
                        secret_since=self._clock.now(),
                    )
                )
            else:
                refused = AgentRefused(Refusal.USED, "this secret was changed for another already")
        if refused is not None:
            self._put_on_record(
                caller.launch_id, caller.generation, refused, peer=peer, instance_id=instance_id
            )
            raise refused

    def saw(self, seen: Mapping[tuple[str, int], tuple[datetime, str]]) -> None:
        """Agents called: when, and from which boot."""
        if not seen:
            return
        rows = [
            {"of": launch_id, "its": generation, "at": at, "boot": boot_id[:64]}
            for (launch_id, generation), (at, boot_id) in sorted(seen.items())
        ]
        with self._database.transaction() as connection:
            connection.execute(
                sa.update(_AGENTS)
                .where(
                    _AGENTS.c.launch_id == sa.bindparam("of"),
                    _AGENTS.c.generation == sa.bindparam("its"),
                )
                .values(last_seen_at=sa.bindparam("at"), boot_id=sa.bindparam("boot")),
                rows,
            )

    def _accept(
        self,
        connection: sa.Connection,
        agent: Agent,
        *,
        secret_hash: str,
        instance_id: str,
        facts: Mapping[str, Any],
        peer: str,
    ) -> None:
        now = self._clock.now()
        told = {str(key)[:64]: _short(value) for key, value in list(facts.items())[:32]}
        connection.execute(
            sa.update(_AGENTS)
            .where(*_this(agent.launch_id, agent.generation))
            .values(
                secret_hash=secret_hash,
                secret_since=now,
                instance_id=instance_id,
                facts=told,
                last_seen_at=now,
                boot_id=str(facts.get("boot_id", ""))[:64],
            )
        )
        note = Note(
            kind=AuditKind.INFO,
            summary=f"the agent of instance {instance_id} has called; its token is used up",
            detail={"peer": peer, "fingerprint": secret_hash[:16], **told},
        )
        actor = _actor(instance_id)
        audit.append(connection, subject_of(agent.launch_id), [note], actor=actor, at=now)

    def _put_on_record(
        self, launch_id: str, generation: int, why: AgentRefused, *, peer: str, instance_id: str
    ) -> None:
        """A refused call, on the launch's record; no more of them than `REFUSALS_ON_RECORD`."""
        if why.reason in (Refusal.OVER, Refusal.EARLY):
            return
        now = self._clock.now()

        def is_full(agent: Agent) -> bool:
            within = agent.refusals_since is not None and now - agent.refusals_since < (
                REFUSALS_PERIOD
            )
            return within and agent.refusals >= REFUSALS_ON_RECORD

        found = self.find(launch_id, generation)
        if found is None or is_full(found):
            return
        with self._database.transaction() as connection:
            agent = _find(connection, launch_id, generation, lock=True)
            if agent is None or is_full(agent):
                return
            since = agent.refusals_since
            if since is None or now - since >= REFUSALS_PERIOD:
                since, agent.refusals = now, 0
            connection.execute(
                sa.update(_AGENTS)
                .where(*_this(launch_id, generation))
                .values(refusals=agent.refusals + 1, refusals_since=since)
            )
            detail = {
                "peer": peer,
                "instance_id": instance_id[:128],
                "reason": str(why.reason),
                "generation": generation,
            }
            notes = [
                Note(kind=AuditKind.ERROR, summary=f"a call was refused: {why}", detail=detail)
            ]
            if agent.refusals + 1 == REFUSALS_ON_RECORD:
                more = (
                    f"{REFUSALS_ON_RECORD} calls were refused within "
                    f"{REFUSALS_PERIOD.total_seconds() / 60:g} minutes; "
                    "more of them are not put on record for the rest of that time"
                )
                notes.append(Note(kind=AuditKind.ERROR, summary=more))
            audit.append(connection, subject_of(launch_id), notes, actor="agent (refused)", at=now)


def forget(connection: sa.Connection, launch_id: str) -> None:
    """The launch ends: nothing waits for its agents any more, and what they printed is gone. That
    they were ours stays on record, so that one that is left over is told to go."""
    connection.execute(sa.delete(_INSTRUCTIONS).where(_INSTRUCTIONS.c.launch_id == launch_id))


def _check_first_use(
    agent: Agent, launch: Any, secret_hash: str, instance_id: str, now: datetime
) -> None:
    _check_not_over(agent, launch)
    if agent.secret_hash is not None:
        if not _same(agent.secret_hash, secret_hash) or agent.instance_id != instance_id:
            raise AgentRefused(
                Refusal.USED,
                f"the token was used before, by the agent of instance {agent.instance_id}; "
                "somebody has a copy of the user data",
            )
        return
    if now >= agent.token_expires_at:
        raise AgentRefused(
            Refusal.EXPIRED, f"the token was good until {agent.token_expires_at:%Y-%m-%d %H:%M} UTC"
        )
    if launch.instance_id is None:
        raise AgentRefused(Refusal.EARLY, "the instance is not on record yet; call again")
    _check_instance(launch.instance_id, instance_id, "the token")


def _check_secret(
    agent: Agent, launch: Any, secret: str, instance_id: str, now: datetime, *, changing: bool
) -> None:
    shown = hash_of(secret)
    is_previous = changing and _same(agent.previous_secret_hash, shown)
    if not (_same(agent.secret_hash, shown) or is_previous):
        raise AgentRefused(Refusal.WRONG, "the agent's secret is wrong")
    _check_not_over(agent, launch)
    _check_instance(agent.instance_id or "", instance_id, "the agent's secret")
    if agent.secret_since is not None and now - agent.secret_since >= SECRET_LIFE:
        raise AgentRefused(
            Refusal.EXPIRED,
            f"the agent's secret is from {agent.secret_since:%Y-%m-%d} and was good for "
            f"{SECRET_LIFE.days} days",
        )


def _check_instance(wanted: str, found: str, what: str) -> None:
    if wanted != found:
        raise AgentRefused(
            Refusal.OTHER_INSTANCE,
            f"{what} belongs to instance {wanted} and came from "
            f"{f'instance {found[:128]}' if found else 'one that does not know its own id'}",
        )


def _check_not_over(agent: Agent, launch: Any) -> None:
    if launch.status == LaunchStatus.TERMINATED:
        raise AgentRefused(Refusal.OVER, "the launch has ended; the agent is not needed any more")
    if launch.generation != agent.generation:
        raise AgentRefused(Refusal.OVER, "the launch has another instance by now")


def _parts(credential: str, *, prefix: str | None = None) -> tuple[str, int, str]:
    """``LAUNCH.GENERATION.SECRET``, with a word in front where one is wanted. Raises
    `AgentRefused`."""
    parts = credential[: _LONGEST_CREDENTIAL + 1].split(".")
    if prefix is not None:
        known, parts = parts[0] == prefix, parts[1:]
    else:
        known = True
    well_formed = (
        known
        and len(parts) == 3
        and len(credential) <= _LONGEST_CREDENTIAL
        and parts[1].isascii()
        and parts[1].isdecimal()
        and len(parts[1]) < 9
        and "\0" not in credential
    )
    if not well_formed:
        raise AgentRefused(Refusal.WRONG, "this is not a credential of an agent")
    return parts[0], int(parts[1]), parts[2]


def _same(kept: str | None, shown: str) -> bool:
    return kept is not None and hmac.compare_digest(kept.encode(), shown.encode())


def _this(launch_id: str, generation: int) -> tuple[sa.ColumnElement[bool], ...]:
    return (_AGENTS.c.launch_id == launch_id, _AGENTS.c.generation == generation)


def _find(
    connection: sa.Connection, launch_id: str, generation: int, *, lock: bool = False
) -> Agent | None:
    query = sa.select(_AGENTS).where(*_this(launch_id, generation))
    if lock:
        query = query.with_for_update()
    row = connection.execute(query).mappings().first()
    return Agent(**row) if row is not None else None


def _launch(connection: sa.Connection, launch_id: str) -> Any:
    query = sa.select(_LAUNCHES.c.status, _LAUNCHES.c.generation, _LAUNCHES.c.instance_id).where(
        _LAUNCHES.c.id == launch_id
    )
    return connection.execute(query).one()


def _short(value: Any) -> Any:
    """A fact as it may go on record: an agent says what it likes."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, list):
        return [_short(item) for item in value[:16] if not isinstance(item, list | dict)]
    return str(value)[:_LONGEST_TEXT].replace("\0", "")


def _actor(instance_id: str) -> str:
    return f"agent/{instance_id}"[:128]
