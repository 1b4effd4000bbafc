"""Telling one process from a later one with the same number, also from elsewhere."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def identity(pid: int | None = None) -> str:
    """``host/boot/namespace/pid/start``.

    The start is in clock ticks since the boot where the system tells (psutil's is a wall clock
    time: it moves when the clock is corrected). Raises `psutil.NoSuchProcess`.
    """
    pid = os.getpid() if pid is None else pid
    return f"{_place()}/{pid}/{_start(pid)}"


def own_identity() -> str:
    """Of this process. A forked child has its own."""
    return _own_identity(os.getpid())


@functools.cache
def _own_identity(pid: int) -> str:
    return identity(pid)


def is_dead(known: str) -> bool:
    """Whether the process is certainly gone. One of another host, or of another container on this
    one, may live: nobody here can tell."""
    place, pid, start = known.rsplit("/", 2)
    host, boot, _ = place.split("/")
    if host != socket.gethostname():
        return False
    if place != _place():
        # The same host after a reboot: nothing of before is left. Another namespace: cannot tell.
        return bool(boot) and boot != _boot()
    try:
        return _start(int(pid)) != start
    except psutil.NoSuchProcess:
        return True


def _place() -> str:
    return f"{socket.gethostname()}/{_boot()}/{_namespace()}"


def _boot() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def _namespace() -> str:
    return str(_NAMESPACE.stat().st_ino) if _NAMESPACE.exists() else ""


def _start(pid: int) -> str:
    """When the process started. A zombie counts as gone."""
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:
        raise psutil.NoSuchProcess(pid)
    stat = Path(f"/proc/{pid}/stat")
    try:
        # Field 22; the name in field 2 may hold spaces and parentheses (proc_pid_stat(5)).
        return stat.read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return str(process.create_time())
