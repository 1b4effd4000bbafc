"""Access policies: who may do what with a topic.

A policy is a list of statements. One that denies outweighs all that allow; where none speaks, only
the topic's own account may. Source: the IAM User Guide, "Policy evaluation logic" and "Condition
operators", and the SNS Developer Guide, "Access policy language".
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from slipway.notify.attributes import read_json
from slipway.notify.refusals import AuthorizationError, InvalidParameter, ValueInvalid

MAX_POLICY_BYTES = 30 * 1024
MAX_STATEMENTS = 100
MAX_PRINCIPALS = 200

#: What a topic's policy may speak about, as SNS spells it.
ACTIONS = (
    "GetTopicAttributes",
    "SetTopicAttributes",
    "AddPermission",
    "RemovePermission",
    "DeleteTopic",
    "Subscribe",
    "ListSubscriptionsByTopic",
    "Publish",
)
#: Understood besides: what came later, and what AWS calls receiving.
_ALSO = ("Receive", "ListTagsForResource", "TagResource", "UntagResource",
         "GetDataProtectionPolicy", "PutDataProtectionPolicy", "Unsubscribe")  # fmt: skip

_VERSIONS = ("2008-10-17", "2012-10-17")


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks."""

    account: str
    #: ``arn:aws:iam::ACCOUNT:user/NAME``.
    arn: str
    #: Where the request is for; it may only name topics there.
    region: str = "us-east-1"
    source_ip: str = ""
    #: Whether the request came over TLS.
    secure: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """May this caller do this to this topic?"""

    caller: Caller
    #: Without the prefix: ``Publish``.
    action: str
    resource: str
    #: The account the topic belongs to.
    owner: str
    #: What conditions may ask about besides: ``sns:Protocol``, ``sns:Endpoint``.
    context: Mapping[str, str] = field(default_factory=dict)


def default_policy(arn: str, account: str) -> dict[str, Any]:
    """What a topic begins with: its own account may do everything."""
    return {
        "Version": "2008-10-17",
        "Id": "__default_policy_ID",
        "Statement": [
            {
                "Effect": "Allow",
                "Sid": "__default_statement_ID",
                "Principal": {"AWS": "*"},
                "Action": [f"SNS:{action}" for action in ACTIONS],
                "Resource": arn,
                "Condition": {"StringEquals": {"AWS:SourceOwner": account}},
            }
        ],
    }


def parse_policy(text: str) -> dict[str, Any]:
    """A policy from its JSON, as it will be evaluated. Raises `ValueInvalid`."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_POLICY_BYTES:
        raise ValueInvalid(f"Policy Error: it has more than {MAX_POLICY_BYTES} bytes")
    try:
        document = read_json(text)
    except ValueError:
        raise ValueInvalid("Policy Error: it is not JSON") from None
    if not isinstance(document, dict):
        raise ValueInvalid("Policy Error: it is not a JSON object")
    if document.get("Version", _VERSIONS[0]) not in _VERSIONS:
        raise ValueInvalid(f"Policy Error: Version must be one of {', '.join(_VERSIONS)}")
    statements = _as_list(document.get("Statement"))
    if not 1 <= len(statements) <= MAX_STATEMENTS:
        raise ValueInvalid(f"Policy Error: it must have 1 to {MAX_STATEMENTS} statements")
    for number, statement in enumerate(statements):
        _check_statement(statement, f"Statement[{number}]")
    return document


def add_permission(
    policy: Mapping[str, Any],
    *,
    label: str,
    accounts: Iterable[str],
    actions: Iterable[str],
    resource: str,
) -> dict[str, Any]:
    """The policy with one more statement. Raises `InvalidParameter`, in SNS's words."""
    statements = _as_list(policy.get("Statement"))
    if any(each.get("Sid") == label for each in statements):
        raise InvalidParameter("Invalid parameter: Statement already exists")
    named = list(actions)
    if any(action not in (*ACTIONS, "Receive") for action in named):
        raise InvalidParameter("Invalid parameter: Policy statement action out of service scope!")
    principals = [f"arn:aws:iam::{account}:root" for account in accounts]
    if len(principals) > MAX_PRINCIPALS or len(statements) >= MAX_STATEMENTS:
        raise InvalidParameter("Invalid parameter: Policy Error: too many principals or statements")
    added = {
        "Sid": label,
        "Effect": "Allow",
        "Principal": {"AWS": _one_or_list(principals)},
        "Action": _one_or_list([f"SNS:{action}" for action in named]),
        "Resource": resource,
    }
    return {**policy, "Statement": [*statements, added]}


