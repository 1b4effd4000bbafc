"""The SSH side of a stand-in machine: login, sessions, file transfer."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import asyncssh

from slipway.clouds.local.faults import FOR_EVER, Faults

BASH = "/bin/bash"

_CHUNK_BYTES = 65536

# The first terminal a session leader opens becomes its controlling terminal.
_ON_TERMINAL = ("/bin/sh", "-c", 'exec 0<>"$1" 1>&0 2>&0; shift; exec "$@"', "sh")


class Guest(Protocol):
    """What the SSH server needs to know of its machine."""

    root: Path
    home: Path
    faults: Faults
    drops: Drops

    def accepts(self, user: str, key: asyncssh.SSHKey) -> bool:
        """Whether this key opens this account now."""

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection was opened."""

    def disconnected(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection is gone."""

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str],
    ) -> asyncio.subprocess.Process:
        """Start a process on the machine, in a session of its own. Raises OSError."""


class Drops:
    """Decides when a connection of one machine breaks."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._left = faults.drops
        self._execs = 0

    def _take(self) -> bool:
        if self._left > 0:
            self._left -= 1
            return True
        return self._left == FOR_EVER

    def after_s(self) -> float | None:
        """When the connection that opens now will break."""
        planned = self._faults.drop_after_s is not None and self._take()
        return self._faults.drop_after_s if planned else None

    def at_exec(self) -> bool:
        """Whether the connection breaks under the command that starts now."""
        self._execs += 1
        nth = self._faults.drop_on_exec
        return nth is not None and self._execs >= nth and self._take()

    def at_bytes(self, sent_bytes: int) -> bool:
        """Whether the connection breaks, now that it has carried so much output."""
        limit = self._faults.drop_after_bytes
        return limit is not None and sent_bytes >= limit and self._take()


async def listen(guest: Guest, host: str, port: int, host_key: Path) -> asyncssh.SSHAcceptor:
    """Serve the machine on this address. Raises OSError when it is taken."""

    async def start_session(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await _Session(guest, process).run()

    return await asyncssh.listen(
        host,
        port,
        server_factory=lambda: _Login(guest),
        server_host_keys=[str(host_key)],
        process_factory=start_session,
        sftp_factory=lambda channel: _Files(channel, guest),
        allow_scp=True,
        encoding=None,
        line_editor=False,
        gss_host=None,
        login_timeout=30,
        backlog=128,
        reuse_address=True,
        server_version="OpenSSH_9.2p1 slipway-local",
    )


class _Login(asyncssh.SSHServer):
    """One connection, until it is logged in."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._connection: asyncssh.SSHServerConnection | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._guest.connected(conn)
        after_s = self._guest.drops.after_s()
        if after_s is not None:
            asyncio.get_running_loop().call_later(after_s, conn.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._connection is not None:
            self._guest.disconnected(self._connection)

    def begin_auth(self, username: str) -> bool:
        del username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self._guest.accepts(username, key)


class _Files(asyncssh.SFTPServer):
    """Files of the machine, and of nothing else.

    Relative paths start in the home directory: asyncssh starts them in its own process's
    directory. Absolute ones start in the machine's directory, unless they are in it already, as
    they are when a script on the machine has printed them.
    """

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], guest: Guest) -> None:
        super().__init__(channel)
        self._root = os.fsencode(guest.root)
        self._home = os.fsencode(guest.home)

    def _contains(self, path: bytes) -> bool:
        return path == self._root or path.startswith(self._root + b"/")

    def map_path(self, path: bytes) -> bytes:
        """The file on this computer. Raises SFTPPermissionDenied when a link leads outside."""
        mapped = os.path.normpath(os.path.join(self._home, path))  # noqa: PTH118 - bytes
        if not self._contains(mapped):
            mapped = os.path.normpath(self._root + b"/" + mapped.lstrip(b"/"))
        if not self._contains(os.path.realpath(mapped)):
            raise asyncssh.SFTPPermissionDenied("the path leads out of the machine")
        return mapped

    def reverse_map_path(self, path: bytes) -> bytes:
        """Scripts on the machine see the same paths."""
        return path


async def _all(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


class _Session:
    """One command or shell."""

    def __init__(self, guest: Guest, process: asyncssh.SSHServerProcess[bytes]) -> None:
        self._guest = guest
        self._client = process
        self._child: asyncio.subprocess.Process | None = None
        self._sent_bytes = 0
        self._terminal: int | None = None

    async def run(self) -> None:
        if self._guest.faults.ssh_delay_s:
            await asyncio.sleep(self._guest.faults.ssh_delay_s)
        try:
            if self._client.term_type:
                await self._run_on_terminal()
            else:
                await self._run_on_pipes()
        except asyncssh.Error:
            # The client went away; what it started goes on, as under a real sshd.
            return
        except OSError as error:
            if not self._client.is_closing():
                self._client.stderr.write(f"slipway-local: {error.strerror or error}\n".encode())
                self._client.exit(255)

    def _argv(self) -> list[str]:
        command = self._client.command
        return [BASH, "-c", command] if command is not None else [BASH, "-l"]

    def _environment(self) -> dict[str, str]:
        # What `AcceptEnv LANG LC_*` of Debian's sshd lets through.
        wanted = {
            name: value
            for name, value in self._client.env.items()
            if name == "LANG" or name.startswith("LC_")
        }
        if self._client.term_type:
            wanted["TERM"] = self._client.term_type
        return wanted

    async def _run_on_pipes(self) -> None:
        child_stdin, stdin = os.pipe()
        stdout, child_stdout = os.pipe()
        stderr, child_stderr = os.pipe()
        try:
            self._child = await self._guest.spawn(
                self._argv(),
                stdin=child_stdin,
                stdout=child_stdout,
                stderr=child_stderr,
                environment=self._environment(),
            )
        except BaseException:
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
            raise
        finally:
            for descriptor in (child_stdin, child_stdout, child_stderr):
                os.close(descriptor)
        await self._serve(stdin, [(stdout, self._client.stdout), (stderr, self._client.stderr)])

    async def _run_on_terminal(self) -> None:
        terminal, child_side = os.openpty()
        self._terminal = terminal
        width, height, *_ = self._client.term_size
        self._resize(width, height)
        try:
            self._child = await self._guest.spawn(
                [*_ON_TERMINAL, os.ttyname(child_side), *self._argv()],
                stdin=child_side,
                stdout=child_side,
                stderr=child_side,
                environment=self._environment(),
            )
        except BaseException:
            os.close(terminal)
            raise
        finally:
            os.close(child_side)
        await self._serve(os.dup(terminal), [(terminal, self._client.stdout)])

    async def _serve(
        self, stdin: int, outputs: Sequence[tuple[int, asyncssh.SSHWriter[bytes]]]
    ) -> None:
        """Carry bytes both ways until the outputs end, then tell how the process ended."""
        child = self._child
        assert child is not None
        if self._guest.drops.at_exec():
            self._abort()
        loop = asyncio.get_running_loop()
        read_ends: list[asyncio.ReadTransport] = []
        pumps: list[asyncio.Task[None]] = []
        for descriptor, writer in outputs:
            reader = asyncio.StreamReader()
            read_end, _ = await loop.connect_read_pipe(
                partial(asyncio.StreamReaderProtocol, reader), os.fdopen(descriptor, "rb", 0)
            )
            read_ends.append(read_end)
            pumps.append(asyncio.create_task(self._pump_output(reader, writer)))
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        write_end, _ = await loop.connect_write_pipe(lambda: protocol, os.fdopen(stdin, "wb", 0))
        to_child = asyncio.StreamWriter(write_end, protocol, None, loop)
        feeding = asyncio.create_task(self._pump_input(to_child))
        gone = asyncio.create_task(self._client.wait_closed())
        output = asyncio.create_task(_all(pumps))
        try:
            await asyncio.wait({output, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                output.result()
                code = await child.wait()
                if code < 0:
                    self._client.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
                else:
                    self._client.exit(code)
        finally:
            # Closed ends are what a process notices of a lost connection: SIGPIPE, end of input,
            # and on a terminal SIGHUP.
            if not write_end.is_closing() or write_end.get_write_buffer_size():
                write_end.abort()
            for read_end in read_ends:
                read_end.close()
            for task in (feeding, gone, output, *pumps):
                task.cancel()
            await asyncio.gather(feeding, gone, output, *pumps, return_exceptions=True)

    async def _pump_output(
        self, reader: asyncio.StreamReader, writer: asyncssh.SSHWriter[bytes]
    ) -> None:
        while True:
            try:
                chunk = await reader.read(_CHUNK_BYTES)
            except OSError as error:
                # Linux says EIO at the end of a terminal, where a pipe has an end of file.
                if error.errno != errno.EIO:
                    raise
                return
            if not chunk:
                return
            writer.write(chunk)
            await writer.drain()
            self._sent_bytes += len(chunk)
            if self._guest.drops.at_bytes(self._sent_bytes):
                self._abort()
                # One broken connection counts once.
                return

    async def _pump_input(self, to_child: asyncio.StreamWriter) -> None:
        while True:
            try:
                chunk = await self._client.stdin.read(_CHUNK_BYTES)
            except asyncssh.TerminalSizeChanged as change:
                self._resize(change.width, change.height)
                continue
            except asyncssh.SignalReceived as received:
                self._signal(received.signal)
                continue
            except asyncssh.BreakReceived:
                self._signal("INT")
                continue
            if not chunk:
                break
            try:
                to_child.write(chunk)
                await to_child.drain()
            except OSError:
                # The process does not read its input; its exit code says what that means.
                return
        if self._terminal is None:
            to_child.close()

    def _resize(self, width: int, height: int) -> None:
        if self._terminal is not None:
            size = struct.pack("HHHH", height or 24, width or 80, 0, 0)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    def _signal(self, name: str) -> None:
        number = getattr(signal, f"SIG{name}", None)
        if self._child is not None and number is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)

    def _abort(self) -> None:
        self._client.channel.get_connection().abort()
