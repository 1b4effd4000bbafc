"""Forms of the Prefect UI: drop-downs made from the records, kept current.

A flow's own parameters stay plain and validated, so that old runs stay valid and other callers are
not limited. What the UI makes its form of is the *deployment's* parameter schema; here it gets its
titles, its order and what there is to choose from. Besides, every template has a deployment of its
own, ``launch-server/TEMPLATE``, whose form asks for the template's inputs by name.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from slipway.cli.wiring import Action, Change
from slipway.launches.choices import Choices, TemplateChoice, collect_choices, fingerprint
from slipway.launches.names import NAME
from slipway.launches.services import Services
from slipway.servertemplates import DeclaredInput

Schema = dict[str, Any]

#: On the deployments that are made here, so that those of removed templates are found.
FORM_TAG = "slipway-template"

#: Of a longer list nobody picks; and each change of it would have to be written.
MOST = 300


def form(flow: str, schema: Schema, choices: Choices) -> Schema:
    """The schema of a flow's deployment with everything there is to choose from. Fields nothing
    is known about stay as they are; so does the schema of a flow without a form."""
    shaped = copy.deepcopy(schema)
    shape = _FORMS.get(flow)
    if shape is not None:
        shape(shaped, choices)
    return shaped


def template_form(schema: Schema, template: TemplateChoice, choices: Choices) -> Schema:
    """The form of ``launch-server/TEMPLATE``: the template's versions to choose from, and its
    inputs as fields."""
    shaped = form("launch-server", schema, choices)
    fields = shaped["definitions"]["LaunchRequest"]["properties"]
    _offer(fields["template"], template.references)
    fields["template"]["title"] = "Version"
    fields["template"]["default"] = template.references[0]
    fields["template"]["description"] = (
        f"{template.name} is the working copy; the inputs below are those it has."
    )
    inputs = _inputs(template, choices)
    if inputs["properties"]:
        title = f"Inputs of {template.name}"
        shaped["definitions"]["Inputs"] = inputs | {"title": title}
        kept = fields["inputs"].get("position")
        fields["inputs"] = {"$ref": "#/definitions/Inputs", "title": title, "position": kept}
    else:
        del fields["inputs"]
    return shaped


# -- keeping them current --------------------------------------------------------------------------


class Api(Protocol):
    """What is used of Prefect's HTTP API; `deployments.prefect_api.PrefectApi` is one."""

    def get(self, path: str) -> Any:
        """The answer, or None when there is no such thing."""

    def post(self, path: str, body: Any) -> Any:
        """The answer, or None when there is no such thing."""

    def patch(self, path: str, body: Any) -> Any:
        """The answer, or None when there is no such thing."""

    def delete(self, path: str) -> Any:
        """The answer, or None when there is no such thing."""


def refresh_forms(services: Services, api: Api) -> list[Change]:
    """Bring the forms of all deployments up to date; answers what changed. Run it after deploying:
    that writes the plain schemas."""
    return apply_forms(collect_choices(services), api)


def apply_forms(choices: Choices, api: Api) -> list[Change]:
    """The same for choices that are known. Asks for each deployment, and writes only to those that
    differ. Flows that are not deployed are left alone."""
    changed = []
    for flow in _FORMS:
        deployment = api.get(f"/deployments/name/{flow}/{flow}")
        if deployment is None:
            continue
        plain = plain_schema(flow)
        wanted = form(flow, plain, choices)
        if deployment["parameter_openapi_schema"] != wanted:
            # Only this: what is not named stays.
            api.patch(f"/deployments/{deployment['id']}", {"parameter_openapi_schema": wanted})
            changed.append(_change(f"{flow}/{flow}", Action.CHANGED))
        if flow == "launch-server":
            changed += _template_deployments(api, deployment, plain, choices)
    return changed


class FormKeeper:
    """For a loop: looks at the records often, and talks to Prefect only when they have changed."""

    #: How often everything is read and compared all the same: clouds are not asked in between, and
    #: somebody may have deployed.
    WHOLE_EVERY_S = 600.0

    def __init__(self, services: Services, api: Api) -> None:
        self._services = services
        self._api = api
        self._seen: str | None = None
        self._choices: Choices | None = None
        self._whole_at = 0.0

    def refresh(self) -> list[Change]:
        """One turn; answers what changed. Raises `EngineUnavailable` when Prefect is away, and
        makes up for it the next time."""
        seen, now = fingerprint(self._services), self._services.clock.monotonic()
        due = self._choices is None or now - self._whole_at >= self.WHOLE_EVERY_S
        if seen == self._seen and not due:
            return []
        # Clouds that are known are not asked for every new server.
        choices = collect_choices(self._services, known=self._choices, ask_clouds=due)
        changed = apply_forms(choices, self._api)
        self._seen, self._choices = seen, choices
        if due:
            self._whole_at = now
        return changed


