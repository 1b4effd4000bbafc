"""The library holds together: every file is valid, used, and described."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

from slipway.servertemplates import yaml_source
from slipway.servertemplates.document import ImageMap, check_model
from slipway.servertemplates.scripts import read_script
from slipway.servertemplates.store import TemplateStore
from tests.templates.conftest import ROOT, TEMPLATES, bash

NAMES = sorted(file.parent.name for file in TEMPLATES.glob("*/template.yaml"))
IMAGES = sorted((TEMPLATES / "images").glob("*.yaml"))
SHELL = sorted(TEMPLATES.glob("*/scripts/*.sh"))
POWERSHELL = sorted(TEMPLATES.glob("*/scripts/*.ps1"))


def _id(path: Path) -> str:
    return path.relative_to(TEMPLATES).as_posix()


@pytest.mark.parametrize("name", NAMES)
def test_template_is_valid(store: TemplateStore, name: str) -> None:
    """A template resolves without a single complaint, and says what it is for."""
    assert [str(problem) for problem in store.check(name)] == []
    resolved = store.get(name)
    assert len(resolved.description) > 40
    assert resolved.boot


@pytest.mark.parametrize("name", NAMES)
def test_template_can_be_committed(store: TemplateStore, name: str) -> None:
    """A version of a template holds the same content as its working copy."""
    version = store.commit(name, "first", "somebody").version
    assert store.get(f"{name}@r1").hash == version.hash == store.head(name).hash


def test_every_script_is_used() -> None:
    """No script lies in the library that no template runs."""
    named = "".join(file.read_text() for file in TEMPLATES.glob("*/template.yaml"))
    unused = [_id(file) for file in [*SHELL, *POWERSHELL] if f"scripts/{file.name}" not in named]
    assert unused == []


@pytest.mark.parametrize("file", [*SHELL, *POWERSHELL], ids=_id)
def test_script_header(file: Path) -> None:
    """A script's header parses and says name, purpose, time limit and whether to retry."""
    script, problems = read_script(file.read_bytes(), _id(file))
    assert [str(problem) for problem in problems] == []
    assert script is not None
    header = script.header
    assert header.name
    assert len(header.description) > 15
    assert header.timeout is not None
    assert header.retry_safe
    silent = [name for name, declared in header.inputs.items() if not declared.description]
    assert silent == []


def test_all_in_one_keeps_the_order(store: TemplateStore) -> None:
    """The composition starts the database before the application and ends it after that, and
    runs the layer both share once."""
    resolved = store.get("all-in-one")
    boot = [script.path for script in resolved.boot]
    assert len(boot) == len(set(boot)) == 8
    assert boot.index("base-linux/scripts/logging.sh") < boot.index("postgres/scripts/install.sh")
    assert boot.index("postgres/scripts/configure.sh") < boot.index("app-server/scripts/install.sh")
    assert [script.path for script in resolved.decommission] == [
        "app-server/scripts/drain.sh",
        "postgres/scripts/stop.sh",
    ]
    assert resolved.inputs["DB_HOST"].default == "text:self"


def test_hello_web_asks_for_nothing(store: TemplateStore) -> None:
    """hello-web launches without a single input given, so that it can be a newcomer's first."""
    inputs = store.get("hello-web").inputs
    assert [n for n, i in inputs.items() if i.is_required and not i.has_default] == []
    assert inputs["UPSTREAM_HOST"].type == "env"
    assert inputs["API_TOKEN"].type == "secret"


# --- Image maps -------------------------------------------------------------------------------


@pytest.mark.parametrize("file", IMAGES, ids=_id)
def test_image_map(file: Path) -> None:
    """An image map parses, has its file's name, and says account and size for every image."""
    located, problems = yaml_source.load(file.read_text(), file.name)
    assert problems == []
    image_map, problems, _ = check_model(located, ImageMap)
    assert [str(problem) for problem in problems] == []
    assert image_map is not None
    assert image_map.name == file.stem
    for regions in image_map.entries.values():
        for architectures in regions.values():
            for choice in architectures.values():
                assert choice.instance_type
                assert choice.user != "root"
                if choice.image.startswith("ssm:"):
                    assert choice.image.startswith("ssm:/aws/service/")


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_debian_runs_on_this_computer(store: TemplateStore, arch: str) -> None:
    """The map debian-12 has the local cloud's image, in any region, on either architecture."""
    choice = store.get("hello-web").image_choice("local", "anywhere", arch)  # type: ignore[arg-type]
    assert (choice.image, choice.instance_type, choice.user) == (
        "local-debian-12",
        "local.small",
        "admin",
    )


