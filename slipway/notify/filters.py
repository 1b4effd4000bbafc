"""Filter policies: which of a topic's messages a subscription gets.

A policy is a JSON object. Its keys name message attributes, or members of the message's own JSON;
all of them have to match, each by one of its values. What is refused, and with which words, follows
what SNS answers (its parser is the open-source *event-ruler*), without the place in the text that
SNS adds after a line break.
"""

from __future__ import annotations

import ipaddress
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, TypeGuard

from slipway.notify.attributes import MessageAttribute, read_json
from slipway.notify.refusals import ValueInvalid

MAX_KEYS = 5
#: The product of how many values each key has, times how deep it lies.
MAX_COMPLEXITY = 150
MAX_POLICY_BYTES = 256 * 1024

#: Numbers are compared to five digits behind the point.
_QUANTUM = Decimal("0.00001")


class FilterScope(StrEnum):
    """What a policy looks at."""

    ATTRIBUTES = "MessageAttributes"
    BODY = "MessageBody"


class _Absent:
    """Stands for a value that is not there: `None` is one that is."""


_ABSENT = _Absent()

#: Whether a single value, which may be absent, is one that is asked for.
_Test = Callable[[Any], bool]


@dataclass(kw_only=True)
class _Node:
    """What is asked of one object; of everything in it, all has to match."""

    #: Of these tests, one has to pass.
    leaves: dict[str, list[_Test]] = field(default_factory=dict)
    children: dict[str, _Node] = field(default_factory=dict)
    #: Of each of these groups, one has to match.
    alternatives: list[list[_Node]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class FilterPolicy:
    """A policy that was found to be right; see `parse_filter_policy`."""

    scope: FilterScope
    #: As it was given.
    text: str
    _root: _Node

    def matches(self, attributes: Mapping[str, MessageAttribute], body: str) -> bool:
        """Whether a message passes. For the scope of the body, one that is no JSON object does
        not."""
        if self.scope is FilterScope.ATTRIBUTES:
            values = {name: attribute.values() for name, attribute in attributes.items()}
            return _matches_flat(self._root, values)
        try:
            document = read_json(body)
        except ValueError:
            return False
        return isinstance(document, dict) and _matches(self._root, document)


def parse_filter_policy(text: str, scope: FilterScope) -> FilterPolicy:
    """A filter policy from its JSON. Raises `ValueInvalid`, in SNS's words."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_POLICY_BYTES:
        raise _invalid(f"Filter policy can not have more than {MAX_POLICY_BYTES} bytes")
    try:
        document = read_json(text)
    except ValueError:
        raise _invalid("failed to parse JSON.") from None
    if not isinstance(document, dict):
        raise _invalid("Filter is not an object")
    # What it is made of is looked at before how much of it there is, as SNS does.
    root = _object(document, by_path=scope is FilterScope.BODY)
    if scope is FilterScope.ATTRIBUTES and _is_nested(document):
        raise ValueInvalid(
            "Filter policy scope MessageAttributes does not support nested filter policy"
        )
    if _key_count(document) > MAX_KEYS:
        raise _invalid(f"Filter policy can not have more than {MAX_KEYS} keys")
    if _complexity(document, 1) > MAX_COMPLEXITY:
        raise _invalid("Filter policy is too complex")
    return FilterPolicy(scope=scope, text=text, _root=root)


def _invalid(what: str) -> ValueInvalid:
    return ValueInvalid(f"FilterPolicy: {what}")


# --- Reading a policy -----------------------------------------------------------------------------


def _object(document: Mapping[str, Any], *, by_path: bool) -> _Node:
    node = _Node()
    for key, value in document.items():
        if key == "$or" and _is_alternatives(value):
            node.alternatives.append([_object(each, by_path=by_path) for each in value])
            continue
        # `a.b` and `b` inside `a` are the same place of a body; attributes have no places.
        *parents, name = key.split(".") if by_path else [key]
        place = node
        for parent in parents:
            place = place.children.setdefault(parent, _Node())
        if isinstance(value, dict):
            if not value:
                raise _invalid("Empty objects are not allowed")
            _merge(place.children.setdefault(name, _Node()), _object(value, by_path=by_path))
        elif isinstance(value, list):
            if not value:
                raise _invalid("Empty arrays are not allowed")
            place.leaves[name] = [_value(each, by_path=by_path) for each in value]
        else:
            raise _invalid(f'"{key}" must be an object or an array')
    return node


def _merge(into: _Node, other: _Node) -> None:
    into.leaves.update(other.leaves)
    into.alternatives += other.alternatives
    for name, child in other.children.items():
        _merge(into.children.setdefault(name, _Node()), child)


def _is_alternatives(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether what stands behind ``$or`` means "one of these"; else it is a name like any other."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(each, dict) and each for each in value)
        and not any(key in _OPERATORS for each in value for key in each)
    )


def _is_nested(document: Mapping[str, Any]) -> bool:
    return any(
        isinstance(value, dict)
        or (key == "$or" and _is_alternatives(value) and any(_is_nested(each) for each in value))
        for key, value in document.items()
    )


def _key_count(document: Mapping[str, Any]) -> int:
    """How many keys have to match at most. Of what is nested, the outermost counts."""
    count = 0
    for key, value in document.items():
        if key == "$or" and _is_alternatives(value):
            count += max(_key_count(each) for each in value)
        else:
            count += 1
    return count


def _complexity(document: Mapping[str, Any], depth: int) -> int:
    product = 1
    for key, value in document.items():
        if key == "$or" and _is_alternatives(value):
            product *= sum(_complexity(each, depth) for each in value)
        elif isinstance(value, dict):
            product *= _complexity(value, depth + 1)
        else:
            product *= len(value) * depth
    return product


def _value(value: Any, *, by_path: bool) -> _Test:
    if isinstance(value, list):
        raise _invalid("Match value must be String, number, true, false, or null")
    if isinstance(value, dict):
        return _expression(value)
    if value is None and not by_path:
        # To SNS, an attribute that was not sent is null.
        return lambda found: found is None or found is _ABSENT
    return _equals(value)


def _equals(wanted: Any) -> _Test:
    if wanted is None or isinstance(wanted, bool):
        return lambda found: found is wanted
    if isinstance(wanted, str):
        return lambda found: isinstance(found, str) and found == wanted
    number = _number(wanted)
    return lambda found: _is_number(found) and _number(found) == number


def _expression(expression: Mapping[str, Any]) -> _Test:
    if not expression:
        raise _invalid("Empty match expression is not allowed")
    (name, value), *more = expression.items()
    if name not in _OPERATORS:
        raise _invalid(f"Unrecognized match type {name}")
    found = _OPERATORS[name](name, value)
    if more:
        raise _invalid("Only one key allowed in match expression")
    return found


def _text_operator(name: str, pattern: Any) -> _Test:
    if not isinstance(pattern, str):
        raise _invalid(f"{name} match pattern must be a string")
    if name == "prefix":
        return lambda found: isinstance(found, str) and found.startswith(pattern)
    if name == "suffix":
        return lambda found: isinstance(found, str) and found.endswith(pattern)
    folded = pattern.casefold()
    return lambda found: isinstance(found, str) and found.casefold() == folded


def _exists(_name: str, wanted: Any) -> _Test:
    if not isinstance(wanted, bool):
        raise _invalid("exists match pattern must be either true or false.")
    return lambda found: (found is not _ABSENT) is wanted


def _anything_but(_name: str, value: Any) -> _Test:
    if isinstance(value, dict):
        name, pattern = next(iter(value.items()), ("", None))
        if name != "prefix" or len(value) > 1:
            raise _invalid(f"Unsupported anything-but pattern: {name}")
        unwanted = [_text_operator("prefix", pattern)]
    else:
        values = value if isinstance(value, list) else [value]
        if not values:
            raise _invalid("Empty arrays are not allowed")
        if any(not isinstance(each, str) and not _is_number(each) for each in values):
            raise _invalid("Inside anything but list, start|null|boolean is not supported.")
        if len({isinstance(each, str) for each in values}) > 1:
            raise _invalid(
                "Inside anything but list, either all values are number or string, "
                "mixed type is not supported"
            )
        unwanted = [_equals(each) for each in values]
    return lambda found: found is not _ABSENT and not any(test(found) for test in unwanted)


def _cidr(_name: str, pattern: Any) -> _Test:
    if not isinstance(pattern, str):
        raise _invalid("prefix match pattern must be a string")
    try:
        network = ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        raise _invalid(f"Malformed CIDR: {pattern}") from None

    def test(found: Any) -> bool:
        if not isinstance(found, str):
            return False
        try:
            return ipaddress.ip_address(found) in network
        except ValueError:
            return False

    return test


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _numeric(_name: str, terms: Any) -> _Test:
    if not isinstance(terms, list):
        raise _invalid("Value of numeric must be an array.")
    comparison = terms[0] if terms else "]"
    if not terms or not isinstance(comparison, str):
        raise _invalid(f"Invalid member in numeric match: {_as_json(comparison)}")
    if comparison not in _COMPARISONS:
        raise _invalid(f"Unrecognized numeric range operator: {comparison}")
    bound = _bound(terms, 0)
    bounds = [(_COMPARISONS[comparison], bound)]
    if len(terms) > 2:
        if comparison not in (">", ">="):
            raise _invalid("Too many elements in numeric expression")
        second = terms[2]
        if not isinstance(second, str):
            raise _invalid(f"Bad value in numeric range: {_as_json(second)}")
        if second not in ("<", "<="):
            raise _invalid(f"Bad numeric range operator: {second}")
        top = _bound(terms, 2)
        if bound >= top:
            raise _invalid("Bottom must be less than top")
        if len(terms) > 4:
            raise _invalid("Too many terms in numeric range expression")
        bounds.append((_COMPARISONS[second], top))

    def test(found: Any) -> bool:
        return _is_number(found) and all(holds(_number(found), limit) for holds, limit in bounds)

    return test


def _bound(terms: Sequence[Any], at: int) -> Decimal:
    value = terms[at + 1] if len(terms) > at + 1 else None
    if not _is_number(value):
        name = "equals" if terms[at] == "=" else terms[at]
        raise _invalid(f"Value of {name} must be numeric")
    return _number(value)


_OPERATORS: Mapping[str, Callable[[str, Any], _Test]] = {
    "prefix": _text_operator,
    "suffix": _text_operator,
    "equals-ignore-case": _text_operator,
    "exists": _exists,
    "anything-but": _anything_but,
    "cidr": _cidr,
    "numeric": _numeric,
}


def _as_json(value: Any) -> str:
    return str(value) if isinstance(value, str | Decimal) else json.dumps(value, default=str)


def _is_number(value: Any) -> TypeGuard[int | Decimal]:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _number(value: int | Decimal) -> Decimal:
    number = Decimal(value)
    try:
        return number.quantize(_QUANTUM)
    except InvalidOperation:
        # It has no room for five digits more, and needs none.
        return number


# --- Looking at a message -------------------------------------------------------------------------


def _matches_flat(node: _Node, values: Mapping[str, Sequence[Any]]) -> bool:
    """For attributes: `values` holds what each of them may be compared by."""
    for name, tests in node.leaves.items():
        found = values.get(name, (_ABSENT,))
        if not any(test(value) for value in found for test in tests):
            return False
    return all(any(_matches_flat(one, values) for one in group) for group in node.alternatives)


def _matches(node: _Node, value: Any) -> bool:
    """For bodies. Of an array one element has to match all there is asked about what is in it."""
    if isinstance(value, list):
        return any(_matches(node, each) for each in value) if value else _matches(node, _ABSENT)
    for name, tests in node.leaves.items():
        leaves = [leaf for each in _members(value, name) for leaf in _scalars(each)]
        if not any(test(leaf) for leaf in leaves or [_ABSENT] for test in tests):
            return False
    for name, child in node.children.items():
        if not any(_matches(child, each) for each in _members(value, name) or [_ABSENT]):
            return False
    return all(any(_matches(one, value) for one in group) for group in node.alternatives)


def _members(value: Any, name: str) -> list[Any]:
    """What an object has under a name, or under one that begins with it and a dot."""
    if not isinstance(value, dict):
        return []
    found = [value[name]] if name in value else []
    start = f"{name}."
    found += [
        {key.removeprefix(start): each} for key, each in value.items() if key.startswith(start)
    ]
    return found


def _scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _scalars(each)
    elif not isinstance(value, dict):
        yield value
