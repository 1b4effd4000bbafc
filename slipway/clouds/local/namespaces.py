"""Holds one mount namespace per machine open, in which only the machine's directory is writable.

Run as a program by `slipway.clouds.local.confinement`, with the standard library only, because it
forks a child per machine and must stay small. One JSON object per line on standard input:
``{"hold": "/machine/root", "keep": ["/venv"]}`` is answered by ``{"pid": 1234}`` or
``{"error": "…"}``, ``{"release": 1234}`` by ``{}``. It ends with its standard input, and takes
all children with it.

The child makes two user namespaces, one inside the other: the mounts are made in the outer one,
which locks them for everything in the inner one, root or not (user_namespaces(7), "locked").
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import struct
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
_MS_NOSUID_NODEV = 2 | 4
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
#: The same on every architecture, as all system calls since Linux 5.1.
_SYS_MOUNT_SETATTR = 442
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _unshare() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _check(
        _libc.mount(
            None if source is None else os.fsencode(source),
            os.fsencode(target),
            None if kind is None else kind.encode(),
            flags,
            data.encode() or None,
        ),
        f"mount {target}",
    )


def _read_only(path: str, *, on: bool = True, below: bool = False) -> None:
    attributes = struct.pack(
        "QQQQ", _MOUNT_ATTR_RDONLY if on else 0, 0 if on else _MOUNT_ATTR_RDONLY, 0, 0
    )
    _check(
        _libc.syscall(
            _SYS_MOUNT_SETATTR,
            _AT_FDCWD,
            os.fsencode(path),
            _AT_RECURSIVE if below else 0,
            attributes,
            len(attributes),
        ),
        f"mount_setattr {path}",
    )


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _confine(root: str, keep: list[str]) -> None:
    _unshare()
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _read_only("/", below=True)
    # Opened before anything is hidden, so that what lies under /tmp can be shown again.
    shown = {path: os.open(path, os.O_PATH) for path in [root, *keep]}
    _mount(root, root, None, _MS_BIND | _MS_REC)
    _read_only(root, on=False)
    os.close(shown[root])
    shown[root] = os.open(root, os.O_PATH)
    # The machine has a /tmp of its own: scripts write there without asking.
    for inside, outside in (("tmp", "/tmp"), ("var/tmp", "/var/tmp")):
        target = os.path.realpath(outside)
        if not Path(target).is_dir():
            continue
        _mount(f"/proc/self/fd/{shown[root]}/{inside}", target, None, _MS_BIND)
        for path, descriptor in shown.items():
            if _is_below(path, target):
                Path(path).mkdir(parents=True, exist_ok=True)
                _mount(f"/proc/self/fd/{descriptor}", path, None, _MS_BIND | _MS_REC)
    if Path("/dev/shm").is_dir():
        _mount("tmpfs", "/dev/shm", "tmpfs", _MS_NOSUID_NODEV, "size=64m,mode=1777")
    # Only /proc has to stay writable until the inner namespace has its id map.
    _read_only("/proc", on=False)
    _unshare()
    _read_only("/proc", below=True)


def _hold(root: str, keep: list[str]) -> int:
    """Fork a child that waits for ever in a namespace of its own; raises OSError."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _confine(root, keep)
            # After the last change of credentials, which would clear it.
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.write(tell, b"ok")
            os.closerange(0, 256)
            # A sleeping `sleep` is a tenth of the memory of a sleeping Python.
            os.execv("/bin/sleep", ["sleep", "2147483647"])
        except OSError as error:
            os.write(tell, str(error).encode())
        finally:
            os._exit(1)
    os.close(tell)
    with os.fdopen(told, "rb") as reader:
        answer = reader.read().decode()
    if answer != "ok":
        os.waitpid(pid, 0)
        raise OSError(answer or "the child ended without a word")
    return pid


def _release(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main() -> None:
    """Answer requests until standard input ends."""
    held: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, object] = {}
        try:
            if "hold" in request:
                pid = _hold(request["hold"], request["keep"])
                held.add(pid)
                answer = {"pid": pid}
            elif request["release"] in held:
                held.remove(request["release"])
                _release(request["release"])
        except OSError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
