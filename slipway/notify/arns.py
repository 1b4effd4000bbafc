"""Amazon Resource Names: how topics and subscriptions are called on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass

from slipway.notify.refusals import InvalidParameter

_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
_ACCOUNT = re.compile(r"\d{12}")
FIFO_SUFFIX = ".fifo"


@dataclass(frozen=True, kw_only=True)
class TopicArn:
    """``arn:aws:sns:REGION:ACCOUNT:NAME``."""

    region: str
    account: str
    name: str
    partition: str = "aws"

    def __str__(self) -> str:
        return f"arn:{self.partition}:sns:{self.region}:{self.account}:{self.name}"

    def subscription(self, unique: str) -> str:
        """The name of one of its subscriptions."""
        return f"{self}:{unique}"


def is_topic_name(name: str, *, fifo: bool) -> bool:
    """Whether a topic may be called so; that of a FIFO topic ends in ``.fifo``."""
    if fifo != name.endswith(FIFO_SUFFIX) or len(name) > 256:
        return False
    return _NAME.fullmatch(name.removesuffix(FIFO_SUFFIX) if fifo else name) is not None


def is_account(text: str) -> bool:
    """Whether this is an account's number."""
    return _ACCOUNT.fullmatch(text) is not None


def read_topic_arn(text: str, parameter: str = "TopicArn") -> TopicArn:
    """A topic's ARN as it was sent. Raises `InvalidParameter`, in SNS's words."""
    parts = _parts(text, parameter)
    if len(parts) != 6 or parts[2] != "sns" or not parts[5]:
        raise InvalidParameter(f"Invalid parameter: {parameter}")
    return TopicArn(partition=parts[1], region=parts[3], account=parts[4], name=parts[5])


def read_subscription_arn(text: str, parameter: str = "SubscriptionArn") -> tuple[TopicArn, str]:
    """A subscription's ARN as it was sent: its topic's, and what is unique to it. Raises
    `InvalidParameter`, in SNS's words."""
    parts = _parts(text, parameter)
    if len(parts) != 7 or parts[2] != "sns" or not parts[6]:
        raise InvalidParameter("Invalid parameter: SubscriptionId")
    topic = TopicArn(partition=parts[1], region=parts[3], account=parts[4], name=parts[5])
    return topic, parts[6]


def _parts(text: str, parameter: str) -> list[str]:
    parts = text.split(":")
    if len(parts) < 6:
        raise InvalidParameter(
            f"Invalid parameter: {parameter} Reason: An ARN must have at least 6 elements, "
            f"not {len(parts)}"
        )
    if parts[0] != "arn":
        raise InvalidParameter(f"Invalid parameter: {parameter}")
    return parts
