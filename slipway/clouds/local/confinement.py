"""Keeps the scripts of a stand-in machine inside its directory, where the host allows it.

Three ways, tried in this order, each by really running a command that must be able to write
inside and must fail to write outside:

* namespaces: a user and a mount namespace per machine, held by `namespaces.py` and entered with
  nsenter(1), which costs 2 ms per command;
* bubblewrap: bwrap(1) around each command; some distributions let it make namespaces where others
  may not;
* none: scripts run with the rights of the user who runs Slipway, and this is said.

It protects against accidents (``rm -rf ~``), not against an attacker: everything stays readable,
and the network is the host's.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

#: nsenter would otherwise leave us in `/`, and a directory opened before entering is the
#: writable one outside.
_IN_DIRECTORY = ("/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh")


@dataclass(frozen=True, kw_only=True)
class MountNamespace:
    """The mount namespace all processes of a machine share.

    Its number is given to another one as soon as nothing holds it, so whoever looks for processes
    by it must spare the holder until all have been found.
    """

    inode: int
    holder_pid: int


class Confinement(Protocol):
    """One way to keep commands inside a directory."""

    @property
    def description(self) -> str:
        """One sentence for the user."""

    @property
    def confines(self) -> bool:
        """Whether commands are really kept inside."""

    async def command(self, root: Path, argv: Sequence[str], *, cwd: Path) -> list[str]:
        """The command line that runs ``argv`` in ``cwd`` on the machine in ``root``. Raises
        OSError."""

    def namespace(self, root: Path) -> MountNamespace | None:
        """The machine's own mount namespace, if it has one now."""

    async def release(self, root: Path) -> None:
        """Forget the machine: it is off."""

    async def close(self) -> None:
        """End what runs for it."""


class Unconfined:
    """No confinement: the host forbids it, or has no means for it."""

    confines = False

    def __init__(self, reason: str) -> None:
        self.description = (
            f"NOT confined ({reason}): scripts run with your own rights on this computer; "
            "a script that removes your files removes your files."
        )

    async def command(self, root: Path, argv: Sequence[str], *, cwd: Path) -> list[str]:
        del root
        return [*_IN_DIRECTORY, str(cwd), *argv]

    def namespace(self, root: Path) -> MountNamespace | None:
        del root
        return None

    async def release(self, root: Path) -> None:
        del root

    async def close(self) -> None:
        return


class Bubblewrap:
    """bwrap around each command."""

    confines = True
    description = (
        "confined by bubblewrap: scripts can write only in their machine's own directory; "
        "the network is this computer's."
    )

    def __init__(self, bwrap: str, keep: Sequence[Path]) -> None:
        self._bwrap = bwrap
        self._keep = keep

    async def command(self, root: Path, argv: Sequence[str], *, cwd: Path) -> list[str]:
        arguments = ["--ro-bind", "/", "/", "--dev-bind", "/dev", "/dev", "--tmpfs", "/dev/shm"]
        arguments += ["--bind", str(root / "tmp"), "/tmp"]
        arguments += ["--bind", str(root / "var/tmp"), "/var/tmp"]
        for path in self._keep:
            arguments += ["--ro-bind", str(path), str(path)]
        arguments += ["--bind", str(root), str(root), "--chdir", str(cwd)]
        return [self._bwrap, *arguments, "--", *argv]

    def namespace(self, root: Path) -> MountNamespace | None:
        del root
        return None

    async def release(self, root: Path) -> None:
        del root

    async def close(self) -> None:
        return


