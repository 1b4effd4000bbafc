"""Finds and kills everything that runs on a stand-in machine, detached processes included."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from slipway.clouds.local.confinement import MountNamespace

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
        self._waiting: dict[bool, dict[str, tuple[MountNamespace | None, asyncio.Future[None]]]] = {
            False: {},
            True: {},
        }
        self._running: dict[bool, asyncio.Task[None] | None] = {False: None, True: None}
        #: How often the process table was read; for tests and the curious.
        self.scans = 0

    async def kill(
        self, machine_id: str, *, namespace: MountNamespace | None, graceful: bool
    ) -> None:
        """Return when no process of the machine is left. ``graceful`` sends SIGTERM first.

        By its ``namespace`` a process that cleared its environment is found as well; the holder
        is spared. Raises OSError when something cannot be killed.
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

    def sweep(
        self, machine_ids: set[str], *, namespaces: set[MountNamespace], graceful: bool
    ) -> None:
        """Kill everything of these machines; blocks. Raises OSError."""
        if graceful:
            found = list(self._find(machine_ids, namespaces))
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            if not found:
                return
            _wait(found)
        for _ in range(_LOOKS):
            found = list(self._find(machine_ids, namespaces))
            if not found:
                return
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            _wait(found)
        raise OSError(f"{len(found)} processes do not die: {found[0]}")

    def _find(
        self, machine_ids: set[str], namespaces: set[MountNamespace]
    ) -> Iterator[psutil.Process]:
        self.scans += 1
        spared = {os.getpid(), *(each.holder_pid for each in namespaces)}
        inodes = {each.inode for each in namespaces}
        for process in psutil.process_iter():
            if process.pid in spared:
                continue
            try:
                if process.environ().get(MARK) in machine_ids:
                    if process.status() != psutil.STATUS_ZOMBIE:
                        yield process
                elif inodes and _mount_namespace(process.pid) in inodes:
                    yield process
            except (psutil.Error, OSError):
                # It ended while we looked, or belongs to somebody else: not ours either way.
                continue


def _wait(processes: list[psutil.Process]) -> None:
    """Until all have ended, at most `GRACE_S`. Does not collect exit codes, as psutil's own
    wait would: those of our children belong to the event loop."""
    end = time.monotonic() + GRACE_S
    while any(_lives(each) for each in processes) and time.monotonic() < end:
        time.sleep(0.005)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _mount_namespace(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
