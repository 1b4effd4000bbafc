"""``slipway deploy``: brings Prefect's server to what a file says, and tells what that changed.

Everything is compared before it is written, so that doing it twice changes nothing, and what an
operator has paused stays paused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.events import DeploymentTriggerTypes
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.workers.base import BaseWorker
from pydantic import TypeAdapter, ValidationError

import blocks
from deployments import deploy_file
from deployments.deploy_file import Automation, BlockDocument, DeployFile, Deployment, WorkPool
from deployments.forms import apply_forms, form
from deployments.inprocess_worker import InProcessWorker
from deployments.prefect_api import PrefectApi
from slipway import __version__
from slipway.cli.wiring import Action, Change, FieldChange
from slipway.errors import Conflict, InvalidInput, NotFound, Problem
from slipway.launches.choices import Choices

#: On what we made: only that is ever removed.
OURS = "slipway.deploy"

#: What stands in a secret's place.
HIDDEN = "<hidden>"

#: The server's own limit.
PAGE = 200

#: What intervals are counted from.
_ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)

_TYPE_FIELDS = ("name", "slug", "logo_url", "documentation_url", "description", "code_example")
_SCHEDULE_FIELDS = ("slug", "active", "parameters", "schedule")

_TRIGGERS: TypeAdapter[DeploymentTriggerTypes] = TypeAdapter(DeploymentTriggerTypes)

_BLOCK_TYPE, _BLOCK, _POOL = "block type", "block", "work pool"
_DEPLOYMENT, _AUTOMATION = "deployment", "automation"


def deploy(
    api: PrefectApi,
    *,
    choices: Choices | None = None,
    file: Path | None = None,
    pool: str | None = None,
    dry_run: bool = False,
) -> Iterator[Change]:
    """Each thing of the file with what became of it, as it is done. Raises `InvalidInput` before
    the first is written when anything in the file is wrong.

    ``choices`` are what the deployments' forms offer; without, the forms are as the flows' own
    signatures make them.
    """
    path = file or deploy_file.SHIPPED
    wanted = deploy_file.read(path)
    if pool is not None:
        wanted = _in_pool(wanted, pool)
    made = Deployer(api, path, wanted, choices, dry_run=dry_run)
    made.check()
    yield from made.all()
    if choices is not None and not dry_run:
        yield from apply_forms(choices, api)


def _in_pool(wanted: DeployFile, pool: str) -> DeployFile:
    """The same, in another work pool than the file's."""
    pools = [each.model_copy(update={"name": pool}) for each in wanted.work_pools[:1]]
    deployments = [
        each.model_copy(update={"work_pool": each.work_pool.model_copy(update={"name": pool})})
        for each in wanted.deployments
    ]
    return wanted.model_copy(update={"work_pools": pools, "deployments": deployments})


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A deployment with what its flow says."""

    wanted: Deployment
    flow: Flow[..., Any]
    schema: dict[str, Any]


class Deployer:
    """One file and one server."""

    def __init__(
        self,
        api: PrefectApi,
        path: Path,
        wanted: DeployFile,
        choices: Choices | None,
        *,
        dry_run: bool,
    ) -> None:
        self._api = api
        self._path = path
        self._wanted = wanted
        self._choices = choices
        self._dry_run = dry_run
        self._ready: list[Ready] = []
        self._kept_automations: set[str] = set()
        #: The tags of automations that were made for these pools.
        self._marks = [f"{OURS}.{pool.name}" for pool in wanted.work_pools]

    def check(self) -> None:
        """Load every flow and look at every name, so that a mistake is found before the first
        change. Raises `InvalidInput` with all of them."""
        problems = []
        pools = {pool.name for pool in self._wanted.work_pools}
        for each in self._wanted.deployments:
            where = f"{self._path}: deployment {each.name}"
            try:
                flow: Flow[..., Any] = load_flow_from_entrypoint(
                    each.entrypoint, use_placeholder_flow=False
                )
                schema = parameter_schema(flow).model_dump()
                self._ready.append(Ready(wanted=each, flow=flow, schema=schema))
                for number, schedule in enumerate(each.schedules):
                    where = f"{self._path}: deployment {each.name}: schedules[{number}]"
                    _schedule(schedule)
                for number, trigger in enumerate(each.triggers):
                    where = f"{self._path}: deployment {each.name}: triggers[{number}]"
                    _TRIGGERS.validate_python(trigger)
            except Exception as error:  # noqa: BLE001  (whatever loading a flow comes to)
                problems.append(Problem(where=where, what=_sentence(error)))
            if each.work_pool.name not in pools and self._pool(each.work_pool.name) is None:
                what = f"there is no work pool {each.work_pool.name}; add it to work_pools"
                problems.append(Problem(where=where, what=what))
        known = {cls.get_block_type_slug() for cls in _block_classes()}
        there = ", ".join(sorted(known))
        problems += [
            Problem(
                where=f"{self._path}: block {each.type}/{each.name}",
                what=f"there is no block type {each.type} here; known are {there}",
            )
            for each in self._wanted.blocks
            if each.type not in known
        ]
        if problems:
            raise InvalidInput(problems)

    def all(self) -> Iterator[Change]:
        """Everything, in an order in which each finds what it needs."""
        for cls in _block_classes():
            yield self._block_type(cls)
        for document in self._wanted.blocks:
            yield self._block(document)
        for pool in self._wanted.work_pools:
            yield self._work_pool(pool)
        for ready in self._ready:
            yield from self._deployment(ready)
        yield from self._gone_deployments()
        for automation in self._wanted.automations:
            yield self._automation(automation)
        yield from self._gone_automations()

    # -- blocks ------------------------------------------------------------------------------------

    def _block_type(self, cls: type[Block]) -> Change:
        slug, checksum = cls.get_block_type_slug(), cls._calculate_schema_checksum()
        wanted = _only(cls._to_block_type().model_dump(mode="json"), _TYPE_FIELDS)
        found = self._api.get(f"/block_types/slug/{slug}")
        schema = self._api.get(f"/block_schemas/checksum/{checksum}")
        before = None
        if found is not None:
            known = schema is not None and schema["block_type_id"] == found["id"]
            before = {**_only(found, _TYPE_FIELDS), "schema": checksum if known else "another"}
        change = _compare(_BLOCK_TYPE, slug, before, {**wanted, "schema": checksum})
        if self._dry_run or change.action is Action.UNCHANGED:
            return change
        if found is None:
            found = self._api.post("/block_types/", wanted)
        else:
            # The name and the slug are what it is known by.
            self._api.patch(f"/block_types/{found['id']}", _only(wanted, _TYPE_FIELDS[2:]))
        if before is None or before["schema"] != checksum:
            made = cls._to_block_schema(block_type_id=found["id"])
            names = ("fields", "block_type_id", "capabilities", "version")
            self._api.post("/block_schemas/", _only(made.model_dump(mode="json"), names))
        return change

    def _block(self, document: BlockDocument) -> Change:
        name = f"{document.type}/{document.name}"
        cls = Block.get_block_class_from_key(document.type)
        try:
            block = cls(**document.values)
        except ValidationError as error:
            raise InvalidInput(
                Problem(where=f"{self._path}: block {name}", what=_sentence(error))
            ) from error
        found = self._api.get(
            f"/block_types/slug/{document.type}/block_documents/name/{document.name}"
            "?include_secrets=true"
        )
        wanted = block.model_dump(mode="json", context={"include_secrets": True})
        wanted.pop("block_type_slug", None)
        before = None if found is None else _only(found["data"], tuple(wanted))
        change = _compare(_BLOCK, name, before, wanted, hidden=_secrets(cls))
        if self._dry_run or change.action is Action.UNCHANGED:
            return change
        if found is not None:
            self._api.patch(f"/block_documents/{found['id']}", {"data": wanted})
            return change
        checksum = cls._calculate_schema_checksum()
        schema = self._api.get(f"/block_schemas/checksum/{checksum}")
        body = {
            "name": document.name,
            "data": wanted,
            "block_schema_id": schema["id"],
            "block_type_id": schema["block_type_id"],
        }
        self._api.post("/block_documents/", body)
        return change

    # -- work pools --------------------------------------------------------------------------------

    def _work_pool(self, pool: WorkPool) -> Change:
        found = self._pool(pool.name)
        template = pool.base_job_template
        if pool.type == InProcessWorker.type:
            template = InProcessWorker.get_default_base_job_template()
        elif template is None and found is None:
            cls = BaseWorker.get_worker_class_from_type(pool.type)
            if cls is None:
                raise NotFound(
                    f"work pool {pool.name}: worker type {pool.type} is not installed here; "
                    "install its package, or make the pool in Prefect's UI"
                )
            template = cls.get_default_base_job_template()
        wanted: dict[str, Any] = {
            "type": pool.type,
            "description": pool.description,
            "concurrency_limit": pool.concurrency_limit,
        }
        if template is not None:
            wanted["base_job_template"] = template
        before = None if found is None else _only(found, tuple(wanted))
        if before is not None and before["type"] != pool.type:
            raise Conflict(
                f"work pool {pool.name} is of type {before['type']} and stays so; to have one of "
                f"type {pool.type}, delete it or choose another name"
            )
        change = _compare(_POOL, pool.name, before, wanted)
        if self._dry_run or change.action is Action.UNCHANGED:
            return change
        if before is None:
            self._api.post("/work_pools/", {"name": pool.name, **wanted})
        else:
            del wanted["type"]
            self._api.patch(f"/work_pools/{pool.name}", wanted)
        return change

    def _pool(self, name: str) -> Any:
        return self._api.get(f"/work_pools/{name}")

    # -- deployments -------------------------------------------------------------------------------

    def _deployment(self, ready: Ready) -> Iterator[Change]:
        wanted, flow = ready.wanted, ready.flow
        name = f"{flow.name}/{wanted.name}"
        found = self._api.get(f"/deployments/name/{name}")
        schema = ready.schema
        if self._choices is not None:
            schema = form(flow.name, schema, self._choices)
        values: dict[str, Any] = {
            "description": wanted.description or flow.description,
            "entrypoint": wanted.entrypoint,
            "version": wanted.version or __version__,
            "tags": sorted(wanted.tags),
            "labels": {OURS: wanted.work_pool.name},
            "parameters": wanted.parameters,
            "parameter_openapi_schema": schema,
            "enforce_parameter_schema": wanted.enforce_parameter_schema,
            "work_pool_name": wanted.work_pool.name,
            "work_queue_name": wanted.work_pool.work_queue_name,
            "job_variables": wanted.work_pool.job_variables,
            "concurrency_limit": wanted.concurrency_limit and wanted.concurrency_limit.limit,
            "concurrency_options": wanted.concurrency_limit
            and {"collision_strategy": wanted.concurrency_limit.collision_strategy},
            "schedules": _schedules(wanted.schedules, found),
        }
        if wanted.paused is not None:
            values["paused"] = wanted.paused
        before = None if found is None else _deployed(found, values)
        change = _compare(_DEPLOYMENT, name, before, values)
        if not self._dry_run and change.action is not Action.UNCHANGED:
            flow_id = self._api.post("/flows/", {"name": flow.name})["id"]
            # Without steps to pull: the code is where the worker is.
            body = {**values, "name": wanted.name, "flow_id": flow_id, "pull_steps": []}
            body["schedules"] = list(values["schedules"].values())
            found = self._api.post("/deployments/", body)
        yield change
        for number, spec in enumerate(wanted.triggers, start=1):
            trigger = _TRIGGERS.validate_python({"name": f"{name} {number}", **spec})
            if found is None:
                # A dry run of what is not there yet: neither is what starts it.
                yield Change(kind=_AUTOMATION, name=str(trigger.name), action=Action.CREATED)
                continue
            trigger.set_deployment_id(found["id"])
            yield self._apply_automation(trigger.as_automation())

    def _gone_deployments(self) -> Iterator[Change]:
        """Those we made for these pools that the file no longer names."""
        named = {f"{ready.flow.name}/{ready.wanted.name}" for ready in self._ready}
        pools = {pool.name for pool in self._wanted.work_pools}
        for found in self._pages("/deployments/filter"):
            if found["labels"].get(OURS) not in pools:
                continue
            flow = self._api.get(f"/flows/{found['flow_id']}")
            name = f"{flow['name']}/{found['name']}"
            if name not in named:
                if not self._dry_run:
                    self._api.delete(f"/deployments/{found['id']}")
                yield Change(kind=_DEPLOYMENT, name=name, action=Action.REMOVED)

    # -- automations -------------------------------------------------------------------------------

    def _automation(self, automation: Automation) -> Change:
        actions = []
        for action in automation.actions:
            given = dict(action)
            reference = given.pop("block", None)
            if reference is not None:
                if not reference:
                    return Change(
                        kind=_AUTOMATION,
                        name=automation.name,
                        action=Action.LEFT_OUT,
                        note="it has no block to notify with; set SLIPWAY_NOTIFY_BLOCK to "
                        "TYPE-SLUG/NAME of one",
                    )
                given["block_document_id"] = self._block_id(automation, reference)
            actions.append(given)
        where = f"{self._path}: automation {automation.name}"
        try:
            made = AutomationCore.model_validate(
                {
                    "name": automation.name,
                    "description": automation.description,
                    "enabled": automation.enabled,
                    "trigger": {"type": "event", **automation.trigger},
                    "actions": actions,
                }
            )
        except ValidationError as error:
            raise InvalidInput(Problem(where=where, what=_sentence(error))) from error
        return self._apply_automation(made)

    def _apply_automation(self, made: AutomationCore) -> Change:
        made = made.model_copy(update={"tags": sorted({*made.tags, *self._marks[:1]})})
        wanted = _automation_values(made)
        found = next((each for each in self._automations() if each["name"] == made.name), None)
        before = None
        if found is not None:
            before = _automation_values(AutomationCore.model_validate(found))
            # Somebody may have switched it off.
            wanted["enabled"] = before["enabled"]
        change = _compare(_AUTOMATION, made.name, before, wanted)
        self._kept_automations.add(made.name)
        if self._dry_run or change.action is Action.UNCHANGED:
            return change
        body = {**made.model_dump(mode="json"), "enabled": wanted["enabled"]}
        if found is None:
            self._api.post("/automations/", body)
        else:
            # Who owns it stays as it is.
            del body["owner_resource"]
            self._api.put(f"/automations/{found['id']}", body)
        return change

    def _gone_automations(self) -> Iterator[Change]:
        for found in self._automations():
            ours = set(found["tags"]) & set(self._marks)
            if ours and found["name"] not in self._kept_automations:
                if not self._dry_run:
                    self._api.delete(f"/automations/{found['id']}")
                yield Change(kind=_AUTOMATION, name=found["name"], action=Action.REMOVED)

    def _automations(self) -> list[Any]:
        return list(self._pages("/automations/filter"))

    def _block_id(self, automation: Automation, reference: str) -> str:
        slug, _, name = reference.partition("/")
        found = self._api.get(f"/block_types/slug/{slug}/block_documents/name/{name}")
        if found is None:
            raise NotFound(
                f"automation {automation.name}: Prefect has no block {reference}; make it in the "
                "UI or in the file, or name another as TYPE-SLUG/NAME"
            )
        return str(found["id"])

    def _pages(self, path: str) -> Iterator[Any]:
        offset = 0
        while page := self._api.post(path, {"limit": PAGE, "offset": offset}):
            yield from page
            offset += len(page)


# -- what is compared ------------------------------------------------------------------------------


def _compare(
    kind: str,
    name: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any],
    *,
    hidden: frozenset[str] = frozenset(),
) -> Change:
    if before is None:
        return Change(kind=kind, name=name, action=Action.CREATED)
    fields = tuple(_differences("", before, after, hidden))
    action = Action.CHANGED if fields else Action.UNCHANGED
    return Change(kind=kind, name=name, action=action, fields=fields)


def _differences(
    path: str, before: Any, after: Any, hidden: frozenset[str]
) -> Iterator[FieldChange]:
    """The leaves that differ, in mappings of mappings."""
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differences(inner, before.get(key), after.get(key), hidden)
    elif path in hidden:
        yield FieldChange(path=path, before=HIDDEN, after=HIDDEN)
    else:
        yield FieldChange(path=path, before=before, after=after)


def _deployed(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What the server has, in the form of what is wanted."""
    limit = found["global_concurrency_limit"]
    options = found["concurrency_options"]
    values = {
        **found,
        "tags": sorted(found["tags"]),
        # Prefect adds labels of its own.
        "labels": {OURS: found["labels"].get(OURS)},
        "concurrency_limit": limit and limit["limit"],
        "concurrency_options": limit
        and options
        and {"collision_strategy": options["collision_strategy"]},
        "schedules": {
            each["slug"] or each["id"]: _only(each, _SCHEDULE_FIELDS) for each in found["schedules"]
        },
    }
    return _only(values, tuple(wanted))


