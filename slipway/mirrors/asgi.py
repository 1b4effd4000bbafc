"""Mirrored repositories over HTTP, for apt and for people: plain ASGI, because thousands of small
answers are what it is about.

Large files are sent by the system where the server can have that done (`slipway.mirrors.serving`),
and read in large pieces otherwise. What a date or ``latest`` stands for is remembered for a moment,
so that a client which asks for a hundred files does not make the database answer a hundred times.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import mimetypes
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import anyio.to_thread
from starlette.types import Receive, Scope, Send

from slipway.errors import NotFound, SlipwayError, UpstreamInconsistent, UpstreamUnavailable
from slipway.mirrors import pages, replicas
from slipway.mirrors.serving import ZERO_COPY
from slipway.mirrors.site import Absent, Folder, Found, Resolved, Site, when_of

PREFIX = "/snapshots"

#: Says which state a date or ``latest`` stands for.
RESOLVED_HEADER = "Slipway-Snapshot"
#: Files that are fetched at a time because somebody asks for them.
FETCHES = 16
#: How long what a time stands for is taken from memory, in seconds.
REMEMBERED_S = 1.0
_MOST_REMEMBERED = 1024
_PIECE = 1 << 20
#: What is smaller is read in less time than it takes to have somebody else send it.
_SMALL = 64 << 10
_RANGE = re.compile(r"bytes=(\d*)-(\d*)\Z")
_YEAR_S = 365 * 24 * 3600


class MirrorSite:
    """The application; to be mounted at `PREFIX`, or served alone."""

    def __init__(self, site: Site, *, remembered_s: float = REMEMBERED_S) -> None:
        self._site = site
        self._remembered_s = remembered_s
        #: By time and repository: what they stand for, and until when that is believed.
        self._resolved: dict[tuple[str, str], tuple[Resolved, float]] = {}
        #: By SHA-256, what is being fetched for somebody, and for all who ask for it meanwhile.
        self._under_way: dict[str, asyncio.Task[Found]] = {}
        self._fetching: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise ValueError(f"{scope['type']} is not served here")
        answer = _Answer(scope, send)
        if scope["method"] not in ("GET", "HEAD"):
            await answer.text(405, "only GET and HEAD are answered here", {"Allow": "GET, HEAD"})
            return
        path = scope["path"].removeprefix(PREFIX).lstrip("/")
        try:
            # Where no database has to be asked, a file is found in less time than a thread is.
            found: _Answered | None = self._look_at_once(path)
            if found is None:
                found = await anyio.to_thread.run_sync(self._look, path)
            if isinstance(found, Absent):
                found = await self._fetch(found)
        except NotFound as error:
            await answer.text(404, str(error))
            return
        except (UpstreamUnavailable, UpstreamInconsistent) as error:
            await answer.text(502, str(error))
            return
        except SlipwayError as error:
            await answer.text(500, str(error))
            return
        if isinstance(found, Found):
            await answer.file(found)
        elif isinstance(found, bytes):
            await answer.json(found)
        elif isinstance(found, _Elsewhere):
            await answer.text(301, "a directory's address ends in /", {"Location": found.location})
        else:
            await answer.html(found)

    async def _fetch(self, absent: Absent) -> Found:
        """Once for all who ask; whoever asked first may go away meanwhile."""
        task = self._under_way.get(absent.sha256)
        if task is None:
            task = asyncio.create_task(self._fetch_once(absent))
            self._under_way[absent.sha256] = task
            task.add_done_callback(lambda _: self._under_way.pop(absent.sha256))
        return await asyncio.shield(task)

    async def _fetch_once(self, absent: Absent) -> Found:
        # Not in the threads that look for files: an upstream may be slow.
        self._fetching = self._fetching or anyio.CapacityLimiter(FETCHES)
        return await anyio.to_thread.run_sync(self._site.fetch, absent, limiter=self._fetching)

    def _look_at_once(self, path: str) -> Found | Absent | None:
        """A file, when it is known what the time stands for."""
        when, _, rest = path.partition("/")
        repository, _, below = rest.partition("/")
        resolved, until = self._resolved.get((when, repository), (None, 0.0))
        if resolved is None or until < time.monotonic():
            return None
        found = self._site.find(resolved, repository, below)
        return None if isinstance(found, Folder) else found

    def _look(self, path: str) -> _Answered:
        when, _, rest = path.partition("/")
        repository, slash, below = rest.partition("/")
        if path == replicas.STATES:
            return replicas.document(self._site.days)
        if not repository:
            return _Page(pages.overview(self._site, when))
        resolved = self._site.resolve(when, repository)
        if self._remembered_s:
            self._remember(when, repository, resolved)
        found = self._site.find(resolved, repository, below)
        if isinstance(found, Found | Absent):
            return found
        if not slash or (below and not below.endswith("/")):
            # Relative links need the slash; a name without one would lead a level too high.
            return _Elsewhere(f"{path.rpartition('/')[2]}/")
        return _Page(pages.folder(self._site, when, found), when_of(found.taken_at))

    def _remember(self, when: str, repository: str, resolved: Resolved) -> None:
        if len(self._resolved) >= _MOST_REMEMBERED:
            self._resolved = {}
        self._resolved[when, repository] = (resolved, time.monotonic() + self._remembered_s)


class _Elsewhere:
    def __init__(self, location: str) -> None:
        self.location = location


class _Page:
    def __init__(self, text: str, resolved: str = "") -> None:
        self.text = text
        self.resolved = resolved


_Answered = Found | Absent | _Elsewhere | _Page | bytes


class _Answer:
    """One answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        # Of several of a name the last: of those asked for here nobody sends several.
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._bare = scope["method"] == "HEAD"

    async def text(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        """A sentence."""
        given = {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}
        await self._whole(status, given, f"{text}\n".encode())

    async def html(self, page: _Page) -> None:
        """A page for people."""
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": pages.POLICY,
            "Cache-Control": "no-cache",
        }
        if page.resolved:
            headers[RESOLVED_HEADER] = page.resolved
        await self._whole(200, headers, page.text.encode())

    async def json(self, document: bytes) -> None:
        """A document for another mirror."""
        await self._whole(
            200, {"Content-Type": "application/json", "Cache-Control": "no-cache"}, document
        )

    async def file(self, found: Found) -> None:
        """A file, or the part of it that was asked for, or that it is still the same."""
        headers = _describe(found, self._scope["path"])
        if self._has_it(headers):
            await self._whole(304, headers, b"")
            return
        part = self._part(found.size, headers)
        if part is None:
            await self._file(200, headers, found.blob, 0, found.size)
        elif part.start >= found.size:
            headers["Content-Range"] = f"bytes */{found.size}"
            await self._whole(416, headers, b"")
        else:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{found.size}"
            await self._file(206, headers, found.blob, part.start, part.stop - part.start)

    def _header(self, name: bytes) -> str | None:
        found = self._headers.get(name)
        return None if found is None else found.decode("latin-1")

    def _has_it(self, headers: Mapping[str, str]) -> bool:
        tags = self._header(b"if-none-match")
        if tags is not None:
            known = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
            return headers["ETag"] in known or "*" in known
        # The very time we gave: "not newer than yours" would be wrong where `latest` is asked for
        # and somebody's clock is off.
        return self._header(b"if-modified-since") == headers["Last-Modified"]

    def _part(self, size: int, headers: Mapping[str, str]) -> range | None:
        """The part that was asked for; None for all of it. Of several, all of it is sent."""
        wanted = _RANGE.match(self._header(b"range") or "")
        condition = self._header(b"if-range")
        if wanted is None or wanted[1] == wanted[2] == "":
            return None
        if condition is not None and condition not in (headers["ETag"], headers["Last-Modified"]):
            return None
        if not wanted[1]:
            return range(max(size - int(wanted[2]), 0), size)
        start = int(wanted[1])
        stop = min(int(wanted[2]) + 1, size) if wanted[2] else size
        return None if stop <= start < size else range(start, stop)

    async def _file(
        self, status: int, headers: dict[str, str], blob: Path, start: int, length: int
    ) -> None:
        headers["Content-Length"] = str(length)
        try:
            opened = blob.open("rb", buffering=0)
        except FileNotFoundError:
            await self.text(404, f"{blob.name} has been removed just now")
            return
        with opened as file:
            await self._start(status, headers)
            if self._bare:
                await self._body(b"", more=False)
            elif length > _SMALL and ZERO_COPY in self._scope.get("extensions", {}):
                await self._send(
                    {"type": ZERO_COPY, "file": file, "offset": start, "count": length}
                )
            else:
                file.seek(start)
                await self._pieces(file, length)

    async def _pieces(self, file: BinaryIO, length: int) -> None:
        while True:
            data = await _read(file, min(length, _PIECE))
            length -= len(data)
            if length and not data:
                raise OSError(f"{file.name} ended too early")
            await self._body(data, more=length > 0)
            if not length:
                return

    async def _whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        length = {} if status == 304 else {"Content-Length": str(len(body))}
        await self._start(status, {**headers, **length})
        await self._body(b"" if self._bare else body, more=False)

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        pairs = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _body(self, data: bytes, *, more: bool) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


async def _read(file: BinaryIO, size: int) -> bytes:
    # What is small is read in less time than it takes to hand it to a thread.
    if size <= _PIECE // 8:
        return file.read(size)
    return await anyio.to_thread.run_sync(file.read, size)


def _describe(found: Found, path: str) -> dict[str, str]:
    headers = {
        "Content-Type": _type_of(path.rpartition(".")[2]),
        "ETag": f'"{found.sha256}"',
        "Last-Modified": _http_date(found.modified),
        "Accept-Ranges": "bytes",
        "Cache-Control": f"max-age={_YEAR_S}, immutable" if found.lasting else "no-cache",
    }
    if found.taken_at is not None:
        headers[RESOLVED_HEADER] = when_of(found.taken_at)
    return headers


@functools.lru_cache(256)
def _type_of(suffix: str) -> str:
    return mimetypes.guess_type(f"x.{suffix}")[0] or "application/octet-stream"


@functools.lru_cache(4096)
def _http_date(moment: datetime) -> str:
    return email.utils.format_datetime(moment.astimezone(UTC), usegmt=True)


async def _lifespan(receive: Receive, send: Send) -> None:
    message: Any = await receive()
    while message["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
        message = await receive()
    await send({"type": "lifespan.shutdown.complete"})
