"""``/metrics``: how it goes, for Prometheus. No label has more values than somebody wrote down."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from fastapi import APIRouter, Depends
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from slipway.api.auth import require
from slipway.api.feed import Feed
from slipway.api.problems import responses, streamed
from slipway.api.state import TheState
from slipway.launches import callbacks, handover
from slipway.launches.services import Services
from slipway.records import Launch, LaunchStatus

_LAUNCHES = Launch.__table__  # type: ignore[attr-defined]

router = APIRouter(tags=["health"])


class Metrics:
    """The measurements of one process, and what it finds in the database when it is asked."""

    def __init__(self, services: Services, feed: Feed) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "slipway_api_requests_total",
            "Requests answered, by route.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "slipway_api_request_seconds",
            "From a request to the beginning of its answer, by route.",
            ["method", "route"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )
        self.registry.register(_Found(services, feed))


class _Found(Collector):
    """What is counted when it is asked for, not as it happens: other processes count as well."""

    def __init__(self, services: Services, feed: Feed) -> None:
        self._services = services
        self._feed = feed

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it does not read the database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Everything, as of now."""
        by_status = sa.select(_LAUNCHES.c.status, sa.func.count()).group_by(_LAUNCHES.c.status)
        with self._services.database.reading() as connection:
            counts = dict.fromkeys((status.value for status in LaunchStatus), 0)
            counts.update({row[0]: row[1] for row in connection.execute(by_status)})
            handing = handover.backlog(connection, self._services.clock.now())
            calling = callbacks.backlog(connection)
        launches = GaugeMetricFamily(
            "slipway_launches", "Launches on record, by status.", labels=["status"]
        )
        for status, count in counts.items():
            launches.add_metric([status], count)
        yield launches
        for name, what, value in (
            ("slipway_handovers_waiting", "Flow runs not handed over yet.", handing.waiting),
            (
                "slipway_handover_oldest_seconds",
                "How long the oldest of them has waited.",
                handing.oldest_s,
            ),
            ("slipway_callbacks_waiting", "Call-back messages to deliver.", calling.waiting),
            (
                "slipway_callbacks_given_up",
                "Call-back messages that nobody accepted.",
                calling.given_up,
            ),
            (
                "slipway_event_streams",
                "Event streams open at this process.",
                self._feed.listeners,
            ),
        ):
            yield GaugeMetricFamily(name, what, value=value)


@router.get(
    "/metrics",
    operation_id="getMetrics",
    dependencies=[Depends(require("read"))],
    response_class=Response,
    responses=streamed(
        "Measurements in the text form of Prometheus.",
        "text/plain",
        'slipway_launches{status="operational"} 3.0\n',
    )
    | responses(401, 403, 422),
)
def metrics(state: TheState) -> Response:
    """How it goes. It needs a token like everything else, since it tells how busy you are; give
    Prometheus one with the scope read."""
    return Response(generate_latest(state.metrics.registry), media_type=CONTENT_TYPE_LATEST)
