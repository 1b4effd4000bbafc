"""What is said of an upstream that cannot be asked: a sentence for people, whatever failed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from slipway.errors import UpstreamUnavailable
from slipway.mirrors.fetch import Upstream
from slipway.testing.fake_clock import FakeClock


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[int]:
    """A port whose connections get these bytes and are closed; with None, they get nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(4096)
                        if answer is None:
                            # Until whoever asks gives up.
                            connection.recv(4096)
                        else:
                            connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def said(url: str) -> str:
    """Of an upstream at this address."""
    upstream = Upstream((url,), FakeClock(), stall_s=0.2)
    try:
        with pytest.raises(UpstreamUnavailable) as raised:
            upstream.document("InRelease")
    finally:
        upstream.close()
    return str(raised.value).removeprefix(f"{url}/InRelease: ")


def test_nobody_listens() -> None:
    """The system's words, without those of a library."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    assert said(f"http://127.0.0.1:{port}") == "no connection: connection refused"


@pytest.mark.parametrize(
    ("scheme", "answer", "words"),
    [
        ("http", b"", "the connection broke: remote end closed connection without response"),
        (
            "http",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "the body ended 6 bytes too early",
        ),
        ("http", None, "nothing arrived any more"),
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "no connection by TLS: "),
    ],
)
def test_somebody_listens_and_does_not_answer(
    scheme: str, answer: bytes | None, words: str
) -> None:
    """Each says what happened, and none names a class or an address in memory."""
    with answering(answer) as port:
        found = said(f"{scheme}://127.0.0.1:{port}")
    assert found.startswith(words)
    assert not {"Error", "Pool", "0x", "Caused by"} & set(found.replace("(", " ").split())
