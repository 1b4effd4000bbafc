"""Mail, as a real SMTP server gets it."""

from __future__ import annotations

import asyncio
import email.policy
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any, cast

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope
from pydantic import SecretStr

from slipway.notify import mail
from slipway.notify.mail import Mail, MailServer
from tests.certificates import self_signed

MESSAGE = Mail(
    message_id="0199f0aa.7",
    recipient="ops@example.org",
    subject="web-1 is\nstranded",
    text="Läuft nicht: <b>disk full</b>\n.\nnext line",
    links=(("Unsubscribe", "https://slipway.example.org/?a=1&b=2"),),
    unsubscribe_url="https://slipway.example.org/?a=1&b=2",
    published_at=datetime(2026, 11, 27, 2, 30, tzinfo=UTC),
)
SENDER = "Slipway <slipway@example.org>"


class Received:
    """Takes mail, or refuses it with what it was told to say."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.users: list[str] = []
        self.says = {"RCPT": "250 OK", "DATA": "250 taken as 17"}

    async def handle_RCPT(  # noqa: N802  (the library's name)
        self, _server: SMTP, _session: Any, envelope: Envelope, address: str, _options: Any
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self.says["RCPT"]

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, _session: Any, envelope: Envelope
    ) -> str:
        content = cast("bytes", envelope.content)
        found = BytesParser(policy=email.policy.default).parsebytes(content)
        self.mails.append(cast("EmailMessage", found))
        return self.says["DATA"]

    def authenticate(self, *given: Any) -> AuthResult:
        """Lets in who knows the password."""
        data = given[-1]
        self.users.append(data.login.decode())
        return AuthResult(success=data.password == b"open sesame", handled=False)


@asynccontextmanager
async def serving(received: Received, **options: Any) -> AsyncIterator[MailServer]:
    def session() -> SMTP:
        return SMTP(received, hostname="mail.test", **options)

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield MailServer(host="127.0.0.1", port=port, tls="none")
    finally:
        server.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


async def test_a_mail_arrives_as_it_was_meant() -> None:
    """As text and as HTML, with its links, its place in a conversation and a way out; a subject
    cannot bring headers along."""
    received = Received()
    async with serving(received) as server:
        answer = await mail.send(server, mail.compose(MESSAGE, sender=SENDER))
    assert answer.accepted
    assert "taken as 17" in answer.detail
    [found] = received.mails
    assert found["From"] == "Slipway <slipway@example.org>"
    assert found["To"] == "ops@example.org"
    assert found["Subject"] == "web-1 is stranded"
    assert found["Message-ID"] == "<0199f0aa.7@example.org>"
    assert found["Date"].datetime == MESSAGE.published_at
    assert found["Auto-Submitted"] == "auto-generated"
    assert found["List-Unsubscribe"] == "<https://slipway.example.org/?a=1&b=2>"
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    plain, rich = (
        found.get_body((kind,)).get_content().replace("\r\n", "\n")  # type: ignore[union-attr]
        for kind in ("plain", "html")
    )
    assert plain.startswith(MESSAGE.text + "\n")
    assert plain.endswith("-- \nUnsubscribe: https://slipway.example.org/?a=1&b=2\n")
    assert "&lt;b&gt;disk full&lt;/b&gt;\n.\nnext line" in rich
    assert '<a href="https://slipway.example.org/?a=1&amp;b=2">Unsubscribe</a>' in rich


@pytest.mark.parametrize("step", ["RCPT", "DATA"])
@pytest.mark.parametrize(("says", "permanent"), [("452 box full", False), ("550 unknown", True)])
async def test_what_is_refused(step: str, says: str, permanent: bool) -> None:
    """4xx may be tried again, 5xx would be the same again; both say what the server said."""
    received = Received()
    received.says[step] = says
    async with serving(received) as server:
        answer = await mail.send(server, mail.compose(MESSAGE, sender=SENDER))
    assert not answer.accepted
    assert answer.permanent is permanent
    assert (answer.code, answer.detail) == (int(says[:3]), says)


async def test_a_server_that_is_logged_in_to(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS that is begun first; a wrong password is nobody's lost mail."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    received = Received()
    options = {"authenticator": received.authenticate, "auth_required": True}
    async with serving(received, tls_context=context, **options) as plain:
        server = replace(
            plain, host="localhost", tls="starttls", user="me", password=SecretStr("open sesame")
        )
        made = mail.compose(MESSAGE, sender=SENDER)
        assert (await mail.send(server, made)).accepted
        wrong = replace(server, password=SecretStr("open barley"))
        answer = await mail.send(wrong, made)
    assert (answer.accepted, answer.permanent, answer.code) == (False, False, 535)
    assert "barley" not in answer.detail
    assert set(received.users) == {"me"}


async def test_tls_is_not_given_up_silently() -> None:
    """A server that does not offer it gets nothing."""
    received = Received()
    async with serving(received) as plain:
        answer = await mail.send(
            replace(plain, tls="starttls"), mail.compose(MESSAGE, sender=SENDER)
        )
    assert (answer.accepted, answer.permanent) == (False, False)
    assert "STARTTLS" in answer.detail
    assert not received.mails


async def test_a_certificate_that_nobody_knows(certificate: tuple[Path, Path]) -> None:
    """It may be anybody's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    received = Received()
    async with serving(received, tls_context=context) as plain:
        answer = await mail.send(
            replace(plain, tls="starttls"), mail.compose(MESSAGE, sender=SENDER)
        )
    assert not answer.accepted
    assert "certificate" in answer.detail
    assert not received.mails


