"""Rules of the house that no other tool checks."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import slipway
from tests import conftest
from tests.docs import cli_page

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ["requirements.lock", "requirements-dev.lock", "requirements-image.lock"]
PACKAGES = ["slipway", "blocks", "tasks", "flows", "deployments"]

#: What is ours to check; everything else in a checkout is made by tools.
OURS = [
    *PACKAGES, "templates", "tests", "bench", "docs", ".ci", "README.md", "CONTRIBUTING.md",
    "CHANGELOG.md", "Makefile", "mkdocs.yml", "pyproject.toml", ".editorconfig",
]  # fmt: skip


def _files() -> Iterator[Path]:
    for name in OURS:
        path = ROOT / name
        found = path.rglob("*") if path.is_dir() else [path]
        for file in sorted(found):
            if file.is_file() and "__pycache__" not in file.parts and "results" not in file.parts:
                yield file


def _texts() -> Iterator[tuple[str, str]]:
    for file in _files():
        try:
            yield str(file.relative_to(ROOT)), file.read_text()
        except UnicodeDecodeError:
            continue


# --- Dependencies ---------------------------------------------------------------------------------


def _pins(lock: str) -> dict[str, str]:
    text = (ROOT / lock).read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_registry(lock: str) -> None:
    """A lock installs from whichever registry the reader uses: it holds no address."""
    text = (ROOT / lock).read_text()
    assert re.findall(r"\S*://\S*|^--?(?:i|f|index|extra|find)\S*", text, flags=re.MULTILINE) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    """Nothing is installed that is not exactly what was locked."""
    lines = (ROOT / lock).read_text().splitlines()
    pins = [number for number, line in enumerate(lines) if line[:1].isalnum()]
    assert len(pins) > 20
    assert [lines[n] for n in pins if not lines[n + 1].startswith("    --hash=sha256:")] == []


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-image.lock"])
def test_pins_were_tested(lock: str) -> None:
    """What users install is what the tests ran with: equal versions in both locks."""
    dev = _pins("requirements-dev.lock")
    assert {name: v for name, v in _pins(lock).items() if dev.get(name) != v} == {}


def _names(requirements: list[Any]) -> set[str]:
    """The normalised project names of requirements; groups that are included stay out."""
    names = [re.match(r"[\w.-]+", item) for item in requirements if isinstance(item, str)]
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def test_every_dependency_is_locked() -> None:
    """pyproject.toml and the locks agree: nothing was added without `make lock`."""
    runtime = _names(PROJECT["project"]["dependencies"])
    groups = PROJECT["dependency-groups"]
    extras = PROJECT["project"]["optional-dependencies"]
    dev = runtime | _names(groups["dev"]) | {n for extra in extras.values() for n in _names(extra)}
    assert (runtime | _names(groups["build"])) - set(_pins("requirements.lock")) == set()
    assert dev - set(_pins("requirements-dev.lock")) == set()
    image = runtime | {name for extra in extras.values() for name in _names(extra)}
    assert image - set(_pins("requirements-image.lock")) == set()


#: Import name → project name, where they differ and the import is ours.
_PROJECTS = {"yaml": "pyyaml", "_pytest": "pytest", "pydantic_core": "pydantic"}
#: Imported only where an optional dependency is installed.
_OPTIONAL = {"boto3", "botocore", "psycopg"}


def test_every_import_is_declared() -> None:
    """What the code imports is a dependency of ours, not of a dependency."""
    declared = _names(PROJECT["project"]["dependencies"])
    # The bases of FastAPI and Jinja, and part of their interfaces.
    allowed = declared | {"starlette", "markupsafe"}
    found: dict[str, str] = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(), file)):
                if isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules = [node.module]
                else:
                    continue
                for module in modules:
                    top = module.partition(".")[0]
                    found.setdefault(top, f"{file.relative_to(ROOT)}:{node.lineno}")
    foreign = {
        name: where
        for name, where in found.items()
        if name not in sys.stdlib_module_names and name not in PACKAGES and name not in _OPTIONAL
    }
    undeclared = {
        name: where
        for name, where in foreign.items()
        if _PROJECTS.get(name, name.replace("_", "-")) not in allowed
    }
    assert undeclared == {}


# --- Files ----------------------------------------------------------------------------------------


def test_no_marks_of_unfinished_work() -> None:
    """No merge conflict is left, and what is left to do names who does it: TODO(name)."""
    marks = re.compile(
        r"^(?:<{7} |>{7} |={7}$)|\b(?:FIXME|XXX|HACK)\b|\bTODO\b(?!\([\w-]+\))", re.MULTILINE
    )
    # This file has to name what it looks for.
    texts = [(name, text) for name, text in _texts() if name != "tests/test_house.py"]
    assert len(texts) > 20
    assert [(name, found[0]) for name, text in texts for found in marks.finditer(text)] == []


def test_text_files_are_tidy() -> None:
    """Text is UTF-8 with one newline at the end, no trailing blanks and no carriage returns."""
    untidy = [
        name
        for name, text in _texts()
        if text
        and (not text.endswith("\n") or "\r" in text or re.search(r"[ \t]+$", text, re.MULTILINE))
    ]
    assert untidy == []


def test_nothing_names_this_machine() -> None:
    """No file holds a path of the machine it was written on."""
    home = str(Path.home())
    # "/root" and the like are also words that belong into scripts and examples.
    machine = [str(ROOT)] if len(Path(home).parts) < 3 else [str(ROOT), home]
    found = [(name, path) for name, text in _texts() for path in machine if path + "/" in text]
    assert found == []


def test_scripts_can_be_run() -> None:
    """A file in the tree that begins with #! and is no template's script is executable."""
    scripts = [
        file
        for file in _files()
        if file.read_bytes()[:2] == b"#!" and (ROOT / ".ci") in file.parents
    ]
    assert scripts
    assert [file for file in scripts if not os.access(file, os.X_OK)] == []


