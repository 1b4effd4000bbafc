"""The Linux agent, in this process: what it survives, and what it leaves behind."""

from __future__ import annotations

import ast
import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import slipway.agent
from slipway import audit
from slipway.agent import slipway_agent
from slipway.agent.slipway_agent import Over
from slipway.clock import SystemClock
from slipway.database import Database
from slipway.lifecycle import subject_of
from slipway.phonehome.identity import SECRET_CHANGES_AFTER
from slipway.phonehome.instructions import Kind
from slipway.settings import Settings
from slipway.testing.fake_clock import FakeClock
from tests.phonehome.room import INSTANCE, Line, Room, asking

#: Slipway is away for so long.
OUTAGE_S = 600.0


@pytest.fixture
def room(settings: Settings, database: Database, tmp_path: Path) -> Room:
    """Time stands still unless somebody sleeps."""
    return Room(settings, database, tmp_path / "server", FakeClock())


@pytest.fixture
def real_room(settings: Settings, database: Database, tmp_path: Path) -> Room:
    """Time passes: for commands that take some."""
    return Room(settings, database, tmp_path / "server", SystemClock())


@pytest.fixture
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    names = request.fixturenames
    room: Room = request.getfixturevalue("real_room" if "real_room" in names else "room")
    with asking(room.app) as found:
        yield found


def cut(room: Room, line: Line, on: str) -> None:
    """From the first call of this kind on there is no answer to anything, for `OUTAGE_S`."""
    began: list[float] = []

    def away(path: str) -> None:
        if path.endswith(on) and not began:
            began.append(room.clock.monotonic())
        if began and room.clock.monotonic() - began[0] < OUTAGE_S:
            raise ConnectionRefusedError("nobody listens")

    line.before = away


@pytest.mark.parametrize("on", ["next", "report"])
def test_ten_minutes_without_slipway_lose_nothing(room: Room, line: Line, on: str) -> None:
    """Whether it asks or tells: it tries again with growing pauses, never longer than half a
    minute, and the command ran once, with all of its output and its end delivered."""
    agent = room.agent(line)
    agent.introduce()
    seq = room.put(f"echo ran >>{room.root}/log; seq 1000; exit 3")
    cut(room, line, on)
    began, calls = room.clock.monotonic(), len(line.calls)
    agent.step()
    waited_s = room.clock.monotonic() - began
    assert OUTAGE_S <= waited_s <= OUTAGE_S + slipway_agent.LONGEST_PAUSE_S
    tries = len(line.calls) - calls
    assert OUTAGE_S / slipway_agent.LONGEST_PAUSE_S <= tries <= 60
    assert isinstance(room.clock, FakeClock)
    assert max(room.clock.slept) <= slipway_agent.LONGEST_PAUSE_S
    assert (room.root / "log").read_text() == "ran\n"
    printed = b"".join(b"%d\n" % number for number in range(1, 1001))
    assert room.output(seq) == (printed, {"exit_code": 3})


def test_a_lost_answer_to_the_first_call_costs_nothing(room: Room, line: Line) -> None:
    """The API has taken the token and its answer never came: the same call again is accepted."""
    lost: list[str] = []

    def lose(path: str) -> None:
        if path == "hello" and not lost:
            lost.append(path)
            raise ConnectionResetError("the answer was lost")

    line.after = lose
    room.agent(line).introduce()
    assert line.calls.count("hello") == 2
    assert line.bodies[0] == line.bodies[1]
    summaries = [
        each.summary for each in audit.entries(room.services.database, subject_of(room.launch))
    ]
    assert summaries == [f"the agent of instance {INSTANCE} has called; its token is used up"]


def test_a_crash_at_the_first_call_costs_nothing(room: Room, line: Line) -> None:
    """It dies before it knows that it was accepted: the next one has the same secret and token."""

    def die(path: str) -> None:
        raise SystemExit(path)

    line.after = die
    with pytest.raises(SystemExit):
        room.agent(line).introduce()
    line.after = lambda _path: None
    room.agent(line).introduce()
    config = json.loads((room.root / "var/lib/slipway/agent/config.json").read_text())
    assert "token" not in config, "it is of no more use, and gone"


def test_a_lost_answer_to_a_report_doubles_nothing(room: Room, line: Line) -> None:
    """The same piece is sent again, and counts once."""
    agent = room.agent(line)
    agent.introduce()
    lost: list[str] = []

    def lose(path: str) -> None:
        if path.endswith("report") and len(lost) < 3:
            lost.append(path)
            raise ConnectionResetError("the answer was lost")

    line.after = lose
    seq = room.put("seq 500")
    agent.step()
    assert len(lost) == 3
    assert room.output(seq) == (b"".join(b"%d\n" % n for n in range(1, 501)), {"exit_code": 0})


