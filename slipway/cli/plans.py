"""``slipway launch --plan``: what would be created, without creating it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from slipway.cli.output import printable, stdout
from slipway.clouds.base import TAG_INSTALLATION, TAG_SERVER

if TYPE_CHECKING:
    from slipway.launches.requests import Plan
    from slipway.launches.services import Services
    from slipway.servertemplates import ResolvedInput

#: What stands for a secret that was handed over itself.
HIDDEN = "(secret)"


def plan_data(services: Services, plan: Plan) -> dict[str, Any]:
    """A plan as JSON; no secret in it, and credentials by name."""
    request, template = plan.request, plan.template
    return {
        "server": request.name,
        "template": template.name,
        "version": template.hash,
        "cloud": request.cloud,
        "region": plan.region,
        "image": {"selector": plan.image.image, "id": plan.image_id, "login": plan.image.user},
        "instance_type": plan.instance_type,
        "root_disk_gib": template.settings.root_disk_gib,
        "connect": plan.connect,
        "environment": request.environment,
        "freeze": plan.freeze.isoformat() if plan.freeze else None,
        "on_failure": request.on_failure,
        "inputs": {
            name: {"value": _shown(found), "from": found.source}
            for name, found in sorted(plan.inputs.inputs.items())
        },
        "scripts": [
            {"key": each.key, "path": each.path, "sha256": each.sha256, "timeout_s": each.timeout_s}
            for each in template.boot
        ],
        "tags": {
            **template.settings.tags,
            TAG_INSTALLATION: services.installation_id,
            TAG_SERVER: request.name,
        },
    }


def show_plan(data: dict[str, Any]) -> None:
    """A plan for people."""
    console = stdout()
    image = data["image"]
    looked_up = f" ({image['selector']})" if image["selector"] != image["id"] else ""
    disk = f", {data['root_disk_gib']} GiB disk" if data["root_disk_gib"] else ""
    rows = {
        "template": f"{data['template']}@{data['version'][:12]}",
        "where": f"{data['cloud']}/{data['region']}, {data['instance_type']}{disk}",
        "image": image["id"] + looked_up,
        "reached": f"by {data['connect']}, as {image['login']}",
        "environment": data["environment"] or "none",
        "packages": f"as of {data['freeze']}" if data["freeze"] else "of the day",
        "if it strands": f"{data['on_failure']} the instance",
    }
    console.print(Text(data["server"], style="bold"))
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"  {name}", Text(printable(value)))
    for name, found in data["inputs"].items():
        value = found["value"]
        told = "not given" if value is None else f"{_written(value)}  ({found['from']})"
        table.add_row(f"  input {name}", Text(printable(told)))
    for number, script in enumerate(data["scripts"], 1):
        what = f"{script['path']}  (at most {script['timeout_s']} s, {script['sha256'][:12]})"
        table.add_row(f"  script {number}", Text(printable(what)))
    for name, value in sorted(data["tags"].items()):
        table.add_row("  tag", Text(printable(f"{name}={value}")))
    console.print(table)


def _written(value: Any) -> str:
    """As a script sees it; what is empty is shown to be."""
    from slipway.servertemplates import render

    return render(value) or "(empty)"


def _shown(found: ResolvedInput) -> Any:
    if found.secret is not None:
        return HIDDEN
    return found.value if found.reference is None else found.reference
