"""SSH against a real server: what crosses, what each failure is called, what is kept closed."""

from __future__ import annotations

import dataclasses
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import asyncssh
import fabric
import paramiko
import psutil
import pytest

from slipway.errors import (
    AuthenticationFailed,
    CommandTimedOut,
    ConnectionFailed,
    ConnectionLost,
    HostKeyMismatch,
    InvalidInput,
    NotFound,
    RemoteError,
)
from slipway.remote import ssh
from slipway.remote.base import Command, Endpoint, Remote
from slipway.remote.ssh import SIGNALLED, SshConnector, host_keys_in
from tests.remote.waiting import until
from tests.ssh_server import SshServer

Connect = Callable[[], Remote]


def test_exit_code_and_both_outputs_come_back(connect: Connect) -> None:
    """A command's exit code, standard output, standard error and input all cross."""
    text = "cat; echo problem >&2; exit 3"
    result = connect().run(Command(text=text, timeout_s=20, stdin=b"in\xff"))
    assert (result.exit_code, result.stdout, result.stderr) == (3, "in�", "problem\n")


def test_large_input_and_output_cross_together(connect: Connect) -> None:
    """Input beyond the channel's window does not dead-lock with output nobody has read yet."""
    data = bytes(range(256)) * 20_000
    got: list[bytes] = []
    result = connect().run(Command(text="cat", timeout_s=60, stdin=data), on_stdout=got.append)
    assert b"".join(got) == data
    assert len(result.stdout) <= 64 * 1024


def test_output_is_streamed_while_the_command_runs(connect: Connect, tmp_path: Path) -> None:
    """Output arrives before the command ends: the command waits for what its output triggers."""
    flag = tmp_path / "flag"

    def on_stdout(data: bytes) -> None:
        assert data == b"ready\n"
        flag.touch()

    text = f"echo ready; while [ ! -e {flag} ]; do sleep 0.01; done"
    assert connect().run(Command(text=text, timeout_s=30), on_stdout=on_stdout).exit_code == 0


def test_a_signal_is_not_a_lost_connection(connect: Connect) -> None:
    """A command ended by a signal is a result, not ConnectionLost."""
    assert connect().run(Command(text="kill -9 $$", timeout_s=20)).exit_code == SIGNALLED


@pytest.mark.parametrize("text", ["echo begun; sleep 600", "sleep 600"])
def test_a_cut_connection_is_connection_lost(
    connect: Connect, server: SshServer, text: str
) -> None:
    """A connection cut while a command runs raises ConnectionLost, whatever was received before."""
    remote = connect()
    cutter = threading.Thread(
        target=lambda: (until(lambda: server.commands, "the command"), server.cut())
    )
    cutter.start()
    with pytest.raises(ConnectionLost):
        remote.run(Command(text=text, timeout_s=60))
    cutter.join()
    with pytest.raises(ConnectionLost):
        remote.run(Command(text="true", timeout_s=5))
    assert server.count == 1, "a lost connection must not be replaced behind our back"


def test_timeout_kills_the_process_group(connect: Connect, server: SshServer) -> None:
    """A command that runs out of time is killed with its children, and the connection lives on."""
    remote = connect()
    with pytest.raises(CommandTimedOut, match="did not end within"):
        remote.run(Command(text="sleep 61.7 & sleep 61.7", timeout_s=0.3))

    def sleepers() -> list[psutil.Process]:
        return [
            process
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["cmdline"] == ["sleep", "61.7"]
            and process.info["status"] != psutil.STATUS_ZOMBIE
            and _root(process) == str(server.root)
        ]

    until(lambda: not sleepers(), "the children's end")
    assert remote.run(Command(text="echo on", timeout_s=20)).stdout == "on\n"


def _root(process: psutil.Process) -> str:
    try:
        return process.environ().get("SLIPWAY_ROOT", "")
    except psutil.Error:
        return ""


def test_conversation_goes_back_and_forth(connect: Connect) -> None:
    """Lines go in and out of one running command; leaving the block ends it."""
    with connect().converse('while read -r x; do echo "<$x>"; done') as talk:
        for word in ("one", "two"):
            talk.send_line(word)
            assert talk.read_line(timeout_s=20) == f"<{word}>"
        with pytest.raises(CommandTimedOut):
            talk.read_line(timeout_s=0.05)


