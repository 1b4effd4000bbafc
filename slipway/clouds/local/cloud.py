"""`LocalCloud`: the `Cloud` whose instances are stand-in machines on this computer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from pydantic import ValidationError

import slipway
from slipway.clouds.base import (
    Capabilities,
    Cloud,
    Image,
    Instance,
    InstanceSpec,
    Resource,
    ResourceKind,
)
from slipway.clouds.local import wire
from slipway.clouds.local.faults import Faults
from slipway.errors import CloudRefused, CloudUnavailable
from slipway.settings import Settings

_START_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 60.0
_DOWN_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 10.0

#: A process whose creation time differs by more is another one under the same id.
_CLOCK_SHIFT_S = 2.0

_OTHER_VERSION = (
    "the local cloud was started by another version of Slipway; `slipway local down` ends it"
)


class LocalCloud:
    """Stand-in machines in a directory below the state directory.

    One supervisor process per state directory runs them. It is started by the first call that
    needs it, outlives the process that started it, and is ended by `down`. An instance is an SSH
    server with a directory of its own, in which real bash runs.
    """

    def __init__(self, settings: Settings, *, name: str = "local") -> None:
        self._name = name
        self._directory = (settings.state_dir / "local").resolve()
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        self._http_pid = 0
        self._socket = ""

    @property
    def name(self) -> str:
        return self._name

    @property
    def kind(self) -> str:
        return "local"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            copy_images=False,
            share_images=False,
            deprecate_images=False,
            instances_on_this_host=True,
        )

    @property
    def directory(self) -> Path:
        """Where the machines, the images and the supervisor's log are."""
        return self._directory

    def regions(self) -> Sequence[str]:
        return (wire.REGION,)

    def instance_types(self, region: str) -> Sequence[str]:
        self._check_region(region)
        return (wire.INSTANCE_TYPE,)

    # -- instances -------------------------------------------------------------------------------

    def create_instance(self, spec: InstanceSpec, *, token: str) -> Instance:
        request = wire.CreateInstance(spec=spec, token=token)
        return wire.INSTANCE.validate_json(
            self._call("create-instance", wire.CREATE.dump_json(request))
        )

    def list_instances(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Instance]:
        self._check_region(region)
        return wire.INSTANCES.validate_json(self._ask("list-instances", tags=tags))

    def reboot(self, region: str, instance_id: str) -> None:
        self._check_region(region)
        self._ask("reboot", id=instance_id)

    def stop(self, region: str, instance_id: str) -> None:
        self._check_region(region)
        self._ask("stop", id=instance_id)

    def start(self, region: str, instance_id: str) -> None:
        self._check_region(region)
        self._ask("start", id=instance_id)

    def power_cut(self, region: str, instance_id: str) -> None:
        """Kill everything on the machine at once and leave it STOPPED; `start` brings it back."""
        self._check_region(region)
        self._ask("power-cut", id=instance_id)

    def terminate(self, region: str, instance_id: str) -> None:
        self._check_region(region)
        self._ask("terminate", id=instance_id)

    def console_output(self, region: str, instance_id: str) -> str:
        self._check_region(region)
        response = self._ask("console-output", id=instance_id)
        return wire.TEXT.validate_json(response)["text"]

    # -- images ----------------------------------------------------------------------------------

    def resolve_image(self, region: str, selector: str) -> Image:
        self._check_region(region)
        return wire.IMAGE.validate_json(self._ask("resolve-image", name=selector))

    def list_images(self, region: str, *, tags: Mapping[str, str]) -> Sequence[Image]:
        self._check_region(region)
        return wire.IMAGES.validate_json(self._ask("list-images", tags=tags))

    def create_image(
        self, region: str, instance_id: str, *, name: str, tags: Mapping[str, str]
    ) -> Image:
        self._check_region(region)
        return wire.IMAGE.validate_json(
            self._ask("create-image", id=instance_id, name=name, tags=tags)
        )

    def list_resources(
        self, region: str, kind: ResourceKind, *, tags: Mapping[str, str]
    ) -> Sequence[Resource]:
        """None: a machine's directory is all there is of it."""
        del kind, tags
        self._check_region(region)
        return ()

    def delete_resource(self, region: str, kind: ResourceKind, resource_id: str) -> None:
        """See `list_resources`: whatever it is, it is gone."""
        del kind, resource_id
        self._check_region(region)

    def copy_image(
        self, source: Image, region: str, *, name: str, tags: Mapping[str, str], token: str
    ) -> Image:
        """Refused: there is one region."""
        del name, tags, token
        self._check_region(region)
        raise CloudRefused(f"image {source.id} is not copied: {self._name} has one region")

    def share_image(self, region: str, image_id: str, *, accounts: Sequence[str]) -> None:
        """Refused: there is nobody to share with."""
        del accounts
        self._check_region(region)
        raise CloudRefused(f"image {image_id} is not shared: {self._name} has no other accounts")

    def deprecate_image(self, region: str, image_id: str, *, at: datetime) -> None:
        """Refused: its images are not offered to anybody."""
        del at
        self._check_region(region)
        raise CloudRefused(f"image {image_id} is not deprecated: {self._name} cannot")

    def delete_image(self, region: str, image_id: str) -> None:
        self._check_region(region)
        self._ask("delete-image", id=image_id)

    def register_image(self, name: str, *, faults: Faults) -> Image:
        """An image on whose machines these things go wrong. Under a name that is in use it
        changes the faults of that image, for machines made from now on; the built-in images
        cannot be changed (`Conflict`)."""
        return wire.IMAGE.validate_json(
            self._ask("register-image", name=name, faults=faults.to_json())
        )

    # -- the supervisor --------------------------------------------------------------------------

    def describe_confinement(self) -> str:
        """One sentence: whether scripts can write outside their machine's directory."""
        return self.health().confinement

    def health(self) -> wire.Health:
        """What the supervisor says about itself; starts it when it is not running."""
        return wire.HEALTH.validate_json(self._send("GET", "/health", b""))

    def is_running(self) -> bool:
        """Whether the supervisor runs; does not start it."""
        return self._supervisor() is not None

    def down(self) -> None:
        """End the supervisor, and with it all machines; those that were running come back when it
        is started again. Harmless when it is not running. Raises `CloudUnavailable` when it does
        not end."""
        with self._starting():
            found = self._supervisor()
            if found is None:
                return
            process, record = found
            try:
                with self._new_client(record.socket) as client:
                    client.post("/shutdown", timeout=5.0)
            except httpx.HTTPError:
                # It does not answer; the signal asks for the same.
                with contextlib.suppress(psutil.NoSuchProcess):
                    if abs(process.create_time() - record.create_time_s) < _CLOCK_SHIFT_S:
                        process.terminate()
            # Its lock goes when it ends; its process id may stay for a while, until somebody
            # collects it.
            deadline = time.monotonic() + _DOWN_TIMEOUT_S
            while self._is_locked():
                if time.monotonic() > deadline:
                    raise CloudUnavailable(
                        f"the local cloud's supervisor (process {process.pid}) does not end"
                    )
                time.sleep(0.01)
        self.close()

    def close(self) -> None:
        """Close connections to the supervisor; the machines go on."""
        with self._lock:
            if self._http is not None:
                self._http.close()
                self._http = None

    def _check_region(self, region: str) -> None:
        if region != wire.REGION:
            raise CloudRefused(f"no region {region!r}; the local cloud has {wire.REGION!r}")

    def _ask(self, call: str, **named: Any) -> bytes:
        return self._call(call, wire.NAMED.dump_json(wire.Named(**named)))

    def _call(self, call: str, body: bytes) -> bytes:
        return self._send("POST", f"/v{wire.PROTOCOL}/{call}", body)

    def _send(self, method: str, path: str, body: bytes) -> bytes:
        # Costs 20 µs, and keeps httpcore from leaking a socket for each refused connection.
        if not self._is_locked():
            self._ensure_running()
        try:
            response = self._client().request(method, path, content=body)
        except httpx.ConnectError:
            # Nothing was sent, so sending it again is safe.
            self._ensure_running()
            response = self._request_once(method, path, body)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error
        if response.status_code == httpx.codes.OK:
            return response.content
        if response.status_code == httpx.codes.NOT_FOUND:
            raise CloudUnavailable(_OTHER_VERSION)
        try:
            problem = wire.TEXT.validate_json(response.content)
        except ValidationError:
            raise CloudUnavailable(
                f"the local cloud answered {response.status_code} to {path}; see "
                f"{self._directory / 'supervisor.log'}"
            ) from None
        raise wire.ERRORS[problem["error"]](problem["message"])

    def _request_once(self, method: str, path: str, body: bytes) -> httpx.Response:
        try:
            return self._client().request(method, path, content=body)
        except httpx.HTTPError as error:
            raise _unavailable(error) from error

    def _client(self) -> httpx.Client:
        """One client for all threads; a new one in a forked child."""
        client = self._http
        if client is not None and self._http_pid == os.getpid():
            return client
        with self._lock:
            if self._http is None or self._http_pid != os.getpid():
                found = self._read_record()
                self._socket = found.socket if found else str(wire.socket_path(self._directory))
                self._http, self._http_pid = self._new_client(self._socket), os.getpid()
                weakref.finalize(self, self._http.close)
            return self._http

    @staticmethod
    def _new_client(path: str) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(
                uds=path,
                # There is no TLS on a Unix socket; without this a TLS context is built anyway.
                verify=False,
                limits=httpx.Limits(max_connections=64, max_keepalive_connections=64),
            ),
            base_url="http://local",
            timeout=_CALL_TIMEOUT_S,
            trust_env=False,
        )

    @contextlib.contextmanager
    def _starting(self) -> Generator[None, None, None]:
        """Only one process starts or ends the supervisor at a time."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._directory / "start.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read_record(self) -> wire.SupervisorRecord | None:
        try:
            return wire.SUPERVISOR.validate_json((self._directory / "supervisor.json").read_bytes())
        except FileNotFoundError:
            return None

    def _supervisor(self) -> tuple[psutil.Process, wire.SupervisorRecord] | None:
        """The supervisor's process, if it is the one that was recorded and lives.

        Its lock tells that some supervisor lives, also when the process id means another process
        by now; the creation time may shift when the computer's clock is set.
        """
        record = self._read_record()
        if record is None or not self._is_locked():
            return None
        try:
            return psutil.Process(record.pid), record
        except psutil.NoSuchProcess:
            return None

    def _is_locked(self) -> bool:
        try:
            lock = (self._directory / "supervisor.lock").open("rb")
        except FileNotFoundError:
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _ensure_running(self) -> None:
        """Start the supervisor unless one answers. Raises `CloudUnavailable`."""
        with self._starting():
            deadline = time.monotonic() + _ANSWER_TIMEOUT_S
            while (record := self._answering()) is None:
                # One that is ending holds its lock for a moment longer than its socket.
                if time.monotonic() > deadline:
                    raise CloudUnavailable(
                        "the local cloud's supervisor runs and does not answer; "
                        "`slipway local down` ends it"
                    )
                time.sleep(0.02)
        with self._lock:
            if record.socket != self._socket:
                # Not closed: another thread may be using it.
                self._http = None

    def _answering(self) -> wire.SupervisorRecord | None:
        """The record of a supervisor that answers, started if none runs; None while one runs that
        does not answer. Raises `CloudUnavailable`."""
        if not self._is_locked():
            self._start_supervisor()
        found = self._supervisor()
        if found is None or not Path(found[1].socket).exists():
            return None
        try:
            with self._new_client(found[1].socket) as client:
                answer = client.get("/health", timeout=_ANSWER_TIMEOUT_S)
                health = wire.HEALTH.validate_json(answer.content)
        except httpx.HTTPError:
            return None
        except ValidationError as error:
            raise CloudUnavailable(_OTHER_VERSION) from error
        if health.protocol != wire.PROTOCOL:
            raise CloudUnavailable(_OTHER_VERSION)
        return found[1]

    def _log_path(self) -> Path:
        return self._directory / "supervisor.log"

    def _start_supervisor(self) -> None:
        """Start it and wait until it serves. Raises `CloudUnavailable`."""
        told, tell = os.pipe()
        # From a checkout the package may be importable only by the current directory.
        package = str(Path(slipway.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        try:
            with self._log_path().open("ab") as log:
                launcher = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "slipway.clouds.local.supervisor",
                        "--dir",
                        str(self._directory),
                        "--ready-fd",
                        str(tell),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": path},
                    pass_fds=(tell,),
                    start_new_session=True,
                )
        finally:
            os.close(tell)
        with os.fdopen(told, "rb") as reader:
            readable, _, _ = select.select([reader], [], [], _START_TIMEOUT_S)
            answer = reader.read().decode() if readable else "it took too long"
        launcher.wait()
        if answer != "ok":
            why = answer or "it ended without a word"
            raise CloudUnavailable(f"the local cloud did not start: {why}; see {self._log_path()}")


def _unavailable(error: httpx.HTTPError) -> CloudUnavailable:
    return CloudUnavailable(f"the local cloud did not answer: {str(error) or type(error).__name__}")


_: type[Cloud] = LocalCloud
