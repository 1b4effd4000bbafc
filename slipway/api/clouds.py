"""``/v1/clouds``: where servers can be launched."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from slipway.api.auth import require
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.api.words import CLOUD
from slipway.clouds.base import Cloud
from slipway.errors import CloudError, NotFound
from slipway.spelling import nearest_or_all

router = APIRouter(prefix="/v1/clouds", tags=["clouds"], dependencies=[Depends(require("read"))])


class RegionOut(BaseModel):
    """One region of a cloud."""

    model_config = ConfigDict(title="Region")

    name: str = Field(examples=["local"])
    instance_types: list[str] = Field(
        description="Empty when the cloud does not tell.", examples=[["local.small"]]
    )


class CapabilitiesOut(BaseModel):
    """What a cloud can do."""

    model_config = ConfigDict(title="Capabilities")

    client_tokens: bool = Field(
        description="Creating twice with one token makes one instance.", examples=[True]
    )
    stop_start: bool = Field(examples=[True])
    images: bool = Field(examples=[True])
    console_output: bool = Field(examples=[True])


class CloudOut(BaseModel):
    """A place where instances run."""

    model_config = ConfigDict(title="Cloud")

    name: str = Field(examples=["local"])
    capabilities: CapabilitiesOut | None = Field(description="Null while it cannot be reached.")
    regions: list[RegionOut]
    problem: str = Field(
        description="Why it cannot be asked now; empty when it can.", examples=[""]
    )


class Clouds(BaseModel):
    """All clouds that are configured."""

    items: list[CloudOut]


@router.get("", operation_id="listClouds", responses=responses(401, 403, 422))
def list_clouds(services: TheServices) -> Clouds:
    """All configured clouds with their regions and instance types. One that cannot be reached is
    listed with its problem."""
    return Clouds(items=[_shown(name, services.clouds[name]) for name in sorted(services.clouds)])


@router.get("/{name}", operation_id="getCloud", responses=responses(401, 403, 404, 422))
def get_one_cloud(
    services: TheServices,
    name: Annotated[str, Path(pattern=CLOUD, description="Its name.", examples=["local"])],
) -> CloudOut:
    """One cloud."""
    if name not in services.clouds:
        raise NotFound(f"there is no cloud {name}{nearest_or_all(name, services.clouds)}")
    return _shown(name, services.clouds[name])


def _shown(name: str, cloud: Cloud) -> CloudOut:
    try:
        can = cloud.capabilities
        return CloudOut(
            name=name,
            capabilities=CapabilitiesOut(
                client_tokens=can.client_tokens,
                stop_start=can.stop_start,
                images=can.images,
                console_output=can.console_output,
            ),
            regions=[
                RegionOut(name=region, instance_types=list(cloud.instance_types(region)))
                for region in cloud.regions()
            ],
            problem="",
        )
    except CloudError as error:
        return CloudOut(name=name, capabilities=None, regions=[], problem=str(error))
