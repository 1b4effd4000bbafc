"""Tables: columns and constraints, no behaviour."""

from slipway.records.audit import AuditEntry, AuditHead, AuditKind
from slipway.records.secrets import Credential
from slipway.records.servers import Environment, Installation, Launch, LaunchStatus, Server
from slipway.records.steps import Lease, Step, StepStatus
from slipway.records.templates import Blob, TemplateTag, TemplateVersion

__all__ = [
    "AuditEntry",
    "AuditHead",
    "AuditKind",
    "Blob",
    "Credential",
    "Environment",
    "Installation",
    "Launch",
    "LaunchStatus",
    "Lease",
    "Server",
    "Step",
    "StepStatus",
    "TemplateTag",
    "TemplateVersion",
]
