"""What an account has to allow: the least that `Ec2Cloud` can work with, as an IAM policy.

Whatever is made must carry our installation's tag from its first moment, and only what carries it
can be changed or removed. Actions, resources and condition keys are those of the Service
Authorization Reference for EC2:
https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonec2.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from slipway.clouds.base import TAG_INSTALLATION

#: EC2 cannot restrict these to some resources.
_LOOK = (
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceStatus",
    "ec2:DescribeInstances",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSnapshots",
    "ec2:DescribeSpotInstanceRequests",
    "ec2:DescribeVolumes",
)
#: What RunInstances makes, and so can be asked to carry a tag; what it only uses.
_MADE = ("instance", "volume")
_USED = ("key-pair", "network-interface", "security-group", "subnet")
#: Images and their snapshots may be anybody's.
_ANYBODYS = ("image", "snapshot")
#: Only on what is ours.
_CHANGE = (
    "ec2:CreateImage",
    "ec2:DeleteKeyPair",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteSnapshot",
    "ec2:DeleteVolume",
    "ec2:DeregisterImage",
    "ec2:EnableImageDeprecation",
    "ec2:GetConsoleOutput",
    "ec2:GetPasswordData",
    "ec2:ModifyImageAttribute",
    "ec2:RebootInstances",
    "ec2:StartInstances",
    "ec2:StopInstances",
    "ec2:TerminateInstances",
)
#: The calls that make something and tag it in one.
_TAGGING = ("CopyImage", "CreateImage", "ImportKeyPair", "RunInstances")


def policy(
    installation: str,
    *,
    regions: Sequence[str],
    instance_profile: str | None = None,
    queues: Sequence[str] = (),
) -> dict[str, Any]:
    """The policy document for one installation.

    ``instance_profile`` adds leave to give instances the role of that name, which is what the
    console of AWS calls the role behind a profile. ``queues`` are the URLs of those that
    EventBridge puts instance events into.
    """
    ours = {"StringEquals": {f"aws:ResourceTag/{TAG_INSTALLATION}": installation}}
    made = {"StringEquals": {f"aws:RequestTag/{TAG_INSTALLATION}": installation}}
    here = {"StringEquals": {"aws:RequestedRegion": list(regions)}}
    statements = [
        _allow("Look", _LOOK, ["*"], here),
        _allow(
            "FindImages", ("ssm:GetParameter",), ["arn:aws:ssm:*:*:parameter/aws/service/*"], here
        ),
        _allow("Launch", ("ec2:RunInstances",), _arns(*_MADE), _merged(made, here)),
        _allow("LaunchWith", ("ec2:RunInstances",), _arns(*_USED, *_ANYBODYS), here),
        _allow("BringKeys", ("ec2:ImportKeyPair",), ["arn:aws:ec2:*:*:key-pair/slipway-*"], here),
        _allow(
            "SaveImages",
            ("ec2:CopyImage", "ec2:CreateImage"),
            _arns(*_ANYBODYS),
            _merged(made, here),
        ),
        _allow(
            "ChangeOurs",
            _CHANGE,
            _arns(*_MADE, "key-pair", "security-group", *_ANYBODYS),
            _merged(ours, here),
        ),
        _allow(
            "TagWhatIsMade",
            ("ec2:CreateTags",),
            ["arn:aws:ec2:*:*:*/*", "arn:aws:ec2:*::*/*"],
            {"StringEquals": {"ec2:CreateAction": list(_TAGGING)}},
        ),
    ]
    if instance_profile is not None:
        passed = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
        role = f"arn:aws:iam::*:role/{instance_profile}"
        statements.append(_allow("GiveRole", ("iam:PassRole",), [role], passed))
    if arns := [arn for arn in map(queue_arn, queues) if arn is not None]:
        statements.append(
            _allow("HearEvents", ("sqs:DeleteMessage", "sqs:ReceiveMessage"), arns, here)
        )
    return {"Version": "2012-10-17", "Statement": statements}


def queue_arn(url: str) -> str | None:
    """The ARN of a queue by its URL; None for what is no such URL."""
    match = re.fullmatch(r"https?://([^/]+)/([^/]+)/([^/]+)", url)
    if match is None:
        return None
    region = re.fullmatch(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?", match[1])
    return f"arn:aws:sqs:{region[1] if region else '*'}:{match[2]}:{match[3]}"


def _allow(
    name: str, actions: Sequence[str], resources: Sequence[str], condition: dict[str, Any]
) -> dict[str, Any]:
    return {
        "Sid": name,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": list(resources),
        "Condition": condition,
    }


def _arns(*kinds: str) -> list[str]:
    """Images and snapshots have no account in their ARN."""
    return [f"arn:aws:ec2:*:{'' if kind in _ANYBODYS else '*'}:{kind}/*" for kind in kinds]


def _merged(*conditions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"StringEquals": {k: v for each in conditions for k, v in each["StringEquals"].items()}}
