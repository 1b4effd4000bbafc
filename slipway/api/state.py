"""What every request finds on the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from slipway.launches.services import Services

if TYPE_CHECKING:
    from slipway.api.feed import Feed
    from slipway.api.metrics import Metrics


@dataclass(frozen=True, kw_only=True, eq=False)
class ApiState:
    """The parts of one running API."""

    services: Services
    feed: Feed
    metrics: Metrics
    #: Something was recorded that is to be handed over: do it now and not at the next look.
    hand_over_soon: Callable[[], None]


def state_of(connection: HTTPConnection) -> ApiState:
    """The parts of the API that a request came to."""
    found: ApiState = connection.app.state.slipway
    return found


def services_of(connection: HTTPConnection) -> Services:
    """The services behind the API that a request came to."""
    return state_of(connection).services


#: A handler's parameter of this type is filled in by FastAPI.
TheState = Annotated[ApiState, Depends(state_of)]
TheServices = Annotated[Services, Depends(services_of)]
