"""A web server for a directory, on loopback, that misbehaves as upstreams do.

A *fault* is a function of the `Exchange`; `Web.faults` holds them by path, each for a number of
requests. Requests are counted, so that a test sees what was asked for and how often.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Fault = Callable[["Exchange"], None]


@dataclass
class _Planned:
    pattern: str
    fault: Fault
    left: int


class Exchange:
    """One request, and the means to answer it in whichever way."""

    def __init__(self, handler: BaseHTTPRequestHandler, path: str, file: Path) -> None:
        self._handler = handler
        self.path = path
        self.body = file.read_bytes() if file.is_file() else None
        #: Whether a request for a part gets it.
        self.ranges = True

    def answer(self) -> None:
        """As a server without a fault does."""
        if self.body is None:
            self.send(404, b"there is no such file\n")
            return
        start = self._start()
        if start is None:
            self.send(200, self.body)
        else:
            self._part(start, self.body)

    def send(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        """Answer with this; ``length`` is what is claimed of the body."""
        self.head(status, len(body) if length is None else length, **headers)
        self.write(body)

    def head(self, status: int, length: int, **headers: str) -> None:
        """Only the head."""
        self._handler.send_response(status)
        self._handler.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def write(self, body: bytes) -> None:
        """A piece of the body."""
        self._handler.wfile.write(body)
        self._handler.wfile.flush()

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection; with a reset, what is under way is lost."""
        self._handler.close_connection = True
        if reset:
            self._handler.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self._handler.connection.close()

    def _start(self) -> int | None:
        value = self._handler.headers.get("Range", "")
        wanted = value.removeprefix("bytes=").partition("-")[0]
        return int(wanted) if self.ranges and wanted.isdecimal() else None

    def _part(self, start: int, body: bytes) -> None:
        if start >= len(body):
            self.send(416, b"")
            return
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self.send(206, body[start:], Content_Range=span)


class Web:
    """The server; use it in a ``with`` statement."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: Counter[str] = Counter()
        #: Called before each answer, with the path and how many requests there were.
        self.before: Callable[[str, int], None] = lambda _path, _count: None
        self._faults: list[_Planned] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def total(self) -> int:
        """How many requests there were."""
        return sum(self.requests.values())

    def __enter__(self) -> Web:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, pattern: str, fault: Fault, *, times: int = 1) -> None:
        """Answer the next so many requests for paths like this with a fault."""
        with self._lock:
            self._faults.append(_Planned(pattern, fault, times))

    @contextlib.contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The requests of the block."""
        found: Counter[str] = Counter()
        before = Counter(self.requests)
        yield found
        found.update(self.requests - before)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer one request. For the handler."""
        path = unquote(handler.path).lstrip("/")
        with self._lock:
            self.requests[path] += 1
            count = self.total
        self.before(path, count)
        with self._lock:
            planned = next((p for p in self._faults if p.left and fnmatch(path, p.pattern)), None)
            if planned is not None:
                planned.left -= 1
        exchange = Exchange(handler, path, self.root / path)
        if planned is None:
            exchange.answer()
        else:
            planned.fault(exchange)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                # Whoever asked may be gone: that is what some tests are about.
                with contextlib.suppress(ConnectionError):
                    web.handle(self)

            def log_message(self, *_: object) -> None:
                """Counted instead."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The thread of a connection that is kept open ends with the process.
    block_on_close = False
    request_queue_size = 64

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        # It may have been reset already.
        with contextlib.suppress(OSError):
            super().shutdown_request(request)


# --- Faults ---------------------------------------------------------------------------------------


def _content(exchange: Exchange) -> bytes:
    assert exchange.body is not None, f"{exchange.path} is there to be sent broken"
    return exchange.body


def cut_off(exchange: Exchange) -> None:
    """The connection ends in the middle of the body."""
    body = _content(exchange)
    exchange.send(200, body[: len(body) // 2], length=len(body))
    exchange.hang_up()


def short(exchange: Exchange) -> None:
    """A body that claims to be complete and is not."""
    body = _content(exchange)
    exchange.send(200, body[: len(body) // 2])


def long(exchange: Exchange) -> None:
    """A body with something behind it, and no word of its length."""
    exchange._handler.send_response(200)
    exchange._handler.end_headers()
    exchange.write(_content(exchange) + b"more")
    exchange.hang_up()


def bit_flipped(exchange: Exchange) -> None:
    """The right number of bytes, one of them wrong."""
    body = bytearray(_content(exchange))
    body[len(body) // 2] ^= 1
    exchange.send(200, bytes(body))


def html(exchange: Exchange) -> None:
    """A page about something, with status 200."""
    exchange.send(200, b"<html>Please log in to the network</html>")


def unavailable(exchange: Exchange) -> None:
    """503, with a wish when to come back."""
    exchange.send(503, b"", Retry_After="7")


def missing(exchange: Exchange) -> None:
    """404."""
    exchange.send(404, b"")


def reset(exchange: Exchange) -> None:
    """The connection is reset in the middle of the body."""
    body = _content(exchange)
    exchange.send(200, body[: len(body) // 2], length=len(body))
    exchange.hang_up(reset=True)


def stalled(web: Web) -> Fault:
    """Half a body, and then nothing until the server ends."""

    def fault(exchange: Exchange) -> None:
        body = _content(exchange)
        exchange.send(200, body[: len(body) // 2], length=len(body))
        web.ended.wait()

    return fault


def slow(pass_time: Callable[[float], None]) -> Fault:
    """A byte an hour, until whoever asked has had enough."""

    def fault(exchange: Exchange) -> None:
        body = _content(exchange)
        exchange.head(200, len(body))
        pass_time(3600)
        exchange.write(body[:1])
        exchange._handler.rfile.read(1)
        exchange.hang_up()

    return fault


def without_ranges(exchange: Exchange) -> None:
    """A server that always sends all."""
    exchange.ranges = False
    exchange.answer()
