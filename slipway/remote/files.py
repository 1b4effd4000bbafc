"""Files over a `Remote` that can only run commands."""

from __future__ import annotations

import shlex

from slipway.remote.base import Command

#: What `reading` ends with when there is no such file.
NO_SUCH_FILE = 44


def writing(content: bytes, path: str, *, mode: int) -> Command:
    """Writes a file whole or not at all: the size is checked before it gets its name, because when
    a connection breaks, `cat` sees an ordinary end of input."""
    text = (
        f"umask 077; t={shlex.quote(path)}.slipway.$$; "
        f'if cat >"$t" && [ "$(($(wc -c <"$t")))" -eq {len(content)} ] '
        f'&& chmod {mode:o} "$t" && mv -f "$t" {shlex.quote(path)}; '
        'then :; else rm -f "$t"; exit 1; fi'
    )
    return Command(text=text, timeout_s=60 + len(content) / 100_000, stdin=content)


def reading(path: str) -> Command:
    """Prints a file; ends with `NO_SUCH_FILE` when there is none."""
    quoted = shlex.quote(path)
    text = f"[ -e {quoted} ] || exit {NO_SUCH_FILE}; exec cat {quoted}"
    return Command(text=text, timeout_s=600)
