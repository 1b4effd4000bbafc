"""Finds and kills everything that runs on a stand-in machine, detached processes included."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

#: Carried by every process of a machine from its first one on; children inherit it.
MARK = "SLIPWAY_MACHINE_ID"

#: How long processes have after SIGTERM when a machine goes down in an orderly way.
GRACE_S = 1.0

#: Processes that fork faster than we look: as many looks, then the rest is reported.
_LOOKS = 20


class Reaper:
    """Kills by machine. Looks through the process table once for all machines that are waiting,
    not once for each."""

    def __init__(self) -> None:
        self._waiting: dict[bool, dict[str, tuple[int | None, asyncio.Future[None]]]] = {
            False: {},
            True: {},
        }
        self._running: dict[bool, asyncio.Task[None] | None] = {False: None, True: None}
        #: How often the process table was read; for tests and the curious.
        self.scans = 0

    async def kill(self, machine_id: str, *, namespace: int | None, graceful: bool) -> None:
        """Return when no process of the machine is left. ``graceful`` sends SIGTERM first.

        ``namespace`` is its mount namespace: it also finds a process that cleared its
        environment. Raises OSError when something cannot be killed.
        """
        waiting = self._waiting[graceful]
        future = asyncio.get_running_loop().create_future()
        waiting[machine_id] = (namespace, future)
        if self._running[graceful] is None:
            self._running[graceful] = asyncio.create_task(self._work(graceful=graceful))
        await future

    async def _work(self, *, graceful: bool) -> None:
        waiting = self._waiting[graceful]
        while waiting:
            # Those that come in the same moment share one look.
            await asyncio.sleep(0.005)
            batch = dict(waiting)
            waiting.clear()
            namespaces = {each for each, _ in batch.values() if each is not None}
            try:
                await asyncio.to_thread(
                    self.sweep, set(batch), namespaces=namespaces, graceful=graceful
                )
            except (OSError, psutil.Error) as error:
                for _, future in batch.values():
                    if not future.done():
                        future.set_exception(OSError(str(error)))
            else:
                for _, future in batch.values():
                    if not future.done():
                        future.set_result(None)
        self._running[graceful] = None

    def sweep(self, machine_ids: set[str], *, namespaces: set[int], graceful: bool) -> None:
        """Kill everything of these machines; blocks. Raises OSError."""
        if graceful:
            found = list(self._find(machine_ids, namespaces))
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            if not found:
                return
            psutil.wait_procs(found, timeout=GRACE_S)
        for _ in range(_LOOKS):
            found = list(self._find(machine_ids, namespaces))
            if not found:
                return
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=GRACE_S)
        raise OSError(f"{len(found)} processes do not die: {found[0]}")

    def _find(self, machine_ids: set[str], namespaces: set[int]) -> Iterator[psutil.Process]:
        self.scans += 1
        own = os.getpid()
        for process in psutil.process_iter():
            if process.pid == own:
                continue
            try:
                if process.environ().get(MARK) in machine_ids:
                    if process.status() != psutil.STATUS_ZOMBIE:
                        yield process
                elif namespaces and _mount_namespace(process.pid) in namespaces:
                    yield process
            except (psutil.Error, OSError):
                # It ended while we looked, or belongs to somebody else: not ours either way.
                continue


def _mount_namespace(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
