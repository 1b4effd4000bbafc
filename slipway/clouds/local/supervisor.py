"""The process that runs the stand-in machines: one per state directory.

``python -m slipway.clouds.local.supervisor --dir DIR``; it leaves its parent, outlives the command
that started it, and serves HTTP on a Unix socket that only its user can reach. `LocalCloud` starts
it at its first call.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import psutil
import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from slipway.clock import SystemClock
from slipway.clouds.local import confinement, wire
from slipway.clouds.local.faults import Faults
from slipway.clouds.local.host import Host
from slipway.errors import CloudRefused, InvalidInput, SlipwayError

_log = logging.getLogger(__name__)

#: How often a supervisor looks whether its directory is still there.
_LOOK_EVERY_S = 1.0

Handler = Callable[[Host, bytes], Awaitable[Response]]


class LostReply(Response):
    """Breaks the connection in the middle of the answer: what was asked for has been done."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        headers = [(b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        # Returning before the body is complete makes uvicorn close the connection.


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


async def _create_instance(host: Host, body: bytes) -> Response:
    instance, lost = host.create_instance(wire.CREATE.validate_json(body))
    return LostReply() if lost else _json(wire.INSTANCE.dump_json(instance))


async def _list_instances(host: Host, body: bytes) -> Response:
    tags = wire.NAMED.validate_json(body).tags
    return _json(wire.INSTANCES.dump_json(host.list_instances(tags)))


async def _reboot(host: Host, body: bytes) -> Response:
    host.machine(wire.NAMED.validate_json(body).id).reboot()
    return _json(b"{}")


async def _stop(host: Host, body: bytes) -> Response:
    host.machine(wire.NAMED.validate_json(body).id).power_off()
    return _json(b"{}")


async def _start(host: Host, body: bytes) -> Response:
    host.machine(wire.NAMED.validate_json(body).id).power_on()
    return _json(b"{}")


async def _power_cut(host: Host, body: bytes) -> Response:
    machine = host.machine(wire.NAMED.validate_json(body).id)
    machine.power_off(graceful=False, reason="power cut")
    return _json(b"{}")


async def _terminate(host: Host, body: bytes) -> Response:
    host.terminate(wire.NAMED.validate_json(body).id)
    return _json(b"{}")


async def _console_output(host: Host, body: bytes) -> Response:
    machine = host.machine(wire.NAMED.validate_json(body).id)
    return JSONResponse({"text": await asyncio.to_thread(machine.console_output)})


async def _resolve_image(host: Host, body: bytes) -> Response:
    return _json(wire.IMAGE.dump_json(host.resolve_image(wire.NAMED.validate_json(body).name)))


async def _list_images(host: Host, body: bytes) -> Response:
    tags = wire.NAMED.validate_json(body).tags
    return _json(wire.IMAGES.dump_json(host.list_images(tags)))


async def _register_image(host: Host, body: bytes) -> Response:
    named = wire.NAMED.validate_json(body)
    return _json(
        wire.IMAGE.dump_json(host.register_image(named.name, Faults.from_json(named.faults)))
    )


async def _create_image(host: Host, body: bytes) -> Response:
    named = wire.NAMED.validate_json(body)
    return _json(wire.IMAGE.dump_json(host.create_image(named.id, named.name, named.tags)))


async def _delete_image(host: Host, body: bytes) -> Response:
    await host.delete_image(wire.NAMED.validate_json(body).id)
    return _json(b"{}")


#: What is served under ``/v<protocol>/``.
CALLS: dict[str, Handler] = {
    "create-instance": _create_instance,
    "list-instances": _list_instances,
    "reboot": _reboot,
    "stop": _stop,
    "start": _start,
    "power-cut": _power_cut,
    "terminate": _terminate,
    "console-output": _console_output,
    "resolve-image": _resolve_image,
    "list-images": _list_images,
    "register-image": _register_image,
    "create-image": _create_image,
    "delete-image": _delete_image,
}


