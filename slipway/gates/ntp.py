"""The clock gate: a server's clock is measured by us, and its own time service must agree.

Neither alone is enough. A guest resumed from suspend was seen 33 s slow while chrony said ``Leap
status: Normal`` and ``Last offset: 0.000025681 seconds``; only its ``System time`` field told the
truth, and ``chronyc waitsync 1`` succeeded. And our own measurement says nothing about tomorrow:
without a time service a clock that is right now drifts away.

Everything happens over one exec channel: a small shell loop on the server answers ``t`` (the time),
``s`` (what the time service says) and ``c`` (correct the clock). Offsets are *server minus
controller* throughout: negative is a server that is behind.

Measuring is Cristian's algorithm: of several round trips the quickest one counts, the server's time
is taken to be that of its middle, and half the round trip bounds the error.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from slipway.clock import Clock
from slipway.errors import GateFailed, InvalidInput, Problem, SlipwayError
from slipway.gates.wait import (
    Answer,
    Facts,
    Finding,
    Gate,
    GateNotPassed,
    Need,
    Reading,
    Signal,
    drive,
    watch_gate,
)
from slipway.remote.base import Conversation, Remote

_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}\Z")


@dataclass(frozen=True, kw_only=True)
class ClockGate:
    """When a clock is good enough."""

    #: |offset| plus its bound must stay below this.
    max_offset_ms: float = 500.0
    #: A measurement less certain than this says nothing, whatever its offset.
    max_bound_ms: float = 250.0
    #: The time servers (names or addresses) the machine may follow; empty means any.
    servers: tuple[str, ...] = ()
    #: The farthest from a reference clock that is accepted (16 is "not synchronised").
    max_stratum: int = 15
    #: Round trips per measurement.
    samples: int = 8
    #: How often the clock may be corrected before we give up.
    max_corrections: int = 2

    def __post_init__(self) -> None:
        problems = [
            Problem(where="clock gate", what=what)
            for bad, what in (
                (
                    self.max_offset_ms <= 0,
                    f"max_offset_ms is {self.max_offset_ms:g}; it must be above 0",
                ),
                (
                    self.max_bound_ms <= 0,
                    f"max_bound_ms is {self.max_bound_ms:g}; it must be above 0",
                ),
                (
                    not 1 <= self.max_stratum <= 15,
                    f"max_stratum is {self.max_stratum}; it must be 1 to 15",
                ),
                (self.samples < 1, f"samples is {self.samples}; it must be at least 1"),
            )
            if bad
        ]
        problems += [
            Problem(where="clock gate", what=f"{name!r} is not a host name or address")
            for name in self.servers
            if not _SERVER_NAME.match(name)
        ]
        if problems:
            raise InvalidInput(problems)


@dataclass(frozen=True, kw_only=True)
class ClockVerdict:
    """A clock that passed, with what was measured."""

    #: Server minus controller.
    offset_ms: float
    #: The true offset is within this of the measured one.
    bound_ms: float
    #: The time service that agreed: chrony, ntpd, systemd-timesyncd.
    service: str
    #: Whom it follows.
    source: str
    stratum: int
    #: Whether we had to correct the clock.
    corrected: bool
    probes: int
    duration_s: float
    evidence: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What one time service on the server says about itself."""

    name: str
    #: Empty when it is synchronised; otherwise half a sentence.
    trouble: str
    source: str = ""
    stratum: int = 0
    #: What the service believes the clock is off by; None when it does not say.
    offset_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured offset."""

    offset_ms: float
    bound_ms: float


#: The loop on the server. ``t`` costs one fork of date(1); a date without %N (macOS) is replaced.
CLOCK_LOOP = r"""
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then sudo='sudo -n'; else sudo=; fi
case $(date +%N) in
*[!0-9]* | '')
  if perl -MTime::HiRes -e 1 2>/dev/null; then
    now() { perl -MTime::HiRes=time -e 'printf "%.6f\n", time'; }
  elif command -v python3 >/dev/null 2>&1; then
    now() { python3 -S -c 'import time; print("%.6f" % time.time())'; }
  else
    now() { date +%s; }
  fi ;;
