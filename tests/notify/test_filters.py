"""Which messages a filter policy lets pass, and which policies are refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.notify.attributes import MessageAttribute, check_attribute
from slipway.notify.filters import FilterScope, parse_filter_policy
from slipway.notify.refusals import ParameterValueInvalid, ValidationError, ValueInvalid

_TYPES = {str: "String", int: "Number", float: "Number", list: "String.Array", bytes: "Binary"}


def _attributes(values: dict[str, Any]) -> dict[str, MessageAttribute]:
    return {
        name: MessageAttribute(
            data_type=_TYPES[type(value)],
            value=value if isinstance(value, str) else json.dumps(value),
        )
        for name, value in values.items()
    }


def _passes(policy: Any, values: dict[str, Any]) -> bool:
    found = parse_filter_policy(json.dumps(policy), FilterScope.ATTRIBUTES)
    return found.matches(_attributes(values), "")


def _body_passes(policy: Any, body: Any) -> bool:
    text = body if isinstance(body, str) else json.dumps(body)
    return parse_filter_policy(json.dumps(policy), FilterScope.BODY).matches({}, text)


@pytest.mark.parametrize(
    ("values", "passing", "stopped"),
    [
        (["x", "y"], ["x", "y"], ["X", "", 1]),
        # A number is not its own text, and numbers are compared by value, to five digits.
        ([100], [100, 100.000001], ["100", 100.1]),
        ([{"prefix": "ab"}], ["ab", "abc"], ["a", "cab"]),
        ([{"suffix": "ab"}], ["ab", "cab"], ["b", "abc"]),
        ([{"equals-ignore-case": "Ab"}], ["aB", "AB"], ["abc"]),
        ([{"anything-but": "x"}], ["y", 3], ["x"]),
        ([{"anything-but": ["x", "y"]}], ["z"], ["x", "y"]),
        ([{"anything-but": [1, 2]}], [3, "1"], [1, 2]),
        ([{"anything-but": {"prefix": "ab"}}], ["b"], ["abc"]),
        ([{"numeric": ["=", 5]}], [5, 5.0], [5.1, "5"]),
        ([{"numeric": [">", 0, "<=", 100]}], [1, 100], [0, 100.5]),
        ([{"numeric": ["<", -1.5]}], [-2], [-1.5]),
        ([{"cidr": "10.0.0.0/8"}], ["10.1.2.3"], ["11.0.0.1", "host", 10]),
        ([{"cidr": "fd00::/8"}], ["fd00::1"], ["fe80::1"]),
        ([{"prefix": "a"}, 7], ["ab", 7], ["b", 8]),
        # Of an array, one element is enough: also for not being something.
        (["x"], [["x", "z"]], [["z"]]),
        ([{"anything-but": ["x"]}], [["x", "z"]], [["x"]]),
        ([True, None], [[True], [None]], [[False], "true"]),
        # What is binary is not looked into.
        ([{"exists": False}], [], ["x", 1]),
        ([{"exists": True}], ["x", 1], []),
    ],
)
def test_attributes(values: list[Any], passing: list[Any], stopped: list[Any]) -> None:
    """A policy lets an attribute's value pass when one of its own values fits."""
    assert [value for value in passing if not _passes({"key": values}, {"key": value})] == []
    assert [value for value in stopped if _passes({"key": values}, {"key": value})] == []


def test_what_is_not_there() -> None:
    """All keys have to match; to a policy on attributes, what was not sent is null."""
    assert not _passes({"a": ["1"], "b": ["2"]}, {"a": "1"})
    assert _passes({"a": [{"exists": False}]}, {"b": "x"})
    assert _passes({"a": [None, {"anything-but": "x"}]}, {})
    assert not _passes({"a": [{"anything-but": "x"}]}, {})
    assert not _passes({"a": [{"prefix": ""}]}, {})
    binary = {"key": MessageAttribute(data_type="Binary", value="eA==")}
    policy = parse_filter_policy('{"key": [{"prefix": ""}]}', FilterScope.ATTRIBUTES)
    assert not policy.matches(binary, "")


def test_one_of_several() -> None:
    """``$or`` asks for one of its objects, beside the other keys; with something else in it, it
    is a name."""
    policy = {"a": ["1"], "$or": [{"b": ["2"]}, {"c": [{"numeric": [">", 3]}]}]}
    assert _passes(policy, {"a": "1", "b": "2"})
    assert _passes(policy, {"a": "1", "c": 4})
    assert not _passes(policy, {"a": "1", "b": "3", "c": 3})
    assert not _passes(policy, {"b": "2"})
    assert _passes({"$or": ["x"]}, {"$or": "x"})
    assert _body_passes({"o": {"$or": [{"b": ["2"]}, {"c": ["3"]}]}}, {"o": {"c": "3"}})