def test_no_instruction_begins_twice(room: Room, line: Line) -> None:
    """It dies in the middle of a command: the next one says that it is lost, and does not begin it
    again; what comes after it is done."""
    agent = room.agent(line)
    agent.introduce()
    one = room.put(f"echo ran >>{room.root}/log")

    def die(path: str) -> None:
        if path.endswith("report"):
            raise SystemExit(path)

    line.before = die
    with pytest.raises(SystemExit):
        agent.step()
    line.before = lambda _path: None
    two = room.put(f"echo then >>{room.root}/log")
    room.services.instructions.put(room.launch, 1, Kind.LEAVE, {})
    room.agent(line).serve()
    assert room.output(one)[1] == {"lost": True}
    assert room.output(two)[1] == {"exit_code": 0}
    assert (room.root / "log").read_text() == "ran\nthen\n"


def test_what_it_carries_is_not_held_up(real_room: Room, line: Line) -> None:
    """More input and output than pipes hold, in both directions at once, and all of it arrives."""
    agent = real_room.agent(line)
    agent.introduce()
    data = bytes(range(256)) * 2000
    seq = real_room.put("tee /dev/stderr", stdin=base64.b64encode(data).decode())
    agent.step()
    found = real_room.look(seq)
    assert found.result == {"exit_code": 0}
    for stream in ("out", "err"):
        assert b"".join(piece for name, piece in found.pieces if name == stream) == data


def test_a_command_has_its_time(real_room: Room, line: Line) -> None:
    """When it is over, the command ends, with what it has started; what it printed is there."""
    agent = real_room.agent(line)
    agent.introduce()
    seq = real_room.put(
        f"echo begun; (sleep 300; touch {real_room.root}/late) & wait", timeout_s=0.4
    )
    agent.step()
    assert real_room.output(seq) == (b"begun\n", {"timed_out": True})


def test_a_command_that_has_closed_its_streams_has_not_ended(room: Room, line: Line) -> None:
    """It is waited for by itself: no clock is turned on meanwhile, and its exit code counts."""
    agent = room.agent(line)
    agent.introduce()
    seq = room.put("echo begun; exec >&- 2>&-; sleep 0.2; exit 3")
    agent.step()
    assert room.output(seq) == (b"begun\n", {"exit_code": 3})


def test_a_command_that_nobody_waits_for_is_ended(real_room: Room, line: Line) -> None:
    """Its instruction was removed: the agent is told at its next word, and lets go."""
    agent = real_room.agent(line)
    agent.introduce()
    real_room.put("sleep 300")

    def forget(path: str) -> None:
        if path.endswith("report"):
            real_room.services.instructions.remove(real_room.launch, 1)

    line.before = forget
    assert agent.step()
    assert line.calls[-1].endswith("report")


def test_it_measures_the_clock(real_room: Room, line: Line) -> None:
    """Each answer of the command comes with what a round trip took by Slipway's clock."""
    agent = real_room.agent(line)
    agent.introduce()
    body = {
        "command": "while read -r x; do date +%s.%N; done",
        "line": "t",
        "count": 3,
        "timeout_s": 20,
    }
    seq = real_room.services.instructions.put(real_room.launch, 1, Kind.TIME, body)
    agent.step()
    _, result = real_room.output(seq)
    assert result is not None
    trips = result["trips"]
    assert len(trips) == 3
    for trip in trips:
        assert 0 < trip["rtt_s"] < 20
        assert float(trip["answer"]) > 1e9


def test_a_secret_is_changed_and_survives_a_crash(room: Room, line: Line) -> None:
    """Told that its secret is old it makes another; dying half-way, it goes on with these two."""
    agent = room.agent(line)
    agent.introduce()
    first = room.folder.read("secret")
    assert isinstance(room.clock, FakeClock)
    room.clock.advance(SECRET_CHANGES_AFTER.total_seconds())

    def die(path: str) -> None:
        if path == "secret":
            raise SystemExit(path)

    line.after = die
    with pytest.raises(SystemExit):
        agent.step()
    assert room.folder.read("secret") == first
    line.after = lambda _path: None
    agent = room.agent(line)
    agent.introduce()
    second = room.folder.read("secret")
    assert second not in (None, first)
    assert room.folder.read("secret.next") is None
    assert agent.step()
    assert not (room.root / "var/lib/slipway/agent/secret.next").exists()


def test_a_copied_disk_is_left_alone(room: Room, line: Line) -> None:
    """An image of the server in another instance: its agent neither calls nor removes anything."""
    room.agent(line).introduce()
    room.write("var/lib/cloud/data/instance-id", "i-2")
    calls = len(line.calls)
    with pytest.raises(SystemExit) as ended:
        room.agent(line).serve()
    assert ended.value.code == 0
    assert len(line.calls) == calls
    assert room.folder.read("secret")


