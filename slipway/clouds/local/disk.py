"""The directory a stand-in machine takes for its file system. Everything here blocks: call it in
a thread."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from slipway.clouds.base import InstanceSpec
from slipway.clouds.local.faults import CloudInitError, Faults, TimeService

_FOLDERS = (
    "etc/ssh",
    "opt",
    "proc/sys/kernel/random",
    "root",
    "run",
    "srv",
    "tmp",
    "usr/local/bin",
    "var/cache",
    "var/lib/chrony",
    "var/lib/cloud/data",
    "var/lib/cloud/instance/sem",
    "var/lib/cloud/scripts/per-boot",
    "var/lib/dpkg",
    "var/lib/slipway",
    "var/log",
    "var/tmp",
)

#: What a disk does not keep over a boot, and an image never holds.
_VOLATILE = ("tmp", "run", "proc", "var/tmp")

HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
BOOT_ID = "proc/sys/kernel/random/boot_id"
POWER = "run/power"
PACKAGE_LOCK = "var/lib/dpkg/lock-frontend"
USER_DATA_RAN = "var/lib/cloud/instance/sem/config_scripts_user"
INSTANCE_ID = "var/lib/cloud/data/instance-id"
PER_BOOT = "var/lib/cloud/scripts/per-boot"

_OS_RELEASE = """\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm), a stand-in by Slipway"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
VERSION_CODENAME=bookworm
ID=debian
VARIANT="Slipway local cloud"
VARIANT_ID=slipway-local
"""


def home_of(root: Path, user: str) -> Path:
    """The user's home directory."""
    return root / "root" if user == "root" else root / "home" / user


def build(
    root: Path, spec: InstanceSpec, faults: Faults, *, instance_id: str, image: Path | None
) -> None:
    """Make a machine's file system, from an image's if there is one, with an identity of its own.

    Raises OSError.
    """
    root.mkdir(parents=True, exist_ok=True)
    if image is not None:
        copy(image, root)
        _forget_identity(root)
    home = home_of(root, spec.login_user)
    for each in _FOLDERS:
        (root / each).mkdir(parents=True, exist_ok=True)
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700, parents=True, exist_ok=True)
    authorized_keys = ssh / "authorized_keys"
    authorized_keys.write_text(spec.ssh_public_key.strip() + "\n")
    authorized_keys.chmod(0o600)
    (root / "etc/hostname").write_text(hostname(spec.name) + "\n")
    (root / "etc/machine-id").write_text(uuid.uuid4().hex + "\n")
    (root / INSTANCE_ID).write_text(instance_id + "\n")
    if not (root / "etc/os-release").exists():
        (root / "etc/os-release").write_text(_OS_RELEASE)
    (root / "var/lib/dpkg/lock-frontend").touch()
    new_host_key(root)
    synchronised = faults.time_service is TimeService.SYNCHRONISED
    offset_ns = round(faults.clock_offset_s * 1e9)
    (root / "var/lib/chrony/state").write_text(
        f"{offset_ns} {int(synchronised)} {int(faults.clock_step_cures)}\n"
    )


def hostname(name: str) -> str:
    """A host name made from an instance's name (RFC 1123: letters, digits, hyphens, 63)."""
    letters = "".join(each if each.isascii() and each.isalnum() else "-" for each in name.lower())
    return letters.strip("-")[:63] or "machine"


def new_host_key(root: Path) -> None:
    """Make an ed25519 host key, in place of the one there is."""
    name = (root / "etc/hostname").read_text().strip()
    key = asyncssh.generate_private_key("ssh-ed25519", comment=f"root@{name}")
    path = root / HOST_KEY
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    path.with_suffix(".pub").write_bytes(key.export_public_key())


def host_key(root: Path) -> str:
    """The machine's public host key, ``ssh-ed25519 AAAA… root@name``."""
    return (root / HOST_KEY).with_suffix(".pub").read_text().strip()


def prepare_boot(root: Path, faults: Faults) -> str:
    """Empty what a boot empties; returns the new boot id. Raises OSError."""
    for each in _VOLATILE:
        shutil.rmtree(root / each, ignore_errors=True)
        (root / each).mkdir(parents=True, exist_ok=True)
    boot_id = str(uuid.uuid4())
    (root / BOOT_ID).parent.mkdir(parents=True)
    (root / BOOT_ID).write_text(boot_id + "\n")
    os.mkfifo(root / POWER, 0o600)
    if faults.time_service is not TimeService.NONE:
        (root / "run/chrony.pid").write_text("1\n")
    write_cloud_init_status(root, None)
    return boot_id


@dataclass(frozen=True, kw_only=True)
class CloudInitOutcome:
    """How cloud-init ended on one boot."""

    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()


def per_boot_scripts(root: Path) -> list[Path]:
    """What cloud-init runs at every boot, in the order it does."""
    found = sorted((root / PER_BOOT).glob("*"))
    return [path for path in found if path.is_file() and os.access(path, os.X_OK)]


