"""What the watch over instances has seen and what became of mirrors, as events of Prefect: for
automations that act on it."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.context import AsyncClientContext, FlowRunContext
from prefect.events import emit_event

from slipway.mirrors.events import subject_of
from slipway.watch.waiting import News


def announce(news: Sequence[News]) -> None:
    """Emit an event for each, where an engine listens: in a flow run, and in a worker."""
    if FlowRunContext.get() is None and AsyncClientContext.get() is None:
        return
    for each in news:
        resource = {
            "prefect.resource.id": f"slipway.instance.{each.instance_id}",
            "prefect.resource.name": each.instance_id,
        }
        launch = {
            "prefect.resource.id": f"slipway.launch.{each.launch_id}",
            "prefect.resource.role": "launch",
        }
        emit_event(
            f"slipway.instance.{each.kind}",
            occurred=each.at,
            resource=resource,
            related=[launch] if each.launch_id else [],
            payload={"summary": each.summary, **each.detail},
        )


def announce_mirror(kind: str, name: str, **payload: str) -> None:
    """Emit an event about a mirrored repository, in a flow run."""
    if FlowRunContext.get() is None:
        return
    emit_event(
        f"slipway.{kind}",
        resource={
            "prefect.resource.id": f"slipway.{subject_of(name).replace('/', '.')}",
            "prefect.resource.name": name,
        },
        payload=payload,
    )
