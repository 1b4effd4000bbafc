"""SSH: fabric behind the `Remote` port.

fabric's ``Connection`` opens the connection and its channels. Its ``run()`` is not used: the runner
behind it starts two threads per command and polls each command 100 times a second, and reports -1
both for a signal and for a lost connection. Here the calling thread itself waits on the channel,
without polling, and the two endings are told apart.

Measured on two busy cores: connecting, logging in, one command and closing cost 8 ms of CPU on our
side (200 at 32 at a time: 2 s); 50 idle connections wake up 25 times a second (fabric alone: 700).
The key exchange makes no difference that shows, so paramiko's own order of those stays.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import selectors
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, cast

import fabric
import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST
from paramiko.config import SSHConfig
from paramiko.message import Message
from paramiko.pkey import UnknownKeyType

from slipway.clock import Clock
from slipway.errors import (
    AuthenticationFailed,
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    HostKeyMismatch,
    InvalidInput,
    NotFound,
    Problem,
    RemoteError,
)
from slipway.remote.base import (
    Command,
    Connector,
    Conversation,
    Endpoint,
    OnOutput,
    Remote,
    Result,
    RoundTrip,
    time_round_trips,
)
from slipway.remote.files import NO_SUCH_FILE, reading, writing

#: `Result.exit_code` of a command that a signal ended.
SIGNALLED = -1

#: How much output stays in `Result.stdout` when ``on_stdout`` has had all of it.
_TAIL_BYTES = 64 * 1024

_CHUNK_BYTES = 64 * 1024

#: How long an idle transport thread sleeps before it looks whether it was told to end. paramiko's
#: own 0.1 s costs 14 wake-ups a second and connection; closing wakes the thread at once (`_close`).
_TRANSPORT_WAKE_UP_S = 2.0

#: Preferred where the server has them, the rest stays as a fallback: they need no separate MAC, so
#: 10 MB of output cost 60 ms of CPU instead of 99.
_FIRST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")

#: paramiko logs each failure with a traceback before it raises it; what is raised is enough.
_WIRE_LOG = "slipway.remote.ssh.wire"
logging.getLogger(_WIRE_LOG).setLevel(logging.CRITICAL)

_CONSOLE_KEYS = re.compile(
    r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL
)
_HOST_KEY = re.compile(r"(?:ssh-[a-z0-9-]+|ecdsa-sha2-nistp\d+) [A-Za-z0-9+/]+=*")


def host_keys_in(console: str) -> list[str]:
    """The host keys cloud-init printed on the console, ``ssh-ed25519 AAAA…`` each, ed25519 first.

    Only the last complete block counts: cloud-init makes new keys on a first boot, so an older
    block (of the image's own build) names keys that are gone. Empty when there is no block.
    """
    blocks = _CONSOLE_KEYS.findall(console)
    keys = _HOST_KEY.findall(blocks[-1]) if blocks else []
    return sorted(keys, key=lambda key: not key.startswith("ssh-ed25519 "))


def _parse_host_key(text: str) -> paramiko.PKey:
    """The key in ``ssh-ed25519 AAAA… [comment]``."""
    try:
        kind, encoded = text.split()[:2]
        return paramiko.PKey.from_type_string(kind, base64.b64decode(encoded, validate=True))
    except (paramiko.SSHException, UnknownKeyType, TypeError, ValueError, struct.error) as error:
        what = f"{text[:60]!r} is not a public host key; it looks like 'ssh-ed25519 AAAA…'"
        raise InvalidInput(Problem(where="host key", what=what)) from error


class _Keys:
    """Private keys by file, read once for as long as the file stays the same."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[Path, tuple[tuple[int, int], paramiko.PKey]] = {}

    def get(self, path: Path) -> paramiko.PKey:
        """The key; raises `InvalidInput` when the file is not a usable private key."""
        try:
            stat = path.stat()
            version = (stat.st_mtime_ns, stat.st_size)
            with self._lock:
                known = self._keys.get(path)
            if known is not None and known[0] == version:
                return known[1]
            key = paramiko.PKey.from_path(path)
        except OSError as error:
            what = f"cannot be read: {error.strerror}"
            raise InvalidInput(Problem(where=f"SSH key {path}", what=what)) from error
        except (paramiko.SSHException, UnknownKeyType, TypeError, ValueError) as error:
            what = "is not a private key without passphrase in OpenSSH or PEM form"
            raise InvalidInput(Problem(where=f"SSH key {path}", what=what)) from error
        with self._lock:
            self._keys[path] = (version, key)
        return key


def _transport(sock: socket.socket, **options: object) -> paramiko.Transport:
    """A transport that prefers what is cheap; paramiko's hook for exactly this."""
    transport = paramiko.Transport(sock, **options)  # type: ignore[arg-type]
    transport.set_log_channel(_WIRE_LOG)
    security = transport.get_security_options()
    security.ciphers = _first(_FIRST_CIPHERS, security.ciphers)
    return transport


def _first(wanted: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(name for name in wanted if name in known)
    return chosen + tuple(name for name in known if name not in chosen)


def _open_socket(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    sock = socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel notices a server that is gone without a word (a hard reboot) after about 45 s;
    # that costs us no thread and no wake-up.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)
    for option, value in (
        (idle, 15),
        (getattr(socket, "TCP_KEEPINTVL", None), 10),
        (getattr(socket, "TCP_KEEPCNT", None), 3),
        (getattr(socket, "TCP_USER_TIMEOUT", None), 45_000),
    ):
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


class SshConnector:
    """Opens SSH connections, never more than ``max_connections`` at once.

    Make one per process: the limit is what keeps a thousand launches from a thousand threads
    and handshakes (1,000 at once: 124 errors and 136 CPU seconds; 50 at a time: none and 30).
    """

    def __init__(self, max_connections: int) -> None:
        self._slots = threading.BoundedSemaphore(max_connections)
        self._keys = _Keys()

    def connect(self, endpoint: Endpoint, *, timeout_s: float) -> Remote:
        """Connect, log in, check the host key.

        Waiting for a free connection slot does not count against ``timeout_s``. Raises
        `ConnectionFailed`, `AuthenticationFailed`, `HostKeyMismatch`, or `InvalidInput` for a key
        that cannot be used.
        """
        key = self._keys.get(endpoint.key_file)
        pinned = _parse_host_key(endpoint.host_key) if endpoint.host_key else None
        self._slots.acquire()
        try:
            connection = self._open(endpoint, key, pinned, timeout_s)
            return _SshRemote(endpoint, connection, self._slots.release)
        except BaseException:
            self._slots.release()
            raise

    def _open(
        self,
        endpoint: Endpoint,
        key: paramiko.PKey,
        pinned: paramiko.PKey | None,
        timeout_s: float,
    ) -> fabric.Connection:
        where = f"{endpoint.user}@{endpoint.host}:{endpoint.port}"
        deadline = time.monotonic() + timeout_s
        try:
            sock = _open_socket(endpoint, timeout_s)
        except OSError as error:
            raise ConnectionFailed(f"{where}: no connection: {_words(error)}") from error
        left_s = max(0.1, deadline - time.monotonic())
        connection = fabric.Connection(
            endpoint.host,
            user=endpoint.user,
            port=endpoint.port,
            # An empty one: the user's own ~/.ssh/config must not decide about servers. One for
            # each: fabric writes into it, and for a moment then there is no value in it at all.
            config=fabric.Config(ssh_config=SSHConfig(), lazy=True),
            forward_agent=False,
            connect_kwargs={
                "sock": sock,
                "pkey": key,
                "allow_agent": False,
                "look_for_keys": False,
                "timeout": left_s,
                "banner_timeout": left_s,
                "auth_timeout": left_s,
                "channel_timeout": left_s,
                "transport_factory": _transport,
            },
        )
        if pinned is not None:
            name = endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"
            connection.client.get_host_keys().add(name, pinned.get_name(), pinned)
        try:
            connection.open()
        except Exception as error:
            active = connection.client.get_transport() is not None and (
                connection.client.get_transport().is_active()
            )
            connection.client.close()
            sock.close()
            translated = _translate_connect(error, where, transport_active=active)
            if translated is None:
                raise
            raise translated from error
        sock.settimeout(_TRANSPORT_WAKE_UP_S)
        return connection


def _words(error: BaseException) -> str:
    """A foreign error in words, also when it has none of its own."""
    return str(error) or type(error).__name__


def _translate_connect(
    error: Exception, where: str, *, transport_active: bool
) -> RemoteError | None:
    """What a failure to connect means; None for one we do not know (a bug, then)."""
    if isinstance(error, paramiko.BadHostKeyException):
        return HostKeyMismatch(
            f"{where}: the server shows host key {_public(error.key)}, pinned is "
            f"{_public(error.expected_key)}; it is another server, or was rebuilt: "
            "check its console, then pin the new key"
        )
    if isinstance(error, paramiko.AuthenticationException):
        # paramiko calls a connection that broke during the login, and a login that got no
        # answer, an authentication error too.
        if not transport_active or "timeout" in str(error).lower():
            return ConnectionFailed(f"{where}: the connection broke during login")
        return AuthenticationFailed(
            f"{where}: the server refused our key; the account or its authorized_keys is "
            "not there (yet), or holds another key"
        )
    if isinstance(error, paramiko.SSHException | OSError | EOFError):
        return ConnectionFailed(f"{where}: no SSH session: {_words(error)}")
    return None


def _public(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def _close(connection: fabric.Connection) -> None:
    """Close, and wake the transport thread so that it ends now and not at its next look."""
    transport = connection.client.get_transport()
    if transport is not None:
        # The other side may have closed it first.
        with contextlib.suppress(OSError):
            transport.sock.shutdown(socket.SHUT_RDWR)
    connection.client.close()


class _SendsMessages(Protocol):
    """What paramiko has no public name for."""

    def _send_user_message(self, data: Message) -> None: ...


class _Stream:
    """One channel with a running command: bytes in, bytes out, without extra threads."""

    def __init__(self, connection: fabric.Connection, text: str, where: str) -> None:
        self._where = where
        self._connection = connection
        try:
            self._channel = cast(paramiko.Channel, connection.create_session())
            self._channel.exec_command(text.encode())
            self._channel.settimeout(0.0)
            # Reading readiness only; a PollSelector because select() stops at descriptor 1023.
            self._selector = selectors.PollSelector()
            self._selector.register(self._channel.fileno(), selectors.EVENT_READ)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException | None = None) -> ConnectionLost:
        why = f": {_words(error)}" if error is not None else ""
        return ConnectionLost(f"{self._where}: the connection broke{why}")

    def send(self, data: memoryview) -> int:
        """Send what fits now; returns how many bytes that was."""
        try:
            return self._channel.send(data[:_CHUNK_BYTES].tobytes()) if data else 0
        except TimeoutError:
            return 0
        except (paramiko.SSHException, OSError, EOFError) as error:
            if self.ended:
                return 0
            raise self._lost(error) from error

    def end_input(self) -> None:
        # A server that has closed the channel already needs no end of input.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.shutdown_write()

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to read, or the time is over."""
        self._selector.select(max(0.0, timeout_s))

    def receive(self) -> bytes:
        return self._channel.recv(_CHUNK_BYTES) if self._channel.recv_ready() else b""

    def receive_error(self) -> bytes:
        return self._channel.recv_stderr(_CHUNK_BYTES) if self._channel.recv_stderr_ready() else b""

    @property
    def ended(self) -> bool:
        """No more output will come."""
        return bool(self._channel.eof_received or self._channel.closed)

    def exit_code(self, timeout_s: float) -> int | None:
        """What the command ended with, None when that does not come in time. Raises
        `ConnectionLost` when the connection ended before the command."""
        if not self._channel.status_event.wait(max(0.0, timeout_s)):
            return None
        if self._channel.exit_status != -1:
            return self._channel.exit_status
        # No exit status: a signal ended the command, or the connection broke. A server that
        # lived to see the signal has sent end-of-file and keeps the connection open; a
        # broken connection ends the transport's thread, which may take it a moment.
        transport = self._channel.get_transport()
        if self._channel.eof_received:
            transport.join(0.2)
            if transport.is_active():
                return SIGNALLED
        raise self._lost(transport.get_exception())

    def kill(self) -> None:
        """Ask the server to kill the command's process group (RFC 4254 6.9; OpenSSH does it)."""
        request = Message()
        request.add_byte(cMSG_CHANNEL_REQUEST)
        request.add_int(self._channel.remote_chanid)
        request.add_string("signal")
        request.add_boolean(False)
        request.add_string("KILL")
        # The connection may be what broke; then there is nobody to ask.
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            transport = cast(_SendsMessages, self._channel.get_transport())
            transport._send_user_message(request)

    def close(self) -> None:
        self._selector.close()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()


class _SshConversation:
    """`Conversation` over one channel."""

    def __init__(self, stream: _Stream, command: str, where: str) -> None:
        self._stream = stream
        self._command = command
        self._where = where
        self._buffer = b""

    def send_line(self, line: str) -> None:
        data = memoryview(line.encode() + b"\n")
        while data:
            sent = self._stream.send(data)
            data = data[sent:]
            if not sent:
                if self._stream.ended:
                    raise ConnectionLost(f"{self._where}: {self._command!r} has ended")
                self._stream.wait(0.02)

    def read_line(self, *, timeout_s: float) -> str:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            data = self._stream.receive()
            # What it says on standard error is no answer, but must not block it either.
            complaint = self._stream.receive_error()
            self._buffer += data
            if data or complaint:
                continue
            if self._stream.ended:
                raise ConnectionLost(f"{self._where}: {self._command!r} has ended")
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise CommandTimedOut(f"{self._where}: no answer within {timeout_s:g} s")
            self._stream.wait(left_s)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def round_trips(
        self, line: str, count: int, *, clock: Clock, timeout_s: float
    ) -> list[RoundTrip]:
        return time_round_trips(self, line, count, clock=clock, timeout_s=timeout_s)


class _SshRemote:
    """An open connection; made by `SshConnector`."""

    def __init__(
        self, endpoint: Endpoint, connection: fabric.Connection, release: Callable[[], None]
    ) -> None:
        self._where = f"{endpoint.user}@{endpoint.host}:{endpoint.port}"
        self._connection = connection
        self._host_key = _public(connection.transport.get_remote_server_key())
        # Runs once, by close() or when somebody forgot to: a slot never leaks.
        self._finish = weakref.finalize(self, _finish, connection, release)

    @property
    def host_key(self) -> str:
        return self._host_key

    def run(self, command: Command, *, on_stdout: OnOutput | None = None) -> Result:
        started = time.monotonic()
        code, out, err = self._run(command, on_stdout)
        return Result(
            exit_code=code,
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
            duration_s=time.monotonic() - started,
        )

    def _run(self, command: Command, on_stdout: OnOutput | None) -> tuple[int, bytes, bytes]:
        deadline = time.monotonic() + command.timeout_s
        out = bytearray()
        err = bytearray()
        stream = self._start(command.text)
        try:
            unsent = memoryview(command.stdin)
            input_open = True
            while True:
                if input_open:
                    unsent = unsent[stream.send(unsent) :]
                    if not unsent:
                        stream.end_input()
                        input_open = False
                ended = stream.ended  # before reading: what came before the end is not missed
                data = stream.receive()
                if data:
                    out += data
                    if on_stdout is not None:
                        on_stdout(data)
                        del out[:-_TAIL_BYTES]
                complaint = stream.receive_error()
                err += complaint
                if data or complaint:
                    continue
                left_s = deadline - time.monotonic()
                if ended:
                    code = stream.exit_code(left_s)
                    if code is not None:
                        return code, bytes(out), bytes(err)
                if left_s <= 0 or ended:
                    stream.kill()
                    raise CommandTimedOut(
                        f"{self._where}: {_short(command.text)} did not end within "
                        f"{command.timeout_s:g} s and was killed"
                    )
                # paramiko tells when there is something to read, not when there is room to
                # send: only while input is waiting do we look again without being woken.
                stream.wait(min(left_s, 0.02) if input_open else left_s)
        finally:
            stream.close()

    def _start(self, text: str) -> _Stream:
        if not self._finish.alive:
            raise ConnectionLost(f"{self._where}: the connection is closed")
        if not self._connection.is_connected:
            # fabric would quietly open a new connection, to a server nobody has checked.
            raise ConnectionLost(f"{self._where}: the connection broke")
        return _Stream(self._connection, text, self._where)

    @contextlib.contextmanager
    def converse(self, command: str) -> Iterator[Conversation]:
        stream = self._start(command)
        try:
            yield _SshConversation(stream, command, self._where)
        finally:
            stream.end_input()
            stream.close()

    def put(self, content: bytes, path: str, *, mode: int = 0o600) -> None:
        # One channel instead of sftp's seven round trips.
        result = self.run(writing(content, path, mode=mode))
        if result.exit_code != 0:
            why = result.stderr.strip() or "no reason given"
            raise RemoteError(f"{self._where}: {path} could not be written: {why}")

    def get(self, path: str) -> bytes:
        code, out, err = self._run(reading(path), None)
        if code == NO_SUCH_FILE:
            raise NotFound(f"{self._where}: there is no file {path}")
        if code != 0:
            why = err.decode(errors="replace").strip() or "no reason given"
            raise RemoteError(f"{self._where}: {path} could not be read: {why}")
        return out

    def close(self) -> None:
        self._finish()


def _finish(connection: fabric.Connection, release: Callable[[], None]) -> None:
    try:
        _close(connection)
    finally:
        release()


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return repr(line if len(line) <= 80 else line[:77] + "…")


_: type[Connector] = SshConnector
_remote: type[Remote] = _SshRemote
