"""Connections to the server of a launch, with its host key pinned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slipway.errors import ConnectionFailed
from slipway.launches.creating import cloud_of
from slipway.launches.work import Work
from slipway.records import Launch
from slipway.remote.base import Endpoint, Remote
from slipway.remote.ssh import host_keys_in

#: To the SSH banner and through the login.
CONNECT_TIMEOUT_S = 20.0


@contextmanager
def connect(
    work: Work,
    launch: Launch,
    *,
    host_key: str | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Iterator[Remote]:
    """One connection for one step's work. ``host_key`` is for a launch without a pinned one."""
    services = work.services
    address = launch.public_ip or launch.private_ip
    if address is None:
        raise ConnectionFailed(f"server {launch.server_name} has no address yet")
    endpoint = Endpoint(
        host=address,
        port=launch.ssh_port,
        user=launch.login_user,
        key_file=services.ssh_key_file,
        host_key=launch.host_key or host_key,
    )
    remote = services.connector.connect(endpoint, timeout_s=min(timeout_s, CONNECT_TIMEOUT_S))
    try:
        yield remote
    finally:
        remote.close()


def console_host_key(work: Work, launch: Launch) -> str | None:
    """The host key the console shows, or None as long as it shows none.

    cloud-init makes new host keys on the first boot and prints them at its end, so a key from the
    first banner would be wrong later; the console is read through the cloud's own channel, where
    nobody between us and the server can put another key. The newest block counts.
    """
    cloud = cloud_of(work.services, launch)
    if not cloud.capabilities.console_output or launch.instance_id is None:
        return None
    keys = host_keys_in(cloud.console_output(launch.region, launch.instance_id))
    preferred = [key for key in keys if key.startswith("ssh-ed25519 ")]
    newest = (preferred or keys)[-1:]
    return newest[0] if newest else None
