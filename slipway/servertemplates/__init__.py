"""ServerTemplates: what is written, how layers become one, and the versions that are kept."""

from slipway.servertemplates.compose import Clash, Composition, compose
from slipway.servertemplates.diff import FieldChange, ScriptChange, TemplateDiff, diff_templates
from slipway.servertemplates.document import (
    DEFAULT_SCRIPT_TIMEOUT_S,
    ClockBounds,
    Connect,
    HttpCheck,
    ImageChoice,
    ImageMap,
    Ready,
    Settings,
    TcpCheck,
)
from slipway.servertemplates.inputs import (
    DeclaredInput,
    InputDeclaration,
    InputLayer,
    ResolvedInput,
    ResolvedInputs,
    render,
    resolve_inputs,
)
from slipway.servertemplates.library import Library
from slipway.servertemplates.resolved import (
    HealthScript,
    Layer,
    ResolvedTemplate,
    Script,
    choose_image,
)
from slipway.servertemplates.store import Commit, TemplateStore, TemplateSummary, VersionInfo

__all__ = [
    "DEFAULT_SCRIPT_TIMEOUT_S",
    "Clash",
    "ClockBounds",
    "Commit",
    "Composition",
    "Connect",
    "DeclaredInput",
    "FieldChange",
    "HealthScript",
    "HttpCheck",
    "ImageChoice",
    "ImageMap",
    "InputDeclaration",
    "InputLayer",
    "Layer",
    "Library",
    "Ready",
    "ResolvedInput",
    "ResolvedInputs",
    "ResolvedTemplate",
    "Script",
    "ScriptChange",
    "Settings",
    "TcpCheck",
    "TemplateDiff",
    "TemplateStore",
    "TemplateSummary",
    "VersionInfo",
    "choose_image",
    "compose",
    "diff_templates",
    "render",
    "resolve_inputs",
]
