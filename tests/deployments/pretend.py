"""Servers and a cloud that are pretended to by the process of the test, for workers in others.

They outlive every worker, like real ones, and cost next to nothing: a call is a message on a Unix
socket. What a real server does is tested elsewhere; here it is what becomes of the launches.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slipway.clouds.base import TAG_SERVER, Capabilities, Cloud, Instance, InstanceSpec
from slipway.clouds.local import DEFAULT_IMAGE
from slipway.errors import ConnectionFailed
from slipway.launches.services import Services, build_services
from slipway.records import Launch
from slipway.remote.base import Command, Connector, Endpoint, OnOutput, Remote, Result
from slipway.settings import Settings
from slipway.testing.fake_cloud import FakeCloud
from slipway.testing.fake_remote import FakeRemote
from tests.launches.world import World

#: Longer than any of these tests takes.
_AT_MOST_S = 600.0

#: How long one look at a script that goes on may stay. Servers that are real let us stay longer.
_STAY_S = 2.0

_PRINTED = b"configured\n"


class PretendCloud(FakeCloud):
    """A cloud in memory. Whoever creates a server named ``unanswered-…`` is not answered before
    `answers` is set: the instance is there, and nobody was told."""

    def __init__(self) -> None:
        super().__init__(
            "local", regions=("local",), instance_types=("local.small",), images=(DEFAULT_IMAGE,)
        )
        self.answers = threading.Event()

    def create_instance(self, spec: InstanceSpec, *, token: str) -> Instance:
        """See `Cloud`."""
        made = super().create_instance(spec, token=token)
        if spec.name.startswith("unanswered-"):
            self.answers.wait(_AT_MOST_S)
        return made


class PretendServers:
    """The servers of such a cloud. Scripts named ``held`` go on until `go` is set; a server named
    ``dark-…`` cannot be reached before `light` is."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.light = threading.Event()
        self.go = threading.Event()
        self._cloud = cloud
        self._lock = threading.Lock()
        #: By run id: under which nonce it was claimed, and of which script.
        self._claims: dict[str, tuple[str, str]] = {}
        #: Run ids, in the order in which they were begun.
        self.begun: list[str] = []

    def connect(self, address: str) -> str:
        """Answers the host key. Raises `ConnectionFailed`."""
        listed = self._cloud.list_instances("local", tags={})
        found = next(each for each in listed if each.private_ip == address)
        if found.tags[TAG_SERVER].startswith("dark-") and not self.light.is_set():
            raise ConnectionFailed(f"{address} does not answer")
        return " ".join(self._cloud.host_key(found.id).split(" ")[:2])

    def run(self, stdin: bytes) -> tuple[str, bytes]:
        """Begin a script, or look how it goes on, as `slipway.remote.once` asks for it: what is
        said about it, and what it has printed."""
        header = stdin.split(b"#go\n")[1].decode().split("\n")
        nonce, run_id, offset, *_, hold, digest = header[:7]
        with self._lock:
            if run_id not in self._claims:
                self._claims[run_id] = nonce, digest
                self.begun.append(run_id)
        over = "-held." not in run_id or self.go.wait(min(int(hold) / 20, _STAY_S))
        claimed = " ".join((self._claims[run_id][0], "1", self._claims[run_id][1]))
        lines = [f"state {'ended' if over else 'running'}", f"claim {claimed}"]
        lines += ["exit finished 0 2"] if over else []
        said = "".join(f"@{nonce} {line}\n" for line in [*lines, "end"])
        return said, f"\n@{nonce}\n".encode() + _PRINTED[int(offset) :]


@dataclass(kw_only=True)
class PretendWorld(World):
    """A Slipway whose cloud and servers are pretended to."""

    servers: PretendServers

    def runs(self, launch: Launch) -> list[str]:
        """The steps of the scripts that were begun on the launch's server, in order."""
        begun = [each.split(".") for each in self.servers.begun]
        return [".".join(rest[1:-1]) for name, *rest in begun if name == launch.id]

    def outputs_on_machine(self, launch: Launch) -> dict[str, bytes]:
        """What its scripts have printed."""
        return {each: _PRINTED for each in self.servers.begun if each.startswith(launch.id)}


