"""What to put on a machine so that it takes its packages from a mirrored day."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from slipway.mirrors.manifest import SuiteState
from slipway.mirrors.repository import RpmRepository

#: The variable of dnf that holds the day: a file of this name in ``/etc/dnf/vars``.
DAY_VARIABLE = "slipday"
_VARIABLES = re.compile(r"[^A-Za-z0-9_.-]+")


def apt_sources(
    states: Iterable[SuiteState], *, url: str, keyring: str, name: str, frozen: bool
) -> str:
    """Stanzas in deb822 form for ``/etc/apt/sources.list.d/<name>.sources``.

    ``url`` is where the repository is at that time, ``keyring`` the file on the machine with the
    keys that sign it. ``frozen`` days outlive the releases they are made of: their Valid-Until is
    not looked at, and only theirs.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for state in states:
        groups.setdefault(components(state.suite, state.files), []).append(state.suite)
    return "\n".join(
        _stanza(suites, parts, url=url, keyring=keyring, name=name, frozen=frozen)
        for parts, suites in groups.items()
    )


def _stanza(
    suites: list[str],
    parts: tuple[str, ...],
    *,
    url: str,
    keyring: str,
    name: str,
    frozen: bool,
) -> str:
    lines = ["Types: deb", f"URIs: {url}", f"Suites: {' '.join(suites)}"]
    if parts:
        lines.append(f"Components: {' '.join(parts)}")
    lines.append(f"Signed-By: {keyring}")
    if frozen:
        lines.append("Check-Valid-Until: no")
    lines.append(f"X-Repository: {name}")
    return "\n".join(lines) + "\n"


def components(suite: str, files: Mapping[str, object]) -> tuple[str, ...]:
    """Those whose packages are among a suite's files; a flat one has none."""
    prefix = f"dists/{suite}/"
    found = (
        path.removeprefix(prefix).partition("/binary-")[0]
        for path in files
        if path.startswith(prefix) and "/binary-" in path
    )
    return tuple(dict.fromkeys(each for each in found if "debian-installer" not in each))


def dnf_sources(repository: RpmRepository, *, url: str) -> str:
    """Sections for ``/etc/yum.repos.d/<name>.repo``; ``url`` is where the days of all repositories
    are, up to the variable that says which (`DAY_VARIABLE`)."""
    key = repository.signed_by
    lines: list[str] = []
    for suite in repository.suites:
        where = suite.strip("/")
        name = f"{repository.name}-{where}".rstrip("-")
        lines += [
            f"[{_VARIABLES.sub('-', name)}]",
            f"name={repository.name} {where}".rstrip() + f" as of ${DAY_VARIABLE}",
            f"baseurl={url}/{repository.name}/{where}",
            "enabled=1",
            "gpgcheck=1",
            f"repo_gpgcheck={int(repository.signed_metadata)}",
            f"gpgkey={key if '://' in key else f'file://{key}'}",
            "",
        ]
    return "\n".join(lines)