def _schedules(
    wanted: Sequence[deploy_file.Schedule], found: Mapping[str, Any] | None
) -> dict[str, Any]:
    """By slug, as the API takes them."""
    active = {each["slug"]: each["active"] for each in found["schedules"]} if found else {}
    return {
        each.slug: {
            "slug": each.slug,
            "active": active.get(each.slug, True) if each.active is None else each.active,
            "parameters": each.parameters,
            "schedule": _schedule(each),
        }
        for each in wanted
    }


def _schedule(wanted: deploy_file.Schedule) -> dict[str, Any]:
    made: CronSchedule | IntervalSchedule | RRuleSchedule
    if wanted.cron is not None:
        made = CronSchedule(cron=wanted.cron, timezone=wanted.timezone)
    elif wanted.interval is not None:
        made = IntervalSchedule(
            interval=timedelta(seconds=wanted.interval),
            # Else it would be the moment of deploying, another one each time.
            anchor_date=_ANCHOR,
            timezone=wanted.timezone,
        )
    elif wanted.rrule is not None:
        made = RRuleSchedule(rrule=wanted.rrule, timezone=wanted.timezone)
    else:
        raise ValueError("it says none of cron, interval and rrule")
    return made.model_dump(mode="json")


def _automation_values(automation: AutomationCore) -> dict[str, Any]:
    # The server does not tell who owns it.
    values: dict[str, Any] = automation.model_dump(mode="json", exclude={"owner_resource"})
    # A list has no names to compare by; sets have no order.
    for key in ("actions", "actions_on_trigger", "actions_on_resolve"):
        values[key] = {str(number): each for number, each in enumerate(values[key])}
    return _sorted(values)


def _sorted(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _sorted(value) for key, value in values.items()}
    if isinstance(values, list):
        return sorted((_sorted(each) for each in values), key=json.dumps)
    return values


def _block_classes() -> list[type[Block]]:
    return [getattr(blocks, name) for name in blocks.__all__]


def _secrets(cls: type[Block]) -> frozenset[str]:
    found: Sequence[str] = cls.model_json_schema().get("secret_fields", [])
    return frozenset(found)


def _only(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: values.get(name) for name in names}


def _sentence(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"
            for each in error.errors()
        )
    return " ".join(str(error).split()) or type(error).__name__
