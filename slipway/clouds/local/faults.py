"""What can be made to go wrong on a stand-in machine, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter, ValidationError

from slipway.errors import InvalidInput, Problem
from slipway.spelling import nearest

#: A count that never runs out.
FOR_EVER = -1


class CloudInitError(StrEnum):
    """How cloud-init says it ended, in the words of its ``extended_status``."""

    NONE = ""
    #: ``degraded done``, exit code 2: recoverable errors only (cloud-init 23.4 and later).
    DEGRADED = "degraded"
    #: ``error - done``, exit code 1, over a locale: nothing that matters to anyone.
    HARMLESS = "harmless"
    #: ``error - done``, exit code 1: a user script failed.
    FATAL = "fatal"


class TimeService(StrEnum):
    """What `chronyc` finds on the machine."""

    SYNCHRONISED = "synchronised"
    #: chronyd runs and never reaches a server.
    UNSYNCHRONISED = "unsynchronised"
    #: No time daemon is installed.
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Everything that goes wrong on machines made from one image.

    Durations are seconds. A count of `FOR_EVER` (-1) never runs out. The default is a machine on
    which nothing goes wrong.
    """

    #: The instance stays PENDING this long: a number, or (shortest, longest) drawn per boot.
    boot_delay_s: float | tuple[float, float] = 0.0
    #: Why the instance ends FAILED instead of booting.
    boot_failure: str = ""
    #: The instance runs and refuses every connection.
    ssh_never: bool = False
    #: Connections are accepted this long before there is a banner.
    ssh_banner_delay_s: float = 0.0
    #: So many reboots after SSH has answered, before the machine stays up.
    reboots_during_boot: int = 0
    #: How long SSH answers before each of them.
    reboot_after_s: float = 0.2
    cloud_init_error: CloudInitError = CloudInitError.NONE
    #: cloud-init keeps running this long on the first boot.
    cloud_init_s: float = 0.0
    #: On the first boot SSH shows a key for this long that cloud-init then replaces. Only the
    #: second key is printed on the console.
    host_key_replaced_after_s: float | None = None
    #: The key is refused this long after each boot: the account does not exist yet.
    login_refused_s: float = 0.0
    #: Something holds the package lock this long after each boot.
    package_lock_s: float = 0.0
    #: The machine's clock minus the true time; negative is slow.
    clock_offset_s: float = 0.0
    #: `chronyc makestep` sets the clock right.
    clock_step_cures: bool = True
    time_service: TimeService = TimeService.SYNCHRONISED
    #: Every session starts so much late.
    ssh_delay_s: float = 0.0
    #: The connection breaks after so many bytes of output.
    drop_after_bytes: int | None = None
    #: The connection breaks this long after it was opened.
    drop_after_s: float | None = None
    #: The connection breaks just after the machine's nth command has started (1 is the first).
    drop_on_exec: int | None = None
    #: How many connections break before no more do.
    drops: int = 1
    #: So many creates per client token are refused for lack of capacity.
    capacity_refusals: int = 0
    #: So many creates per client token work and never answer.
    create_replies_lost: int = 0
    #: Listings leave the instance out this long after it was created.
    unlisted_s: float = 0.0
    #: Terminating takes this long.
    terminate_s: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            low = FOR_EVER if each.type == "int" else 0
            if each.name == "clock_offset_s" or isinstance(value, str | bool | None):
                continue
            for number in value if isinstance(value, tuple) else (value,):
                if number < low:
                    raise InvalidInput(
                        Problem(
                            where=f"faults.{each.name}",
                            what=f"{number} is too small; the smallest is {low}",
                        )
                    )
        delay = self.boot_delay_s
        if isinstance(delay, tuple) and delay[0] > delay[1]:
            raise InvalidInput(
                Problem(where="faults.boot_delay_s", what="write the shortest delay first")
            )

    def to_json(self) -> dict[str, Any]:
        """Only what differs from a machine without faults, as JSON values."""
        dumped: dict[str, Any] = _ADAPTER.dump_python(self, mode="json", exclude_defaults=True)
        return dumped

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Faults:
        """The opposite of `to_json`. Raises `InvalidInput` for an unknown field or a bad value."""
        known = [each.name for each in fields(cls)]
        problems = []
        for name in values:
            if name not in known:
                hint = nearest(name, known)
                problems.append(Problem(where=f"faults.{name}", what=f"no such fault{hint}"))
        if problems:
            raise InvalidInput(problems)
        try:
            return _ADAPTER.validate_python(dict(values))
        except ValidationError as error:
            raise InvalidInput(
                Problem(
                    where="faults." + ".".join(str(part) for part in each["loc"]),
                    what=each["msg"],
                )
                for each in error.errors()
            ) from error


_ADAPTER = TypeAdapter(Faults)

#: The image without faults.
DEFAULT_IMAGE = "local-debian-12"

#: The images every local cloud has, by name.
BUILT_IN: dict[str, Faults] = {
    DEFAULT_IMAGE: Faults(),
    "local-boot-slow": Faults(boot_delay_s=(1.0, 2.0)),
    "local-boot-fails": Faults(boot_failure="kernel panic: no init found"),
    "local-ssh-never": Faults(ssh_never=True),
    "local-ssh-banner-late": Faults(ssh_banner_delay_s=1.0),
    "local-ssh-slow": Faults(ssh_delay_s=0.5),
    "local-ssh-drops": Faults(drop_on_exec=3),
    "local-ssh-drops-always": Faults(drop_after_bytes=200, drops=FOR_EVER),
    "local-reboots-once": Faults(reboots_during_boot=1, reboot_after_s=1.5),
    "local-reboots-thrice": Faults(reboots_during_boot=3, reboot_after_s=1.5),
    "local-reboots-forever": Faults(reboots_during_boot=FOR_EVER),
    "local-cloud-init-degraded": Faults(cloud_init_error=CloudInitError.DEGRADED),
    "local-cloud-init-harmless": Faults(cloud_init_error=CloudInitError.HARMLESS),
    "local-cloud-init-fatal": Faults(cloud_init_error=CloudInitError.FATAL),
    "local-cloud-init-slow": Faults(cloud_init_s=2.0),
    "local-host-key-replaced": Faults(host_key_replaced_after_s=0.5),
    "local-login-late": Faults(login_refused_s=1.0),
    "local-package-lock": Faults(package_lock_s=2.0),
    # The offset of a guest resumed from a pause, after chrony's own `makestep 1 3` was used up.
    "local-clock-slow": Faults(clock_offset_s=-32.6),
    "local-clock-stuck": Faults(clock_offset_s=-32.6, clock_step_cures=False),
    "local-time-unsynchronised": Faults(time_service=TimeService.UNSYNCHRONISED),
    "local-time-none": Faults(time_service=TimeService.NONE),
    "local-no-capacity-once": Faults(capacity_refusals=1),
    "local-create-reply-lost": Faults(create_replies_lost=1),
    "local-listed-late": Faults(unlisted_s=1.0),
    "local-terminate-slow": Faults(terminate_s=1.0),
}
