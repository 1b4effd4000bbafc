"""What is different between two templates: fields by section, scripts as text."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slipway.servertemplates.resolved import HealthScript, ResolvedTemplate, Script

_SECTIONS = (
    "name",
    "description",
    "image",
    "settings",
    "freeze",
    "connect",
    "inputs",
    "ready",
    "clock",
    "health",
    "boot",
    "operational",
    "decommission",
    "layers",
)


@dataclass(frozen=True, kw_only=True)
class FieldChange:
    """One value that is different; None where a side does not have it."""

    #: ``settings.instance_type``, ``inputs.PORT.default``, ``boot``.
    path: str
    before: Any
    after: Any

    @property
    def section(self) -> str:
        """``settings``."""
        return self.path.split(".", 1)[0]


@dataclass(frozen=True, kw_only=True)
class ScriptChange:
    """One script file that is different."""

    #: ``base-linux/scripts/install.sh``.
    path: str
    change: Literal["added", "removed", "changed"]
    #: Unified diff of the text.
    diff: str


@dataclass(frozen=True, kw_only=True)
class TemplateDiff:
    """From one template to another."""

    before: str
    after: str
    before_hash: str
    after_hash: str
    fields: tuple[FieldChange, ...]
    scripts: tuple[ScriptChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether both are the same content."""
        return self.before_hash == self.after_hash

    def as_data(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "before": {"ref": self.before, "hash": self.before_hash},
            "after": {"ref": self.after, "hash": self.after_hash},
            "fields": [{"path": c.path, "before": c.before, "after": c.after} for c in self.fields],
            "scripts": [{"path": c.path, "change": c.change, "diff": c.diff} for c in self.scripts],
        }


def diff_templates(
    a: ResolvedTemplate, b: ResolvedTemplate, *, before: str = "", after: str = ""
) -> TemplateDiff:
    """Compare two resolved templates, whatever their names."""
    left, right = _flat(a), _flat(b)
    order = {section: position for position, section in enumerate(_SECTIONS)}
    paths = sorted(
        left.keys() | right.keys(), key=lambda path: (order[path.split(".", 1)[0]], path)
    )
    fields = tuple(
        FieldChange(path=path, before=left.get(path), after=right.get(path))
        for path in paths
        if left.get(path) != right.get(path)
    )
    return TemplateDiff(
        before=before or a.name,
        after=after or b.name,
        before_hash=a.hash,
        after_hash=b.hash,
        fields=fields,
        scripts=tuple(_script_changes(a, b)),
    )


def _script_changes(a: ResolvedTemplate, b: ResolvedTemplate) -> list[ScriptChange]:
    left = {script.path: script for script in a.scripts()}
    right = {script.path: script for script in b.scripts()}
    changes: list[ScriptChange] = []
    for path in sorted(left.keys() | right.keys()):
        old, new = left.get(path), right.get(path)
        if old and new and old.sha256 == new.sha256:
            continue
        change: Literal["added", "removed", "changed"] = "changed"
        if old is None or new is None:
            change = "added" if old is None else "removed"
        changes.append(
            ScriptChange(
                path=path, change=change, diff=_unified(path, _text(a, old), _text(b, new))
            )
        )
    return changes


def _text(template: ResolvedTemplate, script: Script | None) -> str:
    if script is None:
        return ""
    return template.blobs[script.sha256].decode("utf-8", errors="replace")


def _unified(path: str, old: str, new: str) -> str:
    # Not `splitlines`: it would also break at form feeds and hide a changed line ending.
    lines = difflib.unified_diff(
        old.split("\n"), new.split("\n"), f"a/{path}", f"b/{path}", lineterm=""
    )
    return "\n".join(lines)


def _flat(template: ResolvedTemplate) -> dict[str, Any]:
    data = template.model_dump(mode="json", by_alias=True, exclude_none=True)
    data["boot"] = [script.path for script in template.boot]
    data["operational"] = {label: s.path for label, s in template.operational.items()}
    data["decommission"] = [script.path for script in template.decommission]
    data["health"] = [
        {"script": check.script.path}
        if isinstance(check, HealthScript)
        else check.model_dump(mode="json")
        for check in template.health
    ]
    data["layers"] = {layer.name: layer.hash[:12] for layer in template.layers}
    for declared in data["inputs"].values():
        # Where a default comes from is not a difference by itself.
        declared.pop("declared_in", None)
        declared.pop("default_from", None)
    flat: dict[str, Any] = {}
    for section in _SECTIONS:
        if section in data:
            _flatten(section, data[section], flat)
    return flat


def _flatten(path: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{path}.{key}", item, into)
    elif value not in ([], ""):
        into[path] = value
