"""CloudEvents, written by other people's code and read by ours, and the other way round."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings import http as theirs
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent as TheirEvent
from hypothesis import given
from hypothesis import strategies as st

from slipway.notify import cloudevents as ours
from slipway.notify.cloudevents import CloudEvent, NotAnEvent

FORMAT = JSONFormat()
LEAST = {"id": "7", "source": "/launches", "specversion": "1.0", "type": "org.example.launched"}


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
events = st.builds(
    lambda given, subject, more, content: (
        {**LEAST, **given, "subject": subject, **more, "datacontenttype": content[0]},
        content[1],
    ),
    given=st.fixed_dictionaries({"id": texts, "type": texts}),
    subject=texts,
    more=st.dictionaries(
        st.text(string.ascii_lowercase + string.digits, min_size=3, max_size=20).map("x".__add__),
        texts,
        max_size=3,
    ),
    content=st.one_of(
        st.tuples(
            st.just("application/json"),
            st.dictionaries(texts, st.integers() | texts | st.none(), max_size=3),
        ),
        st.tuples(st.just("text/plain"), texts),
        st.tuples(st.just("application/octet-stream"), st.binary(min_size=1).map(b"\xff".__add__)),
    ),
)


@given(events)
def test_what_others_write_is_read(event: tuple[dict[str, Any], Any]) -> None:
    """In both forms: every attribute, and the data."""
    attributes, data = event
    their = TheirEvent({**attributes, "time": datetime(2026, 11, 27, tzinfo=UTC)}, data)
    for write in (theirs.to_binary, theirs.to_structured):
        message = write(their, FORMAT)
        [found] = ours.read(lower(message.headers), message.body)
        assert found.attributes == {**attributes, "time": "2026-11-27T00:00:00Z"}
        assert found.data is not None
        if isinstance(data, bytes):
            assert found.data == data
        else:
            assert data == (json.loads(found.data) if found.has_json else found.data.decode())


@given(events)
def test_what_we_write_is_read_by_others(event: tuple[dict[str, Any], Any]) -> None:
    """In both forms, the same event."""
    attributes, data = event
    raw = data if isinstance(data, bytes) else None
    if raw is None:
        raw = (json.dumps(data) if isinstance(data, dict) else data).encode()
    our = CloudEvent(attributes=attributes, data=raw)
    for write in (ours.write_binary, ours.write_structured):
        headers, body = write(our)
        found = theirs.from_http(theirs.HTTPMessage(lower(headers), body), FORMAT)
        assert found.get_attributes().pop("time")
        assert found.get_attributes() == attributes
        assert found.get_data() == data


@given(events)
def test_a_topic_loses_nothing(event: tuple[dict[str, Any], Any]) -> None:
    """What was published as an event is the same event to whoever wants events."""
    attributes, data = event
    their = TheirEvent({**attributes, "time": datetime(2026, 11, 27, tzinfo=UTC)}, data)
    message = theirs.to_structured(their, FORMAT)
    [published] = ours.read(lower(message.headers), message.body)
    text, named = ours.message_of(published)
    assert {name: each.value for name, each in named.items()} == {
        "ce-source": attributes["source"],
        "ce-specversion": "1.0",
        "ce-subject": attributes["subject"],
        "ce-type": attributes["type"],
    }
    again = ours.event_of(
        message_id="m",
        topic_arn="arn:aws:sns:x:1:t",
        published_at=datetime(2026, 11, 28, tzinfo=UTC),
        text=text,
        subject=None,
        attributes={name: [each.data_type, each.value] for name, each in named.items()},
    )
    assert again == published


@pytest.mark.parametrize(
    ("text", "content_type"),
    [('{"a": 1}', "application/json"), ("no: JSON", "text/plain; charset=utf-8")],
)
def test_a_message_becomes_an_event(text: str, content_type: str) -> None:
    """With the message's own id, so that who gets it twice knows."""
    found = ours.event_of(
        message_id="0199",
        topic_arn="arn:aws:sns:local:1:launches",
        published_at=datetime(2026, 11, 27, 2, 30, 0, 123_456, tzinfo=UTC),
        text=text,
        subject="web-1",
        attributes={"colour": ["String", "red"]},
    )
    assert found.attributes == {
        "id": "0199",
        "source": "arn:aws:sns:local:1:launches",
        "specversion": "1.0",
        "type": "org.slipway.notification.v1",
        "time": "2026-11-27T02:30:00.123Z",
        "subject": "web-1",
        "datacontenttype": content_type,
    }
    assert found.data == text.encode()
    assert ours.read(lower(ours.write_binary(found)[0]), ours.write_binary(found)[1]) == [found]


