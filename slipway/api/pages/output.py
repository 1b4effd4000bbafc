"""What servers and strangers wrote, made fit for a page: nothing is obeyed, nothing is hidden.

Autoescaping keeps text from becoming markup. It does not keep text from lying: a line that
overwrites another, letters that run from right to left, or characters without a picture. Here each
of them becomes something to see.
"""

from __future__ import annotations

import codecs
import re
import unicodedata

from markupsafe import Markup, escape

#: Characters without a picture of their own, and those that change the order of others
#: (CVE-2021-42574): all but line ends and tabs.
_ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

#: ``ESC [ 1 ; 32 m``: the one escape sequence that hides nothing when it is left out.
_COLOUR = re.compile(r"\x1b\[([0-9;]*)m")
#: The beginning of one, at the end of what has come so far.
_CUT_OFF = re.compile(r"\x1b(?:\[[0-9;]{0,32})?\Z|\r\Z")


def visible(text: str) -> str:
    """The text with a picture for everything that has none: ``␛`` for an escape, ``⟨U+202E⟩`` for
    a character that turns the text around."""
    return _ODD.sub(_picture, text) if _ODD.search(text) else text


def _picture(found: re.Match[str]) -> str:
    number = ord(found[0])
    if number < 0x20:
        return chr(0x2400 + number)
    return "␡" if number == 0x7F else f"⟨U+{number:04X}⟩"


class Screen:
    """Turns a script's output into HTML, piece by piece as it comes.

    Bytes that are no UTF-8 become ``�``. Colours become classes that the style sheet knows; every
    other sequence is shown as it was printed, and a carriage return is a line end with a mark, so
    that no line covers another.
    """

    def __init__(self, *, mid_stream: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._colour = ""
        self._bold = False
        self._skips_tail = mid_stream

    def feed(self, data: bytes) -> Markup:
        """The HTML of some more output."""
        if self._skips_tail:
            # It begins in the middle: of a line for sure, of a character perhaps.
            _, newline, data = data.partition(b"\n")
            if not newline:
                return Markup()
            self._skips_tail = False
        return self._show(self._decoder.decode(data), last=False)

    def finish(self) -> Markup:
        """The HTML of what was held back because more might have followed."""
        return self._show(self._decoder.decode(b"", final=True), last=True)

    def _show(self, text: str, *, last: bool) -> Markup:
        text = self._held + text
        self._held = ""
        cut = None if last else _CUT_OFF.search(text)
        if cut:
            text, self._held = text[: cut.start()], text[cut.start() :]
        pieces = _COLOUR.split(text)
        html = [self._piece(pieces[0])]
        for codes, piece in zip(pieces[1::2], pieces[2::2], strict=True):
            self._dye(codes)
            html.append(self._piece(piece))
        return Markup("").join(html)

    def _piece(self, text: str) -> Markup:
        if not text:
            return Markup()
        text = text.replace("\r\n", "\n").replace("\r", "␍\n")
        shown = escape(visible(text))
        names = " ".join(name for name in (self._colour, "bold" if self._bold else "") if name)
        return Markup('<span class="{}">{}</span>').format(names, shown) if names else shown

    def _dye(self, codes: str) -> None:
        for code in (int(each[:4] or 0) for each in codes.split(";")):
            if code == 0:
                self._colour, self._bold = "", False
            elif code == 1:
                self._bold = True
            elif code == 22:
                self._bold = False
            elif code == 39:
                self._colour = ""
            elif 31 <= code <= 36 or 91 <= code <= 96:
                self._colour = f"c{code % 10}"


def shown_output(data: bytes) -> Markup:
    """Output that is complete, as HTML."""
    screen = Screen()
    return screen.feed(data) + screen.finish()


def shown_file(content: bytes) -> str:
    """A script's text as it is to be read; autoescaping does the rest."""
    return content.decode("utf-8", "replace").replace("\r\n", "␍\n")


def slug(text: str) -> str:
    """A text as part of an HTML id."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-zA-Z0-9]+", "-", plain).strip("-").lower()
