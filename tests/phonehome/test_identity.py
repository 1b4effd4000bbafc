"""Who may call: first use, replay, theft, age."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from slipway import audit
from slipway.database import Database
from slipway.errors import AgentRefused
from slipway.lifecycle import subject_of
from slipway.phonehome.identity import (
    REFUSALS_ON_RECORD,
    REFUSALS_PERIOD,
    SECRET_CHANGES_AFTER,
    SECRET_LIFE,
    TOKEN_LIFE,
    Caller,
    Identities,
    Refusal,
    forget,
    hash_of,
    token_of,
)
from slipway.records import AuditKind, LaunchStatus
from slipway.testing.fake_clock import FakeClock
from slipway.vault import Vault
from tests.records.rows import add_launch

INSTANCE = "i-1"


class Office:
    """Identities with one launch whose agent is expected, and what a test does with them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self.clock = FakeClock()
        self.vault = Vault(database, folder / "vault.key", self.clock)
        self.identities = Identities(database, self.vault, self.clock)
        self.launch = add_launch(database, instance_id=INSTANCE)
        self.expect()

    def expect(self, generation: int = 1) -> None:
        with self.database.transaction() as connection:
            self.identities.expect(
                connection,
                self.launch,
                generation,
                api_url="https://slipway.example.com",
                program=b"program",
                ca="",
            )

    @property
    def token(self) -> str:
        return token_of(self.vault, self.launch, 1).get_secret_value()

    def hello(
        self, secret: str = "mine", *, token: str | None = None, instance: str = INSTANCE
    ) -> Caller:
        return self.identities.hello(
            token=token or self.token,
            secret_hash=hash_of(secret),
            instance_id=instance,
            facts={"boot_id": "b1", "system": "Debian"},
            peer="192.0.2.7",
        )

    def call(self, secret: str = "mine", *, instance: str = INSTANCE) -> Caller:
        return self.identities.recognise(
            f"{self.launch}.1.{secret}", instance_id=instance, peer="192.0.2.7"
        )

    def change(self, old: str, new: str) -> None:
        self.identities.change_secret(
            f"{self.launch}.1.{old}", hash_of(new), instance_id=INSTANCE, peer="192.0.2.7"
        )

    def update(self, **values: object) -> None:
        columns = ", ".join(f"{name} = :{name}" for name in values)
        with self.database.transaction() as connection:
            connection.execute(sa.text(f"UPDATE launch SET {columns}"), values)

    def refused(self) -> list[str]:
        """The refusals on the launch's record."""
        entries = audit.entries(self.database, subject_of(self.launch))
        if entries:
            audit.verify(self.database, subject_of(self.launch))
        return [entry.summary for entry in entries if entry.kind == AuditKind.ERROR]


@pytest.fixture
def office(any_database: Database, tmp_path: Path) -> Office:
    return Office(any_database, tmp_path)


def why(error: pytest.ExceptionInfo[AgentRefused]) -> str:
    return error.value.reason


def test_the_first_use_is_accepted_and_on_record(office: Office) -> None:
    """The token is exchanged for a secret, with who and from where on the launch's record."""
    caller = office.hello()
    assert (caller.launch_id, caller.generation, caller.instance_id) == (office.launch, 1, INSTANCE)
    assert office.call() == caller
    [entry] = audit.entries(office.database, subject_of(office.launch))
    assert entry.summary == "the agent of instance i-1 has called; its token is used up"
    assert entry.actor == "agent/i-1"
    assert '"peer":"192.0.2.7"' in entry.detail


def test_nothing_that_opens_anything_is_stored(office: Office) -> None:
    """Neither token nor secret is in the tables; their hashes are."""
    office.hello()
    agent = office.identities.find(office.launch, 1)
    assert agent is not None
    text = repr(agent.model_dump())
    assert office.token not in text
    assert office.token.rpartition(".")[2] not in text
    assert agent.token_hash == hash_of(office.token)
    assert agent.secret_hash == hash_of("mine")


def test_the_same_call_again_is_the_same_call(office: Office) -> None:
    """A reply that was lost: the same token with the same secret is accepted, also after the
    token's time, and is on record once."""
    office.hello()
    office.clock.advance(TOKEN_LIFE.total_seconds() * 3)
    assert office.hello().launch_id == office.launch
    assert len(audit.entries(office.database, subject_of(office.launch))) == 1


