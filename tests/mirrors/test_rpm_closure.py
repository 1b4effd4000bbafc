"""What has to be here so that rpm packages can be installed."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest

from slipway.mirrors.manifest import FileRef, ListingRef, SuiteState
from slipway.mirrors.primary import Relation
from slipway.mirrors.rpm_closure import RpmUniverse, overlap
from slipway.mirrors.store import Store

#: How a need is written here: ``lib >= 2-1``.
_FLAGS = {"=": "EQ", ">=": "GE", ">": "GT", "<=": "LE", "<": "LT"}


def _entry(text: str) -> str:
    name, _, rest = text.partition(" ")
    flags, _, version = rest.partition(" ")
    if text.startswith("(") or flags not in _FLAGS:
        return f"<rpm:entry name={quoteattr(text)}/>"
    ver, _, rel = version.partition("-")
    release = f' rel="{rel}"' if rel else ""
    evr = f'epoch="0" ver="{ver}"{release}'
    return f'<rpm:entry name={quoteattr(name)} flags="{_FLAGS[flags]}" {evr}/>'


def _package(named: str, fields: Mapping[str, list[str]]) -> str:
    name, version, arch = named.split()
    ver, _, rel = version.partition("-")
    kinds = {"provides": [f"{name} = {version}"], **fields}
    kinds["provides"] = [f"{name} = {version}", *fields.get("provides", [])]
    relations = "".join(
        f"<rpm:{kind}>{''.join(map(_entry, entries))}</rpm:{kind}>"
        for kind, entries in kinds.items()
        if kind != "files"
    )
    files = "".join(f"<file>{path}</file>" for path in fields.get("files", []))
    return (
        f'<package type="rpm"><name>{name}</name><arch>{arch}</arch>'
        f'<version epoch="0" ver="{ver}" rel="{rel}"/>'
        f'<checksum type="sha256" pkgid="YES">{"a" * 64}</checksum><size package="1"/>'
        f'<location href="Packages/{name}-{version}.{arch}.rpm"/>'
        f"<format>{relations}{files}</format></package>"
    )


def _suite(
    store: Store,
    packages: Mapping[str, Mapping[str, list[str]]],
    filelists: Mapping[str, list[str]] | None = None,
) -> SuiteState:
    """``name version arch`` with what it requires, provides and recommends, as a repository."""
    common = "http://linux.duke.edu/metadata"
    body = "".join(_package(named, fields) for named, fields in packages.items())
    primary = (
        f'<metadata xmlns="{common}/common" xmlns:rpm="{common}/rpm" packages="1">{body}</metadata>'
    )
    lists = "".join(
        f'<package pkgid="{"a" * 64}" name="{name}" arch="noarch">'
        + "".join(f"<file>{path}</file>" for path in paths)
        + "</package>"
        for name, paths in (filelists or {}).items()
    )
    others = f'<filelists xmlns="{common}/filelists" packages="1">{lists}</filelists>'
    index = store.put(gzip.compress(primary.encode(), mtime=0))
    listed = store.put(gzip.compress(others.encode(), mtime=0))
    return SuiteState(
        suite="os/",
        date=datetime(2026, 1, 1, tzinfo=UTC),
        valid_until=None,
        files={f"os/repodata/{listed}-filelists.xml.gz": FileRef(sha256=listed, size=1)},
        listings={"os/repodata/primary.xml.gz": ListingRef(index=index, sha256="0" * 64)},
    )


def _of(store: Store, names: str, *suites: SuiteState) -> tuple[list[str], list[str]]:
    with RpmUniverse(store, suites, "x86_64") as universe:
        found = universe.closure(names.split())
    return sorted(found.entries), list(found.missing)


def _at(*packages: str) -> list[str]:
    return sorted(f"os/Packages/{each}.rpm" for each in packages)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


NOTHING: dict[str, list[str]] = {}
CASES: dict[str, tuple[dict[str, dict[str, list[str]]], list[str], list[str]]] = {
    "all that it requires, by what is provided": (
        {
            "a 1-1 x86_64": {"requires": ["libb.so.1()(64bit)", "c >= 1-1", "rpmlib(X) <= 4"]},
            "b 1-1 x86_64": {"provides": ["libb.so.1()(64bit)"]},
            "c 1-1 noarch": {"requires": ["a"]},
            "x 1-1 noarch": NOTHING,
        },
        _at("a-1-1.x86_64", "b-1-1.x86_64", "c-1-1.noarch"),
        [],
    ),
    "every version that will do, and no other": (
        {
            "a 1-1 noarch": {"requires": ["b >= 1.1"]},
            "b 1.0-9 noarch": NOTHING,
            "b 1.1-1 noarch": NOTHING,
            "b 1.2-1 noarch": NOTHING,
        },
        _at("a-1-1.noarch", "b-1.1-1.noarch", "b-1.2-1.noarch"),
        [],
    ),
    "other architectures are somebody else's": (
        {
            "a 1-1 x86_64": {"requires": ["b"]},
            "b 1-1 x86_64": NOTHING,
            "b 1-1 i686": NOTHING,
        },
        _at("a-1-1.x86_64", "b-1-1.x86_64"),
        [],
    ),
    "files, also such as only the lists of all files have": (
        {
            "a 1-1 noarch": {"requires": ["/usr/bin/b", "/opt/c"]},
            "b 1-1 noarch": {"files": ["/usr/bin/b", "/etc/b"]},
            "c 1-1 noarch": NOTHING,
        },
        _at("a-1-1.noarch", "b-1-1.noarch", "c-1-1.noarch"),
        [],
    ),
    "what is recommended or combined, where it is there": (
        {
            "a 1-1 noarch": {
                "recommends": ["b", "nowhere"],
                "requires": ["(c >= 2 if d(x))", "(nowhere or e)"],
            },
            "b 1-1 noarch": NOTHING,
            "c 1-1 noarch": NOTHING,
            "d 1-1 noarch": {"provides": ["d(x)"]},
            "e 1-1 noarch": NOTHING,
        },
        _at(*(f"{name}-1-1.noarch" for name in "abcde")),
        [],
    ),
    "what is missing is named, with who needs it": (
        {
            "a 1-1 noarch": {"requires": ["b >= 2", "/usr/bin/none", "c"]},
            "b 1-1 noarch": NOTHING,
        },
        _at("a-1-1.noarch"),
        ["b >= 2, which a needs", "/usr/bin/none, which a needs", "c, which a needs"],
    ),
    "what only an old version needs is not missing": (
        {"a 1-1 noarch": {"requires": ["gone"]}, "a 2-1 noarch": NOTHING},
        _at("a-1-1.noarch", "a-2-1.noarch"),
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_closure(store: Store, case: str) -> None:
    """Of the package a."""
    packages, needed, missing = CASES[case]
    suite = _suite(store, packages, {"c": ["/opt/c"]})
    assert _of(store, "a", suite) == (needed, missing)


def test_over_repositories(store: Store) -> None:
    """One needs what another has, each below its own directory."""
    base = _suite(store, {"a 1-1 noarch": {"requires": ["b"]}})
    more = _suite(store, {"b 1-1 noarch": NOTHING})
    assert _of(store, "a c", base, more) == (_at("a-1-1.noarch", "b-1-1.noarch"), ["c"])
    with RpmUniverse(store, [base], "x86_64") as universe:
        assert (universe.has("a"), universe.has("b")) == (True, False)


@pytest.mark.parametrize(
    ("has", "need", "do"),
    [
        ("= 1-1", "= 1-1", True),
        ("= 1-1", "= 1-2", False),
        ("= 1-1", "= 1", True),
        ("= 1-1", ">= 1-1", True),
        ("= 1-1", "> 1-1", False),
        ("= 2-1", "> 1-1", True),
        ("= 1-1", "< 2", True),
        ("= 2-1", "< 2", False),
        ("= 2-1", "<= 2", True),
        (">= 1", "= 5", True),
        ("< 1", "> 2", False),
        ("", "= 5", True),
        ("= 5", "", True),
        ("= 1:1-1", ">= 2-1", True),
    ],
)
def test_versions_that_will_do(has: str, need: str, do: bool) -> None:
    """As rpm decides it: two ranges have a version in common."""
    ours, theirs = (
        Relation("x", _FLAGS.get(text.partition(" ")[0], ""), text.partition(" ")[2])
        for text in (has, need)
    )
    assert overlap(ours, theirs) is do