class Namespaces:
    """A namespace per machine, made at its first command and entered by all."""

    confines = True
    description = (
        "confined by namespaces: scripts can write only in their machine's own directory; "
        "the network is this computer's."
    )

    def __init__(self, nsenter: str, keep: Sequence[Path]) -> None:
        self._nsenter = nsenter
        self._keep = keep
        self._helper: asyncio.subprocess.Process | None = None
        self._one_at_a_time = asyncio.Lock()
        self._held: dict[Path, MountNamespace] = {}

    async def command(self, root: Path, argv: Sequence[str], *, cwd: Path) -> list[str]:
        pid = (await self._hold(root)).holder_pid
        enter = [f"--user=/proc/{pid}/ns/user", f"--mount=/proc/{pid}/ns/mnt"]
        return [
            self._nsenter,
            *enter,
            "--preserve-credentials",
            "--",
            *_IN_DIRECTORY,
            str(cwd),
            *argv,
        ]

    def namespace(self, root: Path) -> MountNamespace | None:
        return self._held.get(root)

    async def release(self, root: Path) -> None:
        async with self._one_at_a_time:
            held = self._held.pop(root, None)
            if held:
                await self._ask({"release": held.holder_pid})

    async def close(self) -> None:
        if self._helper and self._helper.stdin:
            self._helper.stdin.close()
            await self._helper.wait()

    async def _hold(self, root: Path) -> MountNamespace:
        async with self._one_at_a_time:
            held = self._held.get(root)
            if held is None or _inode(held.holder_pid) != held.inode:
                keep = [str(path) for path in self._keep]
                pid = (await self._ask({"hold": str(root), "keep": keep}))["pid"]
                inode = _inode(pid)
                if inode is None:
                    raise OSError("the holder of the machine's namespace ended at once")
                held = self._held[root] = MountNamespace(inode=inode, holder_pid=pid)
            return held

    async def _ask(self, request: dict[str, object]) -> dict[str, int]:
        if self._helper is None or self._helper.returncode is not None:
            # A helper that died took its namespaces' holders with it.
            self._held.clear()
            self._helper = await asyncio.create_subprocess_exec(
                sys.executable,
                "-S",
                "-E",
                str(Path(__file__).with_name("namespaces.py")),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        helper = self._helper
        if helper.stdin is None or helper.stdout is None:
            raise OSError("the namespace helper has no pipes")
        helper.stdin.write(json.dumps(request).encode() + b"\n")
        await helper.stdin.drain()
        line = await helper.stdout.readline()
        if not line:
            await helper.wait()
            raise OSError("the namespace helper ended")
        answer: dict[str, int] = json.loads(line)
        if "error" in answer:
            raise OSError(answer["error"])
        return answer


def _inode(pid: int) -> int | None:
    """The number of a process's mount namespace."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    except OSError:
        return None


async def detect(directory: Path) -> Confinement:
    """The first way that works on this host, found by trying. ``directory`` is where machines
    will live."""
    keep = _kept(directory)
    refusals = []
    if sys.platform == "linux":
        nsenter, bwrap = shutil.which("nsenter"), shutil.which("bwrap")
        candidates: list[Confinement] = []
        if nsenter:
            candidates.append(Namespaces(nsenter, keep))
        if bwrap:
            candidates.append(Bubblewrap(bwrap, keep))
        for candidate in candidates:
            problem = await _problem_with(candidate, directory)
            if not problem:
                return candidate
            await candidate.close()
            refusals.append(f"{type(candidate).__name__.lower()}: {problem}")
        reason = "; ".join(refusals) or "neither nsenter nor bwrap is installed"
    else:
        reason = f"no means for it on {sys.platform}"
    return Unconfined(reason)


def _kept(directory: Path) -> list[Path]:
    """What a machine must still see when its own /tmp covers the host's: Python, our code and
    the shims."""
    package = Path(__file__).resolve().parents[3]
    shims = directory / "shims"
    shims.mkdir(parents=True, exist_ok=True)
    wanted = [
        Path(sys.prefix).absolute(),
        Path(sys.base_prefix).absolute(),
        package,
        shims,
    ]
    hidden = [Path("/tmp").resolve(), Path("/var/tmp").resolve()]
    return [
        path
        for path in dict.fromkeys(wanted)
        if path.is_dir() and any(path.is_relative_to(each) for each in hidden)
    ]


async def _problem_with(candidate: Confinement, directory: Path) -> str:
    """Why this way does not work here; empty when it does."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="try-") as name:
        root = Path(name).resolve() / "machine"
        for each in ("tmp", "var/tmp"):
            (root / each).mkdir(parents=True)
        outside = root.parent / "outside"
        script = 'echo yes > "$1/inside" && echo yes > /tmp/x && { echo no > "$2"; true; } 2>&-'
        try:
            argv = await candidate.command(
                root, ["/bin/sh", "-c", script, "sh", str(root), str(outside)], cwd=root
            )
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            output, _ = await asyncio.wait_for(process.communicate(), timeout=20)
        except (OSError, TimeoutError) as error:
            return str(error) or type(error).__name__
        finally:
            await candidate.release(root)
        if process.returncode:
            last = output.decode(errors="replace").strip().splitlines()[-1:]
            return last[0] if last else f"the trial ended with exit code {process.returncode}"
        if outside.exists() or not (root / "inside").exists() or not (root / "tmp/x").exists():
            return "a trial command wrote outside its directory, or could not write inside"
    return ""