def test_it_goes_when_it_is_over(room: Room, line: Line) -> None:
    """A launch that has ended: the agent is told, and leaves nothing."""
    agent = room.agent(line)
    agent.introduce()
    room.write(slipway_agent.PER_BOOT_PATH.lstrip("/"), "#!/bin/sh\n")
    import sqlalchemy as sa

    with room.services.database.transaction() as connection:
        connection.execute(sa.text("UPDATE launch SET status = 'terminated'"))
    with pytest.raises(Over, match="launch has ended"):
        agent.step()
    slipway_agent.remove(room.folder)
    assert not (room.root / "var/lib/slipway/agent").exists()
    assert not (room.root / slipway_agent.PER_BOOT_PATH.lstrip("/")).exists()


def test_files_are_for_root_alone(room: Room, line: Line) -> None:
    """The secret can be read by nobody else, and holds 256 bits."""
    room.agent(line).introduce()
    path = room.root / "var/lib/slipway/agent/secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) >= 43


def test_secrets_of_commands_reach_neither_disk_nor_log(
    real_room: Room, line: Line, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a command gets on its standard input is in no file of the agent and in none of its
    lines, whatever goes wrong."""
    agent = real_room.agent(line)
    agent.introduce()
    secret = b"correct-horse-battery-staple"
    real_room.put("cat >/dev/null; exit 1", stdin=base64.b64encode(secret).decode())
    failing: list[str] = []

    def fail(path: str) -> None:
        if path.endswith("report") and not failing:
            failing.append(path)
            raise ConnectionRefusedError("nobody listens")

    line.before = fail
    agent.step()
    assert failing
    told = capfd.readouterr()
    assert "no answer" in told.err
    texts = [told.err.encode(), told.out.encode()]
    texts += [path.read_bytes() for path in real_room.root.rglob("*") if path.is_file()]
    forms = (secret, base64.b64encode(secret))
    assert not any(form in text for form in forms for text in texts)


# -- installing ------------------------------------------------------------------------------------


@pytest.fixture
def systemctl(room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service manager that writes down what it is told."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/told\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    (room.root / "run/systemd/system").mkdir(parents=True)
    (room.root / "etc/systemd/system").mkdir(parents=True)
    return tmp_path / "told"


def test_systemd_keeps_it_running(room: Room, systemctl: Path) -> None:
    """Started at every boot and after every crash, without ending the scripts that run; removed
    without a trace."""
    room.write("var/lib/slipway/agent/config.new", room.folder.read("config.json") or "")
    slipway_agent.install(room.folder)
    unit = (room.root / slipway_agent.UNIT_PATH.lstrip("/")).read_text()
    for wanted in ("Restart=on-failure", "KillMode=process", "WantedBy=multi-user.target"):
        assert wanted in unit.splitlines()
    assert f"{room.folder.path}/slipway_agent.py run" in unit
    assert systemctl.read_text().splitlines() == [
        "daemon-reload",
        "enable slipway-agent.service",
        "restart --no-block slipway-agent.service",
    ]
    slipway_agent.remove(room.folder)
    assert systemctl.read_text().splitlines()[-1] == "disable slipway-agent.service"
    assert not (room.root / slipway_agent.UNIT_PATH.lstrip("/")).exists()


def test_installing_again_keeps_who_it_is(room: Room, line: Line, systemctl: Path) -> None:
    """User data that is run twice on one instance changes nothing; on another instance, or for
    another launch, whatever was there before is forgotten."""
    room.agent(line).introduce()
    secret = room.folder.read("secret")
    config = json.loads(room.folder.read("config.json") or "")

    def install(**changed: object) -> str | None:
        fresh = {**config, "token": "slipway-boot.x", **changed}
        room.write("var/lib/slipway/agent/config.new", json.dumps(fresh))
        slipway_agent.install(room.folder)
        assert not (room.root / "var/lib/slipway/agent/config.new").exists()
        return room.folder.read("secret")

    assert install() == secret
    assert "token" not in room.folder.json("config.json")
    assert install(launch="launch-2") is None
    assert room.folder.json("config.json")["token"] == "slipway-boot.x"


# -- the file --------------------------------------------------------------------------------------


def test_it_is_written_for_old_servers() -> None:
    """Its syntax is that of Python 3.6, and it imports nothing but the standard library's modules
    of then."""
    tree = ast.parse(slipway.agent.program("agent.py"), feature_version=(3, 6))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {
        "base64", "contextlib", "hashlib", "http.client", "json", "os", "pwd", "random", "secrets",
        "selectors", "shutil", "signal", "socket", "ssl", "stat", "subprocess", "sys", "time",
        "typing", "urllib.parse",
    }  # fmt: skip


@pytest.mark.parametrize(
    "url", ["http://slipway.example.com", "http://192.0.2.1:4280", "ftp://127.0.0.1", "nowhere"]
)
def test_it_calls_nobody_in_clear_text(url: str) -> None:
    """Anything but https is refused, unless it leads to this very computer."""
    with pytest.raises(ValueError, match=r"not encrypted|not an address"):
        slipway_agent.Api(url, "")
    for good in (
        "https://slipway.example.com/slipway",
        "http://127.0.0.1:4280",
        "http://localhost",
    ):
        slipway_agent.Api(good, "")
