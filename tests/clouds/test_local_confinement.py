"""Each way to confine scripts, by itself, and how one is chosen."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from slipway.clouds.local import confinement
from slipway.clouds.local.confinement import Bubblewrap, Confinement, Namespaces, Unconfined


@pytest.fixture(params=["namespaces", "bubblewrap"])
async def way(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Confinement]:
    """A way that works on this host."""
    program = shutil.which({"namespaces": "nsenter", "bubblewrap": "bwrap"}[request.param])
    if program is None or sys.platform != "linux":
        pytest.skip(f"{request.param}: not installed here")
    keep = confinement._kept(tmp_path)
    found: Confinement = (
        Namespaces(program, keep) if request.param == "namespaces" else Bubblewrap(program, keep)
    )
    problem = await confinement._problem_with(found, tmp_path)
    if problem:
        await found.close()
        pytest.skip(f"{request.param}: {problem}")
    yield found
    await found.close()


def machine(folder: Path) -> Path:
    for each in ("tmp", "var/tmp", "home"):
        (folder / each).mkdir(parents=True)
    return folder


async def run(way: Confinement, root: Path, script: str) -> tuple[int | None, str]:
    argv = await way.command(root, ["/bin/sh", "-c", script], cwd=root / "home")
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode().strip()


async def test_it_writes_inside_only(way: Confinement, tmp_path: Path) -> None:
    """Its own directory and its own /tmp can be written, another machine's cannot."""
    one, two = machine(tmp_path / "one"), machine(tmp_path / "two")
    assert await run(way, one, f"pwd; echo x > here; echo x > {one}/tmp/a; ls /tmp/a") == (
        0,
        f"{one}/home\n/tmp/a",
    )
    await run(way, one, f"echo x > {two}/home/a; echo x > {tmp_path}/a; echo x > /usr/a")
    assert list((two / "home").iterdir()) == []
    assert {each.name for each in tmp_path.iterdir()} == {"one", "two", "shims"}
    assert (one / "home/here").read_text() == "x\n"


async def test_it_keeps_the_exit_code(way: Confinement, tmp_path: Path) -> None:
    """The command's exit code and identity are the command's own."""
    root = machine(tmp_path / "one")
    assert (await run(way, root, "exit 37"))[0] == 37
    code, uid = await run(way, root, "id -u")
    plain = await run(Unconfined("a test"), root, "id -u")
    assert (code, uid) == plain


async def test_a_machine_comes_back(way: Confinement, tmp_path: Path) -> None:
    """After a release the machine's next command works again."""
    root = machine(tmp_path / "one")
    assert await run(way, root, "echo a") == (0, "a")
    await way.release(root)
    assert await run(way, root, "echo b") == (0, "b")


async def test_a_killed_holder_is_replaced(tmp_path: Path) -> None:
    """A namespace whose holder was killed is made anew."""
    found = await confinement.detect(tmp_path)
    if not isinstance(found, Namespaces):
        await found.close()
        pytest.skip(found.description)
    try:
        root = machine(tmp_path / "one")
        await run(found, root, "true")
        held = found.namespace(root)
        assert held is not None
        holder = os.pidfd_open(held.holder_pid)
        signal.pidfd_send_signal(holder, signal.SIGKILL)
        # It is readable when the process has ended, which is some time after the signal was sent.
        await asyncio.to_thread(select.select, [holder], [], [])
        os.close(holder)
        assert await run(found, root, "echo again") == (0, "again")
    finally:
        await found.close()


async def test_what_does_not_work_is_not_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that confines nothing is tried, found out and named; scripts run unconfined."""
    if sys.platform != "linux":
        pytest.skip("nothing is tried here")
    for name in ("nsenter", "bwrap"):
        liar = tmp_path / "bin" / name
        liar.parent.mkdir(exist_ok=True)
        liar.write_text('#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done; shift; exec "$@"\n')
        liar.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    found = await confinement.detect(tmp_path)
    await found.close()
    assert not found.confines
    assert "NOT confined" in found.description
    assert "bubblewrap: " in found.description
