"""Messages by e-mail: what they look like, and one attempt over SMTP.

A mail says what it is to those who look at it with a program, too: that nobody has written it by
hand (RFC 3834), and how to be rid of it with one click (RFC 8058).
"""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from typing import Literal
from urllib.parse import unquote, urlsplit

import aiosmtplib
from pydantic import SecretStr

#: From the connection to the server's last answer.
TIMEOUT_S = 30.0
#: What is kept of a server's answer.
_KEPT_CHARACTERS = 200

#: What people are written to at: one address without a name, in ASCII, and with a domain.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_MAX_ADDRESS = 254

#: What a server's address looks like, for those who give one.
SERVER_RULE = "a mail server is smtp://HOST:PORT, smtp+starttls://USER@HOST or smtps://USER@HOST"
_SCHEMES: Mapping[str, tuple[Literal["none", "starttls", "tls"], int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("tls", 465),
}


@dataclass(frozen=True, kw_only=True)
class MailServer:
    """Who takes our mail."""

    host: str
    port: int
    #: ``none`` is for a server on this very computer or network.
    tls: Literal["none", "starttls", "tls"]
    user: str | None = None
    password: SecretStr | None = None


@dataclass(frozen=True, kw_only=True)
class Mail:
    """A message for one person."""

    #: The same at every attempt, so that a mail that comes twice is seen to be one.
    message_id: str
    recipient: str
    subject: str
    text: str
    #: What to click, by what it does: ``("Unsubscribe", "https://…")``.
    links: tuple[tuple[str, str], ...] = ()
    #: Where a POST unsubscribes; None for what is only sent once.
    unsubscribe_url: str | None = None
    published_at: datetime


@dataclass(frozen=True, kw_only=True)
class MailAnswer:
    """What came of an attempt; ``code`` is the server's, None where there was none."""

    accepted: bool
    code: int | None = None
    #: The same again would be refused again.
    permanent: bool = False
    #: One sentence, or the first characters of the answer.
    detail: str = ""


def read_server(url: str, password: SecretStr | None) -> MailServer:
    """A server by its address: see `SERVER_RULE`. Raises `ValueError` with one sentence."""
    parts = urlsplit(url)
    try:
        port, known = parts.port, _SCHEMES.get(parts.scheme)
    except ValueError:
        known = None
    if known is None or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(SERVER_RULE)
    if parts.password is not None:
        raise ValueError("the password of a mail server does not belong into its address")
    tls, usual = known
    user = unquote(parts.username) if parts.username else None
    if user is not None and tls == "none":
        raise ValueError("a mail server that is logged in to takes smtp+starttls:// or smtps://")
    return MailServer(
        host=parts.hostname, port=port or usual, tls=tls, user=user, password=password
    )


def is_address(text: str) -> bool:
    """Whether somebody could be written to at this: one plain address."""
    return len(text) <= _MAX_ADDRESS and _ADDRESS.fullmatch(text) is not None


def compose(mail: Mail, *, sender: str) -> EmailMessage:
    """The mail as it is sent, as plain text and as HTML. ``sender`` is an address, with a name if
    there is one: ``Slipway <slipway@example.org>``. Raises `ValueError` when that is none."""
    name, address = parseaddr(sender)
    if not is_address(address):
        raise ValueError(f"{sender!r} is not an address to send from; it looks like me@example.org")
    made = EmailMessage(policy=SMTP_POLICY)
    made["From"] = Address(name, addr_spec=address)
    made["To"] = Address(addr_spec=mail.recipient)
    # What has a line break in it would be another header.
    made["Subject"] = " ".join(mail.subject.split())
    made["Date"] = format_datetime(mail.published_at)
    made["Message-ID"] = f"<{mail.message_id}@{address.rpartition('@')[2]}>"
    made["Auto-Submitted"] = "auto-generated"
    if mail.unsubscribe_url is not None:
        made["List-Unsubscribe"] = f"<{mail.unsubscribe_url}>"
        made["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    made.set_content(_plain(mail), cte="quoted-printable")
    made.add_alternative(_html(mail), subtype="html", cte="quoted-printable")
    return made


async def send(
    server: MailServer, made: EmailMessage, *, timeout_s: float = TIMEOUT_S
) -> MailAnswer:
    """Try once. Raises nothing that a server or a network does: that is in the answer. What it
    refuses with 5xx it will refuse again; everything else may be tried again."""
    password = server.password.get_secret_value() if server.password else None
    try:
        # The library's own limit is for each step.
        async with asyncio.timeout(timeout_s):
            _, said = await aiosmtplib.send(
                made,
                hostname=server.host,
                port=server.port,
                use_tls=server.tls == "tls",
                # Not if it happens to be offered: whoever is in between could hide the offer.
                start_tls=server.tls == "starttls",
                username=server.user,
                password=password,
                timeout=timeout_s,
            )
    except aiosmtplib.SMTPRecipientsRefused as error:
        [refused] = error.recipients
        return _refused(refused.code, refused.message)
    except aiosmtplib.SMTPAuthenticationError as error:
        # Our own mistake, and no reason to lose anybody's mail.
        answer = _refused(error.code, error.message)
        return MailAnswer(accepted=False, code=answer.code, detail=f"log-in: {answer.detail}")
    except aiosmtplib.SMTPResponseException as error:
        return _refused(error.code, error.message)
    except (TimeoutError, aiosmtplib.SMTPTimeoutError):
        return MailAnswer(accepted=False, detail=f"no answer within {timeout_s:.0f} s")
    except (aiosmtplib.SMTPException, OSError) as error:
        return MailAnswer(accepted=False, detail=_short(str(error) or type(error).__name__))
    except (MessageError, UnicodeError) as error:
        return MailAnswer(accepted=False, permanent=True, detail=_short(str(error)))
    return MailAnswer(accepted=True, code=250, detail=_short(said))


def _refused(code: int, message: str) -> MailAnswer:
    return MailAnswer(
        accepted=False, code=code, permanent=500 <= code < 600, detail=_short(f"{code} {message}")
    )


def _short(text: str) -> str:
    return " ".join(text.split())[:_KEPT_CHARACTERS]


def _plain(mail: Mail) -> str:
    links = "".join(f"\n{what}: {url}" for what, url in mail.links)
    return f"{mail.text}\n" + (f"\n-- {links}\n" if links else "")


def _html(mail: Mail) -> str:
    links = " · ".join(
        f'<a href="{html.escape(url)}">{html.escape(what)}</a>' for what, url in mail.links
    )
    return (
        "<!DOCTYPE html>\n"
        '<html><head><meta charset="utf-8"></head>\n'
        f'<body><pre style="white-space: pre-wrap">{html.escape(mail.text)}</pre>\n'
        + (f"<hr><p>{links}</p>\n" if links else "")
        + "</body></html>\n"
    )
