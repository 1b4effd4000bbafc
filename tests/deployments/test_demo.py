"""What `slipway demo` tells people to type."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deployments.demo import export


@pytest.mark.parametrize("name", ["demo", "my servers", "it's $HOME & more"])
def test_the_state_directory_reaches_the_shell(name: str) -> None:
    """Whatever is in its path, what is printed sets the variable to just that."""
    line = export(Path("/srv") / name)
    shell = ["bash", "-c", f'{line}; printf %s "$SLIPWAY_STATE_DIR"']
    assert (
        subprocess.run(shell, capture_output=True, text=True, check=True).stdout == f"/srv/{name}"
    )
