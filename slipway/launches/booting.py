"""Is the operating system really ready? The gate is data; this finds the server and its key."""

from __future__ import annotations

from slipway.errors import CloudError, ConnectionFailed, HostKeyMismatch
from slipway.gates.linux import linux_gate, probe_linux
from slipway.gates.wait import Gate, Reading, Verdict
from slipway.launches.connecting import connect, console_host_key
from slipway.launches.creating import cloud_of
from slipway.launches.inputs import template_of
from slipway.launches.phoning import calls_us
from slipway.launches.work import Work
from slipway.steps import StepRun

#: From "the cloud says it runs" to "the gate passed".
DEADLINE_S = 900.0

#: How long a server that answers may go without showing its host key on the console. Images that
#: never print one exist; after this the key of the first contact is trusted, and the audit says so.
CONSOLE_KEY_WAIT_S = 120.0

#: Between two looks at the console, which clouds throttle: from the first to the second, and up to
#: the longest, doubling.
CONSOLE_PAUSE_S = 0.5
LONGEST_CONSOLE_PAUSE_S = 10.0


class BootProbe:
    """Probes one booting server, and pins its host key on the way."""

    def __init__(self, work: Work, run: StepRun) -> None:
        self._work = work
        self._run = run
        self._launch = work.launch()
        self._started = work.services.clock.monotonic()
        self._pinned = self._launch.host_key
        self._from_console = False
        self._console_pause_s = CONSOLE_PAUSE_S
        self._next_console = self._started

    @property
    def gate(self) -> Gate:
        """What "ready" means for this launch's template."""
        ready = template_of(self._work.services, self._launch).ready
        return linux_gate(signals=ready.linux, ignore_errors=ready.ignore_cloud_init_errors or ())

    def __call__(self, timeout_s: float) -> Reading:
        """One look. Raises `ConnectionFailed` while there is nothing to see yet."""
        if calls_us(self._launch):
            # It showed a secret that it alone has: there is no host key to pin.
            with connect(self._work, self._launch, timeout_s=timeout_s) as remote:
                return probe_linux(remote, timeout_s=timeout_s)
        if self._pinned is None:
            self._pin()
        try:
            with connect(
                self._work, self._launch, host_key=self._pinned, timeout_s=timeout_s
            ) as remote:
                self._pinned = self._pinned or remote.host_key
                return probe_linux(remote, timeout_s=timeout_s)
        except HostKeyMismatch as error:
            # cloud-init replaces the keys once; only the console can vouch for the new one.
            newest = self._read_console()
            if newest is not None and newest != self._pinned:
                self._pinned, self._from_console = newest, True
            raise ConnectionFailed(str(error)) from error

    def finish(self, verdict: Verdict) -> None:
        """Record the evidence, and the host key from here on."""
        key = self._pinned
        how = "host key from the console" if self._from_console else "host key trusted on first use"
        if calls_us(self._launch):
            how = "it calls us"
        self._run.succeed(
            f"ready after {verdict.duration_s:.1f} s, {verdict.probes} probes and "
            f"{verdict.reboots} reboots; {how}",
            result={
                "findings": {
                    name: f"{found.answer.value}: {found.value}"
                    for name, found in verdict.findings.items()
                },
                "boot_id": verdict.evidence.get("boot_id", ""),
                "reboots": verdict.reboots,
                "probes": verdict.probes,
                **self._who(verdict),
            },
            also=lambda c: self._work.update(c, host_key=key),
        )

    def _who(self, verdict: Verdict) -> dict[str, str | None]:
        """How we know that it is this server."""
        if calls_us(self._launch):
            return {"agent": verdict.evidence.get("host_key")}
        source = "console" if self._from_console else "first-use"
        return {"host_key": self._pinned, "host_key_source": source}

    def _read_console(self) -> str | None:
        clock = self._work.services.clock
        if clock.monotonic() < self._next_console:
            return None
        try:
            return console_host_key(self._work, self._launch)
        except CloudError as error:
            if not error.retryable:
                raise
            raise ConnectionFailed(f"the console cannot be read now: {error}") from error
        finally:
            self._next_console = clock.monotonic() + self._console_pause_s
            self._console_pause_s = min(self._console_pause_s * 2, LONGEST_CONSOLE_PAUSE_S)

    def _pin(self) -> None:
        key = self._read_console()
        if key is not None:
            self._pinned, self._from_console = key, True
            return
        waited_s = self._work.services.clock.monotonic() - self._started
        cloud = cloud_of(self._work.services, self._launch)
        if cloud.capabilities.console_output and waited_s < CONSOLE_KEY_WAIT_S:
            raise ConnectionFailed("the console shows no host key yet")
