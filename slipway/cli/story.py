"""Audit entries as lines a person can follow."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from slipway.cli.output import STATUS_STYLES, printable, seconds, stdout
from slipway.records import AuditKind

if TYPE_CHECKING:
    from slipway.records import AuditEntry

#: A summary longer than this is cut; `audit show` has all of it.
_SUMMARY_LENGTH = 160

#: Most titles fit; a longer one pushes the rest of its line to the right.
_TITLE_WIDTH = 32


class Story:
    """Prints entries in order as they come.

    A step is one line when it ends. ``full`` prints every entry with its number and time, as the
    record has it; otherwise the beginning of a step is only shown when it takes its time. Without
    ``output``, what scripts print is left out.
    """

    def __init__(
        self, console: Console | None = None, *, full: bool = False, output: bool = True
    ) -> None:
        self.console = console or stdout()
        self._full = full
        self._shows_output = output
        self._header_due = ""
        self._partial: dict[str, bytes] = {}
        #: The step that runs now, and since when; empty between steps.
        self.step = ""
        self.step_key: str | None = None
        self.step_since: datetime | None = None
        #: The state the launch was last said to be in.
        self.status = ""
        #: The last lines any script has printed.
        self.last_output: list[str] = []

    def tell(self, entry: AuditEntry) -> None:
        """Print one entry."""
        kind = AuditKind(entry.kind)
        if kind is AuditKind.OUTPUT:
            self._output(entry)
            return
        self._flush()
        detail = json.loads(entry.detail)
        if kind is AuditKind.SECTION:
            self.step, self.step_key, self.step_since = entry.summary, entry.step, entry.at
            self._header_due = entry.summary
            if self._full:
                self._line(entry, "▸", entry.summary, "bold")
            return
        if kind is AuditKind.STATUS:
            self.status = str(detail.get("to", ""))
            if self._full:
                by = f"  by {entry.actor}"
                self._line(entry, "→", entry.summary + by, STATUS_STYLES.get(self.status, "cyan"))
            else:
                style = STATUS_STYLES.get(self.status, "cyan")
                self.console.print(Text(f"→ {self.status}", style=style))
            return
        outcome = detail.get("outcome")
        if outcome is None:
            sign, style = ("✘", "red") if kind is AuditKind.ERROR else ("·", "")
            self._inside(entry, sign, entry.summary, style)
            return
        title = self.step if entry.step == self.step_key else str(entry.step)
        self.step, self.step_key, self._header_due = "", None, ""
        self._ended(entry, title, outcome == "succeeded", detail.get("duration_s"))

    def remind(self) -> None:
        """Say which step runs, if that was not said yet: it takes its time."""
        if self._header_due and not self._full:
            self.console.print(Text(f"  … {self._header_due}", style="dim"))
            self._header_due = ""

    def end(self) -> None:
        """Print what is left of output without a line end."""
        self._flush()

    def _ended(self, entry: AuditEntry, title: str, good: bool, took_s: float | None) -> None:
        sign, style = ("✔", "green") if good else ("✘", "red")
        if self._full:
            self._line(entry, sign, f"{entry.summary}  ({seconds(took_s)})", style)
            return
        took, said = seconds(took_s), entry.summary
        if good and len(said) > _SUMMARY_LENGTH:
            said = said[: _SUMMARY_LENGTH - 2].rstrip() + " …"
        if not self.console.is_terminal:
            line = f"  {sign} {title:<{_TITLE_WIDTH}} {took:>9}  {said}"
            self.console.print(Text(line.rstrip()))
            return
        # A table, so that a long summary wraps below itself.
        grid = Table.grid(padding=(0, 1))
        grid.add_column(width=3, justify="right")
        grid.add_column(width=_TITLE_WIDTH, overflow="fold")
        grid.add_column(width=9, justify="right")
        grid.add_column(ratio=1, overflow="fold")
        summary = Text(said, style="dim" if good else "red")
        grid.add_row(Text(sign, style=style), Text(title), Text(took, style="dim"), summary)
        self.console.print(grid)

    def _inside(self, entry: AuditEntry, sign: str, text: str, style: str) -> None:
        if self._full:
            self._line(entry, sign, text, style)
            return
        self.console.print(Text(f"      {sign} {text}", style=style or "dim"))

    def _line(self, entry: AuditEntry, sign: str, text: str, style: str) -> None:
        at = entry.at.astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = Text(f"{entry.seq:>4}  {at}  ", style="dim")
        line.append(f"{sign} {text}", style=style or "none")
        self.console.print(line)

    def _output(self, entry: AuditEntry) -> None:
        stream = entry.stream or ""
        data = self._partial.pop(stream, b"") + (entry.data or b"")
        whole, newline, rest = data.rpartition(b"\n")
        if rest:
            self._partial[stream] = rest
        if newline:
            self._print_output(whole)

    def _flush(self) -> None:
        for rest in self._partial.values():
            self._print_output(rest)
        self._partial.clear()

    def _print_output(self, data: bytes) -> None:
        indent = " " * (20 if self._full else 6)
        for line in data.decode("utf-8", "replace").split("\n"):
            shown = printable(line.rstrip("\r"))
            self.last_output = [*self.last_output[-9:], shown]
            if self._shows_output:
                self.console.print(Text(f"{indent}│ {shown}", style="dim"))
