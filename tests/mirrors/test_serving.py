"""Files sent by the system: the same bytes, whatever was asked for and whoever goes away."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from slipway.mirrors.serving import ZERO_COPY
from tests.pages.serving import serving

#: More than a socket takes at once.
SIZE = 24 << 20


class Files:
    """An application that sends the file of a path's name, whole or the part that a query names,
    and a small body behind it when asked to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[BinaryIO] = []
        #: Requests whose answers are over, one way or the other.
        self.ended = threading.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await receive()
            return
        path = self.root / scope["path"].lstrip("/")
        start, _, count = scope["query_string"].decode().partition("-")
        offset = int(start or 0)
        length = int(count or path.stat().st_size - offset)
        headers = [(b"content-length", str(length).encode())]
        try:
            with path.open("rb", buffering=0) as file:
                self.opened.append(file)
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                assert ZERO_COPY in scope["extensions"]
                await send({"type": ZERO_COPY, "file": file, "offset": offset, "count": length})
        finally:
            self.ended.release()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "big").write_bytes(os.urandom(SIZE))
    (tmp_path / "small").write_bytes(b"small\n")
    return Files(tmp_path)


@pytest.fixture
def url(files: Files) -> Iterator[str]:
    with serving(files) as address:  # type: ignore[arg-type]
        yield address


def test_a_file_is_sent_whole_and_in_part(files: Files, url: str) -> None:
    """Several on one connection, each with its own length."""
    whole = (files.root / "big").read_bytes()
    with httpx.Client(base_url=url, trust_env=False) as client:
        for _ in range(2):
            assert client.get("/big").content == whole
            assert client.get("/small").content == b"small\n"
            assert client.get("/big?1000-70000").content == whole[1000:71000]
    assert all(file.closed for file in files.opened)


def test_requests_that_are_sent_ahead_are_answered_in_turn(files: Files, url: str) -> None:
    """As apt does: the answers come whole and in the order of the requests."""
    where = urlsplit(url)
    asked = ["/small", "/big", "/small", "/big?5-10", "/small"]
    with socket.create_connection((where.hostname, where.port), timeout=60) as client:
        client.sendall(
            b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in asked)
        )
        got = client.makefile("rb")
        for path in asked:
            assert got.readline() == b"HTTP/1.1 200 OK\r\n"
            headers = dict(_headers(got))
            body = got.read(int(headers["content-length"]))
            expected = (files.root / path[1:].partition("?")[0]).read_bytes()
            if "?" in path:
                expected = expected[5:15]
            assert hashlib.sha256(body).digest() == hashlib.sha256(expected).digest()


def _headers(answer: BinaryIO) -> Iterator[tuple[str, str]]:
    while line := answer.readline().strip():
        name, _, text = line.decode().partition(":")
        yield name.lower(), text.strip()


def test_who_goes_away_leaves_nothing_open(
    files: Files, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that hangs up in the middle of a file is no error, and the others are answered."""
    where = urlsplit(url)
    for _ in range(3):
        with socket.create_connection((where.hostname, where.port), timeout=60) as client:
            client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000)
        assert files.ended.acquire(timeout=60)
    assert httpx.get(f"{url}/small", trust_env=False).content == b"small\n"
    assert all(file.closed for file in files.opened)
    assert caplog.records == []


def test_a_file_that_ends_too_early_is_seen(files: Files, url: str) -> None:
    """The connection is closed before the length that was promised: nobody takes it for whole."""
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{url}/small?0-70000", trust_env=False)
