"""A small SSH server for tests: asyncssh in a thread, real bash in a directory of its own.

It does what sshd does (exec, exit codes, signals, half-closed input), can refuse, stall and cut
connections, and keeps count. A cut connection kills nothing by itself, as with sshd; with
``harsh`` it kills the command's process group, so that whatever survives was really detached.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh

from slipway.remote.base import Endpoint

CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")


class _Session(asyncssh.SSHServerSession):
    """One command."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._chan: Any = None
        self._process: asyncio.subprocess.Process | None = None
        self._command = ""
        self._input: list[bytes | None] = []
        self._lost = False

    def connection_made(self, chan: Any) -> None:
        self._chan = chan

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def session_started(self) -> None:
        self._server.commands.append(self._command)
        task = asyncio.get_running_loop().create_task(self._run())
        self._server.tasks.add(task)
        task.add_done_callback(self._server.tasks.discard)

    async def _run(self) -> None:
        process = await asyncio.create_subprocess_exec(
            self._server.shell,
            "-c",
            self._command,
            cwd=self._server.home,
            env=self._server.env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._process = process
        self._server.processes.add(process)
        if self._lost:
            self._hang_up()
        for data in self._input:
            self._feed(data)
        await asyncio.gather(self._pump(process.stdout, 0), self._pump(process.stderr, 1))
        code = await process.wait()
        self._server.processes.discard(process)
        if self._lost:
            return
        self._chan.write_eof()
        if code < 0:
            self._chan.exit_with_signal(signal.Signals(-code).name[3:])
        else:
            self._chan.exit(code)

    async def _pump(self, reader: asyncio.StreamReader | None, kind: int) -> None:
        assert reader is not None
        # Small pieces where the place of a cut matters.
        size = 65536 if self._server.cut_after_sent is None else 1024
        while data := await reader.read(size):
            with contextlib.suppress(OSError, asyncssh.Error):
                self._chan.write(data, asyncssh.EXTENDED_DATA_STDERR if kind else None)
                self._server.sent(self._chan.get_connection(), len(data) if not kind else 0)

    def _feed(self, data: bytes | None) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            if data is None:
                self._process.stdin.close()
            else:
                self._process.stdin.write(data)

    def data_received(self, data: bytes, datatype: Any) -> None:  # noqa: ARG002 (asyncssh's)
        self._server.received(self._chan.get_connection(), len(data))
        if self._process is None:
            self._input.append(data)
        else:
            self._feed(data)

    def eof_received(self) -> bool:
        if self._process is None:
            self._input.append(None)
        else:
            self._feed(None)
        return True

    def signal_received(self, signame: str) -> None:
        self._kill(getattr(signal, f"SIG{signame}"))

    def _kill(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncssh's)
        self._lost = True
        if self._process is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        """What the end of an sshd session means for its command: its pipes are closed."""
        if self._server.harsh:
            self._kill(signal.SIGKILL)
        transport = self._process._transport  # type: ignore[union-attr]
        for descriptor in (0, 1, 2):
            pipe = transport.get_pipe_transport(descriptor)
            if pipe is not None:
                pipe.close()


class _Server(asyncssh.SSHServer):
    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._conn: Any = None

    def connection_made(self, conn: Any) -> None:
        self._conn = conn
        self._server.connections.add(conn)
        self._server.count += 1
        self._server.most_at_once = max(self._server.most_at_once, len(self._server.connections))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncssh's)
        self._server.connections.discard(self._conn)

    def session_requested(self) -> Any:
        return _Session(self._server)


@dataclass
class SshServer:
    """A running server. Attributes may be changed between connections."""

    root: Path
    shell: str = "/bin/bash"
    harsh: bool = False
    #: Cut the connection once this many bytes of standard output were sent (None: never).
    cut_after_sent: int | None = None
    #: Cut the connection once this many bytes of standard input came in (None: never).
    cut_after_received: int | None = None
    env: dict[str, str] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    connections: set[Any] = field(default_factory=set)
    count: int = 0
    most_at_once: int = 0
    tasks: set[Any] = field(default_factory=set)
    processes: set[Any] = field(default_factory=set)
    port: int = 0
    host_key: str = ""
    authorized: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = self.root / "home"
        self.home.mkdir(parents=True)
        self.key_file = self.root / "client_key"
        CLIENT_KEY.write_private_key(str(self.key_file))
        self.key_file.chmod(0o600)
        self.env = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "SLIPWAY_ROOT": str(self.root),
            "LANG": "C.UTF-8",
            **self.env,
        }
        boot_id = self.root / "proc/sys/kernel/random/boot_id"
        boot_id.parent.mkdir(parents=True)
        boot_id.write_text("boot-1\n")
        self.loop = asyncio.new_event_loop()
        self._sent: dict[Any, int] = {}
        self._received: dict[Any, int] = {}

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(
            host="127.0.0.1",
            port=self.port,
            user="tester",
            key_file=self.key_file,
            host_key=self.host_key,
        )

    def run_dir(self, run_id: str) -> Path:
        return self.root / "var/lib/slipway/runs" / run_id

    def reboot_id(self, value: str) -> None:
        """Give the machine another boot id."""
        (self.root / "proc/sys/kernel/random/boot_id").write_text(value + "\n")

    def sent(self, conn: Any, count: int) -> None:
        self._sent[conn] = self._sent.get(conn, 0) + count
        if self.cut_after_sent is not None and self._sent[conn] >= self.cut_after_sent:
            conn.abort()

    def received(self, conn: Any, count: int) -> None:
        self._received[conn] = self._received.get(conn, 0) + count
        if self.cut_after_received is not None and self._received[conn] >= self.cut_after_received:
            conn.abort()

    def cut(self) -> None:
        """Cut every connection now, without a goodbye."""

        def abort() -> None:
            for conn in list(self.connections):
                conn.abort()

        self.call(abort)

    def call(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            try:
                function()
            finally:
                done.set()

        self.loop.call_soon_threadsafe(run)
        assert done.wait(20)

    async def listen(self) -> None:
        key = asyncssh.generate_private_key("ssh-ed25519")
        public = " ".join(key.export_public_key().decode().split()[:2])
        self.host_key = public
        self._listener = await asyncssh.create_server(
            lambda: _Server(self),
            "127.0.0.1",
            self.port,
            server_host_keys=[key],
            authorized_client_keys=asyncssh.import_authorized_keys(
                "\n".join(self.authorized) or CLIENT_KEY.export_public_key().decode()
            ),
            encoding=None,
            password_auth=False,
            kbdint_auth=False,
            gss_host=None,
            line_editor=False,
            reuse_address=True,
            backlog=300,
        )
        self.port = self._listener.get_port()

    async def unlisten(self) -> None:
        self._listener.close()
        for conn in list(self.connections):
            conn.abort()
        await self._listener.wait_closed()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await asyncio.gather(*self.tasks)


@contextlib.contextmanager
def running(root: Path, **options: Any) -> Iterator[SshServer]:
    """A server for the time of the block; everything it started is killed at the end."""
    server = SshServer(root, **options)
    thread = threading.Thread(target=server.loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.listen(), server.loop).result(20)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.unlisten(), server.loop).result(20)
        server.loop.call_soon_threadsafe(server.loop.stop)
        thread.join(20)
        server.loop.close()
        kill_everything_of(root)


def kill_everything_of(root: Path) -> None:
    """Kill the processes whose environment says they belong to this machine."""
    import psutil

    for process in psutil.process_iter(["pid"]):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLIPWAY_ROOT") == str(root):
                process.kill()