def application(host: Host, shut_down: Callable[[], None]) -> Starlette:
    """The HTTP side of the supervisor."""

    def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await handler(host, await request.body())
            except SlipwayError as error:
                refused = isinstance(error, InvalidInput)
                name = (CloudRefused if refused else type(error)).__name__
                return JSONResponse({"error": name, "message": str(error)}, status_code=409)
            except ValidationError as error:
                message = f"the request cannot be read: {error}"
                return JSONResponse({"error": "CloudRefused", "message": message}, status_code=409)

        return answer

    async def health(_: Request) -> Response:
        return _json(
            wire.HEALTH.dump_json(
                wire.Health(
                    protocol=wire.PROTOCOL,
                    pid=os.getpid(),
                    directory=str(host.directory),
                    confined=host.confinement.confines,
                    confinement=host.confinement.description,
                    running=host.running(),
                )
            )
        )

    async def shutdown(_: Request) -> Response:
        shut_down()
        return _json(b"{}")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/shutdown", shutdown, methods=["POST"]),
            *(
                Route(f"/v{wire.PROTOCOL}/{name}", endpoint(handler), methods=["POST"])
                for name, handler in CALLS.items()
            ),
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn, with signals left to us: it would end the process before the machines are down."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """Tells whoever started us that we serve, or why not."""

    descriptor: int | None

    def say(self, message: str) -> None:
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self.descriptor, message.encode())
                os.close(self.descriptor)


async def serve(directory: Path, ready: Callable[[str], None]) -> None:
    """Run until a signal, ``POST /shutdown``, or the end of the directory. ``ready`` is told
    ``ok``."""
    host = Host(directory, await confinement.detect(directory), SystemClock())
    await host.start()
    path = wire.socket_path(directory)
    listener = _bind(path)
    stopped = asyncio.Event()
    config = uvicorn.Config(
        application(host, stopped.set),
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Idle clients keep their connection: opening one costs more than a call.
        timeout_keep_alive=3600,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    process = psutil.Process()
    record = wire.SupervisorRecord(
        pid=process.pid,
        create_time_s=process.create_time(),
        socket=str(path),
        started_at=SystemClock().now(),
    )
    record_path = directory / "supervisor.json"
    wire.write_atomically(record_path, wire.SUPERVISOR.dump_json(record, indent=1))
    _log.info("serving %s on %s; %s", directory, path, host.confinement.description)
    try:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        # The socket accepts since it was bound; answers follow as soon as the server runs.
        ready("ok")
        ends = [asyncio.create_task(stopped.wait()), asyncio.create_task(_removed(record_path))]
        await asyncio.wait({serving, *ends}, return_when=asyncio.FIRST_COMPLETED)
        for each in ends:
            each.cancel()
        server.should_exit = True
        await serving
    finally:
        path.unlink(missing_ok=True)
        await host.close()
        record_path.unlink(missing_ok=True)


async def _removed(record: Path) -> None:
    """Wait until our record is no more. Whoever removes the directory of a local cloud has nothing
    left to stop its supervisor with."""
    while True:
        if not record.exists():
            _log.warning("%s was removed: the supervisor ends", record)
            return
        await asyncio.sleep(_LOOK_EVERY_S)


def _bind(path: Path) -> socket.socket:
    """A listening Unix socket in a directory that only we can enter. Raises OSError."""
    folder = path.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise OSError(f"{folder} is not a directory of ours that nobody else can enter")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(512)
    listener.setblocking(False)
    return listener


def _raise_file_limit() -> None:
    """A machine needs two descriptors and a session six; macOS starts with 256."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _watch_children_without_threads() -> None:
    """Python 3.11 waits for each child in a thread of its own unless told otherwise."""
    if sys.version_info < (3, 12) and sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.close(os.pidfd_open(os.getpid()))
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


def _lock(descriptor: int) -> bool:
    """Take the lock a supervisor holds for life. Clients that look for it hold it for a moment."""
    for _ in range(20):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.05)
        else:
            return True
    return False


def main(argv: list[str] | None = None) -> int:
    """Start, leave the parent, serve."""
    parser = argparse.ArgumentParser(prog="slipway.clouds.local.supervisor")
    parser.add_argument("--dir", required=True, type=Path)
    parser.add_argument("--ready-fd", type=int, help="told 'ok' or an error, then closed")
    options = parser.parse_args(argv)
    ready = _Ready(descriptor=options.ready_fd)
    # Started in a session of its own; its leader ends here, so no terminal can come back and
    # nobody has to wait for us.
    if os.fork():
        os._exit(0)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    directory = options.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "supervisor.lock").open("a") as lock:
        if not _lock(lock.fileno()):
            ready.say(f"another supervisor has {directory}")
            return 1
        _raise_file_limit()
        _watch_children_without_threads()
        gc.freeze()
        try:
            asyncio.run(serve(directory, ready.say))
        except Exception as error:  # noqa: BLE001 - whoever started us has to be told
            _log.exception("the supervisor ends")
            ready.say(f"{type(error).__name__}: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
