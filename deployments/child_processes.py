"""Real processes for `deployments.supervisor`, and the probe that asks them over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from deployments.supervisor import Launch, Probe, Process, Service

_TIED = Path(__file__).with_name("tied.py")

#: A longer line is cut in pieces: nobody may fill our memory by never ending one.
LONGEST_LINE_BYTES = 16_384

#: What the process has printed arrives within this time after its end; what it started may hold
#: the pipe open for longer.
_LAST_WORDS_S = 1.0


@dataclass(frozen=True, kw_only=True)
class HttpProbe:
    """Serves when this address answers 200."""

    url: str
    client: httpx.AsyncClient

    async def __call__(self) -> str:
        """See `Probe`."""
        try:
            answer = await self.client.get(self.url)
        except httpx.HTTPError as error:
            return f"{self.url}: {str(error) or type(error).__name__}"
        return "" if answer.status_code == 200 else f"{self.url} answers {answer.status_code}"


def probing_client() -> httpx.AsyncClient:
    """For `HttpProbe`. It asks this machine only: no proxy, and whoever answers is who we started,
    whatever name its certificate is for."""
    return httpx.AsyncClient(verify=False, trust_env=False)  # noqa: S501


class ChildProcess:
    """A child in a session of its own: Ctrl-C in the terminal reaches us alone, and what it starts
    can be killed with it."""

    def __init__(self, process: asyncio.subprocess.Process, line: Callable[[str], None]) -> None:
        self._process = process
        assert process.stdout is not None, "it was asked for"
        self._reading = asyncio.create_task(_read_lines(process.stdout, line))

    @property
    def pid(self) -> int:
        """Also the number of its process group."""
        return self._process.pid

    async def wait(self) -> int:
        """See `Process`."""
        code = await self._process.wait()
        # Its children, unless they went into sessions of their own.
        self._signal_group(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._reading
        return code

    def terminate(self) -> None:
        """See `Process`."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def kill(self) -> None:
        """See `Process`."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """Starts services as children of this process; to be used from the main thread, whose end is
    what the children are told of."""

    #: Where they run. Their flows and modules are found by name, not by place.
    directory: Path

    async def __call__(self, service: Service, line: Callable[[str], None]) -> Process:
        """See `Launch`."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_TIED), str(os.getpid())),
            *service.command,
            env=dict(service.environment),
            cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return ChildProcess(process, line)


async def _read_lines(stream: asyncio.StreamReader, line: Callable[[str], None]) -> None:
    rest = b""
    while chunk := await stream.read(LONGEST_LINE_BYTES):
        *whole, rest = (rest + chunk).split(b"\n")
        for each in whole:
            line(each.decode(errors="replace").rstrip("\r"))
        if len(rest) >= LONGEST_LINE_BYTES:
            line(rest.decode(errors="replace"))
            rest = b""
    if rest:
        line(rest.decode(errors="replace"))


_probe: type[Probe] = HttpProbe
_process: type[Process] = ChildProcess


def _fits(launcher: Launcher) -> Launch:
    return launcher
