"""One stand-in machine: its record on disk, its power, its boot, its processes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import asyncssh
from pydantic import TypeAdapter

from slipway.clock import Clock
from slipway.clouds.base import Instance, InstanceSpec, InstanceState
from slipway.clouds.local import disk, ssh
from slipway.clouds.local.confinement import Confinement
from slipway.clouds.local.faults import FOR_EVER, CloudInitError, Faults
from slipway.clouds.local.reaper import MARK, Reaper
from slipway.clouds.local.shims import Shims
from slipway.clouds.local.wire import write_atomically
from slipway.errors import CloudRefused

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

#: The port every machine has where each has an address of its own.
_SSH_PORT = 2222

#: How long a machine waits for its old address when something else has it.
_ADDRESS_WAIT_S = 5.0

#: A command that reboots its machine still gets its exit code across.
_POWER_DELAY_S = 0.1

#: The console of a cloud is a ring buffer as well; EC2 keeps 64 KiB.
_CONSOLE_BYTES = 256 * 1024

# Takes both kinds of lock: dpkg takes the POSIX one, flock(1) looks for the other.
_HOLD_PACKAGE_LOCK = """\
import fcntl, sys, time
with open(sys.argv[1], "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@dataclass(frozen=True, kw_only=True)
class MachineRecord:
    """``instance.json``: what survives the supervisor."""

    id: str
    token: str
    spec: InstanceSpec
    faults: Faults
    created_at: datetime
    address: str
    #: 0 until the first boot has chosen one; kept from then on.
    port: int = 0
    state: InstanceState = InstanceState.PENDING
    state_reason: str = ""
    #: The disk is complete.
    built: bool = False
    boots: int = 0
    terminating: bool = False
    ended_at: datetime | None = None


RECORD = TypeAdapter(MachineRecord)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all machines of one supervisor share."""

    clock: Clock
    confinement: Confinement
    shims: Shims
    reaper: Reaper
    #: Run a coroutine that outlives a boot; its failure is logged.
    background: Callable[[Coroutine[Any, Any, None]], None]
    #: Ports other machines have been given on an address.
    ports_taken: Callable[[str], set[int]]
    #: The file system of an image, None for the built-in ones.
    image_root: Callable[[str], Path | None]


class Machine:
    """One machine; lives in the supervisor's event loop."""

    def __init__(self, folder: Path, record: MachineRecord, around: Surroundings) -> None:
        self.folder = folder
        self.record = record
        self.root = folder / "root"
        self.home = disk.home_of(self.root, record.spec.login_user)
        self.faults = record.faults
        self.drops = ssh.Drops(record.faults)
        self._around = around
        self._power = asyncio.Lock()
        #: Everything that ends when the machine goes down.
        self._tasks: set[asyncio.Task[None]] = set()
        #: Work on the disk that a cancelled task leaves behind in its thread.
        self._disk_work: set[asyncio.Future[Any]] = set()
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._power_button: int | None = None
        self._shutdown_timer: asyncio.TimerHandle | None = None
        self._on = False
        self._booted_at = 0.0
        #: Some process was started since the last halt, so there may be some to kill.
        self._used = False

    # -- what the cloud sees -----------------------------------------------------------------

    def save(self, **changes: Any) -> None:
        """Change the record, on disk first."""
        record = replace(self.record, **changes)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "instance.json", RECORD.dump_json(record, indent=1))
        self.record = record

    def instance(self) -> Instance:
        """The machine as a listing shows it."""
        record = self.record
        reachable = record.port and record.state is not InstanceState.TERMINATED
        return Instance(
            id=record.id,
            state=record.state,
            region=record.spec.region,
            image_id=record.spec.image_id,
            instance_type=record.spec.instance_type,
            token=record.token,
            tags=record.spec.tags,
            created_at=record.created_at,
            private_ip=record.address if reachable else None,
            ssh_port=record.port or _SSH_PORT,
            state_reason=record.state_reason,
        )

    def console_output(self) -> str:
        """The last part of what the console has printed; blocks."""
        try:
            with (self.folder / "console.log").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _CONSOLE_BYTES))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    # -- power -------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Boot, in the background. Raises `CloudRefused` in a state that has no way to it."""
        if self.record.state in (InstanceState.RUNNING, InstanceState.PENDING):
            return
        self._require(InstanceState.STOPPED)
        self.save(state=InstanceState.PENDING, state_reason="")
        self._begin_boot()

    def power_off(self, *, graceful: bool = True, reason: str = "") -> None:
        """Go down and stay down, in the background; without grace, as in a power cut."""
        if self.record.state is InstanceState.STOPPED:
            return
        self._require(InstanceState.RUNNING, InstanceState.PENDING)
        self.save(state=InstanceState.STOPPING, state_reason=reason)
        self._around.background(self._stop(graceful=graceful))

    def reboot(self) -> None:
        """Go down and boot again, in the background."""
        self._require(InstanceState.RUNNING)
        self._around.background(self._reboot())

    def terminate(self) -> None:
        """End for good, in the background; harmless when it has ended."""
        if self.record.terminating:
            return
        self.save(state=InstanceState.STOPPING, state_reason="terminated", terminating=True)
        self._around.background(self._terminate())

    def resume(self) -> None:
        """Bring the machine to what its record says, after the supervisor was gone: what was
        running reboots, what was going down has gone down."""
        if self.record.state is InstanceState.TERMINATED:
            return
        if self.record.terminating:
            self._around.background(self._terminate())
        elif self.record.state is InstanceState.STOPPING:
            self.save(state=InstanceState.STOPPED)
        elif self.record.state in (InstanceState.RUNNING, InstanceState.PENDING):
            self._begin_boot()

    async def lose_power(self) -> None:
        """Take everything down and leave the record as it is: the supervisor is ending."""
        async with self._power:
            await self._halt(graceful=True)

    def _require(self, *states: InstanceState) -> None:
        if self.record.state not in states:
            wanted = " or ".join(states)
            raise CloudRefused(
                f"instance {self.record.id} is {self.record.state}; this needs it {wanted}"
            )

    async def _reboot(self) -> None:
        async with self._power:
            if self.record.state is not InstanceState.RUNNING:
                return
            self.print("reboot: Restarting system")
            await self._halt(graceful=True)
            self._begin_boot()

    async def _stop(self, *, graceful: bool) -> None:
        async with self._power:
            if self.record.terminating:
                return
            if graceful:
                self.print("reboot: Power down")
            await self._halt(graceful=graceful)
            self.save(state=InstanceState.STOPPED)

    async def _terminate(self) -> None:
        async with self._power:
            await self._halt(graceful=False)
            if self.faults.terminate_s:
                await asyncio.sleep(self.faults.terminate_s)
            await asyncio.to_thread(disk.remove, self.root)
            self.save(state=InstanceState.TERMINATED, ended_at=self._around.clock.now())

    async def _halt(self, *, graceful: bool) -> None:
        self._on = False
        if self._shutdown_timer is not None:
            self._shutdown_timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await asyncio.gather(*self._disk_work, return_exceptions=True)
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for connection in list(self._connections):
            connection.abort()
        if self._power_button is not None:
            asyncio.get_running_loop().remove_reader(self._power_button)
            os.close(self._power_button)
            self._power_button = None
        if self._used:
            namespace = self._around.confinement.namespace(self.root)
            await self._around.reaper.kill(self.record.id, namespace=namespace, graceful=graceful)
            await self._around.confinement.release(self.root)
            self._used = False

    # -- boot --------------------------------------------------------------------------------

    def print(self, *lines: str) -> None:
        """Write to the console, with the seconds since the boot as a kernel does."""
        stamp = f"[{time.monotonic() - self._booted_at:12.6f}] "
        text = "".join(
            (line if line.startswith(("-----", "ssh-")) else stamp + line) + "\n" for line in lines
        )
        with (self.folder / "console.log").open("a") as file:
            file.write(text)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_disk(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Do blocking work in a thread; it is waited for even when the caller is cancelled."""
        future = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        self._disk_work.add(future)
        future.add_done_callback(self._disk_work.discard)
        return await asyncio.shield(future)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (OSError, asyncssh.Error) as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - unseen, it would leave the machine pending
            _log.exception("machine %s", self.record.id)
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        self.print(reason)
        if self.record.state in (InstanceState.PENDING, InstanceState.RUNNING):
            self.save(state=InstanceState.FAILED, state_reason=reason)

    def _begin_boot(self) -> None:
        self._booted_at = time.monotonic()
        self._start(self._boot())

    async def _boot(self) -> None:
        record, faults = self.record, self.faults
        if not record.built:
            image = self._around.image_root(record.spec.image_id)
            await self._on_disk(self._build, image)
            self.save(built=True)
        boot_id = await self._on_disk(disk.prepare_boot, self.root, faults)
        self.save(boots=record.boots + 1)
        self._watch_power_button()
        self.print(
            "Linux version 0 (slipway-local) a stand-in machine: no kernel of its own",
            f"random: boot id {boot_id}",
        )
        if not self._around.confinement.confines:
            self.print(f"slipway-local: {self._around.confinement.description}")
        await asyncio.sleep(self._boot_delay_s())
        if faults.boot_failure:
            self._fail(faults.boot_failure)
            return
        if faults.package_lock_s:
            await self._hold_package_lock()
        if self.record.port == 0:
            self._choose_port()
        self._on = True
        if not self._replaces_host_key():
            self._print_host_key()
        if not faults.ssh_never:
            if faults.ssh_banner_delay_s:
                self._save_running()
                await self._keep_silent()
            await self._open_ssh()
        self._save_running()
        self.print(f"sshd: Server listening on {self.record.address} port {self.record.port}.")
        if faults.reboots_during_boot == FOR_EVER or (
            self.record.boots <= faults.reboots_during_boot
        ):
            await asyncio.sleep(faults.reboot_after_s)
            self.reboot()
            return
        await self._cloud_init()

    def _build(self, image: Path | None) -> None:
        disk.remove(self.root)
        disk.build(
            self.root,
            self.record.spec,
            self.faults,
            instance_id=self.record.id,
            image=image,
        )

    def _boot_delay_s(self) -> float:
        delay = self.faults.boot_delay_s
        return random.uniform(*delay) if isinstance(delay, tuple) else delay

    def _save_running(self) -> None:
        # Not when somebody has asked for the machine's end meanwhile.
        if self.record.state is InstanceState.PENDING:
            self.save(state=InstanceState.RUNNING)

    def _choose_port(self) -> None:
        """One port for all machines where each has its own address (Linux), else a free one."""
        address, port = self.record.address, _SSH_PORT
        taken = self._around.ports_taken(address)
        for _ in range(100):
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((address, port))
                    port = probe.getsockname()[1]
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    # Some systems have no loopback address but this one.
                    address = "127.0.0.1"
                    taken = self._around.ports_taken(address)
                port = 0
                continue
            if port not in taken:
                self.save(address=address, port=port)
                return
            port = 0
        raise OSError(f"no free port on {address}")

    async def _open_ssh(self) -> None:
        deadline = time.monotonic() + _ADDRESS_WAIT_S
        while True:
            address, port = self.record.address, self.record.port
            try:
                self._acceptor = await ssh.listen(self, address, port, self.root / disk.HOST_KEY)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return

    async def _keep_silent(self) -> None:
        """Accept connections and say nothing, as a machine whose sshd still has to start."""
        waiting: set[asyncio.StreamWriter] = set()

        async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            waiting.add(writer)

        server = await asyncio.start_server(hold, self.record.address, self.record.port)
        try:
            await asyncio.sleep(self.faults.ssh_banner_delay_s)
        finally:
            server.close()
            for writer in waiting:
                writer.transport.abort()

    def _is_first_boot(self) -> bool:
        return not (self.root / disk.USER_DATA_RAN).exists()

    def _replaces_host_key(self) -> bool:
        return self.faults.host_key_replaced_after_s is not None and self._is_first_boot()

    def _print_host_key(self) -> None:
        self.print(
            "cloud-init: ssh host keys",
            "-----BEGIN SSH HOST KEY KEYS-----",
            disk.host_key(self.root),
            "-----END SSH HOST KEY KEYS-----",
        )

    async def _cloud_init(self) -> None:
        faults, code, unsupported = self.faults, 0, ""
        fault = CloudInitError.NONE
        if self._replaces_host_key():
            await asyncio.sleep(faults.host_key_replaced_after_s or 0.0)
            await self._on_disk(disk.new_host_key, self.root)
            if self._acceptor is not None:
                self._acceptor.update(server_host_keys=[str(self.root / disk.HOST_KEY)])
            self._print_host_key()
        failed = [
            path.name
            for path in await self._on_disk(disk.per_boot_scripts, self.root)
            if await self._run_for_cloud_init(path)
        ]
        if self._is_first_boot():
            fault = faults.cloud_init_error
            await asyncio.sleep(faults.cloud_init_s)
            # Written before the script runs, as cloud-init does: it never runs twice.
            (self.root / disk.USER_DATA_RAN).write_text("")
            user_data = self.record.spec.user_data
            if user_data.startswith("#!"):
                code = await self._run_user_data(user_data)
            elif user_data.strip():
                unsupported = "Unhandled user data: a stand-in machine runs scripts (#!) only"
                self.print(f"cloud-init: {unsupported}")
        outcome = disk.cloud_init_outcome(
            fault, user_data_exit_code=code, failed_per_boot=failed, unsupported=unsupported
        )
        await self._on_disk(disk.write_cloud_init_status, self.root, outcome)
        self.print("Cloud-init v. 24.1-slipway-local finished")

    async def _run_user_data(self, text: str) -> int:
        script = self.root / "var/lib/cloud/instance/user-data.txt"
        script.touch(mode=0o700)
        script.write_text(text)
        return await self._run_for_cloud_init(script)

    async def _run_for_cloud_init(self, script: Path) -> int:
        with (self.root / "var/log/cloud-init-output.log").open("ab") as log:
            try:
                process = await self.spawn(
                    [str(script)],
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log.fileno(),
                    stderr=log.fileno(),
                    cwd=self.root,
                )
            except OSError as error:
                log.write(f"{script}: {error}\n".encode())
                return 127
            return await process.wait()

    async def _hold_package_lock(self) -> None:
        self._used = True
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            "-E",
            "-c",
            _HOLD_PACKAGE_LOCK,
            str(self.root / disk.PACKAGE_LOCK),
            str(self.faults.package_lock_s),
            env=self.environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        if await process.stdout.readline() != b"held\n":
            raise OSError("the package lock could not be taken")

    # -- processes ---------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """The environment of every process of the machine; nothing of our own gets in."""
        return {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "LOGNAME": self.record.spec.login_user,
            MARK: self.record.id,
            "PATH": self._around.shims.path(self.root, self.faults),
            "SHELL": ssh.BASH,
            "SLIPWAY_ROOT": str(self.root),
            "TMPDIR": str(self.root / "tmp"),
            "USER": self.record.spec.login_user,
        }

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> asyncio.subprocess.Process:
        """Start a process on the machine, confined, in a session of its own. Raises OSError."""
        self._used = True
        command = await self._around.confinement.command(self.root, argv, cwd=cwd or self.home)
        if not self._on:
            raise OSError(errno.ESHUTDOWN, "the machine is going down")
        return await asyncio.create_subprocess_exec(
            *command,
            env={**self.environment(), **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    # -- the power button: what reboot, poweroff and shutdown write to -------------------------

    def _watch_power_button(self) -> None:
        # Open for writing as well, so that it never reaches its end.
        self._power_button = os.open(self.root / disk.POWER, os.O_RDWR | os.O_NONBLOCK)
        asyncio.get_running_loop().add_reader(self._power_button, self._button_pressed)

    def _button_pressed(self) -> None:
        if self._power_button is None:
            return
        with suppress(BlockingIOError):
            for line in os.read(self._power_button, 4096).decode(errors="replace").splitlines():
                action, _, delay = line.partition(" ")
                if self._shutdown_timer is not None:
                    self._shutdown_timer.cancel()
                if action not in ("reboot", "poweroff"):
                    continue
                after_s = _POWER_DELAY_S + (int(delay) if delay.isdecimal() else 0)
                do = self.reboot if action == "reboot" else self.power_off
                self._shutdown_timer = asyncio.get_running_loop().call_later(
                    after_s, self._press, do
                )

    def _press(self, do: Callable[[], None]) -> None:
        try:
            do()
        except CloudRefused as error:
            self.print(str(error))

    # -- what the SSH server asks ----------------------------------------------------------------

    def accepts(self, user: str, key: asyncssh.SSHKey) -> bool:
        """Whether the key is in the account's ``authorized_keys`` now."""
        early = time.monotonic() - self._booted_at < self.faults.login_refused_s
        if early or user != self.record.spec.login_user:
            return False
        wanted = key.export_public_key("openssh").decode().split()[1]
        try:
            lines = (self.home / ".ssh/authorized_keys").read_text().splitlines()
        except OSError:
            return False
        return any(wanted in line.split() for line in lines if not line.startswith("#"))

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection was opened."""
        self._connections.add(connection)

    def disconnected(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
