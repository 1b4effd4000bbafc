"""What all services print, as one stream: for people with a coloured name before each line, for
programs as one JSON object a line. Secrets that we know are not in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

from slipway.clock import Clock

Format = Literal["text", "json"]

#: The name under which we speak ourselves.
SELF = "up"

#: ANSI colours that are readable on light and on dark ground; one service after the other.
_COLOURS = (36, 33, 35, 34, 32, 31)
_BOLD, _DIM, _RED, _GREEN = 1, 2, 31, 32
_EVENT_STYLES = {"ready": _GREEN, "died": _RED, "unhealthy": _RED, "killed": _RED}

MASK = "********"


class Masker:
    """Puts asterisks in place of secrets, also where they are written as a part of a URL."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        found = {each.get_secret_value() for each in secrets}
        forms = {form for each in found for form in (each, quote(each, safe=""), quote_plus(each))}
        # The longest first: one may be the beginning of another.
        self._forms = sorted((form for form in forms if form), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text


@dataclass(kw_only=True)
class LogStream:
    """Writes lines and events in the chosen form."""

    write: Callable[[str], None]
    clock: Clock
    format: Format = "text"
    colours: bool = False
    #: With the date in each line, for files.
    dates: bool = True
    mask: Callable[[str], str] = str
    width: int = len(SELF)
    _seen: list[str] = field(default_factory=list)

    def line(self, service: str, text: str) -> None:
        """What a service has printed."""
        self._put(service, self._clean(text))

    def event(self, service: str, event: str, text: str) -> None:
        """What has happened to a service."""
        self._put(service, self._clean(text), event=event)

    def say(self, text: str, *, event: str = "said") -> None:
        """What we say ourselves."""
        self._put(SELF, self._clean(text), event=event)

    def _put(self, service: str, text: str, *, event: str = "") -> None:
        now = self.clock.now()
        if self.format == "json":
            found = {"at": now.isoformat(timespec="milliseconds"), "service": service}
            if event:
                found["event"] = event
            self.write(json.dumps({**found, "text": text}, ensure_ascii=False))
            return
        name = service.ljust(self.width)
        mark = "●" if event else "│"
        if self.colours:
            name = _ansi(name, *([_BOLD] if service == SELF else [self._colour(service)]))
            if event in _EVENT_STYLES:
                text = _ansi(text, _EVENT_STYLES[event])
        at = _time(now, self.dates)
        self.write(f"{_ansi(at, _DIM) if self.colours else at} {name} {mark} {text}")

    def _colour(self, service: str) -> int:
        if service not in self._seen:
            self._seen.append(service)
        return _COLOURS[self._seen.index(service) % len(_COLOURS)]

    def _clean(self, text: str) -> str:
        # What a service prints may come from a server that is not ours to trust.
        printable = "".join(each if each == "\t" or each.isprintable() else "·" for each in text)
        return self.mask(printable)


def _time(moment: datetime, dates: bool) -> str:
    local = moment.astimezone()
    return local.isoformat(timespec="milliseconds") if dates else f"{local:%H:%M:%S}"


def _ansi(text: str, *codes: int) -> str:
    return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"