*) now() { date +%s.%N; } ;;
esac
has() { command -v "$1" >/dev/null 2>&1; }
say() { echo "$1"; shift; "$@" 2>&1 </dev/null; echo "= $?"; }
service() {
  for n in "$@"; do
    if has getent; then echo "server $n" $(getent ahosts "$n" | sed 's/ .*//' | sort -u); fi
  done
  if has chronyc; then say chrony chronyc -n -c tracking; fi
  if has ntpq; then say ntpd ntpq -n -c rv; fi
  if has timedatectl && has systemctl &&
    [ "$(systemctl is-active systemd-timesyncd 2>/dev/null)" = active ]; then
    say timesyncd timedatectl show-timesync --all
    say timesyncd-status timedatectl timesync-status
  fi
}
correct() {
  case $1 in
  chrony) say correct $sudo chronyc makestep ;;
  ntpd)
    u=ntp
    systemctl cat ntp >/dev/null 2>&1 || u=ntpd
    systemctl cat ntpsec >/dev/null 2>&1 && u=ntpsec
    if has ntpd; then
      $sudo systemctl stop $u >/dev/null 2>&1
      say correct $sudo ntpd -gq
      $sudo systemctl start $u >/dev/null 2>&1
    elif has ntpdate; then
      shift
      say correct $sudo ntpdate -u "$@"
    else
      say correct $sudo systemctl restart $u
    fi ;;
  timesyncd) say correct $sudo systemctl restart systemd-timesyncd ;;
  esac
}
while read -r what rest; do
  case $what in
  t) now ;;
  s) service $rest; echo . ;;
  c) correct $rest; echo . ;;
  esac
