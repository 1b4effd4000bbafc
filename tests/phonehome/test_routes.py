"""``/agent/v1/``: what is answered to whom."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from slipway.agent import PROGRAMS, digest_of, program
from slipway.api import agent_routes
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.phonehome.identity import TOKEN_LIFE, hash_of, token_of
from slipway.settings import Settings
from slipway.testing.fake_clock import FakeClock
from tests.phonehome.room import INSTANCE, Line, Room, asking
from tests.remote.waiting import until


@pytest.fixture
def room(settings: Settings, database: Database, tmp_path: Path) -> Room:
    return Room(settings, database, tmp_path / "server", FakeClock())


@pytest.fixture
def line(room: Room) -> Iterator[Line]:
    with asking(room.app) as found:
        yield found


def hello(room: Room, line: Line, secret: str = "mine", **changed: object) -> httpx.Response:
    token = token_of(room.services.vault, room.launch, 1).get_secret_value()
    body = {"token": token, "secret_sha256": hash_of(secret), "instance_id": INSTANCE, **changed}
    return line.request("POST", "hello", json=body)


def call(
    room: Room,
    line: Line,
    path: str,
    body: object,
    *,
    secret: str = "mine",
    instance: str = INSTANCE,
) -> httpx.Response:
    headers = {
        "Authorization": f"Bearer {room.launch}.1.{secret}",
        "Slipway-Instance": instance,
    }
    return line.request("POST", path, json=body, headers=headers)


def check_problem(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert words in answer.json()["detail"]


def test_each_refusal_has_its_status(room: Room, line: Line) -> None:
    """Wrong 401, expired 401, another instance 403, a replay 409: problems in one sentence."""
    check_problem(hello(room, line, token="slipway-boot.launch-1.1.x"), 401, "the token is wrong")
    check_problem(hello(room, line, instance_id="i-9"), 403, "came from instance i-9")
    assert isinstance(room.clock, FakeClock)
    room.clock.advance(TOKEN_LIFE.total_seconds())
    check_problem(hello(room, line), 401, "was good until")
    room.services.identities.extend(room.launch, 1)
    assert hello(room, line).json() == {"launch": room.launch, "generation": 1}
    assert hello(room, line).status_code == 200
    check_problem(hello(room, line, "another"), 409, "was used before")
    check_problem(call(room, line, "next", {}, secret="other"), 401, "secret is wrong")
    check_problem(call(room, line, "next", {}, instance="i-9"), 403, "came from instance i-9")


@pytest.mark.parametrize("path", ["next", "secret", "clock", "instructions/1/report"])
def test_every_call_needs_the_agents_secret(room: Room, line: Line, path: str) -> None:
    """Nothing, a token of the API, another launch's: none of them opens anything."""
    hello(room, line)
    bodies = {"secret": {"secret_sha256": "0" * 64}}
    for given in (None, "slw_abc", f"{room.launch}.2.mine", "launch-9.1.mine", f"{room.launch}.1."):
        headers = {"Slipway-Instance": INSTANCE}
        if given is not None:
            headers["Authorization"] = f"Bearer {given}"
        answer = line.request("POST", path, json=bodies.get(path, {}), headers=headers)
        check_problem(answer, 401, "")
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_gap_says_where_to_go_on(room: Room, line: Line) -> None:
    """409, with the offsets that are expected; the same piece at the right place is taken."""
    hello(room, line)
    seq = room.put("true")
    data = base64.b64encode(b"hello").decode()
    path = f"instructions/{seq}/report"
    answer = call(room, line, path, {"out": {"offset": 3, "data": data}})
    check_problem(answer, 409, "out goes on at byte 3, expected 0")
    assert answer.json()["expected"] == {"out": 0, "err": 0}
    answer = call(room, line, path, {"out": {"offset": 0, "data": data}})
    assert answer.json() == {"expected": {"out": 5, "err": 0}, "wanted": True, "full": False}


@pytest.mark.parametrize(
    "body",
    [
        {"out": {"offset": 0, "data": "no base 64!"}},
        {"out": {"offset": -1, "data": ""}},
        {"out": {"offset": 0, "data": "A" * (256 * 1024 + 4)}},
        {"ended": {}},
        {"ended": {"exit_code": 0, "lost": True}},
    ],
)
def test_a_report_that_makes_no_sense_is_refused(
    room: Room, line: Line, body: dict[str, object]
) -> None:
    """422, and nothing was taken."""
    hello(room, line)
    seq = room.put("true")
    check_problem(call(room, line, f"instructions/{seq}/report", body), 422, "")
    assert room.look(seq).status == "waiting"