@pytest.mark.parametrize(
    ("policy", "passing", "stopped"),
    [
        (
            {"object": {"key": [{"prefix": "auto-"}, "hardcoded"]}},
            [{"object": {"key": "auto-x"}}, {"object": {"key": "hardcoded"}}],
            [{"object": {"key": "x"}}, {"object": "auto-x"}, {}, "no JSON", '["a"]', "[" * 100_000],
        ),
        (
            # Names with dots are places, in policies and in bodies.
            {"object.nested": {"test": ["v"]}},
            [
                {"object": {"nested": {"test": "v"}}},
                {"object.nested.test": "v"},
                {"object.nested": {"test": "v"}},
                {"object": {"nested.test": "v"}},
            ],
            [{"object": {"nested": "v"}}, {"test": "v"}],
        ),
        (
            {"headers": {"route-to": ["queue1"]}},
            [{"headers": {"route-to": ["queue2", "queue1"]}}],
            [{"headers": {"route-to": ["queue2"]}}, {"headers": {"route-to": []}}],
        ),
        (
            # One and the same element has to match all that is asked of it.
            {
                "Records": {
                    "eventName": [{"prefix": "ObjectCreated:"}],
                    "s3": {"object": {"key": [{"prefix": "auto-"}]}},
                }
            },
            [
                {
                    "Records": [
                        {"eventName": "ObjectRemoved:", "s3": {"object": {"key": "home-"}}},
                        {"eventName": "ObjectCreated:Put", "s3": {"object": [[{"key": "auto-1"}]]}},
                    ]
                }
            ],
            [
                {
                    "Records": [
                        {"eventName": "ObjectCreated:Put", "s3": {"object": {"key": "home-"}}},
                        {"eventName": "ObjectRemoved:", "s3": {"object": {"key": "auto-1"}}},
                    ]
                }
            ],
        ),
        (
            {"a": {"b": [{"exists": False}]}},
            [{}, {"a": {}}, {"a": {"c": 1}}, {"a": {"b": {"not": "a leaf"}}}],
            [{"a": {"b": None}}, {"a": {"b": 0}}],
        ),
        ({"a": [None]}, [{"a": None}], [{}, {"a": ""}]),
        ({"a": [1.5]}, ['{"a": 1.50000000000000000001}'], [{"a": 1.6}, {"a": True}]),
    ],
)
def test_bodies(policy: Any, passing: list[Any], stopped: list[Any]) -> None:
    """A policy on the body looks into objects and arrays."""
    assert [body for body in passing if not _body_passes(policy, body)] == []
    assert [body for body in stopped if _body_passes(policy, body)] == []


_NESTED = "Filter policy scope MessageAttributes does not support nested filter policy"


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("{", "failed to parse JSON."),
        ('{"a": [NaN]}', "failed to parse JSON."),
        ("[]", "Filter is not an object"),
        ('{"a": "b"}', '"a" must be an object or an array'),
        ('{"key": {"suffix": "value"}}', '"suffix" must be an object or an array'),
        ('{"a": []}', "Empty arrays are not allowed"),
        ('{"a": {}}', "Empty objects are not allowed"),
        ('{"a": [["v"]]}', "Match value must be String, number, true, false, or null"),
        ('{"a": [{"wrong": true}]}', "Unrecognized match type wrong"),
        (
            '{"a": [{"suffix": "v", "prefix": "w"}]}',
            "Only one key allowed in match expression",
        ),
        ('{"a": [{"suffix": 100}]}', "suffix match pattern must be a string"),
        ('{"a": [{"prefix": null}]}', "prefix match pattern must be a string"),
        ('{"a": [{"exists": "no"}]}', "exists match pattern must be either true or false."),
        ('{"a": [{"anything-but": {"suffix": "x"}}]}', "Unsupported anything-but pattern: suffix"),
        ('{"a": [{"anything-but": {"prefix": false}}]}', "prefix match pattern must be a string"),
        ('{"a": [{"cidr": "10.0.0.0"}, {"cidr": "x"}]}', "Malformed CIDR: x"),
        ('{"a": [{"numeric": []}]}', "Invalid member in numeric match: ]"),
        ('{"a": [{"numeric": [1, "<="]}]}', "Invalid member in numeric match: 1"),
        ('{"a": [{"numeric": ["op"]}]}', "Unrecognized numeric range operator: op"),
        ('{"a": [{"numeric": ["=", "0"]}]}', "Value of equals must be numeric"),
        ('{"a": [{"numeric": [">="]}]}', "Value of >= must be numeric"),
        ('{"a": [{"numeric": ["<", 9, ">", 1]}]}', "Too many elements in numeric expression"),
        ('{"a": [{"numeric": [">=", 1, ">", 2]}]}', "Bad numeric range operator: >"),
        ('{"a": [{"numeric": [">", 3, "<", 1]}]}', "Bottom must be less than top"),
        ('{"a": [{"numeric": [">", 20, "<="]}]}', "Value of <= must be numeric"),
        ('{"a": [{"numeric": [">", 20, 30]}]}', "Bad value in numeric range: 30"),
        (
            '{"a": [{"numeric": [">", 20, "<", 30, "<", 50]}]}',
            "Too many terms in numeric range expression",
        ),
        (
            json.dumps({f"k{number}": ["v"] for number in range(6)}),
            "Filter policy can not have more than 5 keys",
        ),
        (json.dumps({"a": list(range(151))}), "Filter policy is too complex"),
        (json.dumps({"a": list(range(16)), "b": list(range(10))}), "Filter policy is too complex"),
    ],
)
def test_refused_policies(policy: str, words: str) -> None:
    """A policy that is wrong is refused in SNS's words."""
    with pytest.raises(ValueInvalid) as refused:
        parse_filter_policy(policy, FilterScope.ATTRIBUTES)
    assert str(refused.value) == f"FilterPolicy: {words}"