# --- On the side of the test ----------------------------------------------------------------------


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 256
    called: dict[str, object]


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One call."""
        # Workers are killed in the middle of their calls.
        with contextlib.suppress(ConnectionError, EOFError):
            name, method, args, kwargs = pickle.load(self.rfile)
            answer: tuple[bool, Any]
            try:
                answer = True, getattr(self.server.called[name], method)(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  (it is the caller's)
                answer = False, error
            self.wfile.write(pickle.dumps(answer))


@contextmanager
def pretend(settings: Settings, path: Path) -> Iterator[PretendWorld]:
    """A Slipway with these settings for the block; ``path`` is the socket for its workers."""
    cloud = PretendCloud()
    servers = PretendServers(cloud)
    services = replace(build_services(settings), clouds={"local": cloud})
    world = PretendWorld(services=services, cloud=cloud, servers=servers)  # type: ignore[arg-type]
    world.write_image("plain", DEFAULT_IMAGE)
    with _Server(str(path), _Handler) as server:
        server.called = {"cloud": cloud, "servers": servers}
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield world
        finally:
            for each in (cloud.answers, servers.light, servers.go):
                each.set()
            server.shutdown()
            serving.join()
            services.database.close()


# --- On the side of a worker ----------------------------------------------------------------------


class _Far:
    """An object in the process of the test: its methods are called there."""

    def __init__(self, path: str, name: str, far_type: type) -> None:
        self._path = path
        self._called = name
        self._type = far_type

    def __getattr__(self, method: str) -> Callable[..., Any]:
        # What it cannot do is missing here as well: a port's optional parts are asked for by name.
        if not hasattr(self._type, method):
            raise AttributeError(method)
        return functools.partial(self._call, method)

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            connection.sendall(pickle.dumps((self._called, method, args, kwargs)))
            with connection.makefile("rb") as answers:
                fine, answer = pickle.load(answers)
        if fine:
            return answer
        raise answer


class FarCloud(_Far):
    """The cloud."""

    name = "local"
    kind = "fake"
    capabilities = Capabilities()


class FarConnector:
    """Connections to the servers."""

    def __init__(self, path: str) -> None:
        self._servers = _Far(path, "servers", PretendServers)

    def connect(self, endpoint: Endpoint, *, timeout_s: float) -> Remote:  # noqa: ARG002
        """See `Connector`."""
        key = self._servers.connect(endpoint.host)
        return FarRemote(self._servers, key)


class FarRemote(FakeRemote):
    """A server that is ready and on time, and runs its scripts in the process of the test."""

    _CHRONY = "C0000201,192.0.2.1,4,1.0,0.000001,0,0,0,0,0,0,0,16.0,Normal"

    def __init__(self, servers: _Far, host_key: str) -> None:
        super().__init__(host_key=host_key)
        self._servers = servers
        self.on_conversation("", self._say)

    def run(self, command: Command, *, on_stdout: OnOutput | None = None) -> Result:
        """See `Remote`."""
        if not command.stdin:
            facts = "boot_id=1\nuptime_s=9\npackage_lock=free\nprobe=complete\n"
            return Result(exit_code=0, stdout=facts, stderr="", duration_s=0.0)
        said, printed = self._servers.run(command.stdin)
        if on_stdout is not None:
            on_stdout(printed)
        return Result(exit_code=0, stdout="", stderr=said, duration_s=0.0)

    def _say(self, line: str) -> list[str]:
        return ["chrony", self._CHRONY, "= 0", "."] if line[0] == "s" else [f"{time.time():.9f}"]


def pretended_services(path: str) -> Services:
    """The services of a worker, with the cloud and the servers of the test's process."""
    clouds = {"local": FarCloud(path, "cloud", PretendCloud)}
    return replace(build_services(Settings()), clouds=clouds, connector=FarConnector(path))  # type: ignore[arg-type]


_cloud: type[Cloud] = PretendCloud
_connector: type[Connector] = FarConnector
