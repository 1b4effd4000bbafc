"""What to put on a machine so that it takes its packages from a mirrored day."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slipway.mirrors.manifest import SuiteState


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