done
"""


def parse_chrony(text: str) -> Service:
    """``chronyc -n -c tracking``: one CSV line.

    Fields (chrony's ``client.c``, ``process_cmd_tracking``): reference id, source, stratum,
    reference time, **system time offset** (seconds, positive is slow), last offset, RMS offset,
    frequency, residual frequency, skew, root delay, root dispersion, update interval, leap.
    Leap "Normal" and "Last offset" look perfect on a clock that is 33 s off; field 5 does not.
    """
    line = text.strip().partition("\n")[0]
    fields = line.split(",")
    if len(fields) < 14:
        return Service(name="chrony", trouble=f"does not answer: {line or 'no output'}")
    try:
        stratum = int(fields[2])
        offset_ms = -float(fields[4]) * 1000
    except ValueError:
        return Service(name="chrony", trouble=f"gives an answer we cannot read: {line}")
    reference, source, leap = fields[0], fields[1], fields[13]
    trouble = ""
    if leap not in {"Normal", "Insert second", "Delete second"}:
        trouble = f"is not synchronised (leap status {leap})"
    elif not reference.strip("0"):
        trouble = "follows no source"
    elif reference == "7F7F0101":
        # chrony's "local stratum": it serves its own unsynchronised clock.
        trouble = "follows its own clock"
    return Service(
        name="chrony",
        trouble=trouble,
        source=source or reference,
        stratum=stratum,
        offset_ms=offset_ms,
    )


_NTPQ_PAIR = re.compile(r"(\w+)=(\"[^\"]*\"|[^,\s]+)")


def parse_ntpq(text: str) -> Service:
    """``ntpq -n -c rv``: RFC 9327 system variables; ``offset`` in ms, positive is a slow clock."""
    values = {key: value.strip('"') for key, value in _NTPQ_PAIR.findall(text)}
    if "stratum" not in values:
        line = text.strip().partition("\n")[0]
        return Service(name="ntpd", trouble=f"does not answer: {line or 'no output'}")
    stratum = int(values["stratum"]) if values["stratum"].isdigit() else 16
    leap = values.get("leap", "")
    offset = values.get("offset", "")
    trouble = ""
    if "leap_alarm" in text or leap in {"11", "3"} or stratum >= 16:
        trouble = "is not synchronised (leap alarm)"
    elif "sync_unspec" in text:
        trouble = "follows no source"
    elif values.get("refid", "").startswith(("127.127.1.", "LOCL", "LOCAL")):
        trouble = "follows its own clock"
    try:
        offset_ms = -float(offset) if offset else None
    except ValueError:
        offset_ms = None
    return Service(
        name="ntpd",
        trouble=trouble,
        source=values.get("refid", ""),
        stratum=stratum,
        offset_ms=offset_ms,
    )


_TIMESYNC_MESSAGE = re.compile(r"(\w+)=([^,}]*)")
_TIMESYNC_OFFSET = re.compile(r"^\s*Offset: ([+-]?)(.+)$", re.MULTILINE)
_TIMESPAN = re.compile(r"([\d.]+)(us|ms|min|s|h|d)")
_TIMESPAN_MS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_timesyncd(text: str, status: str = "") -> Service:
    """``timedatectl show-timesync --all`` and, for the offset, ``timedatectl timesync-status``.

    ``Offset`` there is the server's time minus ours, so positive is a slow clock. It is what the
    last packet said *before* the correction it led to.
    """
    values = dict(line.partition("=")[::2] for line in text.splitlines())
    source = values.get("ServerAddress") or values.get("ServerName") or ""
    message = values.get("NTPMessage", "")
    pairs = dict(_TIMESYNC_MESSAGE.findall(message.strip("{ ")))
    if "ServerName" not in values and "ServerAddress" not in values and not message:
        line = text.strip().partition("\n")[0]
        return Service(name="timesyncd", trouble=f"does not answer: {line or 'no output'}")
    stratum_text = pairs.get("Stratum", "").strip()
    stratum = int(stratum_text) if stratum_text.isdigit() else 0
    trouble = ""
    if not message or stratum == 0:
        trouble = "has heard from no time server yet"
    elif pairs.get("Ignored", "no").strip() == "yes":
        trouble = "ignored what its time server said"
    elif pairs.get("Leap", "").strip() == "3":
        trouble = "follows a server that is not synchronised itself"
    offset_ms: float | None = None
    found = _TIMESYNC_OFFSET.search(status)
    if found is not None:
        span = sum(float(n) * _TIMESPAN_MS[unit] for n, unit in _TIMESPAN.findall(found[2]))
        offset_ms = span if found[1] == "-" else -span
    return Service(
        name="timesyncd", trouble=trouble, source=source, stratum=stratum, offset_ms=offset_ms
    )


def choose_service(sections: Mapping[str, str]) -> Service | None:
    """The service that keeps the clock: the first that is synchronised, else the first that
    answers, else the first that is there; None when the server has none."""
    services: list[Service] = []
    if "chrony" in sections:
        services.append(parse_chrony(sections["chrony"]))
    if "ntpd" in sections:
        services.append(parse_ntpq(sections["ntpd"]))
    if "timesyncd" in sections:
        status = sections.get("timesyncd-status", "")
        services.append(parse_timesyncd(sections["timesyncd"], status))
    services.sort(key=lambda one: (one.trouble != "", one.trouble.startswith("does not answer")))
    return services[0] if services else None


def _acceptable(source: str, gate: ClockGate, addresses: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether the source is one of the gate's servers, by name or by any of its addresses."""
    if not gate.servers:
        return True
    return any(source == name or source in addresses.get(name, ()) for name in gate.servers)


def _read_offset(facts: Facts, gate: ClockGate) -> Finding:
    offset_ms, bound_ms = float(facts["offset_ms"]), float(facts["bound_ms"])
    value = f"{offset_ms:+.1f} ms ± {bound_ms:.1f} ms"
    if bound_ms > gate.max_bound_ms:
        # Refused rather than passed: an uncertain measurement is none.
        return Finding(
            answer=Answer.NOT_YET,
            value=f"{value}, too uncertain (limit ± {gate.max_bound_ms:g} ms)",
        )
    if abs(offset_ms) + bound_ms >= gate.max_offset_ms:
        gone = (
            int(facts["corrections"]) >= gate.max_corrections
            and facts["just_corrected"] == "no"
            and not facts["trouble"]
        )
        return Finding(
            answer=Answer.NEVER if gone else Answer.NOT_YET,
            value=f"{value} (limit {gate.max_offset_ms:g} ms) after {facts['corrections']} "
            "corrections",
        )
    return Finding(answer=Answer.YES, value=value)


def _read_service(facts: Facts, gate: ClockGate) -> Finding:
    name = facts["service"]
    if not name:
        return Finding(answer=Answer.NEVER, value="missing")
    trouble = facts["trouble"]
    if trouble:
        return Finding(answer=Answer.NOT_YET, value=f"{name}, which {trouble}")
    source, stratum = facts["source"], int(facts["stratum"])
    if facts["acceptable"] != "yes":
        wanted = ", ".join(gate.servers)
        return Finding(
            answer=Answer.NOT_YET, value=f"{name} following {source}, which is not one of {wanted}"
        )
    if not 1 <= stratum <= gate.max_stratum:
        return Finding(
            answer=Answer.NOT_YET,
            value=f"{name} following {source} at stratum {stratum} (limit {gate.max_stratum})",
        )
    believed = facts["service_offset_ms"]
    if believed and abs(float(believed)) >= gate.max_offset_ms:
        return Finding(
            answer=Answer.NOT_YET,
            value=f"{name} saying itself that the clock is {float(believed):+.1f} ms off "
            f"(limit {gate.max_offset_ms:g} ms)",
        )
    return Finding(answer=Answer.YES, value=f"{name} following {source} at stratum {stratum}")


def clock_table(gate: ClockGate) -> Gate:
    """The clock gate as data for the one loop."""
    return Gate(
        name="clock",
        signals=(
            Signal(
                name="time service",
                need=Need.REQUIRED,
                read=lambda facts: _read_service(facts, gate),
                meaning="nothing we accept keeps this clock right",
                remedy="install and start chrony with the wanted servers, and see that UDP port "
                "123 to them is open",
            ),
            Signal(
                name="clock offset",
                need=Need.REQUIRED,
                read=lambda facts: _read_offset(facts, gate),
                meaning="the server's clock does not show our time",
                remedy="check 'chronyc tracking' and 'chronyc sources' there, and the load of "
                "both machines when the measurement is uncertain",
            ),
        ),
        consecutive=1,
        boot_fact="",
        first_pause_s=0.5,
    )


class _Talk:
    """The loop on the server, from our side."""

    def __init__(self, line: Conversation, clock: Clock, gate: ClockGate) -> None:
        self._line = line
        self._clock = clock
        self._gate = gate
        self.corrections = 0

    def measure(self, timeout_s: float) -> Measurement:
        """The best of several round trips."""
        trips = self._line.round_trips(
            "t", self._gate.samples, clock=self._clock, timeout_s=timeout_s
        )
        found = [
            measured(now=trip.sent_at, rtt_s=trip.rtt_s, server_time=trip.answer) for trip in trips
        ]
        return min(found, key=lambda measurement: measurement.bound_ms)

    def ask(self, question: str, timeout_s: float) -> tuple[dict[str, str], dict[str, str]]:
        """The answer's sections by name, and the addresses of the named servers."""
        self._line.send_line(question)
        sections: dict[str, str] = {}
        addresses: dict[str, str] = {}
        name = ""
        while (line := self._line.read_line(timeout_s=timeout_s)) != ".":
            if line.startswith("= ") and name:
                name = ""
            elif name:
                sections[name] += line + "\n"
            elif line.startswith("server "):
                _, server, *found = line.split()
                addresses[server] = " ".join(found)
            else:
                name = line
                sections[name] = ""
        return sections, addresses

    def probe(self, timeout_s: float) -> Reading:
        """Measure and ask; correct a clock that is off, for the next probe to measure again."""
        sections, addresses = self.ask(f"s {' '.join(self._gate.servers)}".strip(), timeout_s)
        service = choose_service(sections)
        measurement = self.measure(timeout_s)
        known = {name: tuple(found.split()) for name, found in addresses.items()}
        facts = {
            "offset_ms": f"{measurement.offset_ms:.3f}",
            "bound_ms": f"{measurement.bound_ms:.3f}",
            "service": service.name if service else "",
            "trouble": service.trouble if service else "",
            "source": service.source if service else "",
            "stratum": str(service.stratum if service else 0),
            "service_offset_ms": ""
            if service is None or service.offset_ms is None
            else f"{service.offset_ms:.3f}",
            "acceptable": "yes"
            if service and _acceptable(service.source, self._gate, known)
            else "no",
            **{f"answer_{name.replace('-', '_')}": text for name, text in sections.items()},
        }
        facts["just_corrected"] = "no"
        if (
            service is not None
            and not service.trouble
            and self._off(measurement, service)
            and self.corrections < self._gate.max_corrections
        ):
            question = f"c {service.name} {' '.join(self._gate.servers)}".strip()
            said, _ = self.ask(question, timeout_s)
            self.corrections += 1
            facts["correction"] = said.get("correct", "").strip()
            # These facts are older than the correction; the next ones decide.
            facts["just_corrected"] = "yes"
        facts["corrections"] = str(self.corrections)
        return Reading(facts=facts)

    def _off(self, measurement: Measurement, service: Service) -> bool:
        limit_ms = self._gate.max_offset_ms
        # Beyond doubt only: an uncertain measurement is no reason to move a clock.
        ours = abs(measurement.offset_ms) - measurement.bound_ms >= limit_ms
        return ours or (service.offset_ms is not None and abs(service.offset_ms) >= limit_ms)


def measured(*, now: datetime, rtt_s: float, server_time: str) -> Measurement:
    """What one round trip that began at ``now`` says; raises `GateFailed` for no time at all.

    A server that tells whole seconds only was, on average, half a second further: the bound grows
    by as much.
    """
    try:
        seconds = float(server_time)
    except ValueError:
        raise GateFailed(
            f"clock: the server answered {server_time!r} when asked for its time"
        ) from None
    coarse_ms = 0.0 if "." in server_time else 500.0
    middle = now.timestamp() + rtt_s / 2
    return Measurement(
        offset_ms=(seconds - middle) * 1000 + coarse_ms,
        bound_ms=rtt_s / 2 * 1000 + coarse_ms,
    )


def pass_clock_gate(
    remote: Remote, gate: ClockGate, clock: Clock, *, deadline_s: float = 60.0
) -> ClockVerdict:
    """Measure the server's clock over this one connection, correct it if need be, and say so.

    Passes only if |offset| + bound is below the limit and the server's time service is
    synchronised to an acceptable source, with its own idea of the offset below the limit too.
    Raises `GateNotPassed` with one sentence otherwise, and `RemoteError` for a lost connection.
    Check the controller's own clock first (`check_controller_clock`), or every server looks wrong.
    """
    with remote.converse(CLOCK_LOOP) as line:
        talk = _Talk(line, clock, gate)
        waiting = watch_gate(clock_table(gate), clock, deadline_s=deadline_s, not_yet=())
        verdict = drive(waiting, talk.probe, clock)
    facts = verdict.evidence
    return ClockVerdict(
        offset_ms=float(facts["offset_ms"]),
        bound_ms=float(facts["bound_ms"]),
        service=facts["service"],
        source=facts["source"],
        stratum=int(facts["stratum"]),
        corrected=talk.corrections > 0,
        probes=verdict.probes,
        duration_s=verdict.duration_s,
        evidence=facts,
    )


# --- the controller's own clock ---------------------------------------------------------------

#: Seconds from 1900 (NTP) to 1970 (Unix).
_NTP_EPOCH_S = 2_208_988_800
_NTP_PACKET = struct.Struct("!BBBbII4sQQQQ")


class TimeServerUnusable(SlipwayError):
    """The time server's answer cannot be used."""

    retryable = True


@dataclass(frozen=True, kw_only=True)
class SntpReading:
    """What one time server says about our clock."""

    server: str
    #: Our clock minus the server's: positive is ahead.
    offset_ms: float
    bound_ms: float
    stratum: int


def sntp_offset(server: str, clock: Clock, timeout_s: float, *, port: int = 123) -> SntpReading:
    """Ask one NTP server for the time (RFC 5905, client mode; RFC 4330 section 5 sanity checks).

    Raises `TimeServerUnusable` for no answer, one that does not belong to our question, a server
    that is not synchronised (leap 3, stratum 16), and a kiss-of-death (stratum 0).
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            server, port, type=socket.SOCK_DGRAM
        )[0]
    except OSError as error:
        raise TimeServerUnusable(f"time server {server}: {error}") from error
    sent_at = clock.now().timestamp()
    # Our own send time, echoed by the server as "originate": what ties the answer to the question.
    token = _to_ntp(sent_at)
    request = _NTP_PACKET.pack(4 << 3 | 3, 0, 0, 0, 0, 0, b"\0" * 4, 0, 0, 0, token)
    with socket.socket(family, kind, protocol) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(address)  # only answers from that address are received
            before = clock.monotonic()
            sock.send(request)
            packet = sock.recv(512)
            rtt_s = clock.monotonic() - before
        except TimeoutError as error:
            raise TimeServerUnusable(
                f"time server {server}: no answer within {timeout_s:g} s; is UDP port {port} open?"
            ) from error
        except OSError as error:
            raise TimeServerUnusable(f"time server {server}: {error.strerror}") from error
    return _read_sntp(server, packet, token=token, sent_at=sent_at, rtt_s=rtt_s)


def _to_ntp(seconds: float) -> int:
    whole = int(seconds)
    return ((whole + _NTP_EPOCH_S) % 2**32) << 32 | int((seconds - whole) * 2**32)


def _from_ntp(value: int, near: float) -> float:
    """Unix seconds; the 32-bit seconds roll over in 2036, so the era nearest to ``near``."""
    seconds = (value >> 32) - _NTP_EPOCH_S + (value & 0xFFFFFFFF) / 2**32
    era_s = 2.0**32
    return seconds + round((near - seconds) / era_s) * era_s


def _read_sntp(
    server: str, packet: bytes, *, token: int, sent_at: float, rtt_s: float
) -> SntpReading:
    if len(packet) < _NTP_PACKET.size:
        raise TimeServerUnusable(f"time server {server}: an answer of {len(packet)} bytes")
    first, stratum, _, _, _, _, reference, _, originate, received, transmitted = (
        _NTP_PACKET.unpack_from(packet)
    )
    leap, mode = first >> 6, first & 7
    trouble = ""
    if mode != 4:
        trouble = f"not a server's answer (mode {mode})"
    elif originate != token:
        trouble = "an answer to somebody else's question"
    elif stratum == 0:
        code = reference.decode("ascii", "replace").strip("\0")
        trouble = f"kiss-of-death {code}: it wants us to stop asking"
    elif leap == 3 or stratum > 15:
        trouble = "it is not synchronised itself"
    elif transmitted == 0:
        trouble = "an answer without a time"
    if trouble:
        raise TimeServerUnusable(f"time server {server}: {trouble}")
    arrived = _from_ntp(received, sent_at)
    left = _from_ntp(transmitted, sent_at)
    # RFC 5905 section 8, with T4 = T1 + the round trip by a clock that is never stepped.
    theirs = ((arrived - sent_at) + (left - (sent_at + rtt_s))) / 2
    travel_s = max(0.0, rtt_s - max(0.0, left - arrived))
    return SntpReading(
        server=server,
        offset_ms=-theirs * 1000,
        bound_ms=travel_s / 2 * 1000,
        stratum=stratum,
    )


def check_controller_clock(
    servers: tuple[str, ...],
    clock: Clock,
    *,
    max_offset_ms: float,
    timeout_s: float = 2.0,
    port: int = 123,
) -> SntpReading:
    """Compare our own clock with the first time server that gives a usable answer.

    Raises `GateFailed` when our clock is off by more than the limit, or nobody can tell.
    """
    if not servers:
        raise InvalidInput(
            Problem(where="time_servers", what="is empty; name at least one NTP server")
        )
    troubles: list[str] = []
    for server in servers:
        try:
            reading = sntp_offset(server, clock, timeout_s, port=port)
        except TimeServerUnusable as error:
            troubles.append(str(error))
            continue
        if abs(reading.offset_ms) + reading.bound_ms >= max_offset_ms:
            raise GateFailed(
                f"this controller's own clock is {reading.offset_ms:+.1f} ms "
                f"± {reading.bound_ms:.1f} ms off by {server} (limit {max_offset_ms:g} ms), so "
                "every server would look wrong; correct it here first"
            )
        return reading
    raise GateFailed("this controller's own clock could not be checked: " + "; ".join(troubles))


__all__ = [
    "CLOCK_LOOP",
    "ClockGate",
    "ClockVerdict",
    "GateNotPassed",
    "Measurement",
    "Service",
    "SntpReading",
    "TimeServerUnusable",
    "check_controller_clock",
    "choose_service",
    "clock_table",
    "measured",
    "parse_chrony",
    "parse_ntpq",
    "parse_timesyncd",
    "pass_clock_gate",
    "sntp_offset",
]