def test_every_package_is_shipped_and_checked() -> None:
    """The five packages are in the wheel, under the type checker and under an import contract."""
    tool = PROJECT["tool"]
    assert sorted(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == sorted(PACKAGES)
    assert sorted(tool["mypy"]["files"]) == sorted(PACKAGES)
    assert sorted(tool["importlinter"]["root_packages"]) == sorted(PACKAGES)


def test_every_lint_exception_carries_its_reason() -> None:
    """A rule that is switched off says why, on its own line of pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text()
    ruff = text[text.index("[tool.ruff.lint]") : text.index("[tool.mypy]")]
    ruff = ruff[ruff.index("ignore = [") :]
    entries = [line for line in ruff.splitlines() if re.match(r'  "[A-Z]+\d*",', line)]
    assert len(entries) > 10
    assert [line for line in entries if not re.search(r",\s+# \S", line)] == []


# --- The release ----------------------------------------------------------------------------------


def _build_wheel(target: Path) -> zipfile.ZipFile:
    # Without isolation: with it, the build would fetch hatchling from the registry.
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = target.glob("*.whl")
    return zipfile.ZipFile(wheel)


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    """The wheel holds every module and data file, the templates and the licence; no tests."""
    with _build_wheel(tmp_path) as wheel:
        names = set(wheel.namelist())
    sources = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    templates = {
        f"slipway/_templates/{file.relative_to(ROOT / 'templates')}"
        for file in (ROOT / "templates").rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert len(templates) > 0
    assert (sources | templates) - names == set()
    information = f"slipway-{slipway.__version__}.dist-info"
    assert f"{information}/licenses/LICENSE" in names
    assert {name.partition("/")[0] for name in names} == {*PACKAGES, information}


def test_the_license_is_the_apache_license() -> None:
    """LICENSE is the full text, from its title to the end of its appendix."""
    text = (ROOT / "LICENSE").read_text()
    assert text.split("\n", 2)[1].strip() == "Apache License"
    assert text.rstrip().endswith("limitations under the License.")
    sections = re.findall(r"^   (\d)\. [A-Z]", text, flags=re.MULTILINE)
    assert sections == [str(number) for number in range(1, 10)]


def test_the_changelog_knows_this_version() -> None:
    """CHANGELOG.md has a section for the version that the package says it is."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    sections = re.findall(r"^## \[([^\]]+)\](.*)$", changelog, flags=re.MULTILINE)
    assert slipway.__version__ in [version for version, _ in sections]
    dated = [version for version, rest in sections if re.fullmatch(r" - \d{4}-\d\d-\d\d", rest)]
    undated = [version for version, rest in sections if not rest]
    assert len(dated) + len(undated) == len(sections)
    # Work that is not released yet comes first, under its own heading or the next version's.
    assert sections[: len(undated)] == [(version, "") for version in undated]


# --- The documentation ----------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose !!python/name tags name functions that are not needed here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _navigation(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        target = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(target, list):
            yield from _navigation(target)
        else:
            yield target


def test_the_navigation_is_complete() -> None:
    """Every page is in the navigation, once, and every entry of the navigation is a page."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)
    listed = list(_navigation(config["nav"]))
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)


def test_the_documentation_loads_nothing_from_elsewhere() -> None:
    """The built pages work without a network: no font, script or picture from another host."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)
    assert config["theme"]["font"] is False
    # The theme fetches mermaid from a content network as soon as a page has such a block.
    embeds = re.compile(r"```\s*mermaid|!\[[^\]]*\]\(https?:|<(?:img|script)[^>]+src=.https?:")
    pages = (ROOT / "docs").rglob("*.md")
    assert [str(page) for page in pages if embeds.search(page.read_text())] == []


def test_the_command_line_is_documented() -> None:
    """docs/cli.md is what the commands and settings say of themselves today."""
    # Refresh it with `.venv/bin/python -m tests.docs.cli_page`.
    assert cli_page.PAGE.read_text() == cli_page.page()


def test_every_command_says_what_it_is_for() -> None:
    """No command, argument or option is without a sentence of help."""
    app = cli_page.application()
    if app is None:
        pytest.skip("slipway.cli has no `app` yet")
    found = dict(cli_page.commands(typer.main.get_command(app), "slipway"))
    silent = [name for name, command in found.items() if not command.help]
    silent += [
        f"{name}: {parameter.name}"
        for name, command in found.items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert silent == []


def test_every_setting_is_documented() -> None:
    """Every field of the settings says what it is for, and in which unit."""
    from slipway.settings import Settings

    bare = [name for name, field in Settings.model_fields.items() if not field.description]
    assert bare == []


# --- The tests themselves -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attempt",
    [
        lambda opened: opened.connect(("192.0.2.1", 80)),
        lambda opened: opened.bind(("", 0)),
        lambda opened: opened.bind(("0.0.0.0", 0)),
        lambda opened: opened.sendto(b"x", ("192.0.2.1", 123)),
        lambda _: socket.getaddrinfo("example.org", 80),
    ],
    ids=["connect", "bind to all", "bind to 0.0.0.0", "send", "look up"],
)
def test_no_test_leaves_this_machine(attempt: Callable[[socket.socket], object]) -> None:
    """Whatever goes beyond loopback is stopped before it happens, and is remembered."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened,
        pytest.raises(conftest.LeavesThisMachine, match="tests use 127"),
    ):
        attempt(opened)
    assert len(conftest.violations) == 1
    conftest.violations.clear()


def test_loopback_is_allowed() -> None:
    """A test may listen on loopback and connect to itself, by address and by name."""
    for name, family in (("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET)):
        with socket.socket(family) as server, socket.socket(family) as client:
            server.bind((name, 0))
            server.listen()
            client.connect(server.getsockname())
    assert conftest.violations == []