def test_a_message_that_only_looks_like_an_event() -> None:
    """Anybody may give an attribute that name; the text is passed on as it is."""
    found = ours.event_of(
        message_id="1",
        topic_arn="arn:aws:sns:local:1:t",
        published_at=datetime(2026, 11, 27, tzinfo=UTC),
        text="{}",
        subject=None,
        attributes={"ce-specversion": ["String", "1.0"]},
    )
    assert (found.attributes["id"], found.data) == ("1", b"{}")


def test_a_batch() -> None:
    """All of it, or the one that is wrong is named."""
    events = [{**LEAST, "id": str(n), "data": {"n": n}, "n": n, "yes": True} for n in range(3)]
    headers = {"content-type": "application/cloudevents-batch+json; charset=utf-8"}
    found = ours.read(headers, json.dumps(events).encode())
    assert [each.attributes["id"] for each in found] == ["0", "1", "2"]
    assert found[2].attributes["n"] == "2"
    assert found[2].attributes["yes"] == "true"
    assert found[2].data == b'{"n": 2}'
    del events[1]["type"]
    with pytest.raises(NotAnEvent, match="event 2 of the batch has no type"):
        ours.read(headers, json.dumps(events).encode())
    assert ours.read(headers, b"[]") == []


JSON = "application/cloudevents+json"


@pytest.mark.parametrize(
    ("headers", "body", "problem"),
    [
        ({"content-type": "application/json"}, b"{}", "no ce-"),
        ({"content-type": "application/cloudevents+avro"}, b"", "not understood"),
        ({"content-type": JSON}, b"[]", "not a JSON object"),
        ({"content-type": JSON}, b"{", "not JSON"),
        ({"content-type": JSON}, b'{"id": NaN}', "NaN"),
        ({"content-type": JSON}, b"\xff", "not UTF-8"),
        ({"content-type": "application/cloudevents-batch+json"}, b"{}", "array"),
        ({"ce-id": "7", "ce-source": "/x", "ce-type": "t"}, b"", "has no specversion"),
        ({**{f"ce-{k}": v for k, v in LEAST.items()}, "ce-id": "%ff"}, b"", "ce-id is not UTF-8"),
    ],
)
def test_what_is_no_event(headers: dict[str, str], body: bytes, problem: str) -> None:
    with pytest.raises(NotAnEvent, match=problem):
        ours.read(headers, body)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"specversion": "0.3"}, r"version '0\.3'"),
        ({"source": "not a uri"}, "source"),
        ({"time": "yesterday"}, "2026-11-27T12:00:00Z"),
        ({"time": "2026-02-30T12:00:00Z"}, "2026-11-27T12:00:00Z"),
        ({"subject": ""}, "may be left out"),
        ({"myExtension": "x"}, "lower-case"),
        ({"extension": {"a": 1}}, "not a string"),
        ({"extension": 1.5}, "not a string"),
        ({"extension": "a\nb"}, "control"),
        ({"data": 1, "data_base64": "MQ=="}, "both"),
        ({"data_base64": "?"}, "base64"),
        ({"data_base64": 7}, "base64"),
        ({"id": ""}, "no id"),
    ],
)
def test_what_is_wrong_with_an_event(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(NotAnEvent, match=problem):
        ours.read({"content-type": JSON}, json.dumps({**LEAST, **change}).encode())


def test_quoted_headers_are_read() -> None:
    """As older senders write them."""
    headers = {f"ce-{name}": f'"{value}"' for name, value in LEAST.items()}
    headers["ce-subject"] = '"a \\"b\\""'
    [found] = ours.read(headers, b"")
    assert found.attributes == {**LEAST, "subject": 'a "b"'}
    assert found.data is None


@pytest.mark.parametrize(
    ("headers", "allows"),
    [
        ({}, None),
        ({"webhook-allowed-origin": "elsewhere"}, None),
        ({"webhook-allowed-origin": "*"}, ours.Permission()),
        ({"webhook-allowed-origin": "slipway", "webhook-allowed-rate": "*"}, ours.Permission()),
        (
            {"webhook-allowed-origin": "a, slipway", "webhook-allowed-rate": "120"},
            ours.Permission(per_minute=120),
        ),
        ({"webhook-allowed-origin": "slipway", "webhook-allowed-rate": "many"}, None),
    ],
)
def test_what_a_receiver_allows(headers: dict[str, str], allows: ours.Permission | None) -> None:
    assert ours.permission(headers, "slipway") == allows
    assert ours.asking("slipway") == {"WebHook-Request-Origin": "slipway"}