def test_limits_of_nested_policies() -> None:
    """Attributes are not nested. In bodies each level weighs more: 4 values at level 3, times 3 at
    level 2, are 72 of the 150 that are allowed."""
    nested = {"a": {"b": {"c": ["1", "2", "3", "4"]}}, "d": {"e": ["1", "2", "3"]}}
    with pytest.raises(ValueInvalid, match=f"^{_NESTED}$"):
        parse_filter_policy(json.dumps(nested), FilterScope.ATTRIBUTES)
    assert parse_filter_policy(json.dumps(nested), FilterScope.BODY)
    assert parse_filter_policy('{"a": {"b": ["1"]}}', FilterScope.BODY)
    nested["d"]["e"] += ["4", "5", "6", "7"]  # type: ignore[index]  # 12 * 14 = 168
    with pytest.raises(ValueInvalid, match="too complex"):
        parse_filter_policy(json.dumps(nested), FilterScope.BODY)
    alternatives = {"$or": [{"a": [str(n) for n in range(76)]}, {"b": [str(n) for n in range(76)]}]}
    with pytest.raises(ValueInvalid, match="too complex"):
        parse_filter_policy(json.dumps(alternatives), FilterScope.ATTRIBUTES)


# --- Attributes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data_type", "text", "binary", "words"),
    [
        ("a", "Text", "x", None, ("The message attribute 'a' has an invalid message attribute "
         "type, the set of supported type prefixes is Binary, Number, and String.")),
        ("a", "String", "", None, ("The message attribute 'a' must contain non-empty message "
         "attribute value for message attribute type 'String'.")),
        ("a", "Number", None, "eA==", ("The message attribute 'a' with type 'Number' must use "
         "field 'String'.")),
        ("a", "Binary", "x", None, ("The message attribute 'a' with type 'Binary' must use field "
         "'Binary'.")),
        ("a", "Number", "x", None, "Could not cast message attribute 'a' value to number."),
        (".a", "String", "x", None, ("Invalid message attribute name starting with character '.' "
         "was found.")),
        ("a.", "String", "x", None, ("Invalid message attribute name ending with character '.' "
         "was found.")),
        ("a..b", "String", "x", None, ("Message attribute name can not have successive '.' "
         "character.")),
        ("a" * 256, "String", "x", None, ("Length of message attribute name must be less than 256 "
         "bytes.")),
        ("a^", "String", "x", None, ("Invalid non-alphanumeric character '#x5E' was found in the "
         "message attribute name. Can only include alphanumeric characters, hyphens, underscores, "
         "or dots.")),
    ],
)  # fmt: skip
def test_refused_attributes(
    name: str, data_type: str, text: str | None, binary: str | None, words: str
) -> None:
    """An attribute that is wrong is refused in SNS's words."""
    with pytest.raises(ParameterValueInvalid) as refused:
        check_attribute(name, data_type, text, binary)
    assert str(refused.value) == words


def test_attributes_that_are_right() -> None:
    """Types may carry a suffix; an attribute counts with its type and value; one without a type is
    a missing parameter."""
    found = check_attribute("a-b_c.d", "Number.int", "7", None)
    assert (found.size_bytes, list(found.values())) == (len("Number.int7"), [7])
    assert check_attribute("a", "Binary.png", None, "eA==").values() == []
    with pytest.raises(ValidationError, match=r"^1 validation error .*messageAttributes\.a\."):
        check_attribute("a", None, "x", None)
