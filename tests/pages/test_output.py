"""What strangers wrote: shown whole, and obeyed in nothing."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.api.pages.output import Screen, shown_file, shown_output, visible
from tests.pages.document import Document


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut, 日本", "plain, ümläut, 日本"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("a\x00b\x7fc", "a␀b␡c"),
        ("\x9b31m", "⟨U+009B⟩31m"),
        # The trick of CVE-2021-42574: what is read is not what is written.
        ("user\u202etxt.exe", "user⟨U+202E⟩txt.exe"),
        ("in\u200bvisible\ufeff", "in⟨U+200B⟩visible⟨U+FEFF⟩"),
        ("half \udcff a character", "half ⟨U+DCFF⟩ a character"),
    ],
)
def test_every_character_is_seen(text: str, shown: str) -> None:
    """Characters without a picture get one; the others stay."""
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("data", "html"),
    [
        (b"a < b & c\n", "a &lt; b &amp; c\n"),
        (b"<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        (b"\x1b[32mok\x1b[0m done", '<span class="c2">ok</span> done'),
        (b"\x1b[1;31mbad\x1b[39m still bold", None),
        (b"\x1b[8mhidden\x1b[0m", "hidden"),
        (b"\x1b[2Kerased?", "␛[2Kerased?"),
        (b"10%\r20%\r\n", "10%␍\n20%\n"),
        (b"caf\xe9", "caf\ufffd"),
        (b"\x1b[", "␛["),
    ],
)
def test_output_as_html(data: bytes, html: str | None) -> None:
    """Markup is escaped, colours are classes, nothing that would hide text is obeyed."""
    wanted = html or '<span class="c1 bold">bad</span><span class="bold"> still bold</span>'
    assert shown_output(data) == wanted


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=6))
def test_output_comes_in_pieces(data: bytes, cuts: list[int]) -> None:
    """Wherever the pieces are cut, all of them together read as the whole does, and are text."""
    screen, html = Screen(), ""
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    for start, end in itertools.pairwise(places):
        html += screen.feed(data[start:end])
    html += screen.finish()
    whole = Document(f"<pre>{shown_output(data)}</pre>")
    pieces = Document(f"<pre>{html}</pre>")
    assert pieces.root.raw == whole.root.raw
    assert pieces.faults == []
    assert re.sub(r'</?span(?: class="[a-z0-9 ]+")?>', "", html).count("<") == 0


def test_a_tail_begins_with_a_whole_line() -> None:
    """What begins in the middle of a stream leaves out the rest of a line, and half a character."""
    screen = Screen(mid_stream=True)
    assert screen.feed(b"\xa4t of a line") == ""
    assert screen.feed(b" and more\nwhole\n") == "whole\n"


def test_the_line_ends_of_a_script_are_seen() -> None:
    """A script with carriage returns, which a shell would trip over, shows them."""
    assert shown_file(b"#!/bin/sh\r\necho\n") == "#!/bin/sh␍\necho\n"
