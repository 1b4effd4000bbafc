"""A plain SSH client for looking at machines: paramiko, no policy of our own."""

from __future__ import annotations

import io
import socket
import uuid
from dataclasses import dataclass, replace
from types import TracebackType

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from slipway.clouds.base import Instance, InstanceSpec
from slipway.clouds.local import DEFAULT_IMAGE, Faults, LocalCloud
from slipway.testing.cloud_contract import CloudCase

DEADLINE_S = 60.0


class ClientKey:
    """A key pair made for these tests."""

    def __init__(self) -> None:
        private = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )
        self.private = paramiko.Ed25519Key.from_private_key(io.StringIO(private.decode()))
        self.public = f"ssh-ed25519 {self.private.get_base64()} tests"


KEY = ClientKey()


@dataclass(frozen=True, kw_only=True)
class Ran:
    code: int
    out: str
    err: str


class Shell:
    """One SSH connection."""

    def __init__(self, instance: Instance, *, user: str = "admin") -> None:
        assert instance.address
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        self._socket = socket.create_connection((instance.address, instance.ssh_port), DEADLINE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.client.connect(
                instance.address,
                instance.ssh_port,
                user,
                pkey=KEY.private,
                allow_agent=False,
                look_for_keys=False,
                sock=self._socket,
                timeout=DEADLINE_S,
                banner_timeout=DEADLINE_S,
                auth_timeout=DEADLINE_S,
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.client.close()
        self._socket.close()

    @property
    def host_key(self) -> str:
        transport = self.client.get_transport()
        assert transport is not None
        key = transport.get_remote_server_key()
        return f"{key.get_name()} {key.get_base64()}"

    def run(self, command: str, *, stdin: bytes = b"") -> Ran:
        """Run a command to its end; raises whatever paramiko raises when the connection breaks."""
        into, out, err = self.client.exec_command(command, timeout=DEADLINE_S)
        if stdin:
            into.write(stdin)
        into.channel.shutdown_write()
        output, errors = out.read().decode(), err.read().decode()
        return Ran(code=out.channel.recv_exit_status(), out=output, err=errors)

    def say(self, command: str) -> str:
        """The output of a command that must work."""
        ran = self.run(command)
        assert ran.code == 0, ran
        return ran.out.strip()


class LocalCase(CloudCase):
    """A local cloud under test, and a client for its machines."""

    cloud: LocalCloud

    def with_faults(self, faults: Faults) -> InstanceSpec:
        """A spec on whose machine these things go wrong."""
        image = self.cloud.register_image(f"faulty-{uuid.uuid4().hex}", faults=faults)
        self.images.add(image.id)
        return replace(self.spec(), image_id=image.id)

    def shell(self, instance: Instance) -> Shell:
        return Shell(instance, user=self.login_user)


def local_case(cloud: LocalCloud) -> LocalCase:
    """A case on a local cloud."""
    return LocalCase(
        cloud=cloud,
        region="local",
        image_id=DEFAULT_IMAGE,
        instance_type="local.small",
        ssh_public_key=KEY.public,
    )
