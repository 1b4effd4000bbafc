"""One HTTP POST to an address that somebody else has chosen.

Whoever names the address must not make us talk to what only we can reach: the name is resolved
once, every address it stands for is checked, and the connection goes to the one that was checked,
so a name that answers differently the second time gains nothing. Redirects are not followed, and
neither a slow nor an endless answer holds us up.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from slipway.errors import SlipwayError

#: From the look-up to the end of the answer.
TIMEOUT_S = 20.0
#: What is read of an answer; nobody looks at it.
MAX_ANSWER_BYTES = 16 * 1024
MAX_URL_LENGTH = 2048

#: RFC 6052: IPv4 addresses inside of IPv6 ones.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class NotDelivered(SlipwayError):
    """The message was not accepted."""


class Refused(NotDelivered):
    """The receiver wants no more of these."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """An address, taken apart."""

    url: str
    scheme: str
    host: str
    port: int
    #: Path and query.
    target: str


class Poster(Protocol):
    """Posts; a fake of it needs no network."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Post once; answers the status, which is 2xx. Raises `NotDelivered`."""


def problem_of(url: str, *, allow_private: bool) -> str | None:
    """What is wrong with an address, as far as it can be told without asking anybody."""
    if len(url) > MAX_URL_LENGTH:
        return f"an address has {MAX_URL_LENGTH} characters at most"
    try:
        target = _parse(url)
    except ValueError:
        return "this is not an address; it looks like https://example.org/hook"
    if target is None:
        return "this is not an address; it looks like https://example.org/hook"
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        return "an address holds no user name and no password: it is shown to whoever may read"
    if parts.fragment:
        return "an address has no part behind a #: it would not be sent"
    if target.scheme != "https" and not allow_private:
        return "only https is called back: what is sent would be readable on its way"
    try:
        literal = ipaddress.ip_address(target.host)
    except ValueError:
        return None
    if not allow_private and not is_public(literal):
        return f"{target.host} is not a public address"
    return None


def is_public(address: _Address) -> bool:
    """Whether everybody could reach this address, so that nothing is gained by having us call."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


class HttpPoster:
    """Posts over the network."""

    def __init__(self, *, allow_private: bool, timeout_s: float = TIMEOUT_S) -> None:
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """See `Poster`."""
        problem = problem_of(url, allow_private=self._allow_private)
        target = None if problem else _parse(url)
        if target is None:
            raise NotDelivered(f"{url}: {problem}")
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._resolve(target)
                status = await self._post(target, address, body, headers)
        except TimeoutError as error:
            raise NotDelivered(f"{url}: no answer within {self._timeout_s:.0f} s") from error
        except (httpx.HTTPError, OSError, UnicodeError) as error:
            # UnicodeError: a label of the name is too long for the look-up.
            raise NotDelivered(f"{url}: {str(error) or type(error).__name__}") from error
        if status == httpx.codes.GONE:
            raise Refused(f"{url}: it answers 410: it wants no more of these")
        if 300 <= status < 400:
            raise NotDelivered(f"{url}: it answers {status}; redirects are not followed")
        if not 200 <= status < 300:
            raise NotDelivered(f"{url}: it answers {status}")
        return status

    async def _resolve(self, target: Target) -> str:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, target.port, type=socket.SOCK_STREAM
        )
        addresses = [str(each[4][0]) for each in found]
        for each in addresses:
            # Without the zone of a link-local address, which `ipaddress` takes, but is not public.
            if not self._allow_private and not is_public(ipaddress.ip_address(each)):
                # One is enough: whoever mixes them hopes for our second look-up.
                raise NotDelivered(
                    f"{target.url}: {target.host} is {each}, which is not a public address; "
                    "SLIPWAY_CALLBACK_ALLOW_PRIVATE=true would allow it"
                )
        return addresses[0]

    async def _post(
        self, target: Target, address: str, body: bytes, headers: Mapping[str, str]
    ) -> int:
        if self._tls is None:
            # Reading the authorities' certificates takes a tenth of a second.
            self._tls = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
        pinned = f"[{address}]" if ":" in address else address
        named = f"[{target.host}]" if ":" in target.host else target.host
        default = {"https": 443, "http": 80}[target.scheme]
        host = named if target.port == default else f"{named}:{target.port}"
        async with (
            httpx.AsyncClient(
                verify=self._tls, trust_env=False, follow_redirects=False, timeout=self._timeout_s
            ) as client,
            client.stream(
                "POST",
                f"{target.scheme}://{pinned}:{target.port}{target.target}",
                content=body,
                headers={**headers, "Host": host},
                # The certificate is checked against the name, not the address.
                extensions={"sni_hostname": target.host},
            ) as answer,
        ):
            read = 0
            async for piece in answer.aiter_raw():
                read += len(piece)
                if read > MAX_ANSWER_BYTES:
                    break
            return answer.status_code


_: type[Poster] = HttpPoster


def _parse(url: str) -> Target | None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        return None
    if " " in url or not url.isascii():
        return None
    port = parts.port if parts.port is not None else {"https": 443, "http": 80}[parts.scheme]
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    return Target(url=url, scheme=parts.scheme, host=parts.hostname, port=port, target=target)
