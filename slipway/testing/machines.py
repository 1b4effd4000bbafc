"""Real machines behind the instances of an EC2 stand-in: the local cloud's.

With them a launch through `Weather` and moto reaches a server that boots, has a clock and runs
scripts over SSH, so that all of a launch runs unmodified from RunInstances to operational::

    machines = LocalMachines(LocalCloud(settings))
    with Weather(upstream=moto, machines=machines) as weather:
        options = Ec2Options(..., endpoint_url=weather.url, ssh_port_tag=Weather.SSH_PORT_TAG)
"""

from __future__ import annotations

from slipway.clouds.base import Instance, InstanceSpec, InstanceState
from slipway.clouds.local import LocalCloud
from slipway.clouds.local.faults import DEFAULT_IMAGE
from slipway.testing.weather import Machines

#: Tells which instance of EC2 a machine is.
TAG_INSTANCE = "slipway-testing:instance"


class LocalMachines:
    """A machine of the local cloud for each instance."""

    def __init__(self, cloud: LocalCloud, *, image: str = DEFAULT_IMAGE) -> None:
        self._cloud = cloud
        self._image = image
        [self._region] = cloud.regions()
        [self._type] = cloud.instance_types(self._region)

    def run(self, instance_id: str, *, public_key: str, user_data: str) -> None:
        """See `Machines`."""
        image = self._cloud.resolve_image(self._region, self._image)
        spec = InstanceSpec(
            name=instance_id,
            region=self._region,
            image_id=image.id,
            instance_type=self._type,
            ssh_public_key=public_key.strip(),
            login_user="admin",
            user_data=user_data,
            tags={TAG_INSTANCE: instance_id},
        )
        self._cloud.create_instance(spec, token=instance_id)

    def where(self, instance_id: str) -> tuple[str, int] | None:
        """See `Machines`."""
        found = self._find(instance_id)
        if found is None or found.state is not InstanceState.RUNNING or found.address is None:
            return None
        return found.address, found.ssh_port

    def console(self, instance_id: str) -> str:
        """See `Machines`."""
        found = self._find(instance_id)
        return "" if found is None else self._cloud.console_output(self._region, found.id)

    def change(self, action: str, instance_id: str) -> None:
        """See `Machines`."""
        changes = {
            "RebootInstances": self._cloud.reboot,
            "StartInstances": self._cloud.start,
            "StopInstances": self._cloud.stop,
            "TerminateInstances": self._cloud.terminate,
        }
        found = self._find(instance_id)
        if found is not None and action in changes:
            changes[action](self._region, found.id)

    def _find(self, instance_id: str) -> Instance | None:
        found = self._cloud.list_instances(self._region, tags={TAG_INSTANCE: instance_id})
        return found[0] if found else None


_: type[Machines] = LocalMachines
