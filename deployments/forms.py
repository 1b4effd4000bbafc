"""Forms of the Prefect UI: drop-downs made from the records, kept current.

A flow's own parameters stay plain and validated, so that old runs stay valid and other callers are
not limited. What the UI makes its form of is the *deployment's* parameter schema; here it gets its
titles, its order and what there is to choose from. Besides, every template has a deployment of its
own, ``launch-server/TEMPLATE``, whose form asks for the template's inputs by name.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from slipway.launches.choices import Choices, TemplateChoice
from slipway.servertemplates import DeclaredInput

_log = logging.getLogger("slipway.forms")

Schema = dict[str, Any]

#: On the deployments that are made here, so that those of removed templates are found.
FORM_TAG = "slipway-template"


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


# -- what each flow's form looks like --------------------------------------------------------------


def _launch_server(schema: Schema, choices: Choices) -> None:
    schema["properties"]["request"]["title"] = "Server"
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
    fields["inputs"]["description"] += _inputs_by_template(choices.templates)


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


_FORMS: Mapping[str, Callable[[Schema, Choices], None]] = {
    "launch-server": _launch_server,
    "launch-servers": _launch_servers,
    "resume-launch": _resume_launch,
    "decommission-server": _decommission_server,
    "run-operational-script": _run_operational_script,
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
    """A drop-down of these values; with none, whatever is typed is taken."""
    found = list(dict.fromkeys(values))
    if found:
        field["enum"] = found


def _inputs_by_template(templates: Sequence[TemplateChoice]) -> str:
    lines = [f"{each.name}: {', '.join(each.inputs)}" for each in templates if each.inputs]
    return f" Inputs there are: {'; '.join(lines)}." if lines else ""


def _inputs(template: TemplateChoice, choices: Choices) -> Schema:
    fields, required = {}, []
    for position, (name, declared) in enumerate(template.inputs.items()):
        fields[name] = _input(name, declared, choices) | {"position": position}
        needed = declared.is_required and not declared.has_default
        if needed and name not in choices.given_inputs:
            required.append(name)
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
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
