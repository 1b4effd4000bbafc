"""Tables: columns and constraints, no behaviour."""

from slipway.records.access import KeyedRequest, Token
from slipway.records.agents import Agent, AgentInstruction, AgentOutput
from slipway.records.audit import AuditEntry, AuditHead, AuditKind
from slipway.records.changes import Change, ChangeHorizon
from slipway.records.handing import CallBack, CallBackMessage, HandOver
from slipway.records.mirrors import MirrorDay, MirrorPin, MirrorRepository
from slipway.records.secrets import Credential
from slipway.records.servers import Environment, Installation, Launch, LaunchStatus, Server
from slipway.records.steps import Lease, Step, StepStatus
from slipway.records.templates import Blob, TemplateTag, TemplateVersion
from slipway.records.watching import CallBudget, SeenInstance, WaitingFor, WatchedRegion

__all__ = [
    "Agent",
    "AgentInstruction",
    "AgentOutput",
    "AuditEntry",
    "AuditHead",
    "AuditKind",
    "Blob",
    "CallBack",
    "CallBackMessage",
    "CallBudget",
    "Change",
    "ChangeHorizon",
    "Credential",
    "Environment",
    "HandOver",
    "Installation",
    "KeyedRequest",
    "Launch",
    "LaunchStatus",
    "Lease",
    "MirrorDay",
    "MirrorPin",
    "MirrorRepository",
    "SeenInstance",
    "Server",
    "Step",
    "StepStatus",
    "TemplateTag",
    "TemplateVersion",
    "Token",
    "WaitingFor",
    "WatchedRegion",
]
