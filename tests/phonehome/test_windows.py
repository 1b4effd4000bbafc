"""The Windows agent, as far as it can be looked at without Windows."""

from __future__ import annotations

import re

import pytest
import tree_sitter
import tree_sitter_powershell

from slipway.agent import program
from slipway.phonehome.user_data import render
from tests.phonehome.test_user_data import agent


def faults(source: str) -> list[str]:
    """Where a parser for PowerShell finds something else."""
    language = tree_sitter.Language(tree_sitter_powershell.language())
    found: list[str] = []
    todo = [tree_sitter.Parser(language).parse(source.encode()).root_node]
    while todo:
        node = todo.pop()
        if node.is_missing or node.type == "ERROR":
            found.append(f"line {node.start_point[0] + 1}: {node.type}")
        todo.extend(node.children)
    return found


def user_data() -> str:
    """What EC2Launch hands to PowerShell."""
    found = re.search(
        "<powershell>\n(.*)</powershell>", render("powershell", agent(), "t"), re.DOTALL
    )
    assert found is not None
    return found[1]


def test_it_is_powershell() -> None:
    """The agent and what starts it are read by a parser without a fault; a brace less is one."""
    for source in (program("agent.ps1").decode(), user_data()):
        assert faults(source) == []
        assert faults("".join(source.rpartition("}")[::2])) != []


def test_it_is_text_that_every_windows_reads() -> None:
    """Windows PowerShell takes a file without a byte order mark for the local code page."""
    assert program("agent.ps1").isascii()


def test_it_makes_the_same_calls() -> None:
    """Both agents know the same calls and the same kinds of instructions."""
    linux, windows = program("agent.py").decode(), program("agent.ps1").decode()
    for path in ("hello", "secret", "next", "clock"):
        assert f'("{path}", ' in linux
        assert re.search(rf"Send-\w+ '{path}' ", windows), path
    assert "instructions/{seq}/report" in linux
    assert "instructions/$Seq/report" in windows
    for kind in ("run", "time", "leave"):
        assert f'"{kind}"' in linux
        assert f"'{kind}' {{" in windows


@pytest.mark.parametrize("wanted", ["-AtStartup", "'S-1-5-18'", "IgnoreNew"])
def test_it_starts_at_every_boot(wanted: str) -> None:
    """As a task of the system account, once at a time."""
    assert wanted in program("agent.ps1").decode()
