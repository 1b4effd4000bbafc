"""CloudEvents 1.0 over HTTP, in and out, and how topics carry them.

An event on a topic is a message whose text is the event in its JSON form, so nothing of it is lost
to subscribers who have never heard of CloudEvents; what they may want to filter by is in the
message's attributes as well. Subscribers who want CloudEvents get the same event again, or one that
is made of a message that somebody published in another way.

Sources: CloudEvents 1.0.2 (https://github.com/cloudevents/spec), its JSON event format, its HTTP
protocol binding and its web hook specification.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from slipway.errors import SlipwayError
from slipway.notify.attributes import MessageAttribute, read_json, refuse_constant

JSON_TYPE = "application/cloudevents+json"
BATCH_TYPE = "application/cloudevents-batch+json"
#: What a message that is no CloudEvent becomes when somebody wants one.
MESSAGE_TYPE = "org.slipway.notification.v1"

_VERSION = "1.0"
_REQUIRED = ("id", "source", "specversion", "type")
#: The message attributes that an event's filterable attributes become.
_FILTERED = ("source", "specversion", "subject", "type")
_PREFIX = "ce-"
_MARK = f"{_PREFIX}specversion"

_NAME = re.compile(r"[a-z0-9]+")
#: RFC 3339.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
#: The characters of URI references (RFC 3986).
_URI = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_JSON_CONTENT = re.compile(
    r"(?:application|text)/(?:[\w.!#$&^-]+\+)?json\s*(?:;.*)?", re.IGNORECASE
)
#: Spaces, double quotes, per cent signs and what is not printable ASCII are not sent as they are.
_SAFE = "".join(chr(n) for n in range(0x21, 0x7F) if chr(n) not in '"%')


class NotAnEvent(SlipwayError):
    """What was sent is no CloudEvent."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class CloudEvent:
    """One event. ``attributes`` are all of its context attributes in their text form."""

    attributes: Mapping[str, str]
    data: bytes | None = None

    @property
    def content_type(self) -> str:
        """What its data is; JSON where nothing is said."""
        return self.attributes.get("datacontenttype", "application/json")

    @property
    def has_json(self) -> bool:
        """Whether its data is meant to be JSON."""
        return _JSON_CONTENT.fullmatch(self.content_type) is not None


@dataclass(frozen=True, kw_only=True)
class Permission:
    """What a receiver allows in the web hook handshake."""

    #: Requests per minute; None for as many as we like.
    per_minute: int | None = None


# -- in --------------------------------------------------------------------------------------------


