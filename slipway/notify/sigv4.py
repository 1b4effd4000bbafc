"""AWS Signature Version 4, on the side that checks it.

Both forms: the header ``Authorization``, and addresses that were signed in advance. Twenty lines of
`hmac` and a cache of derived keys take a fifth of botocore's time, which is the reference in the
tests. Source: the AWS General Reference, "Signature Version 4 signing process".
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from urllib.parse import parse_qsl, quote

from pydantic import SecretStr

from slipway.notify.refusals import CredentialsRefused

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "sns"
#: How far the signer's clock may be from ours.
MAX_SKEW = timedelta(minutes=15)
#: How long an address that was signed in advance may be good at most.
MAX_EXPIRES_S = 7 * 24 * 3600

_TIME_FORMAT = "%Y%m%dT%H%M%SZ"
_REGION = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, kw_only=True)
class SignedRequest:
    """A request as it came: header names in lower case, the query as it stood in the address."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Credential:
    """Whose key a request was signed with, and for where."""

    access_key_id: str
    region: str


@dataclass(frozen=True, kw_only=True)
class _Signature:
    credential: Credential
    #: Day, region, service and ``aws4_request``.
    scope: str
    signed_headers: tuple[str, ...]
    signature: str
    signed_at: datetime
    #: The query that was signed.
    query: tuple[tuple[str, str], ...]
    #: How long it is good; None for one that is not signed in advance.
    expires: timedelta | None


def is_signed(request: SignedRequest) -> bool:
    """Whether a request says who makes it."""
    return "authorization" in request.headers or "X-Amz-Signature=" in request.query


def verify(
    request: SignedRequest,
    secret_of: Callable[[str], SecretStr | None],
    *,
    now: datetime,
) -> Credential:
    """Whose request it is; ``secret_of`` knows the secret of an access key. Raises
    `CredentialsRefused`."""
    found = _read(request)
    secret = secret_of(found.credential.access_key_id)
    if secret is None:
        raise CredentialsRefused(
            "InvalidClientTokenId", "The security token included in the request is invalid."
        )
    key = _signing_key(secret, found.scope)
    wanted = hmac.new(key, _string_to_sign(request, found).encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted.encode(), found.signature.encode("utf-8", "replace")):
        raise CredentialsRefused(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check "
            "your AWS Secret Access Key and signing method. Consult the service documentation for "
            "details.",
        )
    # After the signature: the time is told to nobody who could not have made the request.
    _check_time(found, now)
    return found.credential


def _check_time(found: _Signature, now: datetime) -> None:
    signed = found.signed_at.strftime(_TIME_FORMAT)
    until = found.signed_at + (MAX_SKEW if found.expires is None else found.expires)
    if now > until:
        if found.expires is not None:
            raise CredentialsRefused("RequestExpired", "Request has expired")
        raise CredentialsRefused(
            "SignatureDoesNotMatch",
            f"Signature expired: {signed} is now earlier than "
            f"{(now - MAX_SKEW).strftime(_TIME_FORMAT)} ({now.strftime(_TIME_FORMAT)} - 15 min.)",
        )
    if found.signed_at > now + MAX_SKEW:
        raise CredentialsRefused(
            "SignatureDoesNotMatch",
            f"Signature not yet current: {signed} is still later than "
            f"{(now + MAX_SKEW).strftime(_TIME_FORMAT)} ({now.strftime(_TIME_FORMAT)} + 15 min.)",
        )


def _read(request: SignedRequest) -> _Signature:
    if "authorization" in request.headers:
        return _read_header(request)
    query = _pairs(request.query)
    if "X-Amz-Signature" not in dict(query):
        raise CredentialsRefused(
            "MissingAuthenticationToken", "Request is missing Authentication Token"
        )
    return _read_query(request, query)


def _read_header(request: SignedRequest) -> _Signature:
    algorithm, _, rest = request.headers["authorization"].partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"the scheme of 'Authorization' must be {ALGORITHM}")
    parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    for name in ("Credential", "SignedHeaders", "Signature"):
        if not parts.get(name):
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    if "x-amz-date" not in request.headers:
        raise _incomplete("the header X-Amz-Date is missing")
    return _signature(
        request,
        credential=parts["Credential"],
        signed_headers=parts["SignedHeaders"],
        signature=parts["Signature"],
        signed_at=request.headers["x-amz-date"],
        query=_pairs(request.query),
        must_sign=("host", "x-amz-date"),
    )