def test_a_question_is_kept_open_until_there_is_something_to_do(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    """It is answered as soon as an instruction is there, and empty when its time is over."""
    room = Room(settings, database, tmp_path / "server", SystemClock())
    with asking(room.app) as line:
        hello(room, line)
        answer = call(room, line, "next", {"after": 0, "wait_s": 0.01})
        assert answer.json() == {"instruction": None, "renew": False}
        answers: list[httpx.Response] = []
        body = {"after": 0, "wait_s": 20}
        waiting = threading.Thread(target=lambda: answers.append(call(room, line, "next", body)))
        waiting.start()
        until(lambda: _waiting() == 1, "the question is open")
        seq = room.put("the command")
        waiting.join(10)
        [answer] = answers
        instruction = answer.json()["instruction"]
        assert (instruction["seq"], instruction["command"]) == (seq, "the command")
        agent = room.services.identities.find(room.launch, 1)
        assert agent is not None
        assert agent.last_seen_at is not None


def _waiting() -> int:
    boxes = [box for boxes in agent_routes._mailboxes.values() for box in boxes.values()]
    return sum(len(box._waiting) for box in boxes)


def test_nobody_gets_what_is_for_another(room: Room, line: Line) -> None:
    """An instruction of another launch is not there for this agent, and cannot be reported on."""
    from tests.records.rows import add_launch

    hello(room, line)
    add_launch(room.services.database, "launch-2", server_name="web-2", instance_id="i-2")
    with room.services.database.transaction() as connection:
        room.services.identities.expect(connection, "launch-2", 1, api_url="x", program=b"", ca="")
    from slipway.phonehome.instructions import Kind

    seq = room.services.instructions.put("launch-2", 1, Kind.RUN, {"command": "theirs"})
    assert call(room, line, "next", {"after": 0}).json()["instruction"] is None
    answer = call(room, line, f"instructions/{seq}/report", {"ended": {"exit_code": 0}})
    assert answer.json()["wanted"] is False
    assert room.services.instructions.waiting() == {("launch-2", 1): seq}


def test_round_trips_are_timed_by_our_clock(room: Room, line: Line) -> None:
    """From one answer to the next call; a mark that this process did not make says nothing."""
    hello(room, line)
    first = call(room, line, "clock", {}).json()
    assert first["trip"] is None
    assert isinstance(room.clock, FakeClock)
    room.clock.advance(0.25)
    second = call(room, line, "clock", {"mark": first["mark"]}).json()
    assert second["trip"] == {"sent_at": "2026-01-01T00:00:00Z", "rtt_s": 0.25}
    process, _, rest = second["mark"].partition(" ")
    for mark in (f"{process[::-1]} {rest}", "nonsense", "a b c", "", f"{process} nan {rest}"):
        assert call(room, line, "clock", {"mark": mark}).json()["trip"] is None
    room.clock.advance(3600)
    assert call(room, line, "clock", {"mark": second["mark"]}).json()["trip"] is None


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_the_agent_is_there_to_be_fetched(room: Room, line: Line, name: str) -> None:
    """By everybody: the newest, or exactly the one that some server was told to fetch."""
    newest = line.request("GET", name)
    assert newest.content == program(name)
    assert newest.headers["etag"] == f'"{digest_of(program(name))}"'
    old = line.request("GET", name, params={"sha256": digest_of(b"program")})
    assert old.content == b"program"
    check_problem(line.request("GET", name, params={"sha256": "0" * 64}), 404, "0000")
    check_problem(line.request("GET", name, params={"sha256": "x"}), 422, "")


def test_one_look_serves_all_who_wait(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is looked at once a tick, however many agents wait."""
    looks: list[int] = []
    ask = type(room.services.instructions).waiting

    def counted(self: object) -> dict[tuple[str, int], int]:
        looks.append(1)
        return ask(self)  # type: ignore[arg-type]

    monkeypatch.setattr(type(room.services.instructions), "waiting", counted)
    monkeypatch.setattr(agent_routes, "TICK_S", 0.05)

    async def many() -> None:
        box = agent_routes.Mailbox(room.services)
        from slipway.phonehome.identity import Caller

        callers = [
            Caller(launch_id=f"l{number}", generation=1, instance_id="i", secret_is_old=False)
            for number in range(200)
        ]
        await asyncio.gather(*(box.wait(caller, 0, 0.2) for caller in callers))

    asyncio.run(many())
    assert 1 <= len(looks) <= 10