def test_conversation_with_a_command_that_ended_is_lost(connect: Connect) -> None:
    """Reading from a command that has ended raises ConnectionLost, after its last line."""
    with connect().converse("echo last") as talk:
        assert talk.read_line(timeout_s=20) == "last"
        with pytest.raises(ConnectionLost):
            talk.read_line(timeout_s=20)


def test_files_cross_whole_with_their_mode(connect: Connect, server: SshServer) -> None:
    """put and get round-trip any bytes, and put sets the mode."""
    remote = connect()
    data = bytes(range(256)) * 1000
    remote.put(data, "it's a file", mode=0o640)
    assert remote.get("it's a file") == data
    assert (server.home / "it's a file").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in server.home.iterdir()] == ["it's a file"]
    with pytest.raises(NotFound):
        remote.get("absent")
    with pytest.raises(RemoteError, match="could not be written"):
        remote.put(b"x", "/no/such/directory/file")


def test_a_put_cut_off_leaves_the_old_file(connect: Connect, server: SshServer) -> None:
    """When the connection breaks half way through put, the file keeps its old content."""
    connect().put(b"old", "file")
    remote = connect()
    server.cut_after_received = 200_000
    with pytest.raises(ConnectionLost):
        remote.put(b"new" * 1_000_000, "file")
    until(lambda: len(list(server.home.iterdir())) == 1, "the temporary file's removal")
    assert (server.home / "file").read_bytes() == b"old"


def test_host_key_is_pinned_or_told(server: SshServer, connector: SshConnector) -> None:
    """Without a pinned key the first one is trusted and told; a pinned one must match."""
    first = connector.connect(dataclasses.replace(server.endpoint, host_key=None), timeout_s=20)
    assert first.host_key == server.host_key
    first.close()
    connector.connect(server.endpoint, timeout_s=20).close()

    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    wrong = dataclasses.replace(server.endpoint, host_key=other)
    with pytest.raises(HostKeyMismatch, match="pin the new key"):
        connector.connect(wrong, timeout_s=20)
    garbage = dataclasses.replace(server.endpoint, host_key="ssh-ed25519 nonsense")
    with pytest.raises(InvalidInput, match="not a public host key"):
        connector.connect(garbage, timeout_s=20)


def test_a_refused_key_is_authentication_failed(
    server: SshServer, connector: SshConnector, tmp_path: Path
) -> None:
    """A key the server does not know raises AuthenticationFailed, which may be retried."""
    stranger = tmp_path / "stranger"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(stranger))
    with pytest.raises(AuthenticationFailed) as caught:
        connector.connect(dataclasses.replace(server.endpoint, key_file=stranger), timeout_s=20)
    assert caught.value.retryable


@contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """A TCP port that says this and closes, or (None) says nothing and stays open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                held.append(conn)
                if answer is not None:
                    conn.sendall(answer)
                    conn.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        for conn in held:
            conn.close()


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.0 400 Bad\r\n\r\n", b"SSH-2.0-x\r\n"])
def test_no_ssh_there_is_connection_failed(
    server: SshServer, connector: SshConnector, answer: bytes | None
) -> None:
    """Silence, a hang-up, another protocol, a hang-up after the banner: ConnectionFailed."""
    with listening(answer) as port:
        endpoint = dataclasses.replace(server.endpoint, port=port)
        with pytest.raises(ConnectionFailed):
            connector.connect(endpoint, timeout_s=0.5)
    # The port is closed now.
    with pytest.raises(ConnectionFailed, match="no connection"):
        connector.connect(endpoint, timeout_s=5)


def test_an_unusable_key_file_is_named(server: SshServer, connector: SshConnector) -> None:
    """A key file that is missing, or holds no key, is refused in one sentence that names it."""
    missing = dataclasses.replace(server.endpoint, key_file=server.root / "nothing")
    with pytest.raises(InvalidInput, match="nothing: cannot be read"):
        connector.connect(missing, timeout_s=5)
    (server.root / "text").write_text("not a key\n")
    text = dataclasses.replace(server.endpoint, key_file=server.root / "text")
    with pytest.raises(InvalidInput, match="text: is not a private key"):
        connector.connect(text, timeout_s=5)


def test_key_file_is_parsed_once(
    server: SshServer, connector: SshConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many connections read the key file once; a changed file is read again."""
    reads: list[object] = []
    real = paramiko.PKey.from_path

    def from_path(path: Path) -> paramiko.PKey:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(ssh.paramiko.PKey, "from_path", from_path)
    for _ in range(3):
        connector.connect(server.endpoint, timeout_s=20).close()
    assert len(reads) == 1
    server.key_file.write_bytes(server.key_file.read_bytes() + b"\n")
    connector.connect(server.endpoint, timeout_s=20).close()
    assert len(reads) == 2


