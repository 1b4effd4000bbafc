"""What the API says of things: one model for lists, single answers, creations and call-backs."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipway.launches.listing import LaunchDetail, RunDetail, ServerDetail
from slipway.records import HandOver, LaunchStatus, Step, StepStatus

_LAUNCH_ID = "launch-01hkx3v9q2m4c7d8e"
_AT = "2026-11-20T08:30:00.125000Z"


class StepOut(BaseModel):
    """One step of a launch."""

    key: str = Field(description="Stable over attempts.", examples=["create-instance"])
    title: str = Field(examples=["Create the instance"])
    status: StepStatus
    attempt: int = Field(description="How often it was begun.", examples=[1])
    started_at: datetime = Field(examples=[_AT])
    ended_at: datetime | None = Field(examples=[_AT])
    error: str = Field(description="Why the last attempt failed; empty if not.", examples=[""])

    @classmethod
    def of(cls, step: Step) -> StepOut:
        """From its record."""
        return cls(
            key=step.key,
            title=step.title,
            status=StepStatus(step.status),
            attempt=step.attempt,
            started_at=step.started_at,
            ended_at=step.ended_at,
            error=step.error,
        )


class HandOverOut(BaseModel):
    """Whether the engine has what this API was asked for."""

    state: Literal["waiting", "handed"] = Field(
        description="`waiting`: on record here, and tried until the engine takes it."
    )
    flow: str = Field(description="The flow that does it.", examples=["launch_server"])
    attempts: int = Field(examples=[1])
    error: str = Field(
        description="Why the last attempt failed, or why a script that was handed over was not "
        "begun; empty if not.",
        examples=[""],
    )
    requested_at: datetime = Field(examples=[_AT])
    next_attempt_at: datetime | None = Field(
        description="When it is tried next, while waiting.", examples=[None]
    )
    flow_run_id: str | None = Field(
        description="The engine's run.", examples=["0b5c1a52-7b5e-4d0c-9f5f-0d9f1c7a3f11"]
    )

    @classmethod
    def of(cls, row: HandOver) -> HandOverOut:
        """From its record."""
        return cls(
            state="waiting" if row.handed_at is None else "handed",
            flow=row.flow,
            attempts=row.attempts,
            error=row.error,
            requested_at=row.created_at,
            next_attempt_at=row.due_at if row.handed_at is None else None,
            flow_run_id=row.flow_run_id,
        )


class RunOut(BaseModel):
    """One run of an operational script."""

    model_config = ConfigDict(title="Run")

    id: str = Field(examples=["run-01hkx3v9q2m4c7d8e"])
    launch_id: str = Field(examples=[_LAUNCH_ID])
    script: str = Field(examples=["set-greeting"])
    inputs: dict[str, Any] = Field(
        description="Values for this run only.", examples=[{"GREETING": "good evening"}]
    )
    status: Literal["requested", "running", "succeeded", "failed"] = Field(
        description="`requested` until the engine has begun with it.", examples=["succeeded"]
    )
    error: str = Field(description="Why it failed; empty if not.", examples=[""])
    step: str = Field(
        description="The step of the launch that it is, as in the audit.",
        examples=["operational:set-greeting:run-01hkx3v9q2m4c7d8e"],
    )
    requested_by: str = Field(examples=["token/ci"])
    requested_at: datetime = Field(examples=[_AT])
    started_at: datetime | None = Field(examples=[_AT])
    ended_at: datetime | None = Field(examples=[_AT])
    hand_over: HandOverOut

    @classmethod
    def of(cls, detail: RunDetail) -> RunOut:
        """From its records."""
        step, row = detail.step, detail.row
        # Without a step nobody has begun; with an error nobody will.
        given_up = bool(row.handed_at and row.error)
        return cls(
            id=detail.row.id,
            launch_id=detail.row.launch_id,
            script=detail.script,
            inputs=dict(detail.inputs),
            status=StepStatus(step.status).value
            if step
            else ("failed" if given_up else "requested"),
            error=step.error if step else (row.error if given_up else ""),
            step=detail.step_key,
            requested_by=detail.row.requested_by,
            requested_at=detail.row.created_at,
            started_at=step.started_at if step else None,
            ended_at=step.ended_at if step else None,
            hand_over=HandOverOut.of(detail.row),
        )


class TemplateRef(BaseModel):
    """Which version of which template was launched."""

    name: str = Field(examples=["hello-web"])
    ref: str = Field(description="As asked for.", examples=["hello-web@prod"])
    hash: str = Field(description="SHA-256 of the content, fixed for ever.", examples=["5f2b" * 16])


class LaunchOut(BaseModel):
    """One attempt to bring a server up, from the request to the end of its instance."""

    model_config = ConfigDict(title="Launch")

    id: str = Field(examples=[_LAUNCH_ID])
    server: str = Field(description="The server's name.", examples=["web-1"])
    status: LaunchStatus
    reason: str = Field(
        description="Why it is in this status; what stranded it, or why it was ended.",
        examples=[""],
    )
    failed_step: str | None = Field(description="While stranded.", examples=[None])
    template: TemplateRef
    environment: str | None = Field(examples=["staging"])
    inputs: dict[str, Any] = Field(
        description="As asked for; a secret is the name of its credential.",
        examples=[{"GREETING": "hello"}],
    )
    freeze: date | None = Field(examples=[None])
    on_failure: str = Field(examples=["keep"])
    cloud: str = Field(examples=["local"])
    region: str = Field(examples=["local"])
    connect: str = Field(
        description="`ssh`: we connect to it; `agent`: it calls us.", examples=["ssh"]
    )
    image_id: str = Field(examples=["img-debian-12"])
    instance_type: str = Field(examples=["local.small"])
    instance_id: str | None = Field(examples=["i-3f9a"])
    private_ip: str | None = Field(examples=["10.0.0.7"])
    public_ip: str | None = Field(examples=[None])
    ssh_port: int = Field(examples=[22])
    login_user: str = Field(examples=["admin"])
    outputs: dict[str, Any] = Field(
        description="What its scripts published.", examples=[{"url": "http://10.0.0.7/"}]
    )
    user_data: str = Field(description="What the instance was told at first boot.", examples=[""])
    callback_url: str | None = Field(examples=[None])
    requested_by: str = Field(examples=["token/ci"])
    flow_run_id: str | None = Field(
        description="The engine's run that drives or drove it last.",
        examples=["0b5c1a52-7b5e-4d0c-9f5f-0d9f1c7a3f11"],
    )
    hand_over: HandOverOut | None = Field(
        description="The newest thing asked of the engine through this API."
    )
    steps: list[StepOut]
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])
    operational_at: datetime | None = Field(examples=[_AT])
    ended_at: datetime | None = Field(examples=[None])
    cancel_requested_at: datetime | None = Field(examples=[None])

    @classmethod
    def of(cls, detail: LaunchDetail) -> LaunchOut:
        """From its records."""
        launch = detail.launch
        return cls(
            id=launch.id,
            server=launch.server_name,
            status=LaunchStatus(launch.status),
            reason=launch.reason,
            failed_step=launch.failed_step,
            template=TemplateRef(
                name=launch.template_name, ref=launch.template_ref, hash=launch.template_hash
            ),
            environment=launch.environment,
            inputs=launch.inputs,
            freeze=launch.freeze,
            on_failure=launch.on_failure,
            cloud=launch.cloud,
            region=launch.region,
            connect=launch.connect,
            image_id=launch.image_id,
            instance_type=launch.instance_type,
            instance_id=launch.instance_id,
            private_ip=launch.private_ip,
            public_ip=launch.public_ip,
            ssh_port=launch.ssh_port,
            login_user=launch.login_user,
            outputs=launch.outputs,
            user_data=launch.user_data,
            callback_url=detail.callback_url,
            requested_by=launch.requested_by,
            flow_run_id=launch.flow_run_id,
            hand_over=HandOverOut.of(detail.hand_over) if detail.hand_over else None,
            steps=[StepOut.of(step) for step in detail.steps],
            created_at=launch.created_at,
            updated_at=launch.updated_at,
            operational_at=launch.operational_at,
            ended_at=launch.ended_at,
            cancel_requested_at=launch.cancel_requested_at,
        )


class ServerOut(BaseModel):
    """The declared thing with a stable name, and its active or else newest launch."""

    model_config = ConfigDict(title="Server")

    name: str = Field(examples=["web-1"])
    environment: str | None = Field(examples=["staging"])
    inputs: dict[str, Any] = Field(
        description="Values every launch of this server gets.", examples=[{}]
    )
    created_at: datetime = Field(examples=[_AT])
    launch: LaunchOut | None

    @classmethod
    def of(cls, detail: ServerDetail) -> ServerOut:
        """From its records."""
        return cls(
            name=detail.server.name,
            environment=detail.server.environment,
            inputs=detail.server.inputs,
            created_at=detail.server.created_at,
            launch=LaunchOut.of(detail.launch) if detail.launch else None,
        )
