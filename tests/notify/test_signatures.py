"""Signatures: ours, checked by other people's code, and other people's, checked by ours."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pydantic import SecretStr

from slipway.notify import signing, sigv4, webhooks
from slipway.notify.refusals import CredentialsRefused
from slipway.notify.signing import SigningKey
from slipway.notify.sigv4 import SignedRequest

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


# --- SNS ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key() -> SigningKey:
    """Making one takes a while."""
    return SigningKey.make("slipway-1", NOW)


NOTIFICATION = {
    "Type": "Notification",
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
    "Subject": "My First Message",
    "Message": "Hello world!\nÄ",
    "Timestamp": "2012-05-02T00:54:06.655Z",
    "UnsubscribeURL": "https://example.org/?Action=Unsubscribe",
}
CONFIRMATION = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
    "Token": "2336412f37",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
    "Message": "You have chosen to subscribe",
    "SubscribeURL": "https://example.org/?Action=ConfirmSubscription",
    "Timestamp": "2012-04-26T20:45:04.751Z",
}


def test_what_is_signed() -> None:
    """The fields that SNS signs, in its order; a subject only where there is one."""
    assert signing.string_to_sign(NOTIFICATION).decode() == (
        "Message\nHello world!\nÄ\nMessageId\n22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324\n"
        "Subject\nMy First Message\nTimestamp\n2012-05-02T00:54:06.655Z\n"
        "TopicArn\narn:aws:sns:us-west-2:123456789012:MyTopic\nType\nNotification\n"
    )
    plain = {name: value for name, value in NOTIFICATION.items() if name != "Subject"}
    assert b"Subject" not in signing.string_to_sign(plain)
    assert signing.string_to_sign(CONFIRMATION).decode() == (
        "Message\nYou have chosen to subscribe\nMessageId\n165545c9-2a5c-472c-8df2-7ff2be2b3b1b\n"
        "SubscribeURL\nhttps://example.org/?Action=ConfirmSubscription\n"
        "Timestamp\n2012-04-26T20:45:04.751Z\nToken\n2336412f37\n"
        "TopicArn\narn:aws:sns:us-west-2:123456789012:MyTopic\nType\nSubscriptionConfirmation\n"
    )


@pytest.mark.parametrize(("version", "algorithm"), [("1", hashes.SHA1()), ("2", hashes.SHA256())])
@pytest.mark.parametrize("message", [NOTIFICATION, CONFIRMATION])
def test_messages_are_signed(
    key: SigningKey, version: str, algorithm: hashes.HashAlgorithm, message: dict[str, str]
) -> None:
    """Receivers check a message with the certificate alone; whatever of it is changed shows."""
    signed = {**message, "SignatureVersion": version, "Signature": key.sign(message, version)}
    certificate = x509.load_pem_x509_certificate(key.certificate)
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
    public = certificate.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    assert public.key_size == 2048
    # Raises unless it is right: as a receiver does it.
    public.verify(
        base64.b64decode(signed["Signature"]),
        signing.string_to_sign(message),
        padding.PKCS1v15(),
        algorithm,
    )
    assert signing.verifies(signed, key.certificate)
    for name in ("Message", "Timestamp", "TopicArn", "Signature", "SignatureVersion", "Type"):
        assert not signing.verifies({**signed, name: f"{signed[name]}x"}, key.certificate), name


def test_keys_are_kept(key: SigningKey) -> None:
    """A key that was stored signs as before, under the same certificate."""
    again = SigningKey.load(key.private_bytes(), key.certificate)
    assert again.sign(NOTIFICATION, "2") == key.sign(NOTIFICATION, "2")
    assert again.fingerprint == key.fingerprint


# --- Standard Webhooks ----------------------------------------------------------------------------


def test_webhooks_of_the_specification() -> None:
    """The example of the specification has the signature that the specification gives."""
    secret = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert webhooks.sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == signature


def test_secrets_are_replaced() -> None:
    """While a secret is replaced an attempt carries two signatures, and receivers with either
    secret take it: once, for a while, and for nobody else's body."""
    old, new, other = (webhooks.new_secret() for _ in range(3))
    now_s = int(NOW.timestamp())
    headers = webhooks.headers([new, old], "msg-1", now_s, b"{}")
    assert webhooks.verifies(old, headers, b"{}", now=NOW)
    assert webhooks.verifies(new, headers, b"{}", now=NOW)
    assert not webhooks.verifies(other, headers, b"{}", now=NOW)
    assert not webhooks.verifies(new, headers, b"{ }", now=NOW)
    assert not webhooks.verifies(new, headers, b"{}", now=NOW + timedelta(seconds=301))
    assert not webhooks.verifies(new, {**headers, "webhook-id": "msg-2"}, b"{}", now=NOW)
    unsigned = webhooks.headers([], "msg-1", now_s, b"{}")
    assert unsigned == {"webhook-id": "msg-1", "webhook-timestamp": str(now_s)}
    assert not webhooks.verifies(new, unsigned, b"{}", now=NOW)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_AAAA", "whsec_%%%", "key_" + "A" * 32, "whsec_" + "A" * 88]
)
def test_secrets_that_are_none(secret: str) -> None:
    """A secret is 24 to 64 bytes in base64 behind its prefix."""
    assert not webhooks.is_secret(SecretStr(secret))


# --- SigV4: botocore signs, we check --------------------------------------------------------------

SECRETS = {"AKIDEXAMPLE": SecretStr("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")}


