"""Call-backs: every change that matters is told, signed, and never to where it must not go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa

from slipway.api.background import render
from slipway.launches import callbacks
from slipway.launches.callbacks import PAUSES_S, CallBacks
from slipway.outbound import HttpPoster, NotDelivered, Refused, is_public, problem_of
from slipway.records import CallBackMessage, LaunchStatus
from slipway.testing.fake_clock import FakeClock
from tests.api.test_launches import WEB
from tests.api.world import ApiWorld

_MESSAGES = CallBackMessage.__table__  # type: ignore[attr-defined]

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
HOOK = {"url": "https://example.org/hook", "secret": SECRET}


@dataclass
class FakePoster:
    """Keeps what was posted; fails while there is a failure left."""

    posted: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        self.posted.append((url, body, dict(headers)))
        if self.failures:
            raise self.failures.pop(0)
        return 204


@pytest.fixture
def clock(world: ApiWorld) -> FakeClock:
    """The clock of the call-backs, moved by hand, ahead of the API's."""
    return FakeClock(world.services.clock.now() + timedelta(hours=1))


@pytest.fixture
def poster() -> FakePoster:
    return FakePoster()


@pytest.fixture
def calling(world: ApiWorld, clock: FakeClock, poster: FakePoster) -> CallBacks:
    """Makes and sends messages when the test says so."""
    return CallBacks(replace(world.services, clock=clock), poster, render)


def messages(world: ApiWorld) -> list[Any]:
    with world.services.database.reading() as connection:
        return list(connection.execute(sa.select(_MESSAGES).order_by(_MESSAGES.c.id)))


async def _tick(calling: CallBacks) -> None:
    await calling.tick()
    await calling.settle()


