"""When a delivery that failed is tried again.

A subscription without a policy of its own follows the schedule that Standard Webhooks recommends:
ten attempts within three days. One with an SNS DeliveryPolicy follows that, phase by phase: at
once, at the shortest pause, backing off, at the longest pause.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from slipway.notify.attributes import read_json
from slipway.notify.refusals import ValueInvalid

#: Pauses after each failed attempt, in seconds: 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 hours.
STANDARD_PAUSES_S: tuple[float, ...] = (
    5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400,
)  # fmt: skip

#: Subscribers that failed together are not to be tried together again: a pause is longer by up to
#: this part of it, never shorter.
JITTER = 0.1

MAX_RETRIES = 100
MAX_DELAY_S = 3600
#: All pauses of an SNS policy together.
MAX_TOTAL_S = 3600

DEFAULT_CONTENT_TYPE = "text/plain; charset=UTF-8"


class Backoff(StrEnum):
    """How pauses grow from the shortest to the longest."""

    LINEAR = "linear"
    ARITHMETIC = "arithmetic"
    GEOMETRIC = "geometric"
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """SNS's healthyRetryPolicy; the defaults are SNS's for HTTP."""

    num_retries: int = 3
    num_no_delay_retries: int = 0
    num_min_delay_retries: int = 0
    num_max_delay_retries: int = 0
    min_delay_target_s: int = 20
    max_delay_target_s: int = 20
    backoff_function: Backoff = Backoff.LINEAR

    @property
    def num_backoff_retries(self) -> int:
        """What is left for the phase in which pauses grow."""
        return self.num_retries - (
            self.num_no_delay_retries + self.num_min_delay_retries + self.num_max_delay_retries
        )

    def pauses_s(self) -> tuple[float, ...]:
        """The pause before each retry, in seconds, without jitter."""
        shortest, longest = float(self.min_delay_target_s), float(self.max_delay_target_s)
        count = self.num_backoff_retries
        return (
            *(0.0 for _ in range(self.num_no_delay_retries)),
            *(shortest for _ in range(self.num_min_delay_retries)),
            *(self._backed_off_s(number, count) for number in range(1, count + 1)),
            *(longest for _ in range(self.num_max_delay_retries)),
        )

    def _backed_off_s(self, number: int, count: int) -> float:
        """Pause `number` of `count`; the last one is the longest. SNS draws these curves and does
        not give their formulas."""
        shortest, longest = float(self.min_delay_target_s), float(self.max_delay_target_s)
        if self.backoff_function is Backoff.GEOMETRIC:
            # Each pause is the same multiple of the one before.
            return shortest * float((longest / shortest) ** (number / count))
        if self.backoff_function is Backoff.ARITHMETIC:
            # Each pause grows by a little more than the one before: triangular numbers.
            part = number * (number + 1) / (count * (count + 1))
        elif self.backoff_function is Backoff.EXPONENTIAL:
            # What is added doubles.
            part = (2**number - 1) / (2**count - 1)
        else:
            part = number / count
        return shortest + (longest - shortest) * part


@dataclass(frozen=True, kw_only=True)
class DeliveryPolicy:
    """An SNS DeliveryPolicy, of a topic or of a subscription; `None` is what it does not say."""

    retry: RetryPolicy | None = None
    max_receives_per_second: int | None = None
    content_type: str | None = None
    #: Of a topic: what subscriptions say for themselves does not count.
    disable_subscription_overrides: bool = False


@dataclass(frozen=True, kw_only=True)
class Effective:
    """What holds for the deliveries of one subscription."""

    pauses_s: tuple[float, ...]
    max_receives_per_second: int | None
    content_type: str


def effective(topic: DeliveryPolicy | None, subscription: DeliveryPolicy | None) -> Effective:
    """What a topic and one of its subscriptions say, together."""
    topic = topic or DeliveryPolicy()
    if subscription is None or topic.disable_subscription_overrides:
        subscription = DeliveryPolicy()
    retry = subscription.retry or topic.retry
    limit = subscription.max_receives_per_second
    return Effective(
        pauses_s=STANDARD_PAUSES_S if retry is None else retry.pauses_s(),
        max_receives_per_second=topic.max_receives_per_second if limit is None else limit,
        content_type=subscription.content_type or topic.content_type or DEFAULT_CONTENT_TYPE,
    )


def parse_topic_policy(text: str) -> DeliveryPolicy:
    """A topic's DeliveryPolicy from its JSON. Raises `ValueInvalid`."""
    http = _section(_document(text), "http")
    return DeliveryPolicy(
        retry=_retry(http, "defaultHealthyRetryPolicy", "http.defaultHealthyRetryPolicy"),
        max_receives_per_second=_limit(_section(http, "defaultThrottlePolicy")),
        content_type=_content_type(_section(http, "defaultRequestPolicy")),
        disable_subscription_overrides=_flag(http, "disableSubscriptionOverrides"),
    )


def parse_subscription_policy(text: str) -> DeliveryPolicy:
    """A subscription's DeliveryPolicy from its JSON. Raises `ValueInvalid`."""
    document = _document(text)
    return DeliveryPolicy(
        retry=_retry(document, "healthyRetryPolicy", "healthyRetryPolicy"),
        max_receives_per_second=_limit(_section(document, "throttlePolicy")),
        content_type=_content_type(_section(document, "requestPolicy")),
    )


