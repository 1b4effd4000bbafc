"""What somebody may have meant by a word that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'text'?``, or nothing where none is near: the end of a sentence about an
    unknown word."""
    folded = {choice.lower(): choice for choice in sorted(known)}
    found = difflib.get_close_matches(word.lower(), list(folded), n=1)
    return f"; did you mean {folded[found[0]]!r}?" if found else ""


def nearest_or_all(word: str, known: Iterable[str]) -> str:
    """`nearest`, and where none is near, what there is: for names that people give."""
    known = sorted(known)
    listed = f" (there is: {', '.join(known)})" if known else " (there is none yet)"
    return nearest(word, known) or listed