async def test_what_becomes_of_a_launch_is_told(
    world: ApiWorld, calling: CallBacks, poster: FakePoster
) -> None:
    """Operational and terminated are told, once each, in the form of Standard Webhooks, with a
    signature that the receiver can check; the steps in between are not."""
    made = await world.launch(LaunchStatus.BOOTING, callback=HOOK)
    assert made["callback_url"] == HOOK["url"]
    await _tick(calling)
    assert poster.posted == []
    world.drive(made["id"], LaunchStatus.OPERATIONAL)
    await _tick(calling)
    world.drive(made["id"], LaunchStatus.TERMINATED)
    await _tick(calling)
    await _tick(calling)
    kinds = [json.loads(body)["type"] for _, body, _ in poster.posted]
    assert kinds == ["launch.operational", "launch.terminated"]
    url, body, headers = poster.posted[0]
    assert url == HOOK["url"]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.digest(b"k" * 32, signed, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    data = json.loads(body)["data"]
    assert (data["id"], data["status"]) == (made["id"], "operational")
    assert SECRET not in body.decode()


@pytest.mark.parametrize("status", [LaunchStatus.STRANDED, LaunchStatus.CANCELLED])
async def test_bad_ends_are_told(
    world: ApiWorld, calling: CallBacks, poster: FakePoster, status: LaunchStatus
) -> None:
    """A launch that strands or is cancelled is told with its reason."""
    await world.launch(status, callback={"url": HOOK["url"]})
    await _tick(calling)
    [(_, body, headers)] = poster.posted
    told = json.loads(body)
    assert told["type"] == f"launch.{status}"
    assert told["data"]["reason"]
    assert "webhook-signature" not in headers


async def test_a_receiver_that_is_away(
    world: ApiWorld, calling: CallBacks, poster: FakePoster, clock: FakeClock
) -> None:
    """A message that is not taken is sent again for hours, the same bytes under the same id, until
    it is."""
    poster.failures = [NotDelivered("it answers 500")] * 8
    await world.launch(LaunchStatus.OPERATIONAL, callback=HOOK)
    for pause_s in PAUSES_S[:8]:
        await _tick(calling)
        clock.sleep(pause_s * 0.85)
        before = len(poster.posted)
        await _tick(calling)
        assert len(poster.posted) == before, "it was sent again too soon"
        clock.sleep(pause_s * 0.3)
    await _tick(calling)
    assert len(poster.posted) == 9
    assert len({(body, headers["webhook-id"]) for _, body, headers in poster.posted}) == 1
    [message] = messages(world)
    assert message.delivered_at is not None
    assert message.error == ""


async def test_giving_up(
    world: ApiWorld, calling: CallBacks, poster: FakePoster, clock: FakeClock
) -> None:
    """After the last attempt a message is given up, and says why; a receiver that answers 410 is
    left in peace at once."""
    poster.failures = [NotDelivered("it answers 500")] * 99
    await world.launch(LaunchStatus.OPERATIONAL, callback=HOOK)
    for pause_s in (*PAUSES_S, 86400, 86400):
        await _tick(calling)
        clock.sleep(pause_s * 1.2)
    assert len(poster.posted) == len(PAUSES_S) + 1
    poster.failures = [Refused("it answers 410")]
    await world.launch(LaunchStatus.STRANDED, callback=HOOK, server="web-2")
    await _tick(calling)
    clock.sleep(86400)
    await _tick(calling)
    first, second = messages(world)
    assert (first.given_up_at is not None, first.error) == (True, "it answers 500")
    assert (second.given_up_at is not None, second.error) == (True, "it answers 410")
    with world.services.database.reading() as connection:
        assert callbacks.backlog(connection).given_up == 2


async def test_two_processes_tell_once(
    world: ApiWorld, calling: CallBacks, poster: FakePoster, clock: FakeClock
) -> None:
    """Several processes make one message of a change, and one of them sends it."""
    other = CallBacks(replace(world.services, clock=clock), poster, render)
    await world.launch(LaunchStatus.OPERATIONAL, callback=HOOK)
    await calling.tick()
    await other.tick()
    await calling.settle()
    await other.settle()
    assert len(poster.posted) == 1


async def test_a_secret_is_kept_encrypted(world: ApiWorld) -> None:
    """The secret is in no answer and not in the database in clear text."""
    async with world.client("launch") as client:
        answer = await client.post("/v1/launches", json={**WEB, "callback": HOOK})
    assert SECRET not in answer.text
    with world.services.database.reading() as connection:
        [row] = connection.execute(sa.text("SELECT secret FROM call_back")).scalars()
    assert SECRET.encode() not in row
    assert world.services.vault.unseal(row).get_secret_value() == SECRET


# -- where it may go -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        # Where clouds tell instances their secrets.
        ("169.254.169.254", False),
        ("fd00:ec2::254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        # The same addresses in other clothes.
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
        ("64:ff9b::5db8:d822", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    """Only what everybody could reach is called."""
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.org/hook?x=1", None),
        ("https://example.org:8443", None),
        ("http://example.org/", "only https"),
        ("https://127.0.0.1/", "not a public address"),
        ("https://[::1]/", "not a public address"),
        ("https://2130706433/", None),
        ("https://user:pass@example.org/", "no user name"),
        ("https://example.org/#part", "behind a #"),
        ("https://example.org:99999/", "not an address"),
        ("https://[::1/", "not an address"),
        ("ftp://example.org/", "not an address"),
        ("https:///path", "not an address"),
        ("https://exa mple.org/", "not an address"),
        ("https://example.org/\r\nHost: other", "not an address"),
        ("https://example.org/" + "x" * 3000, "2048 characters"),
        ("", "not an address"),
    ],
)
def test_addresses_are_looked_at_before_anything_is_recorded(url: str, words: str | None) -> None:
    """What cannot be called is refused with a sentence. (A name is looked up when it is called.)"""
    problem = problem_of(url, allow_private=False)
    assert (problem is None) if words is None else (problem is not None and words in problem)


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["93.184.216.34", "10.0.0.1"], ["::ffff:10.0.0.1"]],
)
async def test_a_name_that_stands_for_a_private_address(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    """A name is no way round: what it stands for is looked at, all of it, before connecting."""
    _resolving(monkeypatch, addresses)
    with pytest.raises(NotDelivered, match="which is not a public address"):
        await HttpPoster(allow_private=False).post("https://example.org/", b"", {})


def _resolving(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> list[str]:
    """Make every name stand for these addresses; answers the names that were looked up."""
    asked: list[str] = []

    async def getaddrinfo(_self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        kind = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (each, port))
            for family, each in zip(kind, addresses, strict=True)
        ]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)
    return asked


Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def receiving(answer: Answer) -> Iterator[tuple[int, list[tuple[str, dict[str, str], bytes]]]]:
    """A receiver on loopback: its port, and what came in."""
    got: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, dict(self.headers), body))
            answer(self)

        def log_message(self, *_: object) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], got
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _status(code: int, *headers: tuple[str, str]) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in (*headers, ("Content-Length", "0")):
            handler.send_header(name, value)
        handler.end_headers()

    return answer


