"""Events of what the watch has seen."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from slipway.clouds.base import InstanceState
from slipway.watch.waiting import Known
from tasks import announcing
from tests.watch.listed import NOW, instance


@pytest.fixture
def emit_event() -> Iterator[mock.Mock]:
    with mock.patch.object(announcing, "emit_event") as found:
        yield found


def test_without_an_engine_nothing_is_emitted(emit_event: mock.Mock) -> None:
    """Else Prefect would start a server for it."""
    news = Known(instance_id="i-1").observe(instance("i-1"), NOW)
    announcing.announce(news)
    emit_event.assert_not_called()


def test_in_a_worker_each_is_an_event(emit_event: mock.Mock) -> None:
    """About the instance, related to its launch, of the time it was seen."""
    stopped = instance("i-1", InstanceState.STOPPED, reason="user", launch="launch-1")
    news = Known(instance_id="i-1").observe(stopped, NOW)
    with mock.patch.object(announcing.AsyncClientContext, "get", return_value=object()):
        announcing.announce(news)
    [call] = emit_event.call_args_list
    assert call.args == ("slipway.instance.stopped",)
    assert call.kwargs["occurred"] == NOW
    assert call.kwargs["resource"]["prefect.resource.id"] == "slipway.instance.i-1"
    [related] = call.kwargs["related"]
    assert related["prefect.resource.id"] == "slipway.launch.launch-1"
    assert call.kwargs["payload"]["reason"] == "user"
