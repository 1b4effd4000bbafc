"""moto, one per worker, and clouds that see it through some weather."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from slipway.clock import Clock
from slipway.clouds.budget import Budget
from slipway.clouds.ec2 import Ec2Cloud, Ec2Credentials, Ec2Options, Ec2Region
from slipway.testing.cloud_contract import CloudCase
from slipway.testing.weather import Weather

REGION = "eu-central-1"
TYPES = ("t3.small", "t3.medium")
KEYS = Ec2Credentials(access_key_id="testing", secret_access_key=SecretStr("testing"))


@dataclass(frozen=True, kw_only=True)
class Moto:
    """A running moto and an image in it."""

    url: str
    image_id: str

    def client(self, service: str = "ec2") -> Any:
        """boto3's own client, past all weather."""
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=KEYS.access_key_id,
            aws_secret_access_key=KEYS.secret_access_key.get_secret_value(),
        )


@contextmanager
def running_moto() -> Iterator[Moto]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = Moto(url=url, image_id="").client()
        made = client.register_image(
            Name=f"base-{uuid.uuid4().hex[:8]}", RootDeviceName="/dev/xvda", Architecture="x86_64"
        )
        yield Moto(url=url, image_id=made["ImageId"])
    finally:
        server.stop()


def cloud_at(
    url: str, *, clock: Clock | None = None, budget: Budget | None = None, **options: Any
) -> Ec2Cloud:
    """A cloud that asks botocore for one try only: its pauses are real ones."""
    chosen = {"regions": {REGION: Ec2Region()}, "endpoint_url": url, "attempts": 1, **options}
    return Ec2Cloud(
        "ec2", Ec2Options(**chosen), credentials=lambda: KEYS, clock=clock, budget=budget
    )


@contextmanager
def ec2_case(moto: Moto, weather: Weather) -> Iterator[CloudCase]:
    with CloudCase(
        cloud=cloud_at(weather.url), region=REGION, image_id=moto.image_id, instance_type=TYPES[0]
    ) as case:
        yield case