async def test_posting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked, under the name that was given, and the
    name is looked up once."""
    asked = _resolving(monkeypatch, ["127.0.0.1"])
    with receiving(_status(204)) as (port, got):
        poster = HttpPoster(allow_private=True)
        status = await poster.post(
            f"http://hooks.test:{port}/a/b?c=d", b"{}", {"webhook-id": "msg-1"}
        )
    assert status == 204
    assert asked == ["hooks.test"]
    [(path, headers, body)] = got
    assert (path, body) == ("/a/b?c=d", b"{}")
    assert headers["Host"] == f"hooks.test:{port}"
    assert headers["webhook-id"] == "msg-1"


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (302, NotDelivered, "redirects are not followed"),
        (307, NotDelivered, "redirects are not followed"),
        (404, NotDelivered, "it answers 404"),
        (410, Refused, "wants no more"),
        (500, NotDelivered, "it answers 500"),
    ],
)
async def test_answers_that_are_no(code: int, error: type[Exception], words: str) -> None:
    """Anything but 2xx is not delivered; a redirect leads nowhere."""
    poster = HttpPoster(allow_private=True)
    with (
        receiving(_status(code, ("Location", "/elsewhere"))) as (port, got),
        pytest.raises(error, match=words),
    ):
        await poster.post(f"http://127.0.0.1:{port}/", b"{}", {})
    assert [path for path, _, _ in got] == ["/"]


async def test_an_endless_answer_is_not_read() -> None:
    """Of an answer no more is read than nobody looks at."""

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(10_000):
                handler.wfile.write(b"x" * 65536)
        except OSError:
            ends.set()

    ends = threading.Event()
    with receiving(endless) as (port, _):
        await HttpPoster(allow_private=True).post(f"http://127.0.0.1:{port}/", b"{}", {})
        assert ends.wait(30)


async def test_a_receiver_that_never_answers() -> None:
    """A receiver that drips its answer is left after a while, however busy it seems."""
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        try:
            while not stop.wait(0.02):
                handler.wfile.write(b"H")
                handler.wfile.flush()
        except OSError:
            pass

    with receiving(drip) as (port, _):
        try:
            with pytest.raises(NotDelivered, match="no answer within"):
                await HttpPoster(allow_private=True, timeout_s=0.3).post(
                    f"http://127.0.0.1:{port}/", b"{}", {}
                )
        finally:
            stop.set()


async def test_nobody_there() -> None:
    """A connection that is refused, and a name that is none, are not delivered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    poster = HttpPoster(allow_private=True)
    for url in (f"http://127.0.0.1:{port}/", f"http://{'x' * 70}.localhost:{port}/"):
        with pytest.raises(NotDelivered):
            await poster.post(url, b"{}", {})
