"""An HTTP server that is spoken to as EC2 is: what the stand-ins of EC2 share."""

from __future__ import annotations

import re
import socket
import struct
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from slipway.clock import Clock, SystemClock
from slipway.clouds.ec2 import family

_CREDENTIAL = re.compile(r"Credential=([^/]+)/[^/]+/([^/]+)/")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request that came in."""

    action: str
    #: Whose key it was signed with.
    access_key: str
    region: str
    parameters: Mapping[str, str]


@dataclass(kw_only=True)
class Bucket:
    """A token bucket: ``size`` calls at once, then ``per_s`` a second."""

    size: float
    per_s: float
    _left: float = field(init=False)
    _at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._left = self.size

    def take(self, now_s: float) -> bool:
        """Whether one more call may pass."""
        if self._at is not None:
            self._left = min(self.size, self._left + (now_s - self._at) * self.per_s)
        self._at = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a request is answered with."""

    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = (("Content-Type", "text/xml"),)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came, and what it asks for."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    asked: Asked


def error_answer(code: str, message: str, *, status: int = 400) -> Answer:
    """EC2's way to say no."""
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
        f"</Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
    )
    return Answer(status=status, body=body.encode())


class QueryServer:
    """The server: counts, throttles, and answers as its subclass says. Use it as a context
    manager."""

    def __init__(
        self, *, clock: Clock | None = None, buckets: Mapping[str, Bucket] | None = None
    ) -> None:
        self._clock = clock or SystemClock()
        self.buckets = dict(buckets or {})
        self._lock = threading.Lock()
        #: Everything it was asked, in order, failed calls included.
        self.asked: list[Asked] = []
        #: How many of them were throttled.
        self.throttled = 0
        owner = self

        class Handler(_Handler):
            server_of = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def count(self, action: str) -> int:
        """How often an action was asked for."""
        with self._lock:
            return sum(each.action == action for each in self.asked)

    def answer(self, request: Request) -> Answer | None:
        """The answer to a request that was not throttled; None: reset the connection."""
        raise NotImplementedError

    def handle(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer | None:
        """The answer to a request; None: reset the connection."""
        found = _CREDENTIAL.search(headers.get("Authorization", ""))
        access_key, region = found.groups() if found else ("", "")
        target = headers.get("X-Amz-Target", "")
        parameters = {} if target else dict(parse_qsl(body.decode(), keep_blank_values=True))
        asked = Asked(
            action=target.partition(".")[2] or parameters.get("Action", ""),
            access_key=access_key,
            region=region,
            parameters=parameters,
        )
        with self._lock:
            self.asked.append(asked)
            bucket = self.buckets.get(family(asked.action))
            throttled = bucket is not None and not bucket.take(self._clock.monotonic())
            self.throttled += throttled
        if throttled:
            return error_answer("RequestLimitExceeded", "Request limit exceeded.", status=503)
        return self.answer(Request(path=path, headers=headers, body=body, asked=asked))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    #: Hundreds may come at once.
    request_queue_size = 1024


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: QueryServer

    def do_POST(self) -> None:
        """Every call of EC2 and SSM is a POST."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server_of.handle(self.path, dict(self.headers.items()), body)
        if answer is None:
            # Closing with nothing left to linger for sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """What was asked is in `QueryServer.asked`."""