def sns_effective_topic_policy(policy: DeliveryPolicy | None) -> str:
    """EffectiveDeliveryPolicy of a topic, as SNS words it."""
    policy = policy or DeliveryPolicy()
    http: dict[str, Any] = {
        "defaultHealthyRetryPolicy": _retry_document(policy.retry),
        "disableSubscriptionOverrides": policy.disable_subscription_overrides,
    }
    if policy.max_receives_per_second is not None:
        http["defaultThrottlePolicy"] = {"maxReceivesPerSecond": policy.max_receives_per_second}
    content_type = policy.content_type or DEFAULT_CONTENT_TYPE
    http["defaultRequestPolicy"] = {"headerContentType": content_type}
    return json.dumps({"http": http}, separators=(",", ":"))


def sns_effective_subscription_policy(
    topic: DeliveryPolicy | None, subscription: DeliveryPolicy | None
) -> str:
    """EffectiveDeliveryPolicy of a subscription, as SNS words it."""
    found = effective(topic, subscription)
    topic = topic or DeliveryPolicy()
    own = None if topic.disable_subscription_overrides else subscription
    retry = (own.retry if own else None) or topic.retry
    limit = found.max_receives_per_second
    document = {
        "healthyRetryPolicy": _retry_document(retry),
        "sicklyRetryPolicy": None,
        "throttlePolicy": None if limit is None else {"maxReceivesPerSecond": limit},
        "requestPolicy": {"headerContentType": found.content_type},
        "guaranteed": False,
    }
    return json.dumps(document, separators=(",", ":"))


def _retry_document(policy: RetryPolicy | None) -> dict[str, Any]:
    policy = policy or RetryPolicy()
    return {
        "minDelayTarget": policy.min_delay_target_s,
        "maxDelayTarget": policy.max_delay_target_s,
        "numRetries": policy.num_retries,
        "numMaxDelayRetries": policy.num_max_delay_retries,
        "numNoDelayRetries": policy.num_no_delay_retries,
        "numMinDelayRetries": policy.num_min_delay_retries,
        "backoffFunction": policy.backoff_function.value,
    }


# --- Reading --------------------------------------------------------------------------------------


def _invalid(what: str) -> ValueInvalid:
    return ValueInvalid(f"DeliveryPolicy: {what}")


def _document(text: str) -> Mapping[str, Any]:
    try:
        found = read_json(text)
    except ValueError:
        raise _invalid("failed to parse JSON.") from None
    if not isinstance(found, dict):
        raise _invalid("it must be a JSON object")
    return found


def _section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _invalid(f"{name} must be a JSON object")
    return found


def _retry(document: Mapping[str, Any], name: str, where: str) -> RetryPolicy | None:
    section = _section(document, name)
    if not section:
        return None
    longest_s = _count(section, where, "maxDelayTarget", 20, least=1, most=MAX_DELAY_S)
    policy = RetryPolicy(
        num_retries=_count(section, where, "numRetries", 3, most=MAX_RETRIES),
        num_no_delay_retries=_count(section, where, "numNoDelayRetries", 0),
        num_min_delay_retries=_count(section, where, "numMinDelayRetries", 0),
        num_max_delay_retries=_count(section, where, "numMaxDelayRetries", 0),
        max_delay_target_s=longest_s,
        min_delay_target_s=_count(
            section, where, "minDelayTarget", min(20, longest_s), least=1, most=longest_s
        ),
        backoff_function=_backoff(section, where),
    )
    if policy.num_backoff_retries < 0:
        raise _invalid(f"{where}.numRetries must be at least the sum of the retries of its phases")
    if sum(policy.pauses_s()) > MAX_TOTAL_S:
        raise _invalid(f"{where} must not go on for more than {MAX_TOTAL_S} seconds")
    return policy


def _backoff(section: Mapping[str, Any], where: str) -> Backoff:
    found = section.get("backoffFunction", Backoff.LINEAR.value)
    if found not in list(Backoff):
        raise _invalid(f"{where}.backoffFunction must be one of {', '.join(Backoff)}")
    return Backoff(found)


def _count(
    section: Mapping[str, Any],
    where: str,
    name: str,
    default: int,
    *,
    least: int = 0,
    most: int = MAX_RETRIES,
) -> int:
    found = section.get(name)
    if found is None:
        return default
    if isinstance(found, bool) or not isinstance(found, int) or not least <= found <= most:
        raise _invalid(f"{where}.{name} must be a whole number from {least} to {most}")
    return found


def _limit(section: Mapping[str, Any]) -> int | None:
    found = section.get("maxReceivesPerSecond")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise _invalid("throttlePolicy.maxReceivesPerSecond must be a whole number of at least 1")
    return found


def _content_type(section: Mapping[str, Any]) -> str | None:
    found = section.get("headerContentType")
    if found is None:
        return None
    if not isinstance(found, str) or not found.isascii() or not found.isprintable():
        raise _invalid("requestPolicy.headerContentType must be a media type")
    return found


def _flag(document: Mapping[str, Any], name: str) -> bool:
    found = document.get(name, False)
    if not isinstance(found, bool):
        raise _invalid(f"{name} must be true or false")
    return found
