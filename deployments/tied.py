"""Becomes a program that is told to end when its parent dies: ``python tied.py PARENT PROGRAM …``.

However the parent ended: the kernel sends the signal. Only Linux has this; elsewhere the next
``slipway up`` ends what an earlier one left. Runs before anything is imported, hence no imports of
ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: linux/prctl.h; outlives exec.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # It may have died before we asked to be told.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(program[0], program)  # noqa: S606  (that is what it is for)


if __name__ == "__main__":
    main()
