"""Getting files from an upstream that may be slow, broken, gone or in the middle of a change.

urllib3 and threads: an asynchronous client takes four times the processor time for the same files.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote

import urllib3

import slipway
from slipway.clock import Clock
from slipway.errors import BlobBroken, UpstreamInconsistent, UpstreamUnavailable
from slipway.mirrors.store import Incoming, Store

#: How often each address is asked for a file before it is given up.
ROUNDS = 4
_FIRST_PAUSE_S = 1.0
#: Whatever an upstream asks for, a sync does not sleep for longer than this at a time.
_LONGEST_PAUSE_S = 120.0
_CONNECT_S = 10.0
#: A body of which nothing arrives for this long, or less than so much on average, is given up.
STALL_S = 30.0
_SLOWEST_BYTES_PER_S = 2000
_CHUNK = 1 << 20
#: Files that come together with many and are not larger are received in memory, and all over again
#: when that is cut short.
SMALL_BYTES = 256 << 10
#: No signed release is as large.
_LARGEST_DOCUMENT = 32 << 20
#: One try each: what is worth another is decided here, where it is known how much has arrived.
_NO_RETRIES = urllib3.Retry(
    total=None, connect=0, read=0, status=0, other=0, redirect=5, respect_retry_after_header=False
)


_T = TypeVar("_T")


class _Failed(Exception):
    """One try did not work; another may."""

    def __init__(self, why: str, *, pause_s: float = 0.0, wrong: bool = False) -> None:
        super().__init__(why)
        self.pause_s = pause_s
        #: There was an answer, and it was not the file.
        self.wrong = wrong


class _Missing(Exception):
    """The upstream says that there is no such file."""


class Upstream:
    """The addresses of one repository, in order of preference. Safe to use from several threads."""

    def __init__(
        self,
        urls: tuple[str, ...],
        clock: Clock,
        *,
        connections: int = 8,
        stall_s: float = STALL_S,
    ) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._clock = clock
        self._stall_s = stall_s
        self._pool = urllib3.PoolManager(
            num_pools=len(urls) + 2,
            maxsize=connections,
            block=True,
            retries=_NO_RETRIES,
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=stall_s),
            headers={
                "User-Agent": f"slipway/{slipway.__version__}",
                # What is signed are the bytes as they lie there.
                "Accept-Encoding": "identity",
            },
        )
        self._lock = threading.Lock()
        #: How many requests were sent.
        self.requests = 0

    def close(self) -> None:
        """Give the connections back."""
        self._pool.clear()

    def document(self, path: str) -> bytes | None:
        """A small file of which nothing is known beforehand; None when no address has it. Raises
        `UpstreamUnavailable`."""
        return self._tried(path, lambda url: self._read(url, path))

    def fetch(
        self,
        path: str,
        sha256: str,
        size: int,
        store: Store,
        note: Callable[[int], None],
        *,
        together: bool = False,
    ) -> bool:
        """Have a file in the store; answers whether the upstream has it. ``note`` is told of bytes
        as they arrive. One that comes ``together`` with many may only be there when the store is
        settled. Raises `UpstreamInconsistent` when what is there is another file,
        `UpstreamUnavailable`, `DiskFull`."""
        at_once = together and size <= SMALL_BYTES

        def receive(url: str) -> bool:
            nonlocal at_once
            if at_once:
                # The first time; from an upstream that breaks off, whatever arrives is kept.
                at_once = False
                _keep(store, sha256, self._whole(url, path, size))
                note(size)
                return True
            with store.receiving(sha256, size) as incoming:
                if not incoming.complete:
                    self._receive(url, path, incoming, size, note)
                    _finish(incoming, together=together)
            return True

        return self._tried(path, receive) or False

    def _tried(self, path: str, attempt: Callable[[str], _T]) -> _T | None:
        """What an attempt at one of the addresses answers; None when all say that it is missing."""
        failure = _Failed("it was not tried")
        for turn in range(ROUNDS):
            if turn:
                wanted = max(_FIRST_PAUSE_S * 3 ** (turn - 1), failure.pause_s)
                pause = min(wanted, _LONGEST_PAUSE_S)
                # Not all threads at once.
                self._clock.sleep(pause * random.uniform(1, 1.2))
            missing = 0
            for url in self._urls:
                try:
                    return attempt(url)
                except _Missing:
                    missing += 1
                except _Failed as error:
                    failure = error
            if missing == len(self._urls):
                return None
        kind = UpstreamInconsistent if failure.wrong else UpstreamUnavailable
        raise kind(f"{self._urls[0]}/{path}: {failure}") from failure

    def _read(self, url: str, path: str) -> bytes:
        started = self._clock.monotonic()
        with self._response(url, path, {}) as response:
            self._check_status(response)
            return b"".join(self._pieces(response, started, most=_LARGEST_DOCUMENT))

    def _whole(self, url: str, path: str, size: int) -> bytes:
        """A small body."""
        started = self._clock.monotonic()
        with self._response(url, path, {}) as response:
            self._check_status(response)
            _check_length(response, size)
            data = b"".join(self._pieces(response, started, most=size))
        if len(data) < size:
            raise _Failed(f"the body ended after {len(data)} of {size} bytes")
        return data

    def _receive(
        self, url: str, path: str, incoming: Incoming, size: int, note: Callable[[int], None]
    ) -> None:
        if incoming.have < size or not size:
            headers = {"Range": f"bytes={incoming.have}-"} if incoming.have else {}
            started = self._clock.monotonic()
            with self._response(url, path, headers) as response:
                self._take_up(response, incoming, size)
                for data in self._pieces(response, started, most=size - incoming.have):
                    incoming.write(data)
                    note(len(data))
            if incoming.have < size:
                raise _Failed(f"the body ended after {incoming.have} of {size} bytes")

    def _take_up(self, response: urllib3.BaseHTTPResponse, incoming: Incoming, size: int) -> None:
        """See where the body goes on. An upstream without ranges sends all of it again."""
        if response.status == 416:
            incoming.restart()
            raise _Failed("the upstream cannot go on where it was interrupted")
        self._check_status(response)
        if response.status == 200:
            incoming.restart()
        elif _range_start(response.headers.get("Content-Range", "")) != incoming.have:
            incoming.restart()
            raise _Failed("the upstream went on somewhere else than it was asked to")
        _check_length(response, size - incoming.have)

    def _pieces(
        self, response: urllib3.BaseHTTPResponse, started: float, *, most: int
    ) -> Iterator[bytes]:
        """The body as it arrives: what is here already is not lost with the rest."""
        received = 0
        try:
            while data := response.read1(_CHUNK):
                if received + len(data) > most:
                    raise _Failed(f"more than {most} bytes", wrong=True)
                yield data
                received += len(data)
                passed = self._clock.monotonic() - started
                if passed > self._stall_s and received < passed * _SLOWEST_BYTES_PER_S:
                    raise _Failed(f"only {received} bytes arrived in {passed:.0f} s")
        except urllib3.exceptions.HTTPError as error:
            raise _Failed(_words(error)) from error

    @contextlib.contextmanager
    def _response(
        self, url: str, path: str, headers: dict[str, str]
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        with self._lock:
            self.requests += 1
        try:
            response = self._pool.request(
                "GET",
                f"{url}/{quote(path, safe='/+~:@=,')}",
                headers={**self._pool.headers, **headers},
                preload_content=False,
                decode_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise _Failed(_words(error)) from error
        try:
            yield response
        except BaseException:
            # What is left of the body is of no use, and neither is the connection.
            response.close()
            raise
        finally:
            response.release_conn()

    def _check_status(self, response: urllib3.BaseHTTPResponse) -> None:
        if response.status in (200, 206):
            return
        if response.status in (404, 410):
            response.drain_conn()
            raise _Missing
        pause_s = self._asked_pause_s(response.headers.get("Retry-After", ""))
        raise _Failed(f"HTTP {response.status} {response.reason or ''}".rstrip(), pause_s=pause_s)

    def _asked_pause_s(self, retry_after: str) -> float:
        if retry_after.isdecimal():
            return float(retry_after)
        try:
            moment = parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - self._clock.now()).total_seconds()


def _check_length(response: urllib3.BaseHTTPResponse, size: int) -> None:
    """What is announced is what is wanted."""
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) != size:
        raise _Failed(f"{length} bytes instead of {size}", wrong=True)


def _keep(store: Store, sha256: str, data: bytes) -> None:
    try:
        store.add(sha256, data)
    except BlobBroken as error:
        raise _Failed(str(error), wrong=True) from error


def _finish(incoming: Incoming, *, together: bool) -> None:
    try:
        incoming.finish(together=together)
    except BlobBroken as error:
        raise _Failed(str(error), wrong=True) from error


def _range_start(content_range: str) -> int | None:
    found = re.match(r"bytes (\d+)-", content_range)
    return int(found[1]) if found else None


def _words(error: urllib3.exceptions.HTTPError) -> str:
    """What went wrong, without the names of Python's objects."""
    cause: object = error
    if isinstance(error, urllib3.exceptions.MaxRetryError):
        cause = error.reason
    match cause:
        case urllib3.exceptions.NameResolutionError():
            return "the name of its host is not known"
        case urllib3.exceptions.NewConnectionError():
            return f"no connection: {_reason(cause)}"
        case urllib3.exceptions.ConnectTimeoutError():
            return f"no connection within {_CONNECT_S:.0f} s"
        case urllib3.exceptions.ReadTimeoutError():
            return "nothing arrived any more"
        case urllib3.exceptions.SSLError():
            return f"no connection by TLS: {_reason(cause)}"
        case urllib3.exceptions.ProtocolError():
            inner = next((each for each in cause.args if isinstance(each, Exception)), cause)
            if isinstance(inner, urllib3.exceptions.IncompleteRead):
                return f"the body ended {inner.expected} bytes too early"
            return f"the connection broke: {_reason(cause)}"
    return str(cause)


def _reason(error: BaseException) -> str:
    """The system's own words for what is at the bottom of an error."""
    while True:
        inner = error.__cause__ or error.__context__
        inner = next((each for each in error.args if isinstance(each, Exception)), inner)
        if inner is None:
            break
        error = inner
    if isinstance(error, OSError):
        return (getattr(error, "reason", "") or error.strerror or str(error)).lower()
    return str(error)