def test_a_replay_is_refused(office: Office) -> None:
    """The same token with another secret is refused and on record, and the first goes on."""
    office.hello()
    with pytest.raises(
        AgentRefused, match="was used before, by the agent of instance i-1"
    ) as error:
        office.hello("another")
    assert why(error) == Refusal.USED
    assert office.refused() == [f"a call was refused: {error.value}"]
    assert office.call().launch_id == office.launch
    with pytest.raises(AgentRefused):
        office.call("another")


def test_a_stolen_token_is_refused(office: Office) -> None:
    """From another instance it is refused and on record, and is still good for its own."""
    with pytest.raises(AgentRefused, match="belongs to instance i-1 and came from instance i-9"):
        office.hello("thief", instance="i-9")
    with pytest.raises(AgentRefused, match="one that does not know its own id") as error:
        office.hello("thief", instance="")
    assert why(error) == Refusal.OTHER_INSTANCE
    assert len(office.refused()) == 2
    assert office.hello().instance_id == INSTANCE


WRONG_TOKENS = [
    "slipway-boot.launch-1.1.wrong",
    "slipway-boot.launch-1.2.wrong",
    "slipway-boot.launch-9.1.wrong",
    "launch-1.1.wrong",
    "slipway-boot.launch-1.one.wrong",
    "slipway-boot.launch-1.-1.x",
    "",
    "slipway-boot.launch-1.1." + "x" * 1000,
    "slipway-boot.launch-1.1.\0",
]


def test_a_wrong_token_is_refused(office: Office) -> None:
    """Whatever is not the token is refused; what names an agent of ours is on its record."""
    for token in WRONG_TOKENS:
        with pytest.raises(AgentRefused) as error:
            office.identities.hello(
                token=token, secret_hash=hash_of("x"), instance_id=INSTANCE, facts={}, peer=""
            )
        assert why(error) == Refusal.WRONG, token
    assert office.refused() == ["a call was refused: the token is wrong"]


def test_an_expired_token_is_refused_until_it_is_extended(office: Office) -> None:
    """After its time the first use is refused and on record; resuming the launch starts it anew."""
    office.clock.advance(TOKEN_LIFE.total_seconds())
    with pytest.raises(AgentRefused, match="was good until 2026-01-01 01:00 UTC") as error:
        office.hello()
    assert why(error) == Refusal.EXPIRED
    assert len(office.refused()) == 1
    office.identities.extend(office.launch, 1)
    assert office.hello().launch_id == office.launch


def test_a_token_that_comes_before_its_instance_is_on_record_waits(office: Office) -> None:
    """The cloud may be quicker than our commit: that is no refusal, and uses nothing up."""
    office.update(instance_id=None)
    with pytest.raises(AgentRefused) as error:
        office.hello()
    assert why(error) == Refusal.EARLY
    assert office.refused() == []
    office.update(instance_id=INSTANCE)
    assert office.hello().launch_id == office.launch


@pytest.mark.parametrize(
    "change",
    [{"status": LaunchStatus.TERMINATED.value}, {"generation": 2}],
    ids=["ended", "replaced"],
)
def test_an_agent_that_is_left_over_is_told(office: Office, change: dict[str, object]) -> None:
    """When the launch has ended, or has another instance, its agent is told to go, not refused as
    an intruder: whatever it still says is not put on record."""
    office.hello()
    office.update(**change)
    for call in (office.call, office.hello):
        with pytest.raises(AgentRefused) as error:
            call()
        assert why(error) == Refusal.OVER
    assert office.refused() == []
    with office.database.transaction() as connection:
        forget(connection, office.launch)
    with pytest.raises(AgentRefused) as error:
        office.call()
    assert why(error) == Refusal.OVER


def test_a_copied_secret_is_refused(office: Office) -> None:
    """The disk of the server in another instance: its secret is right, and it is refused."""
    office.hello()
    with pytest.raises(AgentRefused, match="secret belongs to instance i-1") as error:
        office.call(instance="i-2")
    assert why(error) == Refusal.OTHER_INSTANCE
    assert len(office.refused()) == 1


