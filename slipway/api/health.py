"""``/healthz`` and ``/readyz``: for whoever watches over this process; open to everybody."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa
from fastapi import APIRouter
from pydantic import BaseModel

import slipway
from slipway.api.problems import ApiProblem, responses
from slipway.api.state import TheState
from slipway.errors import DatabaseUnavailable

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """That it is well."""

    status: Literal["ok"] = "ok"
    version: str = slipway.__version__


@router.get("/healthz", operation_id="getHealth", responses=responses(422))
async def healthz() -> Health:
    """This process answers. Asks nobody else: restarting it would not mend them."""
    return Health()


@router.get("/readyz", operation_id="getReadiness", responses=responses(422, 503))
def readyz(state: TheState) -> Health:
    """It can serve requests: the database answers. The engine is not asked: what it is to do is
    recorded, and handed over when it is back."""
    try:
        with state.services.database.reading() as connection:
            connection.execute(sa.text("SELECT 1"))
    except DatabaseUnavailable as error:
        raise ApiProblem(
            503, "not-ready", "the database does not answer", headers={"Retry-After": "5"}
        ) from error
    return Health()