def plain_schema(flow: str) -> Schema:
    """What Prefect makes of the flow's own signature."""
    # Here, because Prefect takes seconds to import and the rest of this module does without.
    from prefect.utilities.callables import parameter_schema

    name = flow.replace("-", "_")
    function = getattr(importlib.import_module(f"flows.{name}"), name)
    return parameter_schema(function.fn).model_dump()


#: What a template's deployment has in common with that of its flow. Without its concurrency limit:
#: that would count for each of them, and the work pool has one for all.
_SHARED = (
    "flow_id",
    "work_pool_name",
    "work_queue_name",
    "entrypoint",
    "path",
    "pull_steps",
    "job_variables",
    "version",
    "enforce_parameter_schema",
)


def _template_deployments(
    api: Api, base: Mapping[str, Any], plain: Schema, choices: Choices
) -> list[Change]:
    body = {"flows": {"name": {"any_": ["launch-server"]}}, "limit": 200}
    body["deployments"] = {"tags": {"all_": [FORM_TAG]}}
    found = {each["name"]: each for each in api.post("/deployments/filter", body)}
    wanted = {each.name: each for each in choices.templates if each.name != "launch-server"}
    changed = []
    for name, template in wanted.items():
        deployment = {
            **{key: base[key] for key in _SHARED},
            "name": name,
            "description": template.description,
            "tags": sorted({*base["tags"], FORM_TAG}),
            "parameter_openapi_schema": template_form(plain, template, choices),
        }
        before = found.get(name, {})
        if any(before.get(key) != value for key, value in deployment.items()):
            api.post("/deployments/", deployment)
            action = Action.CHANGED if before else Action.CREATED
            changed.append(_change(f"launch-server/{name}", action))
    for name in found.keys() - wanted.keys():
        api.delete(f"/deployments/{found[name]['id']}")
        changed.append(_change(f"launch-server/{name}", Action.REMOVED))
    return changed


def _change(deployment: str, action: Action) -> Change:
    return Change(kind="form", name=deployment, action=action)


# -- what each flow's form looks like --------------------------------------------------------------


def _launch_server(schema: Schema, choices: Choices) -> None:
    schema["properties"]["request"]["title"] = "Server"
    schema["definitions"]["LaunchRequest"]["description"] = (
        "Nothing is created unless all of this is right; what is wrong is told together."
    )
    _launch_request(schema["definitions"]["LaunchRequest"], choices)


def _launch_servers(schema: Schema, choices: Choices) -> None:
    schema["properties"]["requests"]["title"] = "Servers"
    _launch_request(schema["definitions"]["LaunchRequest"], choices)


def _launch_request(model: Schema, choices: Choices) -> None:
    fields = model["properties"]
    _in_order(fields)
    _offer(fields["template"], [ref for each in choices.templates for ref in each.references])
    _offer(fields["environment"], choices.environments)
    _offer(fields["cloud"], [each.name for each in choices.clouds])
    _offer(fields["region"], [name for each in choices.clouds for name in each.regions])
    types = [name for each in choices.clouds for name in each.instance_types]
    silent = any(not each.instance_types for each in choices.clouds)
    _offer(fields["instance_type"], [] if silent else types)
    fields["inputs"]["description"] += " launch-server/TEMPLATE asks for each of them by name."
    fields["name"]["pattern"] = f"^{NAME}$"
    if not choices.environments:
        fields["environment"]["description"] += " There is none yet; leave it empty."


def _resume_launch(schema: Schema, choices: Choices) -> None:
    field = schema["properties"]["launch"]
    field["title"] = "Server"
    field["description"] = "A server that is stranded, cancelled or still on its way up."
    _offer(field, [each.name for each in choices.servers if each.resumable])


def _decommission_server(schema: Schema, choices: Choices) -> None:
    fields = schema["properties"]
    fields["server"]["title"] = "Server"
    fields["server"]["description"] = "Its instance ends for good; one coming up is cancelled."
    _offer(fields["server"], [each.name for each in choices.servers])
    fields["reason"]["title"] = "Reason"
    fields["reason"]["description"] = "For the audit."


def _run_operational_script(schema: Schema, choices: Choices) -> None:
    schema["properties"]["request"]["title"] = "Script"
    fields = schema["definitions"]["OperationRequest"]["properties"]
    _in_order(fields)
    able = [each for each in choices.servers if each.scripts]
    _offer(fields["server"], [each.name for each in able])
    _offer(fields["script"], [script for each in able for script in each.scripts])
    if able:
        known = "; ".join(f"{each.name}: {', '.join(each.scripts)}" for each in able[:20])
        fields["script"]["description"] += f" {known}."