def _signed(
    *,
    body: bytes = b"Action=ListTopics&Version=2010-03-31",
    query: str = "",
    presigned: bool = False,
    token: str | None = None,
    service: str = "sns",
    region: str = "eu-west-1",
    key_id: str = "AKIDEXAMPLE",
    secret: str = "",
    now: datetime = NOW,
    monkeypatch: pytest.MonkeyPatch,
) -> SignedRequest:
    """A request as botocore signs it."""
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: now.replace(tzinfo=None))
    request = AWSRequest(
        method="GET" if presigned else "POST",
        url=f"http://127.0.0.1:4280/{query and '?'}{query}",
        data=b"" if presigned else body,
        headers={} if presigned else {"Content-Type": "application/x-www-form-urlencoded"},
    )
    found = Credentials(key_id, secret or SECRETS["AKIDEXAMPLE"].get_secret_value(), token)
    auth: Any = (
        SigV4QueryAuth(found, service, region, expires=600)
        if presigned
        else SigV4Auth(found, service, region)
    )
    auth.add_auth(request)
    prepared = request.prepare()
    return SignedRequest(
        method=prepared.method,
        path="/",
        query=prepared.url.partition("?")[2],
        headers={
            "host": "127.0.0.1:4280",
            **{
                name.lower(): value.decode() if isinstance(value, bytes) else value
                for name, value in prepared.headers.items()
            },
        },
        body=prepared.body or b"",
    )


def _verify(request: SignedRequest, now: datetime = NOW) -> sigv4.Credential:
    return sigv4.verify(request, SECRETS.get, now=now)


@pytest.mark.parametrize("presigned", [False, True])
@pytest.mark.parametrize("token", [None, "a/session+token="])
@pytest.mark.parametrize("query", ["", "b=2&a=1&a=0&c=&d=x%20y%2Fz%2B%C3%A4"])
def test_what_botocore_signs_is_right(
    presigned: bool, token: str | None, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever botocore signs is found right, as whose it is; with one bit changed it is not."""
    request = _signed(presigned=presigned, token=token, query=query, monkeypatch=monkeypatch)
    found = _verify(request)
    assert (found.access_key_id, found.region) == ("AKIDEXAMPLE", "eu-west-1")
    with pytest.raises(CredentialsRefused) as refused:
        _verify(SignedRequest(**{**vars(request), "body": request.body + b"&x=y"}))
    assert refused.value.code == "SignatureDoesNotMatch"
    with pytest.raises(CredentialsRefused):
        _verify(SignedRequest(**{**vars(request), "query": f"{request.query}&x=y"}))
    moved = {**request.headers, "host": "other:4280"}
    with pytest.raises(CredentialsRefused):
        _verify(SignedRequest(**{**vars(request), "headers": moved}))


@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ({"key_id": "AKIDOTHER"}, "InvalidClientTokenId", "security token included"),
        ({"secret": "wrong"}, "SignatureDoesNotMatch", "does not match the signature you provided"),
        ({"service": "sqs"}, "SignatureDoesNotMatch", "scoped to correct service: 'sns'"),
        ({"now": NOW - timedelta(minutes=16)}, "SignatureDoesNotMatch", "Signature expired"),
        ({"now": NOW + timedelta(minutes=16)}, "SignatureDoesNotMatch", "not yet current"),
        (
            {"now": NOW - timedelta(minutes=11), "presigned": True},
            "RequestExpired",
            "Request has expired",
        ),
    ],
)
def test_who_is_refused(
    how: dict[str, Any], code: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown key, a wrong secret, another service's signature and an old one are refused, each
    with its code and 403."""
    request = _signed(**how, monkeypatch=monkeypatch)
    with pytest.raises(CredentialsRefused, match=words) as refused:
        _verify(request)
    assert (refused.value.code, refused.value.http_status) == (code, 403)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"authorization": None}, "MissingAuthenticationToken"),
        ({"authorization": "Bearer slw_x"}, "IncompleteSignature"),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=a"}, "IncompleteSignature"),
        ({"x-amz-date": None}, "IncompleteSignature"),
        ({"x-amz-date": "yesterday"}, "IncompleteSignature"),
        ({"x-amz-date": "20260101T000000Z"}, "SignatureDoesNotMatch"),
        # What was added on the way is not signed.
        ({"x-amz-security-token": "stolen"}, "SignatureDoesNotMatch"),
        ({"host": None}, "SignatureDoesNotMatch"),
    ],
)
def test_headers_that_are_wrong(
    change: dict[str, str | None], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing, malformed or not covered by the signature is refused before any secret is
    looked up."""
    request = _signed(monkeypatch=monkeypatch)
    headers = {name: value for name, value in {**request.headers, **change}.items() if value}
    with pytest.raises(CredentialsRefused) as refused:
        sigv4.verify(
            SignedRequest(**{**vars(request), "headers": headers}),
            lambda name: pytest.fail(f"{name} was looked up"),
            now=NOW,
        )
    assert refused.value.code == code


def test_requests_that_nobody_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a request is signed at all is seen without looking at the signature."""
    assert sigv4.is_signed(_signed(monkeypatch=monkeypatch))
    assert sigv4.is_signed(_signed(presigned=True, monkeypatch=monkeypatch))
    bare = SignedRequest(method="GET", path="/", query="Action=Unsubscribe", headers={}, body=b"")
    assert not sigv4.is_signed(bare)