def remove_permission(policy: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The policy without the statement of this label; it need not have one."""
    statements = _as_list(policy.get("Statement"))
    return {**policy, "Statement": [each for each in statements if each.get("Sid") != label]}


def is_allowed(policy: Mapping[str, Any], question: Question) -> bool:
    """What the policy answers."""
    effects = {
        statement["Effect"]
        for statement in _as_list(policy.get("Statement"))
        if _applies(statement, question)
    }
    if "Deny" in effects:
        return False
    return "Allow" in effects or question.caller.account == question.owner


def check(policy: Mapping[str, Any], question: Question) -> None:
    """Raises `AuthorizationError` unless the policy allows it."""
    if not is_allowed(policy, question):
        raise AuthorizationError(
            f"User: {question.caller.arn} is not authorized to perform: SNS:{question.action} on "
            f"resource: {question.resource} because no resource-based policy allows the "
            f"SNS:{question.action} action"
        )


# --- Reading --------------------------------------------------------------------------------------


def _check_statement(statement: Any, where: str) -> None:
    if not isinstance(statement, dict):
        raise ValueInvalid(f"Policy Error: {where} is not a JSON object")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise ValueInvalid(f"Policy Error: {where}.Effect must be Allow or Deny")
    for name in ("Principal", "Action", "Resource"):
        # What is not understood must not be read as "everybody" or "everything".
        if (name in statement) == (f"Not{name}" in statement):
            raise ValueInvalid(f"Policy Error: {where} must have either {name} or Not{name}")
    for name in ("Action", "NotAction"):
        for action in _texts(statement.get(name, []), f"{where}.{name}"):
            if not _is_action(action):
                raise ValueInvalid("Policy statement action out of service scope!")
    for name in ("Resource", "NotResource"):
        _texts(statement.get(name, []), f"{where}.{name}")
    for name in ("Principal", "NotPrincipal"):
        _principals(statement.get(name, {}), f"{where}.{name}")
    conditions = statement.get("Condition", {})
    if not isinstance(conditions, dict):
        raise ValueInvalid(f"Policy Error: {where}.Condition is not a JSON object")
    for operator, asked in conditions.items():
        if _condition(operator) is None or not isinstance(asked, dict):
            raise ValueInvalid(f"Policy Error: {where}.Condition has no operator {operator}")
        for key, values in asked.items():
            if any(not isinstance(each, str | bool | int) for each in _as_list(values)):
                raise ValueInvalid(f"Policy Error: {where}.Condition.{operator}.{key} must be text")


def _is_action(action: str) -> bool:
    if action == "*":
        return True
    service, _, name = action.partition(":")
    known = (*ACTIONS, *_ALSO)
    return service.lower() == "sns" and any(_like(name.lower(), each.lower()) for each in known)


def _texts(value: Any, where: str) -> list[str]:
    found = _as_list(value)
    if any(not isinstance(each, str) for each in found):
        raise ValueInvalid(f"Policy Error: {where} must be text or a list of texts")
    return found


def _principals(value: Any, where: str) -> list[str]:
    if value == "*":
        return ["*"]
    if not isinstance(value, dict):
        raise ValueInvalid(f'Policy Error: {where} must be "*" or {{"AWS": …}}')
    # Services and federations are nobody who could call us.
    return _texts(value.get("AWS", []), f"{where}.AWS")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _one_or_list(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


# --- Evaluating -----------------------------------------------------------------------------------


def _applies(statement: Mapping[str, Any], question: Question) -> bool:
    return (
        _names(statement, "Principal", lambda value: _is_principal(value, question.caller))
        and _names(statement, "Action", lambda value: _covers_action(value, question.action))
        and _names(
            statement,
            "Resource",
            lambda value: any(_like(each, question.resource) for each in _as_list(value)),
        )
        and all(
            _holds(operator, asked, question)
            for operator, asked in statement.get("Condition", {}).items()
        )
    )


def _names(statement: Mapping[str, Any], name: str, test: Callable[[Any], bool]) -> bool:
    if name in statement:
        return test(statement[name])
    return not test(statement[f"Not{name}"])


def _is_principal(value: Any, caller: Caller) -> bool:
    known = {caller.arn, caller.account, f"arn:aws:iam::{caller.account}:root"}
    return any(each == "*" or each in known for each in _principals(value, "Principal"))


def _covers_action(value: Any, action: str) -> bool:
    asked = f"sns:{action}".lower()
    return any(_like(each.lower(), asked) for each in _as_list(value))


def _holds(operator: str, asked: Mapping[str, Any], question: Question) -> bool:
    name = operator.removesuffix("IfExists")
    test = _condition(operator)
    assert test is not None, "it was checked when the policy was set"
    known = _context(question)
    for key, values in asked.items():
        wanted = [_text(each) for each in _as_list(values)]
        found = known.get(key.lower())
        if name == "Null":
            if not any((found is None) is (each.lower() == "true") for each in wanted):
                return False
        elif found is None:
            if name == operator and name not in _NEGATED:
                return False
        elif name in _NEGATED:
            if any(test(each, found) for each in wanted):
                return False
        elif not any(test(each, found) for each in wanted):
            return False
    return True


def _context(question: Question) -> dict[str, str]:
    caller = question.caller
    known = {
        "aws:sourceip": caller.source_ip,
        "aws:securetransport": "true" if caller.secure else "false",
        "aws:principalarn": caller.arn,
        "aws:principalaccount": caller.account,
        "aws:sourceaccount": caller.account,
        # What the default policy asks about.
        "aws:sourceowner": caller.account,
        **{key.lower(): value for key, value in question.context.items()},
    }
    return {key: value for key, value in known.items() if value}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _like(pattern: str, text: str) -> bool:
    return pattern == text or _pattern(pattern).fullmatch(text) is not None


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> re.Pattern[str]:
    # One star is as good as many, and many would make the search long.
    parts = re.split(r"(\*+|\?)", pattern)
    known = {"?": "."}
    return re.compile(
        "".join(".*" if part[:1] == "*" else known.get(part, re.escape(part)) for part in parts),
        re.DOTALL,
    )


def _in_network(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, found: wanted == found,
    "StringEqualsIgnoreCase": lambda wanted, found: wanted.casefold() == found.casefold(),
    "StringLike": _like,
    "ArnEquals": _like,
    "ArnLike": _like,
    "Bool": lambda wanted, found: wanted.lower() == found.lower(),
    "IpAddress": _in_network,
}
_NEGATED: Mapping[str, Callable[[str, str], bool]] = {
    "StringNotEquals": _TESTS["StringEquals"],
    "StringNotEqualsIgnoreCase": _TESTS["StringEqualsIgnoreCase"],
    "StringNotLike": _like,
    "ArnNotEquals": _like,
    "ArnNotLike": _like,
    "NotIpAddress": _in_network,
}


def _condition(operator: str) -> Callable[[str, str], bool] | None:
    name = operator.removesuffix("IfExists")
    if operator == "Null":
        return lambda _wanted, _found: True
    return _TESTS.get(name) or _NEGATED.get(name)
