"""What commands exit with."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code means, in one place."""

    #: It did what it was asked.
    FINE = 0
    #: A launch stranded, a script failed, a check did not hold.
    FAILED = 1
    #: It refused what it was given and changed nothing.
    BAD_INPUT = 2
    #: The engine could not be reached, or ended before the work did: resume it.
    ENGINE = 3
    #: Somebody stopped watching (Ctrl-C); the work goes on.
    INTERRUPTED = 130