def test_connections_at_once_are_capped(server: SshServer) -> None:
    """However many threads connect, never more than the limit are open, and all get through."""
    connector = SshConnector(3)

    def work(number: int) -> str:
        remote = connector.connect(server.endpoint, timeout_s=60)
        try:
            return remote.run(Command(text=f"echo {number}", timeout_s=60)).stdout
        finally:
            remote.close()

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(work, range(24)))
    assert answers == [f"{number}\n" for number in range(24)]
    # The server may see an old connection's end a moment after a new one's beginning.
    assert server.most_at_once <= 2 * 3


def test_connections_made_at_once_do_not_disturb_each_other(
    connect: Callable[[], Remote], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While fabric writes the settings of one connection, another comes up all the same."""
    modify = fabric.Config._modify
    others: list[Remote] = []

    def interrupted(config: fabric.Config, *change: object) -> None:
        monkeypatch.setattr(fabric.Config, "_modify", modify)
        # As in the middle of it; here a second thread gets its turn.
        config._set(_config={})
        others.append(connect())
        modify(config, *change)

    monkeypatch.setattr(fabric.Config, "_modify", interrupted)
    for remote in [connect(), *others]:
        assert remote.run(Command(text="echo up", timeout_s=20)).stdout == "up\n"
    assert others, "one was made in the middle of another"


def test_failed_and_forgotten_connections_give_their_slot_back(
    server: SshServer, connector: SshConnector
) -> None:
    """With one slot: a failure, a double close and a forgotten connection leave it usable."""
    one = SshConnector(1)
    with pytest.raises(ConnectionFailed):
        one.connect(
            Endpoint(host="127.0.0.1", port=1, user="x", key_file=server.key_file), timeout_s=5
        )
    remote = one.connect(server.endpoint, timeout_s=20)
    remote.close()
    remote.close()
    remote = one.connect(server.endpoint, timeout_s=20)
    del remote
    gc.collect()
    one.connect(server.endpoint, timeout_s=20).close()


def test_no_transport_thread_outlives_its_connection(
    server: SshServer, connector: SshConnector
) -> None:
    """close() ends the connection's thread at once and not at its next look around."""
    before = set(threading.enumerate())
    remote = connector.connect(server.endpoint, timeout_s=20)
    (thread,) = (
        t for t in set(threading.enumerate()) - before if isinstance(t, paramiko.Transport)
    )
    remote.close()
    thread.join(20)
    assert not thread.is_alive()


def test_stdin_is_not_in_the_repr_of_a_command() -> None:
    """What is passed through standard input does not show when a command is logged."""
    assert "hunter2" not in repr(Command(text="cat", timeout_s=1, stdin=b"hunter2"))


CONSOLE = """
[   12.1] cloud-init: Generating public/private rsa key pair.
-----BEGIN SSH HOST KEY KEYS-----
ssh-rsa AAAAOLD= root@image
-----END SSH HOST KEY KEYS-----
<14>Nov 1 cloud-init: -----BEGIN SSH HOST KEY FINGERPRINTS-----
256 SHA256:abc root@ip (ED25519)
-----END SSH HOST KEY FINGERPRINTS-----
-----BEGIN SSH HOST KEY KEYS-----\r
<14>Nov 1 ecdsa-sha2-nistp256 AAAAE2Vj+/= root@ip-10\r
ssh-rsa AAAAB3Nz root@ip-10\r
ssh-ed25519 AAAAC3Nz root@ip-10\r
-----END SSH HOST KEY KEYS-----\r
-----BEGIN SSH HOST KEY KEYS-----
ssh-ed25519 AAAACUT
"""


@pytest.mark.parametrize(
    ("console", "keys"),
    [
        ("", []),
        ("no block here", []),
        (
            CONSOLE,
            ["ssh-ed25519 AAAAC3Nz", "ecdsa-sha2-nistp256 AAAAE2Vj+/=", "ssh-rsa AAAAB3Nz"],
        ),
    ],
)
def test_host_keys_are_read_from_the_console(console: str, keys: list[str]) -> None:
    """The last complete key block counts, ed25519 first; a block still being printed does not."""
    assert host_keys_in(console) == keys