@pytest.fixture
def silent() -> Iterator[MailServer]:
    """A server that takes connections and says nothing."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield MailServer(host="127.0.0.1", port=listening.getsockname()[1], tls="none")


async def test_a_server_that_says_nothing(silent: MailServer) -> None:
    """It holds nobody up for longer than it may."""
    answer = await mail.send(silent, mail.compose(MESSAGE, sender=SENDER), timeout_s=0.05)
    assert (answer.accepted, answer.permanent, answer.code) == (False, False, None)
    assert "no answer within" in answer.detail


async def test_nobody_there() -> None:
    """Who is not there now may be there later."""
    server = MailServer(host="127.0.0.1", port=9, tls="none")
    answer = await mail.send(server, mail.compose(MESSAGE, sender=SENDER))
    assert (answer.accepted, answer.permanent) == (False, False)
    assert answer.detail


@pytest.mark.parametrize(
    ("url", "is_"),
    [
        ("smtp://127.0.0.1", ("127.0.0.1", 25, "none", None)),
        (
            "smtp+starttls://me%40here@mail.example.org",
            ("mail.example.org", 587, "starttls", "me@here"),
        ),
        ("smtps://me@mail.example.org:4650", ("mail.example.org", 4650, "tls", "me")),
    ],
)
def test_the_address_of_a_server(url: str, is_: tuple[Any, ...]) -> None:
    found = mail.read_server(url, SecretStr("secret"))
    assert (found.host, found.port, found.tls, found.user) == is_
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("mail.example.org", "smtp://HOST:PORT"),
        ("http://mail.example.org", "smtp://HOST:PORT"),
        ("smtp://mail.example.org:x", "smtp://HOST:PORT"),
        ("smtps://me:pw@mail.example.org", "password"),
        ("smtp://me@mail.example.org", "logged in to"),
    ],
)
def test_what_is_no_server(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as error:
        mail.read_server(url, None)
    assert "pw" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("me@example.org", True),
        ("first.last+tag@sub.example.org", True),
        ("me@localhost", False),
        ("Me <me@example.org>", False),
        ("a@example.org, b@example.org", False),
        ("a@example.org\nBcc: b@example.org", False),
        ("ü@example.org", False),
        ("a" * 250 + "@example.org", False),
    ],
)
def test_who_can_be_written_to(text: str, good: bool) -> None:
    assert mail.is_address(text) is good


def test_a_sender_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"looks like me@example\.org"):
        mail.compose(MESSAGE, sender="Slipway")