def test_a_secret_has_its_time(office: Office) -> None:
    """After a day it should be changed, after 30 it is refused."""
    office.hello()
    assert not office.call().secret_is_old
    office.clock.advance(SECRET_CHANGES_AFTER.total_seconds())
    assert office.call().secret_is_old
    office.clock.advance((SECRET_LIFE - SECRET_CHANGES_AFTER).total_seconds())
    with pytest.raises(AgentRefused, match="was good for 30 days") as error:
        office.call()
    assert why(error) == Refusal.EXPIRED


def test_a_secret_is_changed_however_often_it_is_asked(office: Office) -> None:
    """Until the new secret was used the old one may ask again, and nothing else; then it is worth
    nothing."""
    office.hello("one")
    office.change("one", "two")
    office.change("one", "two")
    with pytest.raises(AgentRefused):
        office.call("one")
    with pytest.raises(AgentRefused, match="changed for another already") as error:
        office.change("one", "three")
    assert why(error) == Refusal.USED
    assert not office.call("two").secret_is_old
    with pytest.raises(AgentRefused, match="secret is wrong"):
        office.change("one", "two")


def test_the_record_cannot_be_filled(office: Office) -> None:
    """So many refusals are on record, then one sentence says that there are more, until the time
    is over."""
    office.hello()

    def attack(times: int) -> None:
        for _ in range(times):
            with pytest.raises(AgentRefused):
                office.hello("another")

    attack(REFUSALS_ON_RECORD + 5)
    found = office.refused()
    assert len(found) == REFUSALS_ON_RECORD + 1
    assert found[-1].startswith(f"{REFUSALS_ON_RECORD} calls were refused within 60 minutes; more")
    office.clock.advance(REFUSALS_PERIOD.total_seconds() + 1)
    attack(1)
    assert len(office.refused()) == REFUSALS_ON_RECORD + 2


def test_what_an_agent_says_of_itself_is_kept_short(office: Office) -> None:
    """It may say what it likes; the record takes so much of it."""
    facts = {f"fact-{number}": "x" * 10_000 for number in range(100)}
    office.identities.hello(
        token=office.token,
        secret_hash=hash_of("mine"),
        instance_id=INSTANCE,
        facts={**facts, "nested": {"a": [1] * 100}},
        peer="",
    )
    agent = office.identities.find(office.launch, 1)
    assert agent is not None
    assert len(agent.facts) == 32
    assert max(len(value) for value in agent.facts.values()) == 512


def test_the_token_is_the_same_at_every_try_and_another_for_each_instance(office: Office) -> None:
    """A creation that is tried again asks for the same user data; another instance has its own."""
    tokens = {
        token_of(office.vault, launch, generation).get_secret_value()
        for launch in ("launch-1", "launch-2")
        for generation in (1, 2)
    }
    assert len(tokens) == 4
    assert token_of(office.vault, "launch-1", 1).get_secret_value() == office.token
    assert len(office.token.rpartition(".")[2]) >= 43, "256 bits"


def test_programs_are_handed_out_by_hash(office: Office) -> None:
    """Only what some server was told to fetch: other content of the same table is nobody's."""
    known = hash_of("program")
    assert office.identities.program(known) == b"program"
    with office.database.transaction() as connection:
        connection.execute(
            sa.text("INSERT INTO blob (sha256, content) VALUES (:h, :c)"),
            {"h": "0" * 64, "c": b"a script with a secret"},
        )
    assert office.identities.program("0" * 64) is None
    office.expect(generation=2)
    assert office.identities.program(known) == b"program"


def test_of_two_first_uses_at_once_one_is_the_second(office: Office) -> None:
    """Eight callers with secrets of their own race for one token: one is accepted, and is the one
    that may call."""

    def use(number: int) -> str:
        try:
            office.hello(f"secret-{number}")
        except AgentRefused as error:
            return error.reason
        return "accepted"

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(use, range(8)))
    assert sorted(found) == ["accepted", *[Refusal.USED] * 7]
    assert office.call(f"secret-{found.index('accepted')}").launch_id == office.launch
    assert len(office.refused()) == 7
