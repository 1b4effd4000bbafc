"""When a failed delivery is tried again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.notify import schedules
from slipway.notify.refusals import ValueInvalid
from slipway.notify.schedules import DeliveryPolicy, RetryPolicy


def _retry(**section: Any) -> str:
    return json.dumps({"healthyRetryPolicy": section})


def test_without_a_policy() -> None:
    """Without a policy there are ten attempts within 76 hours, as Standard Webhooks recommends."""
    pauses_s = schedules.effective(None, None).pauses_s
    assert len(pauses_s) + 1 == 10
    # 5 s + 5 min + 30 min + (2 + 5 + 10 + 14 + 20 + 24) h
    assert sum(pauses_s) == 5 + 35 * 60 + 75 * 3600


@pytest.mark.parametrize(
    ("section", "pauses_s"),
    [
        # SNS's default for HTTP.
        ({"numRetries": 3}, [20, 20, 20]),
        ({"numRetries": 0}, []),
        (
            # 1 at once, 2 at 10 s, 10 - 1 - 2 - 3 = 4 growing by (50 - 10) / 4, 3 at 50 s
            {
                "numRetries": 10, "numNoDelayRetries": 1, "numMinDelayRetries": 2,
                "numMaxDelayRetries": 3, "minDelayTarget": 10, "maxDelayTarget": 50,
            },
            [0, 10, 10, 20, 30, 40, 50, 50, 50, 50],
        ),
        (
            # What is added: 1, 3, 6, 10 tenths of 40
            {"numRetries": 4, "minDelayTarget": 10, "maxDelayTarget": 50,
             "backoffFunction": "arithmetic"},
            [14, 22, 34, 50],
        ),
        (
            # 2 times 2, 4 and 8
            {"numRetries": 3, "minDelayTarget": 2, "maxDelayTarget": 16,
             "backoffFunction": "geometric"},
            [4, 8, 16],
        ),
        (
            # What is added: 1, 3, 7 sevenths of 70
            {"numRetries": 3, "minDelayTarget": 10, "maxDelayTarget": 80,
             "backoffFunction": "exponential"},
            [20, 40, 80],
        ),
    ],
)  # fmt: skip
def test_phases(section: dict[str, Any], pauses_s: list[float]) -> None:
    """An SNS policy is followed phase by phase."""
    policy = schedules.parse_subscription_policy(_retry(**section))
    assert schedules.effective(None, policy).pauses_s == pytest.approx(pauses_s)


def test_who_decides() -> None:
    """A subscription's policy goes before its topic's, unless that forbids it; what neither says is
    the default."""
    topic = schedules.parse_topic_policy(
        json.dumps(
            {
                "http": {
                    "defaultHealthyRetryPolicy": {"numRetries": 1},
                    "defaultThrottlePolicy": {"maxReceivesPerSecond": 5},
                    "defaultRequestPolicy": {"headerContentType": "application/json"},
                }
            }
        )
    )
    own = schedules.parse_subscription_policy(
        json.dumps(
            {
                "healthyRetryPolicy": {"numRetries": 2, "minDelayTarget": 1, "maxDelayTarget": 1},
                "throttlePolicy": {"maxReceivesPerSecond": 9},
            }
        )
    )
    both = schedules.effective(topic, own)
    assert both.pauses_s == (1, 1)
    assert (both.max_receives_per_second, both.content_type) == (9, "application/json")
    assert schedules.effective(topic, None).pauses_s == (20,)
    forbidding = DeliveryPolicy(
        retry=RetryPolicy(num_retries=1), disable_subscription_overrides=True
    )
    found = schedules.effective(forbidding, own)
    assert (found.pauses_s, found.max_receives_per_second) == ((20,), None)


def test_what_sns_says_of_it() -> None:
    """EffectiveDeliveryPolicy is worded as SNS words it."""
    assert schedules.sns_effective_topic_policy(None) == (
        '{"http":{"defaultHealthyRetryPolicy":{"minDelayTarget":20,"maxDelayTarget":20,'
        '"numRetries":3,"numMaxDelayRetries":0,"numNoDelayRetries":0,"numMinDelayRetries":0,'
        '"backoffFunction":"linear"},"disableSubscriptionOverrides":false,'
        '"defaultRequestPolicy":{"headerContentType":"text/plain; charset=UTF-8"}}}'
    )
    own = schedules.parse_subscription_policy(
        '{"healthyRetryPolicy": {"numRetries": 7}, "throttlePolicy": {"maxReceivesPerSecond": 2}}'
    )
    found = json.loads(schedules.sns_effective_subscription_policy(None, own))
    assert found["healthyRetryPolicy"]["numRetries"] == 7
    assert found["throttlePolicy"] == {"maxReceivesPerSecond": 2}
    assert found["guaranteed"] is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "failed to parse JSON"),
        ("7", "it must be a JSON object"),
        ('{"healthyRetryPolicy": 7}', "healthyRetryPolicy must be a JSON object"),
        (_retry(numRetries=101), "numRetries must be a whole number from 0 to 100"),
        (_retry(numRetries=True), "numRetries must be a whole number"),
        (
            _retry(minDelayTarget=30, maxDelayTarget=20),
            "minDelayTarget must be a whole number from",
        ),
        (_retry(maxDelayTarget=3601), "maxDelayTarget must be a whole number from 1 to 3600"),
        (_retry(numRetries=1, numNoDelayRetries=2), "at least the sum of the retries"),
        (_retry(backoffFunction="cubic"), "backoffFunction must be one of linear, arithmetic"),
        (_retry(numRetries=100, maxDelayTarget=100), "not go on for more than 3600 seconds"),
        ('{"throttlePolicy": {"maxReceivesPerSecond": 0}}', "of at least 1"),
        ('{"requestPolicy": {"headerContentType": "a\\r\\nb: c"}}', "must be a media type"),
    ],
)
def test_refused_policies(text: str, words: str) -> None:
    """A policy that is wrong is refused with where, and what would be right."""
    with pytest.raises(ValueInvalid, match=rf"^DeliveryPolicy: .*{words}"):
        schedules.parse_subscription_policy(text)