# --- Shell ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHELL, ids=_id)
def test_shell_syntax(file: Path) -> None:
    """A shell script parses, stops at the first error, and is free of what bash 3.2 lacks."""
    done = subprocess.run([bash(), "-n", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    text = file.read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ---\n")
    assert "\nset -euo pipefail\n" in text
    own = re.sub(r"<<'PYTHON'\n.*?\nPYTHON\n", "", text, flags=re.DOTALL)
    newer = (
        r"\b(?:mapfile|readarray|coproc)\b|declare -[An]|local -[An]|\$\{\w+(?:,,?|\^\^?|@)|&>>|\|&"
    )
    assert re.findall(newer, own) == []


@pytest.mark.parametrize("file", SHELL, ids=_id)
def test_packages_wait_for_the_lock(file: Path) -> None:
    """apt's own timers hold the lock at boot: every apt-get waits for it, and asks nothing."""
    text = file.read_text()
    calls = [line for line in text.splitlines() if re.match(r"[^#]*\bapt-get -", line)]
    assert [line for line in calls if "-o DPkg::Lock::Timeout=300" not in line] == []
    if calls:
        assert "DEBIAN_FRONTEND=noninteractive" in text


@pytest.mark.parametrize("file", SHELL, ids=_id)
def test_what_was_written_is_not_forgotten(file: Path) -> None:
    """Where a script asks put_file's `wrote`, nothing is piped into put_file: a pipe runs it in a
    shell of its own, and the restart that depends on the answer would be left out."""
    text = file.read_text()
    if "$wrote" in text:
        assert "| put_file" not in text


def _embedded(file: Path) -> list[str]:
    return re.findall(r"<<'PYTHON'\n(.*?\n)PYTHON\n", file.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("file", [file for file in SHELL if _embedded(file)], ids=_id)
def test_embedded_python(file: Path) -> None:
    """Python inside a script is Python 3.9, which is what Rocky 9 and Amazon Linux 2023 have, and
    uses the standard library alone."""
    import sys

    for program in _embedded(file):
        tree = ast.parse(program, file.name, feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


@pytest.mark.parametrize("file", POWERSHELL, ids=_id)
def test_powershell_is_strict(file: Path) -> None:
    """A PowerShell script is strict, stops at the first error, and is plain ASCII: Windows
    PowerShell 5.1 reads a file without a byte order mark in the server's code page."""
    text = file.read_text(encoding="ascii")
    body = text[text.index("# ...") :]
    assert "\nSet-StrictMode -Version 3.0\n$ErrorActionPreference = 'Stop'\n" in body
    assert "Write-Host" not in body
    # Exit codes of programs are not errors to PowerShell: each call is followed by a look.
    assert len(re.findall(r"& \w+\.exe", body)) <= len(re.findall(r"\$LASTEXITCODE", body))


# --- Documentation ----------------------------------------------------------------------------


def test_the_library_is_described(store: TemplateStore) -> None:
    """docs/library.md has every template with all its inputs, and every image map."""
    page = (ROOT / "docs" / "library.md").read_text()
    for name in NAMES:
        section = page.split(f"\n## {name}\n", 1)
        assert len(section) == 2, f"no section about {name}"
        text = section[1].split("\n## ", 1)[0]
        resolved = store.get(name)
        own = {script for script in resolved.inputs if _is_own(resolved, name, script)}
        assert [label for label in sorted(own) if f"`{label}`" not in text] == []
        labels = [
            label
            for label, script in resolved.operational.items()
            if script.path.startswith(f"{name}/")
        ]
        assert [label for label in labels if f"`{label}`" not in text] == []
    assert [file.stem for file in IMAGES if f"`{file.stem}`" not in page] == []


def _is_own(resolved: object, name: str, label: str) -> bool:
    declared = resolved.inputs[label].declared_in  # type: ignore[attr-defined]
    return any(place.startswith((f"template {name}", f"script {name}/")) for place in declared)
