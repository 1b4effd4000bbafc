"""Signatures in the form of Standard Webhooks 1.0.0 (https://www.standardwebhooks.com).

``webhook-id`` is the same at every attempt, ``webhook-timestamp`` is the attempt's own, and
``webhook-signature`` holds one signature for each secret that is good at the time: while a secret
is being replaced, there are two.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pydantic import SecretStr

SECRET_PREFIX = "whsec_"  # noqa: S105  (how such a secret begins)
_SECRET_BYTES = range(24, 65)

#: How long the old secret signs beside the new one.
ROTATION = timedelta(hours=24)
#: How far the time of an attempt may be from the reader's.
TOLERANCE = timedelta(minutes=5)

#: What a secret has to look like, for those who give one.
SECRET_RULE = f"a secret is '{SECRET_PREFIX}' and 24 to 64 random bytes in base64"


def new_secret() -> SecretStr:
    """A secret to sign with."""
    return SecretStr(SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode())


def is_secret(secret: SecretStr) -> bool:
    """Whether this may be signed with: see `SECRET_RULE`."""
    return _key(secret) is not None


def sign(secret: SecretStr, message_id: str, timestamp_s: int, body: bytes) -> str:
    """One signature, ``v1,`` and base64. The secret is one that `is_secret`."""
    key = _key(secret)
    assert key is not None, "it was checked when it was given"
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def headers(
    good: Sequence[SecretStr], message_id: str, timestamp_s: int, body: bytes
) -> dict[str, str]:
    """The headers of one attempt; without a secret there is no signature."""
    found = {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}
    if good:
        found["webhook-signature"] = " ".join(
            sign(secret, message_id, timestamp_s, body) for secret in good
        )
    return found


def verifies(secret: SecretStr, given: Mapping[str, str], body: bytes, *, now: datetime) -> bool:
    """Whether an attempt with these headers was made with this secret, and lately. The names of
    the headers are in lower case."""
    try:
        timestamp_s = int(given["webhook-timestamp"])
        message_id, signatures = given["webhook-id"], given["webhook-signature"].split(" ")
    except (KeyError, ValueError):
        return False
    if abs(now.timestamp() - timestamp_s) > TOLERANCE.total_seconds():
        return False
    wanted = sign(secret, message_id, timestamp_s, body).encode()
    # All are compared, so that the time it takes tells nothing.
    return sum(hmac.compare_digest(wanted, each.encode()) for each in signatures) > 0


def _key(secret: SecretStr) -> bytes | None:
    text = secret.get_secret_value()
    if not text.startswith(SECRET_PREFIX):
        return None
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) in _SECRET_BYTES else None
