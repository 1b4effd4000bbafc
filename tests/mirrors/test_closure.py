"""What has to be here so that packages can be installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipway.mirrors.apt_closure import AptUniverse
from slipway.mirrors.closure import Closure
from slipway.mirrors.debian_versions import order
from slipway.mirrors.manifest import ListingRef, SuiteState
from slipway.mirrors.store import Store


def _suite(store: Store, packages: Mapping[str, str], architecture: str = "amd64") -> SuiteState:
    """``name version`` with more fields, as an index of a suite."""
    stanzas = []
    for named, fields in packages.items():
        name, version = named.split()
        stanzas.append(
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
            f"Filename: pool/{name}_{version}_{architecture}.deb\nSize: 1\nSHA256: {'a' * 64}\n"
            + "".join(f"{line}\n" for line in fields.split("; ") if line)
        )
    index = store.put("\n".join(stanzas).encode())
    return SuiteState(
        suite="stable",
        date=datetime(2026, 1, 1, tzinfo=UTC),
        valid_until=None,
        files={},
        listings={"main/binary-amd64/Packages": ListingRef(index=index, sha256="0" * 64)},
    )


def _of(store: Store, names: str, *suites: SuiteState) -> tuple[list[str], list[str]]:
    with AptUniverse(store, suites, "amd64") as universe:
        found: Closure = universe.closure(names.split())
    shown = [f"{entry.package} {entry.version}" for entry in found.entries.values()]
    return sorted(shown), list(found.missing)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


CASES: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    "all that it depends on": (
        {"a 1": "Depends: b, c (>= 1)", "b 1": "Pre-Depends: d", "c 1": "", "d 1": "", "x 1": ""},
        ["a 1", "b 1", "c 1", "d 1"],
        [],
    ),
    "in circles": ({"a 1": "Depends: b", "b 1": "Depends: a"}, ["a 1", "b 1"], []),
    "what is recommended, where it is there": (
        {"a 1": "Recommends: b, nowhere; Suggests: c", "b 1": "", "c 1": ""},
        ["a 1", "b 1"],
        [],
    ),
    "the first alternative that will do": (
        {"a 1": "Depends: b (>> 1) | nowhere | c | d", "b 1": "", "c 1": "", "d 1": ""},
        ["a 1", "c 1"],
        [],
    ),
    "everything that stands in for a name": (
        {
            "a 1": "Depends: mta",
            "b 1": "Provides: web, mta",
            "c 1": "Provides: mta (= 2); Depends: d",
            "d 1": "",
        },
        ["a 1", "b 1", "c 1", "d 1"],
        [],
    ),
    "a stand-in has to have the version": (
        {"a 1": "Depends: v (>= 2)", "b 1": "Provides: v", "c 1": "Provides: v (= 2.1)"},
        ["a 1", "c 1"],
        [],
    ),
    "the package itself rather than what stands in for it": (
        {"a 1": "Depends: b", "b 1": "", "c 1": "Provides: b"},
        ["a 1", "b 1"],
        [],
    ),
    "every version that will do, and no other": (
        {"a 1": "Depends: b (>= 1.0~)", "b 1.0": "", "b 1.1": "", "b 1.0~~a": ""},
        ["a 1", "b 1.0", "b 1.1"],
        [],
    ),
    "architectures": (
        {"a 1": "Depends: b:any, c:amd64, d:arm64 | e:native", "b 1": "", "c 1": "", "e 1": ""},
        ["a 1", "b 1", "c 1", "e 1"],
        [],
    ),
    "over several lines": (
        {"a 1": "Depends: b,\n c", "b 1": "", "c 1": ""},
        ["a 1", "b 1", "c 1"],
        [],
    ),
    "what is missing is named, with who needs it": (
        {"a 1": "Depends: b (>= 2), c", "b 1": ""},
        ["a 1"],
        ["b (>= 2), which a needs", "c, which a needs"],
    ),
    "what only an old version needs is not missing": (
        {"a 1": "Depends: gone", "a 2": "Depends: b", "b 1": ""},
        ["a 1", "a 2", "b 1"],
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_closure(store: Store, case: str) -> None:
    """Of the package a."""
    packages, needed, missing = CASES[case]
    assert _of(store, "a", _suite(store, packages)) == (needed, missing)


def test_over_suites(store: Store) -> None:
    """One needs what another has; what is not named anywhere is missing, and so is what is only
    there for another architecture."""
    base = _suite(store, {"a 1": "Depends: b", "b 1": ""})
    updates = _suite(store, {"b 2": "Depends: c", "c 1": ""})
    other = _suite(store, {"d 1": ""}, architecture="arm64")
    assert _of(store, "a d e", base, updates, other) == (
        ["a 1", "b 1", "b 2", "c 1"],
        ["d", "e"],
    )


VERSION = st.from_regex(r"\A([01]:)?[0-9][0-9a-b~.+]{0,5}(-[0-9a~.+]{1,3})?\Z")


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="not installed: dpkg")
@settings(max_examples=25, deadline=None)
@given(VERSION, VERSION)
def test_versions_are_ordered_as_dpkg_does(one: str, other: str) -> None:
    """Tildes, letters, epochs and revisions."""
    mine = (order(one) > order(other)) - (order(one) < order(other))
    for relation, wanted in (("lt", -1), ("eq", 0), ("gt", 1)):
        done = subprocess.run(["dpkg", "--compare-versions", one, relation, other], check=False)
        if done.returncode == 0:
            assert mine == wanted