def _read_query(request: SignedRequest, query: list[tuple[str, str]]) -> _Signature:
    given = dict(query)
    if given.get("X-Amz-Algorithm") != ALGORITHM:
        raise _incomplete(f"'X-Amz-Algorithm' must be {ALGORITHM}")
    for name in ("X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Date", "X-Amz-Expires"):
        if not given.get(name):
            raise _incomplete(f"the address lacks the parameter '{name}'")
    text = given["X-Amz-Expires"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise _incomplete("'X-Amz-Expires' must be a number of seconds")
    expires_s = int(text)
    if expires_s > MAX_EXPIRES_S:
        raise _incomplete(f"'X-Amz-Expires' must be at most {MAX_EXPIRES_S} seconds")
    return _signature(
        request,
        credential=given["X-Amz-Credential"],
        signed_headers=given["X-Amz-SignedHeaders"],
        signature=given["X-Amz-Signature"],
        signed_at=given["X-Amz-Date"],
        query=[(name, value) for name, value in query if name != "X-Amz-Signature"],
        must_sign=("host",),
        expires=timedelta(seconds=expires_s),
    )


def _signature(
    request: SignedRequest,
    *,
    credential: str,
    signed_headers: str,
    signature: str,
    signed_at: str,
    query: Iterable[tuple[str, str]],
    must_sign: Iterable[str],
    expires: timedelta | None = None,
) -> _Signature:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request" or not _REGION.fullmatch(parts[2]):
        raise _incomplete("a credential is KEY/YYYYMMDD/REGION/sns/aws4_request")
    access_key_id, day, region, service, _ = parts
    if service != SERVICE:
        raise CredentialsRefused(
            "SignatureDoesNotMatch", f"Credential should be scoped to correct service: '{SERVICE}'."
        )
    try:
        moment = datetime.strptime(signed_at, _TIME_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete("X-Amz-Date must look like 20260131T235959Z") from None
    if not signed_at.startswith(day) or len(day) != 8:
        raise CredentialsRefused(
            "SignatureDoesNotMatch",
            "Date in Credential scope does not match YYYYMMDD of X-Amz-Date",
        )
    names = tuple(signed_headers.split(";"))
    # What is not signed may have been changed by anybody on the way.
    unsigned = {*must_sign, *(name for name in request.headers if name.startswith("x-amz-"))}
    unsigned -= set(names)
    if unsigned or any(name not in request.headers for name in names):
        raise CredentialsRefused(
            "SignatureDoesNotMatch",
            "'Host' and every 'X-Amz-' header must be a 'SignedHeader' in the AWS Authorization.",
        )
    return _Signature(
        credential=Credential(access_key_id=access_key_id, region=region),
        scope="/".join(parts[1:]),
        signed_headers=names,
        signature=signature,
        signed_at=moment,
        query=tuple(query),
        expires=expires,
    )


def _string_to_sign(request: SignedRequest, found: _Signature) -> str:
    query = sorted((_quoted(name), _quoted(value)) for name, value in found.query)
    canonical = [
        request.method,
        quote(request.path, safe="/-_.~%") or "/",
        "&".join(f"{name}={value}" for name, value in query),
        *(f"{name}:{' '.join(request.headers[name].split())}" for name in found.signed_headers),
        "",
        ";".join(found.signed_headers),
        hashlib.sha256(request.body).hexdigest(),
    ]
    digest = hashlib.sha256("\n".join(canonical).encode("utf-8", "surrogateescape")).hexdigest()
    moment = found.signed_at.strftime(_TIME_FORMAT)
    return f"{ALGORITHM}\n{moment}\n{found.scope}\n{digest}"


def _pairs(query: str) -> list[tuple[str, str]]:
    # A plus sign is one here: only forms mean a space by it, and those are in the body.
    return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


@lru_cache(maxsize=1024)
def _signing_key(secret: SecretStr, scope: str) -> bytes:
    key = f"AWS4{secret.get_secret_value()}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _incomplete(what: str) -> CredentialsRefused:
    return CredentialsRefused("IncompleteSignature", what)
