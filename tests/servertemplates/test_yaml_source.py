"""YAML: positions, and the traps of YAML 1.1."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipway.servertemplates.write import to_yaml
from slipway.servertemplates.yaml_source import load, show_path


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("true", True),
        ("False", False),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("2026-11-01", "2026-11-01"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("null", None),
        ("~", None),
        ("", None),
        ("-7", -7),
        ('"7"', "7"),
        ("'true'", "true"),
        ("=", "="),
        ("0", 0),
    ],
)
def test_scalars_are_those_of_the_core_schema(written: str, read: Any) -> None:
    """A plain scalar means what YAML 1.2 says, whatever YAML 1.1 made of it."""
    located, problems = load(f"a: {written}\n", "f")
    assert (located.data, problems) == ({"a": read}, [])


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("a: 0644", "different numbers by different readers"),
        ("a: 0x1F", "different numbers by different readers"),
        ("a: 1.10", "in quotes"),
        ("a: 1e3", "in quotes"),
        ("a: .inf", "in quotes"),
        ("a: 1\na: 2", "twice, first on line 1"),
        ("a: " + "9" * 5000, "has to be text"),
        ("a: &x 1\nb: *x", "anchors and aliases"),
        ("a: &x {c: 1}\nb: {<<: *x}", "merge keys"),
        ("a: !!python/object:os.system x", "the tag 'tag:yaml.org,2002:python/object:os.system'"),
        ("a: !mine x", "the tag '!mine'"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("a: [", "not valid YAML"),
        ("a: \t- b", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "nested too deeply"),
        ("a: &x [*x]", "anchors and aliases"),
    ],
)
def test_what_readers_disagree_about_is_refused(written: str, what: str) -> None:
    """Ambiguous and unsafe YAML is one clear problem, never a guess or a crash."""
    problems = load(written, "f.yaml")[1]
    assert any(what in problem.what for problem in problems), problems
    assert all(problem.where.startswith("f.yaml") for problem in problems)


def test_both_spellings_of_a_letter_are_one_key() -> None:
    """Unicode text is NFC, so that two files that look alike are alike."""
    composed, decomposed = "\u00e9", "e\u0301"
    assert load(f"{decomposed}: {decomposed}", "f")[0].data == {composed: composed}
    assert "twice" in load(f"{composed}: 1\n{decomposed}: 2", "f")[1][0].what


def test_positions_point_at_the_line() -> None:
    """Every value knows its line; a part that is missing is placed at what should hold it."""
    located, _ = load("a:\n  b:\n    - x\n    - y\n", "f.yaml", first_line=10)
    assert located.where(("a", "b", 1)) == "f.yaml:13: a.b[1]"
    assert located.where(("a", "c")) == "f.yaml:10: a.c"
    assert located.where() == "f.yaml:10"
    assert show_path(("inputs", "X", "of", 2)) == "inputs.X.of[2]"


def test_a_small_file_cannot_become_a_huge_one() -> None:
    """Where aliases are allowed they are still bounded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    problems = load("\n".join(lines), "f", scalars_as_text=True)[1]
    assert [problem.what for problem in problems] == ["this document has more than 20000 values"]


_TEXT = st.text(
    alphabet=st.characters(blacklist_categories=["Cs", "Cn"], blacklist_characters="\ufeff"),
    max_size=30,
)
_TRICKY = st.sampled_from(
    ["no", "on", "1e3", "0644", "1.10", "2026-11-01", "~", "", "- a", "#", "a: b"]
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**18) + 1, 10**18 - 1) | _TEXT | _TRICKY,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(_TEXT | _TRICKY, inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_what_we_write_we_read_back(data: Any) -> None:
    """Any plain data written by `to_yaml` is read back equal, up to Unicode NFC."""
    import unicodedata

    def normal(value: Any) -> Any:
        if isinstance(value, str):
            return unicodedata.normalize("NFC", value)
        if isinstance(value, dict):
            return {normal(key): normal(item) for key, item in value.items()}
        return [normal(item) for item in value] if isinstance(value, list) else value

    data = normal(data)
    located, problems = load(to_yaml(data), "f")
    assert problems == []
    assert located.data == data