def _snapshot_mirrors(schema: Schema, choices: Choices) -> None:
    _plainly("Snapshot")(schema, choices)
    fields = schema["definitions"]["SnapshotRequest"]["properties"]
    _offer(fields["repositories"]["items"], choices.mirrors)


def _plainly(title: str) -> Callable[[Schema, Choices], None]:
    """A form whose only field is a request of this title, with nothing to choose from."""

    def shape(schema: Schema, choices: Choices) -> None:  # noqa: ARG001  (as all are called)
        schema["properties"]["request"]["title"] = title
        _in_order(schema["definitions"][f"{title}Request"]["properties"])

    return shape


_FORMS: Mapping[str, Callable[[Schema, Choices], None]] = {
    "launch-server": _launch_server,
    "launch-servers": _launch_servers,
    "resume-launch": _resume_launch,
    "decommission-server": _decommission_server,
    "run-operational-script": _run_operational_script,
    "sweep-orphans": _plainly("Sweep"),
    "snapshot-mirrors": _snapshot_mirrors,
    "verify-mirrors": _plainly("Verify"),
    "prune-mirrors": _plainly("Prune"),
}


# -- fields ----------------------------------------------------------------------------------------


def _in_order(fields: Schema) -> None:
    """Number the fields: PostgreSQL keeps a schema's keys in an order of its own."""
    for position, field in enumerate(fields.values()):
        field["position"] = position
        _plain(field)


def _plain(field: Schema) -> None:
    """``X | None`` as an X that may be left empty: the UI shows a choice of types for the other."""
    kinds = [each for each in field.get("anyOf", ()) if each.get("type") != "null"]
    if len(kinds) == 1:
        del field["anyOf"]
        field.update(kinds[0])
        if field.get("default", 0) is None:
            del field["default"]


def _offer(field: Schema, values: Iterable[str]) -> None:
    """A drop-down of these values; with none, or too many, whatever is typed is taken."""
    found = list(dict.fromkeys(values))
    if 0 < len(found) <= MOST:
        field["enum"] = found


def _inputs(template: TemplateChoice, choices: Choices) -> Schema:
    required = [
        name
        for name, declared in template.inputs.items()
        if declared.is_required and not declared.has_default and name not in choices.given_inputs
    ]
    # What has to be filled in comes first; nobody should have to look for it.
    names = [*required, *(name for name in template.inputs if name not in required)]
    fields = {
        name: _input(name, template.inputs[name], choices) | {"position": position}
        for position, name in enumerate(names)
    }
    return {"type": "object", "properties": fields, "required": required}


def _input(name: str, declared: DeclaredInput, choices: Choices) -> Schema:
    """One input as a field. It has no default: the form would send it as a value of the request,
    which wins over the environment's."""
    kind = declared.type or "text"
    field: Schema = {"title": name, "type": "string"}
    says = [declared.description or ""]
    if kind == "int":
        field["type"] = "integer"
        field |= _bounds(declared, "minimum", "maximum")
    elif kind == "bool":
        # A switch would have no third place for "what the environment says".
        field["enum"] = ["true", "false"]
    elif kind == "list":
        items: Schema = {"type": "string"}
        if declared.of is not None:
            items["enum"] = [str(each) for each in declared.of]
        field = {"title": name, "type": "array", "items": items}
        field |= _bounds(declared, "minItems", "maxItems")
    elif kind == "choice":
        _offer(field, [str(each) for each in declared.of or ()])
    elif kind == "secret":
        _offer(field, [f"cred:{each}" for each in choices.credentials])
        says.append("A stored credential, as cred:NAME.")
    elif kind == "env":
        # Not a drop-down: the server may be one that is launched later.
        says.append("An attribute of another server, such as db-1.private_ip.")
    else:
        field |= _bounds(declared, "minLength", "maxLength")
        if declared.pattern is not None:
            # The whole value has to match; in a JSON Schema a part would do.
            field["pattern"] = f"^(?:{declared.pattern})$"
    if declared.has_default:
        says.append(f"Empty: what the environment says, else {_shown(declared.default)}.")
    field["description"] = " ".join(each for each in says if each)
    return field


def _bounds(declared: DeclaredInput, least: str, greatest: str) -> Schema:
    found = {least: declared.min, greatest: declared.max}
    return {key: value for key, value in found.items() if value is not None}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text or "nothing"
