"""Connections to the server of a launch: we log in, with its host key pinned, or it calls us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from slipway.errors import ConnectionFailed
from slipway.launches.creating import cloud_of
from slipway.launches.phoning import calls_us
from slipway.launches.work import Work
from slipway.records import Launch
from slipway.remote.agent import AgentRemote, connect_agent
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
    remote = _open(work, launch, host_key, min(timeout_s, CONNECT_TIMEOUT_S))
    try:
        yield remote
    finally:
        remote.close()


def connect_to_agent(work: Work, launch: Launch) -> AgentRemote:
    """A connection to a server that calls us."""
    services = work.services
    return connect_agent(
        services.identities,
        services.instructions,
        services.clock,
        launch_id=launch.id,
        generation=launch.generation,
        server=launch.server_name,
    )


def _open(work: Work, launch: Launch, host_key: str | None, timeout_s: float) -> Remote:
    services = work.services
    if calls_us(launch):
        return connect_to_agent(work, launch)
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
    return services.connector.connect(endpoint, timeout_s=timeout_s)


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
