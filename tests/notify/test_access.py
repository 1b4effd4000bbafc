"""What access policies allow, and which policies are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.notify import access
from slipway.notify.access import Caller, Question
from slipway.notify.refusals import AuthorizationError, InvalidParameter, ValueInvalid

ARN = "arn:aws:sns:us-east-1:111111111111:orders"
OWNER, OTHER = "111111111111", "222222222222"


def _question(
    account: str = OTHER, action: str = "Publish", *, ip: str = "", **context: str
) -> Question:
    return Question(
        caller=Caller(account=account, arn=f"arn:aws:iam::{account}:user/ann", source_ip=ip),
        action=action,
        resource=ARN,
        owner=OWNER,
        context={f"sns:{name}": value for name, value in context.items()},
    )


def _policy(**statement: Any) -> dict[str, Any]:
    full = {
        "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "SNS:*", "Resource": ARN,
        **statement,
    }  # fmt: skip
    return access.parse_policy(json.dumps({"Version": "2012-10-17", "Statement": [full]}))


def test_the_default_policy() -> None:
    """At first the topic's account may do everything, and nobody else anything: refusals are told
    in SNS's words."""
    policy = access.default_policy(ARN, OWNER)
    access.check(policy, _question(OWNER, "Subscribe"))
    with pytest.raises(AuthorizationError) as refused:
        access.check(policy, _question(OTHER, "Subscribe"))
    assert str(refused.value) == (
        f"User: arn:aws:iam::{OTHER}:user/ann is not authorized to perform: SNS:Subscribe on "
        f"resource: {ARN} because no resource-based policy allows the SNS:Subscribe action"
    )


def test_permissions_are_added_and_removed() -> None:
    """A permission is good for the accounts and actions it names, until it is removed by its
    label; a label is given once, and actions are SNS's."""
    first = access.default_policy(ARN, OWNER)
    policy = access.add_permission(
        first, label="partner", accounts=[OTHER], actions=["Publish"], resource=ARN
    )
    assert policy["Statement"][1] == {
        "Sid": "partner",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:aws:iam::{OTHER}:root"},
        "Action": "SNS:Publish",
        "Resource": ARN,
    }
    assert access.is_allowed(policy, _question())
    assert not access.is_allowed(policy, _question(action="Subscribe"))
    assert not access.is_allowed(policy, _question("333333333333"))
    with pytest.raises(InvalidParameter, match=r"^Invalid parameter: Statement already exists$"):
        access.add_permission(
            policy, label="partner", accounts=[OTHER], actions=["Publish"], resource=ARN
        )
    with pytest.raises(InvalidParameter, match=r"action out of service scope!$"):
        access.add_permission(first, label="x", accounts=[OTHER], actions=["Fly"], resource=ARN)
    assert access.remove_permission(policy, "partner") == first
    assert access.remove_permission(first, "unknown") == first


def test_denying_outweighs() -> None:
    """A statement that denies outweighs those that allow, also for the owner."""
    policy = _policy()
    policy["Statement"].append(
        {**policy["Statement"][0], "Effect": "Deny", "Action": "SNS:Publish"}
    )
    assert access.is_allowed(policy, _question(action="Subscribe"))
    assert not access.is_allowed(policy, _question())
    assert not access.is_allowed(policy, _question(OWNER))


@pytest.mark.parametrize(
    ("statement", "allowed", "refused"),
    [
        ({"Principal": {"AWS": OTHER}}, [_question()], [_question("333333333333")]),
        ({"Principal": {"AWS": [f"arn:aws:iam::{OTHER}:user/ann"]}}, [_question()], []),
        ({"Principal": {"Service": "s3.amazonaws.com"}}, [], [_question()]),
        ({"Action": "sns:pub*"}, [_question()], [_question(action="Subscribe")]),
        ({"Resource": "arn:aws:sns:*:*:ord?rs"}, [_question()], []),
        ({"Resource": f"{ARN}x"}, [], [_question()]),
        (
            {"Condition": {"StringLike": {"SNS:Endpoint": ["*@example.com", "https://h/*"]}}},
            [_question(Endpoint="a@example.com"), _question(Endpoint="https://h/x")],
            [_question(Endpoint="a@example.com.evil.test"), _question()],
        ),
        (
            {"Condition": {"StringEquals": {"sns:Protocol": "https"}}},
            [_question(Protocol="https")],
            [_question(Protocol="http")],
        ),
        (
            {"Condition": {"StringNotEquals": {"sns:Protocol": ["sms", "email"]}}},
            [_question(Protocol="https"), _question()],
            [_question(Protocol="sms")],
        ),
        (
            {"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
            [_question(ip="10.1.2.3")],
            [_question(ip="11.0.0.1"), _question(ip="nonsense"), _question()],
        ),
        ({"Condition": {"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}}},
         [_question(ip="11.0.0.1")], [_question(ip="10.0.0.1")]),
        ({"Condition": {"Bool": {"aws:SecureTransport": False}}}, [_question()], []),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, [], [_question()]),
        (
            {"Condition": {"StringEqualsIfExists": {"sns:Protocol": "https"}}},
            [_question(), _question(Protocol="https")],
            [_question(Protocol="sms")],
        ),
        ({"Condition": {"Null": {"sns:Protocol": "true"}}},
         [_question()], [_question(Protocol="sms")]),
        ({"Condition": {"ArnLike": {"aws:PrincipalArn": f"arn:aws:iam::{OTHER}:user/*"}}},
         [_question()], [_question("333333333333")]),
        # All conditions have to hold.
        ({"Condition": {"StringEquals": {"sns:Protocol": "https", "aws:SourceAccount": OTHER}}},
         [_question(Protocol="https")], [_question("333333333333", Protocol="https")]),
    ],
)  # fmt: skip
def test_statements(
    statement: dict[str, Any], allowed: list[Question], refused: list[Question]
) -> None:
    """A statement applies when principal, action, resource and all conditions do."""
    policy = _policy(**statement)
    assert [each for each in allowed if not access.is_allowed(policy, each)] == []
    assert [each for each in refused if access.is_allowed(policy, each)] == []


def test_everything_but() -> None:
    """``NotAction`` and its like are understood the other way round, not left out."""
    policy = _policy()
    del policy["Statement"][0]["Action"]
    policy["Statement"][0]["NotAction"] = "SNS:Publish"
    policy = access.parse_policy(json.dumps(policy))
    assert access.is_allowed(policy, _question(action="Subscribe"))
    assert not access.is_allowed(policy, _question())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Effect": "Maybe"}, "Effect must be Allow or Deny"),
        ({"NotAction": "SNS:Publish"}, "either Action or NotAction"),
        ({"Action": "SQS:SendMessage"}, "action out of service scope!"),
        ({"Condition": {"DateGreaterThan": {"aws:CurrentTime": "x"}}}, "has no operator DateG"),
        ({"Principal": "ann"}, "Principal must be"),
        ({"Resource": 7}, "Resource must be text"),
        ({"Condition": {"StringLike": {"sns:Endpoint": {"a": 1}}}}, "must be text"),
    ],
)
def test_refused_policies(change: dict[str, Any], words: str) -> None:
    """What is not understood is refused when it is set: read as nothing, it might allow more than
    was meant."""
    with pytest.raises(ValueInvalid, match=words):
        _policy(**change)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"Version": "1", "Statement": []}', "x" * 31_000]
)
def test_texts_that_are_no_policies(text: str) -> None:
    """A policy is a JSON object with statements, and not too long."""
    with pytest.raises(ValueInvalid, match=r"^Policy Error: "):
        access.parse_policy(text)