def cloud_init_outcome(
    fault: CloudInitError,
    *,
    user_data_exit_code: int,
    failed_per_boot: Sequence[str] = (),
    unsupported: str = "",
) -> CloudInitOutcome:
    """What really happened on the machine and what the fault adds."""
    errors, warnings = [], []
    if failed_per_boot:
        errors.append(
            f"('scripts_per_boot', RuntimeError('Runparts: {len(failed_per_boot)} failures "
            f"({', '.join(failed_per_boot)})'))"
        )
    if user_data_exit_code or fault is CloudInitError.FATAL:
        errors.append(
            "('scripts_user', RuntimeError('Runparts: 1 failures (part-001) "
            "in 1 attempted commands'))"
        )
    if fault is CloudInitError.HARMLESS:
        errors.append(
            "('locale', ProcessExecutionError(\"Unexpected error while running command.\\n"
            "Command: ['locale-gen', 'en_XX.UTF-8']\\nExit code: 1\"))"
        )
    if fault is CloudInitError.DEGRADED:
        warnings.append("Failed to set the locale to en_XX.UTF-8")
    if unsupported:
        warnings.append(unsupported)
    return CloudInitOutcome(errors=errors, warnings=warnings)


def write_cloud_init_status(root: Path, outcome: CloudInitOutcome | None) -> None:
    """What ``cloud-init status`` is to say: still running (None), or ended.

    Statuses and exit codes as cloud-init 23.4 and later (cmd/status.py): 0 done, 1 error,
    2 done with recoverable errors.
    """
    status, extended, code = "running", "running", 0
    errors: Sequence[str] = ()
    recoverable: dict[str, list[str]] = {}
    if outcome is not None:
        errors = outcome.errors
        if outcome.warnings:
            recoverable = {"WARNING": list(outcome.warnings)}
        if errors:
            status, extended, code = "error", "error - done", 1
        elif recoverable:
            status, extended, code = "done", "degraded done", 2
        else:
            status, extended = "done", "done"
    stage: dict[str, object] = {
        "errors": [],
        "finished": None,
        "recoverable_errors": {},
        "start": None,
    }
    full = {
        "boot_status_code": "enabled-by-generator",
        "datasource": "slipway-local",
        "detail": "DataSourceSlipwayLocal",
        "errors": list(errors),
        "extended_status": extended,
        "init": stage,
        "init-local": stage,
        "last_update": "",
        "modules-config": stage,
        "modules-final": {**stage, "errors": list(errors), "recoverable_errors": recoverable},
        "recoverable_errors": recoverable,
        "schemas": {},
        "stage": "modules-final" if outcome is None else None,
        "status": status,
    }
    state = root / "run/cloud-init"
    folder = state / ("running" if outcome is None else "ended")
    folder.mkdir(parents=True)
    (folder / "json").write_text(json.dumps(full, indent=1) + "\n")
    (folder / "tabular").write_text(f"status: {status}\n")
    lines = [
        f"extended_status: {extended}",
        "boot_status_code: enabled-by-generator",
        "detail: DataSourceSlipwayLocal",
        "errors:" + ("".join(f"\n\t- {each}" for each in errors) or " []"),
        "recoverable_errors:" + ("".join(f"\n{k}: {v}" for k, v in recoverable.items()) or " {}"),
    ]
    (folder / "long").write_text("\n".join(lines) + "\n")
    (folder / "code").write_text(f"{code}\n")
    link = state / "current.new"
    link.symlink_to(folder.name)
    link.replace(state / "current")
    if outcome is not None:
        (root / "var/lib/cloud/instance/boot-finished").write_text("finished\n")
        result = {"v1": {"datasource": "DataSourceSlipwayLocal", "errors": list(errors)}}
        # Last: whoever waits, waits for this file.
        (state / "result.json").write_text(json.dumps(result) + "\n")


def _forget_identity(root: Path) -> None:
    """Remove what must not be the same on two machines."""
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    for keys in [*root.glob("home/*/.ssh/authorized_keys"), root / "root/.ssh/authorized_keys"]:
        keys.unlink(missing_ok=True)
    (root / "etc/machine-id").unlink(missing_ok=True)
    shutil.rmtree(root / "var/lib/cloud", ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a machine's file system while it may be in use. Raises OSError.

    Files that vanish meanwhile are left out, so are sockets, pipes and devices, and what a disk
    does not keep over a boot.
    """
    skipped = {source / each for each in _VOLATILE}

    def copy_folder(here: Path, there: Path) -> None:
        there.mkdir(exist_ok=True)
        try:
            entries = list(os.scandir(here))
        except FileNotFoundError:
            return
        for entry in entries:
            path, to = Path(entry.path), there / entry.name
            if path in skipped:
                continue
            try:
                if entry.is_symlink():
                    to.symlink_to(os.readlink(path))  # noqa: PTH115 - kept as it is written
                elif entry.is_dir():
                    copy_folder(path, to)
                elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
                    shutil.copy2(path, to)
            except FileNotFoundError:
                continue
        shutil.copystat(here, there)

    copy_folder(source, target)


def remove(folder: Path) -> None:
    """Remove a tree, also one whose folders were made unwritable. Raises OSError."""

    def make_writable(function: Callable[[str], object], path: str, _: object) -> None:
        Path(path).parent.chmod(0o700)
        function(path)

    if not folder.exists():
        return
    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=make_writable)
    else:
        shutil.rmtree(folder, onerror=make_writable)
