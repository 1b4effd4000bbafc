"""Every error Slipway raises on purpose.

* SlipwayError
  + InvalidInput              bad input, refused whole; carries every problem found
  + NotFound                  a named thing does not exist here
  + Conflict                  a named thing exists already, or is busy
  + LifecycleError            a state and an event that do not go together
  + LeaseLost                 another process drives this launch now
  + AuditBroken               the audit record of a subject does not verify
  + SchemaMismatch            the database was migrated by a newer Slipway
  + DatabaseUnavailable       the database cannot be used now (retryable)
    - NotCommitted            … and did not keep what was written
  + CloudError
    - CloudUnavailable        no answer, or one that may be different next time (retryable)
    - CloudThrottled          the cloud asks us to slow down (retryable)
    - CapacityUnavailable     the cloud has no room for this instance now (retryable)
    - CloudRefused            the cloud understood and said no
    - InstanceNotFound        the cloud does not know this instance
    - InstanceFailed          the instance ended up in a state it cannot leave
  + RemoteError
    - ConnectionFailed        no connection to the server (retryable)
    - ConnectionLost          the connection broke while in use (retryable)
    - AuthenticationFailed    the server refused our key (retryable: accounts appear late in a boot)
    - HostKeyMismatch         the server is not the one we pinned
    - CommandTimedOut         a command did not end in time
  + AgentRefused              a server that calls us may not; carries why
  + ScriptFailed              a script ended with a code other than 0, timed out or was cut off
  + GateFailed                a gate's deadline passed, or a signal said it never will
    - GateNotPassed           … with what was seen last (`slipway.gates.wait`)
  + TimeServerUnusable        a time server's answer says nothing (`slipway.gates.ntp`; retryable)
  + Stopped                   somebody has asked for this work to be ended
  + MirrorError
    - UpstreamUnavailable     a repository's upstream does not answer as it should (retryable)
    - UpstreamInconsistent    an upstream's files do not fit each other for now (retryable)
    - ReleaseRefused          what an upstream has signed, or has not, must not be published
      · BadSignature          … for it is not signed as it is by a key we know
    - BlobBroken              a file's bytes are not those of its name (retryable)
    - PackagesMissing         a day does not have all that is to be installed; carries which
    - SuitesNotTaken          some suites of a repository keep the day they have; carries why
    - DiskFull                there is no room for what is to be kept
  + RequestRefused            a request about topics; carries SNS's code (`slipway.notify.refusals`)
  + EngineUnavailable         the engine cannot take work now (retryable)
  + EngineRefused             the engine understood and said no

"May I try again?" is a property of the class: ``error.retryable``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


class SlipwayError(Exception):
    """Something went wrong that Slipway knows about."""

    retryable: ClassVar[bool] = False
    #: What the command line exits with when this error ends a command.
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with some input, as one sentence.

    ``where`` is the most exact place known: ``templates/web/template.yaml:12: boot[1]`` or
    ``input DB_HOST``.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class InvalidInput(SlipwayError):
    """The input was refused."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem] | Problem) -> None:
        self.problems: tuple[Problem, ...] = (
            (problems,) if isinstance(problems, Problem) else tuple(problems)
        )
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NotFound(SlipwayError):
    """It does not exist here."""

    exit_code = 2


class Conflict(SlipwayError):
    """It exists already, or is busy."""

    exit_code = 2


class LifecycleError(SlipwayError):
    """This state and this event do not go together."""


class LeaseLost(SlipwayError):
    """Another process drives this launch now."""


class AuditBroken(SlipwayError):
    """The audit record does not verify."""


class SchemaMismatch(SlipwayError):
    """The database was migrated by a newer Slipway."""


class DatabaseUnavailable(SlipwayError):
    """The database cannot be used now.

    Nothing was written, unless the connection broke while it was being committed: then nobody
    knows. Whoever tries again looks first, or does what may be done twice.
    """

    retryable = True


class NotCommitted(DatabaseUnavailable):
    """The database did not keep what was written."""


class CloudError(SlipwayError):
    """The cloud did not do what it was asked."""


class CloudUnavailable(CloudError):
    """The cloud did not answer."""

    retryable = True


class CloudThrottled(CloudError):
    """The cloud asks us to slow down."""

    retryable = True


class CapacityUnavailable(CloudError):
    """The cloud has no room for this instance now."""

    retryable = True


class CloudRefused(CloudError):
    """The cloud understood the request and refused it."""


class InstanceNotFound(CloudError):
    """The cloud does not know this instance."""


class InstanceFailed(CloudError):
    """The instance reached a state it cannot leave."""


class RemoteError(SlipwayError):
    """A server could not be worked on."""


class ConnectionFailed(RemoteError):
    """No connection to the server."""

    retryable = True


class ConnectionLost(RemoteError):
    """The connection to the server broke while it was in use."""

    retryable = True


class AuthenticationFailed(RemoteError):
    """The server refused our key."""

    retryable = True


class HostKeyMismatch(RemoteError):
    """The server shows another host key than the one pinned for it."""


class CommandTimedOut(RemoteError):
    """A command did not end in time."""


class AgentRefused(SlipwayError):
    """A server's agent may not do this."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        #: One of `slipway.phonehome.identity.Refusal`.
        self.reason = reason


class ScriptFailed(SlipwayError):
    """A script did not end with exit code 0."""


class GateFailed(SlipwayError):
    """A gate did not pass."""


class MirrorError(SlipwayError):
    """A repository was not mirrored."""


class UpstreamUnavailable(MirrorError):
    """The upstream does not answer as it should."""

    retryable = True


class UpstreamInconsistent(MirrorError):
    """The upstream's files do not fit each other."""

    retryable = True


class ReleaseRefused(MirrorError):
    """This release must not be published."""


class BadSignature(ReleaseRefused):
    """This release is not signed as it is by a key of its keyring."""


class BlobBroken(MirrorError):
    """The bytes of a file are not those it is named after."""

    retryable = True


class DiskFull(MirrorError):
    """There is no room on the disk."""


class PackagesMissing(MirrorError):
    """A day of repositories does not have all that is to be installed."""

    def __init__(self, where: str, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        shown = ", ".join(self.missing[:10])
        more = f" and {len(self.missing) - 10} more" if len(self.missing) > 10 else ""
        super().__init__(f"{where}: not all that is to be installed is there: {shown}{more}")


class SuitesNotTaken(MirrorError):
    """Some suites of a repository could not be taken."""

    def __init__(self, failures: Mapping[str, MirrorError]) -> None:
        #: By suite, what was wrong with it.
        self.failures = dict(failures)
        super().__init__("; ".join(str(failure) for failure in self.failures.values()))


class Stopped(SlipwayError):
    """Somebody has asked for this work to be ended."""


class EngineUnavailable(SlipwayError):
    """The engine cannot take work now."""

    retryable = True
    exit_code = 3


class EngineRefused(SlipwayError):
    """The engine understood what it was asked and refused it."""

    exit_code = 3