def read(headers: Mapping[str, str], body: bytes) -> list[CloudEvent]:
    """The events of a request, in whichever of the three forms it is. The names of the headers are
    in lower case. Raises `NotAnEvent`, naming what is wrong and where."""
    content_type = headers.get("content-type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == BATCH_TYPE:
        found = _json(body)
        if not isinstance(found, list):
            raise NotAnEvent("a batch of CloudEvents is a JSON array of them")
        return [_structured(each, f"event {at} of the batch") for at, each in enumerate(found, 1)]
    if media_type == JSON_TYPE:
        return [_structured(_json(body), "the event")]
    if media_type.startswith("application/cloudevents"):
        raise NotAnEvent(
            f"CloudEvents are not understood as {media_type}; known are {JSON_TYPE} and "
            f"{BATCH_TYPE}"
        )
    attributes = {
        name.removeprefix(_PREFIX): _from_header(value, name)
        for name, value in headers.items()
        if name.startswith(_PREFIX)
    }
    if not attributes:
        raise NotAnEvent(
            f"this is no CloudEvent: its content type is neither {JSON_TYPE} nor {BATCH_TYPE}, and "
            "it has no ce-… headers"
        )
    # It is the content type's place, and nothing else's.
    attributes.pop("datacontenttype", None)
    if content_type:
        attributes["datacontenttype"] = content_type
    return [_checked(CloudEvent(attributes=attributes, data=body or None), "the event")]


def message_of(event: CloudEvent) -> tuple[str, dict[str, MessageAttribute]]:
    """The text of a message that carries the event, and its attributes."""
    attributes = {
        f"{_PREFIX}{name}": MessageAttribute(data_type="String", value=event.attributes[name])
        for name in _FILTERED
        if name in event.attributes
    }
    return write_json(event).decode(), attributes


# -- out -------------------------------------------------------------------------------------------


def event_of(
    *,
    message_id: str,
    topic_arn: str,
    published_at: datetime,
    text: str,
    subject: str | None,
    attributes: Mapping[str, Sequence[str]],
) -> CloudEvent:
    """The event that a message carries, or one that is made of it. ``attributes`` are the
    message's, as ``(type, value)``."""
    if _MARK in attributes:
        try:
            return _structured(_json(text.encode("utf-8", "surrogatepass")), "the event")
        except NotAnEvent:
            # Anybody may call an attribute like this.
            pass
    is_json = _is_json(text)
    made = {
        "id": message_id,
        "source": topic_arn,
        "specversion": _VERSION,
        "type": MESSAGE_TYPE,
        "time": published_at.astimezone(UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
        "datacontenttype": "application/json" if is_json else "text/plain; charset=utf-8",
    }
    if subject:
        made["subject"] = subject
    return CloudEvent(attributes=made, data=text.encode("utf-8", "replace"))


def write_binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Headers and body of the binary form."""
    headers = {
        f"{_PREFIX}{name}": quote(value, safe=_SAFE)
        for name, value in event.attributes.items()
        if name != "datacontenttype"
    }
    if event.data is not None:
        headers["Content-Type"] = event.content_type
    return headers, event.data or b""


def write_structured(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Headers and body of the structured form."""
    return {"Content-Type": f"{JSON_TYPE}; charset=utf-8"}, write_json(event)


def write_json(event: CloudEvent) -> bytes:
    """The event in its JSON form."""
    document: dict[str, Any] = dict(event.attributes)
    data = event.data
    if data is not None:
        text = _text(data)
        if text is not None and event.has_json and _is_json(text):
            document["data"] = json.loads(text)
        elif text is not None and not event.has_json:
            document["data"] = text
        else:
            document["data_base64"] = base64.b64encode(data).decode()
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")


# -- the handshake of web hooks --------------------------------------------------------------------


def asking(origin: str) -> dict[str, str]:
    """The headers of the OPTIONS request that asks whether ``origin`` may send events."""
    return {"WebHook-Request-Origin": origin}


def permission(headers: Mapping[str, str], origin: str) -> Permission | None:
    """What the answer to it allows; None for nothing. The names of the headers are in lower
    case."""
    allowed = {each.strip() for each in headers.get("webhook-allowed-origin", "").split(",")}
    if not allowed & {"*", origin}:
        return None
    rate = headers.get("webhook-allowed-rate", "*").strip()
    if rate == "*":
        return Permission()
    return Permission(per_minute=int(rate)) if rate.isascii() and rate.isdigit() else None


# -- parts -----------------------------------------------------------------------------------------


def _structured(document: Any, what: str) -> CloudEvent:
    if not isinstance(document, dict):
        raise NotAnEvent(f"{what} is not a JSON object")
    if "data" in document and "data_base64" in document:
        raise NotAnEvent(f"{what} has both data and data_base64; one is right")
    attributes = dict(_attributes(document, what))
    event = _checked(CloudEvent(attributes=attributes), what)
    data: bytes | None = None
    if "data_base64" in document:
        try:
            data = base64.b64decode(document["data_base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise NotAnEvent(f"data_base64 of {what} is not base64") from None
    elif document.get("data") is not None:
        found = document["data"]
        # Of text that is not meant to be JSON, the string is the data itself.
        plain = isinstance(found, str) and not event.has_json
        text = found if plain else json.dumps(found, ensure_ascii=False)
        data = text.encode("utf-8", "surrogatepass")
    return CloudEvent(attributes=attributes, data=data)


def _attributes(document: Mapping[str, Any], what: str) -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if name in ("data", "data_base64") or value is None:
            continue
        if isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, int | str):
            yield name, str(value)
        else:
            raise NotAnEvent(
                f"attribute {name!r} of {what} is not a string, an integer or a boolean"
            )


def _checked(event: CloudEvent, what: str) -> CloudEvent:
    attributes = event.attributes
    for name in _REQUIRED:
        if not attributes.get(name):
            raise NotAnEvent(f"{what} has no {name}; a CloudEvent has {', '.join(_REQUIRED)}")
    if attributes["specversion"] != _VERSION:
        raise NotAnEvent(
            f"{what} is of version {attributes['specversion']!r} of CloudEvents; understood is "
            f"{_VERSION}"
        )
    for name, value in attributes.items():
        if not _NAME.fullmatch(name):
            raise NotAnEvent(
                f"attribute {name!r} of {what} has a wrong name: lower-case letters and digits"
            )
        if any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 for each in value):
            raise NotAnEvent(f"attribute {name!r} of {what} has control characters in it")
    for name in ("subject", "dataschema", "datacontenttype"):
        if attributes.get(name) == "":
            raise NotAnEvent(f"{name} of {what} is empty; it may be left out")
    if not _URI.fullmatch(attributes["source"]):
        raise NotAnEvent(f"source of {what} is not a URI reference: {attributes['source']!r}")
    if "time" in attributes and not _is_time(attributes["time"]):
        raise NotAnEvent(
            f"time of {what} is {attributes['time']!r}; it looks like 2026-11-27T12:00:00Z"
        )
    return event


def _from_header(value: str, name: str) -> str:
    """A header's value without what it is wrapped in: quotes, and per cent signs for UTF-8."""
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise NotAnEvent(f"header {name} is not UTF-8 behind its per cent signs") from None


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text.upper())
    except ValueError:
        return False
    return True


def _json(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError:
        raise NotAnEvent("the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise NotAnEvent(f"the body is not JSON: {error}") from None


def _is_json(text: str) -> bool:
    try:
        read_json(text)
    except ValueError:
        return False
    return True


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
