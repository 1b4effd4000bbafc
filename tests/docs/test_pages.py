"""What the documentation shows works."""

from __future__ import annotations

from pathlib import Path

import pytest
from sybil.example import SybilFailure

from tests.docs.examples import ROOT, run_page, transcript

PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    if page.is_file()
)


# One test per page, because the blocks of a page build on each other.
@pytest.mark.parametrize("page", PAGES)
def test_page_works(page: str, tmp_path: Path) -> None:
    """Every code block of the page runs and prints what the page says."""
    run_page(ROOT / page, tmp_path / "reader")


def _page(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        ("```python\n>>> 1 + 1\n3\n```\n", "Got:\n    2"),
        ("```bash\ntrue\nfalse\ntrue\n```\n", "ended with code 1"),
        ("```console\n$ echo one\ntwo\n```\n", "but printed:\none"),
        ("```console\n$ exit 3\n```\n", "ended with code 3"),
    ],
    ids=["python", "doctest", "bash", "console output", "console exit code"],
)
def test_a_block_that_does_not_work_fails(tmp_path: Path, text: str, complaint: str) -> None:
    """A page with a wrong block is refused, saying what happened."""
    with pytest.raises((SybilFailure, AssertionError)) as failure:
        run_page(_page(tmp_path, text), tmp_path / "reader")
    assert complaint in f"{failure.typename} {failure.value}"


def test_skipped_blocks_do_not_run(tmp_path: Path) -> None:
    """`<!-- skip: next -->` leaves out one block, and only one."""
    text = "<!-- skip: next -->\n\n```bash\nfalse\n```\n\n```bash\ntouch ../ran\n```\n"
    run_page(_page(tmp_path, text), tmp_path / "reader")
    assert (tmp_path / "ran").exists()


def test_blocks_of_a_page_share_names_and_files(tmp_path: Path) -> None:
    """What a block defines or writes is there for the next one."""
    text = (
        "```python\nanswer = 42\n```\n\n```python\n>>> answer\n42\n```\n\n"
        "```bash\necho kept >file\n```\n\n```console\n$ cat file\nkept\n```\n"
    )
    assert run_page(_page(tmp_path, text), tmp_path / "reader") == 4


def test_commands_get_a_state_directory_of_their_own(tmp_path: Path) -> None:
    """No page reads or writes the state of whoever runs the tests."""
    _page(tmp_path, "```console\n$ echo $SLIPWAY_STATE_DIR $HOME\n" + f"{tmp_path}...home\n```\n")
    run_page(tmp_path / "page.md", tmp_path / "reader")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$ a\n", [("a", "")]),
        ("$ a\nx\ny\n$ b\n", [("a", "x\ny\n"), ("b", "")]),
        ("$ a \\\n    --long\nx\n", [("a \\\n    --long", "x\n")]),
    ],
)
def test_transcript(text: str, expected: list[tuple[str, str]]) -> None:
    """Commands are told from output, over several lines where one ends in a backslash."""
    assert transcript(text) == expected


def test_transcript_without_a_command_is_refused() -> None:
    """A console block that does not begin with a command is a mistake in the page."""
    with pytest.raises(ValueError, match="begins with"):
        transcript("slipway version\n")
