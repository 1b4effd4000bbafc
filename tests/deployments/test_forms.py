"""Forms: what is offered, what stays free, and when Prefect is told."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from pydantic import SecretStr

from deployments.forms import (
    FORM_TAG,
    MOST,
    FormKeeper,
    apply_forms,
    form,
    plain_schema,
    template_form,
)
from slipway.cli.wiring import Change
from slipway.errors import CloudUnavailable, EngineUnavailable
from slipway.launches.choices import (
    Choices,
    CloudChoice,
    ServerChoice,
    TemplateChoice,
    collect_choices,
)
from slipway.launches.environments import create_environment
from slipway.records import LaunchStatus
from slipway.servertemplates import DeclaredInput
from tests.cli.conftest import CommandLine, slipway, templates

__all__ = ["slipway", "templates"]

INPUTS = {
    "GREETING": DeclaredInput(type="text", default="Hello", pattern="[A-Z].*", max=20),
    "COUNT": DeclaredInput(type="int", min=1, max=5, description="How many."),
    "LOUD": DeclaredInput(type="bool", default=True),
    "COLOR": DeclaredInput(type="choice", of=("red", 7)),
    "HOSTS": DeclaredInput(type="list", of=("a", "b"), default=("a",), max=2),
    "TOKEN": DeclaredInput(type="secret", required=False),
    "PEER": DeclaredInput(type="env"),
}
WEB = TemplateChoice(
    name="web", description="A page.", references=("web", "web@prod", "web@r2"), inputs=INPUTS
)
CHOICES = Choices(
    templates=(WEB, TemplateChoice(name="db", description="", references=("db",))),
    environments=("prod", "staging"),
    given_inputs=frozenset({"PEER"}),
    credentials=("token",),
    mirrors=("debian",),
    clouds=(CloudChoice(name="one", regions=("north", "south"), instance_types=("small",)),),
    servers=(
        ServerChoice(name="web-1", status=LaunchStatus.OPERATIONAL, scripts=("greet",)),
        ServerChoice(name="web-2", status=LaunchStatus.STRANDED),
        ServerChoice(name="web-3", status=LaunchStatus.BOOTING),
        ServerChoice(name="web-4", status=LaunchStatus.DECOMMISSIONING),
    ),
)


def fields(schema: dict[str, Any], model: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["definitions"][model]["properties"]
    return found


def test_what_there_is_to_launch() -> None:
    """Templates with their versions, environments, clouds, regions and types are drop-downs; what
    may be left empty is one field, not a choice of types."""
    shaped = fields(form("launch-server", plain_schema("launch-server"), CHOICES), "LaunchRequest")
    assert shaped["template"]["enum"] == ["web", "web@prod", "web@r2", "db"]
    assert shaped["environment"]["enum"] == ["prod", "staging"]
    assert shaped["cloud"]["enum"] == ["one"]
    assert shaped["region"]["enum"] == ["north", "south"]
    assert shaped["instance_type"]["enum"] == ["small"]
    assert shaped["on_failure"]["enum"] == ["keep", "terminate"]
    assert all("anyOf" not in each for each in shaped.values())
    assert "default" not in shaped["environment"]
    assert shaped["freeze"]["format"] == "date"
    assert "asks for each of them by name" in shaped["inputs"]["description"]
    # PostgreSQL keeps a schema's keys in an order of its own.
    positions = [each["position"] for each in shaped.values()]
    assert positions == list(range(len(shaped)))


def test_servers_by_what_can_be_done_with_them() -> None:
    """Only what is not up can be resumed, only what is up runs scripts, all can be ended."""
    resume = form("resume-launch", plain_schema("resume-launch"), CHOICES)
    assert resume["properties"]["launch"]["enum"] == ["web-2", "web-3"]
    end = form("decommission-server", plain_schema("decommission-server"), CHOICES)
    assert end["properties"]["server"]["enum"] == ["web-1", "web-2", "web-3", "web-4"]
    run = form("run-operational-script", plain_schema("run-operational-script"), CHOICES)
    assert fields(run, "OperationRequest")["server"]["enum"] == ["web-1"]
    assert fields(run, "OperationRequest")["script"]["enum"] == ["greet"]


def test_mirrors_to_take() -> None:
    """Each of those that are declared can be picked; what only asks one thing is in order as
    well."""
    shaped = form("snapshot-mirrors", plain_schema("snapshot-mirrors"), CHOICES)
    assert fields(shaped, "SnapshotRequest")["repositories"]["items"]["enum"] == ["debian"]
    pruned = form("prune-mirrors", plain_schema("prune-mirrors"), CHOICES)
    assert pruned["properties"]["request"]["title"] == "Prune"
    assert fields(pruned, "PruneRequest")["dry_run"]["position"] == 0


def test_inputs_are_fields() -> None:
    """A template's own form asks for its inputs by name and type; none has a default, which would
    win over the environment's."""
    schema = template_form(plain_schema("launch-server"), WEB, CHOICES)
    shaped = fields(schema, "LaunchRequest")
    assert shaped["template"]["enum"] == ["web", "web@prod", "web@r2"]
    assert shaped["template"]["default"] == "web"
    inputs = fields(schema, "Inputs")
    assert list(inputs) == ["COUNT", "COLOR", *(n for n in INPUTS if n not in ("COUNT", "COLOR"))]
    assert not [name for name, each in inputs.items() if "default" in each]
    assert inputs["GREETING"]["pattern"] == "^(?:[A-Z].*)$"
    assert inputs["GREETING"]["description"] == "Empty: what the environment says, else Hello."
    assert (inputs["COUNT"]["minimum"], inputs["COUNT"]["maximum"]) == (1, 5)
    assert inputs["LOUD"]["enum"] == ["true", "false"]
    assert inputs["COLOR"]["enum"] == ["red", "7"]
    assert inputs["HOSTS"]["items"]["enum"] == ["a", "b"]
    assert inputs["TOKEN"]["enum"] == ["cred:token"]
    # PEER is required too, but an environment gives it.
    assert schema["definitions"]["Inputs"]["required"] == ["COUNT", "COLOR"]


def test_no_inputs_no_field() -> None:
    """A template without inputs does not ask for them."""
    schema = template_form(plain_schema("launch-server"), CHOICES.templates[1], CHOICES)
    assert "inputs" not in fields(schema, "LaunchRequest")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"template": "wep"}, "'wep' is not one of ['web', 'web@prod', 'web@r2']"),
        ({"name": "Web 1"}, "'Web 1' does not match"),
        ({"inputs": {"COUNT": 9, "COLOR": "red"}}, "9 is greater than the maximum of 5"),
        ({"inputs": {"COLOR": "red"}}, "'COUNT' is a required property"),
        ({"inputs": {"COUNT": 1, "COLOR": "red", "GREETING": "hi"}}, "does not match"),
    ],
)
def test_the_form_checks(change: dict[str, Any], complaint: str) -> None:
    """What is wrong is told at the field, before anything is started."""
    schema = template_form(plain_schema("launch-server"), WEB, CHOICES)
    request = {"template": "web", "name": "w", "inputs": {"COUNT": 1, "COLOR": "red"}}
    jsonschema.validate({"request": request}, schema)
    with pytest.raises(jsonschema.ValidationError) as failure:
        jsonschema.validate({"request": request | change}, schema)
    assert complaint in failure.value.message


def test_nothing_to_choose_from_is_free_text() -> None:
    """And so is more than anybody picks from; the plain schema stays as it was."""
    plain = plain_schema("launch-server")
    before = copy.deepcopy(plain)
    for choices in (
        Choices(),
        replace(CHOICES, environments=tuple(f"e-{n}" for n in range(MOST + 1))),
    ):
        shaped = fields(form("launch-server", plain, choices), "LaunchRequest")
        assert "enum" not in shaped["environment"]
    assert plain == before


class Prefect:
    """Deployments in memory, behind the few calls that are used."""

    def __init__(self, *flows: str) -> None:
        self.asked: list[str] = []
        self.away = False
        self.deployments: dict[str, dict[str, Any]] = {}
        for flow in flows:
            self._add(flow, {"name": flow, "parameter_openapi_schema": plain_schema(flow)})

    def _add(self, flow: str, given: dict[str, Any]) -> None:
        name = f"{flow}/{given['name']}"
        base = {
            "id": name, "flow_id": flow, "tags": ["slipway"], "work_pool_name": "slipway",
            "work_queue_name": "default", "entrypoint": f"flows.{flow}", "path": None,
            "pull_steps": None, "job_variables": {}, "version": "1",
            "enforce_parameter_schema": True,
        }  # fmt: skip
        self.deployments[name] = base | given

    def _ask(self, what: str) -> None:
        if self.away:
            raise EngineUnavailable("Prefect does not answer")
        self.asked.append(what)

    def get(self, path: str) -> Any:
        self._ask(f"GET {path}")
        return self.deployments.get(path.removeprefix("/deployments/name/"))

    def post(self, path: str, body: Any) -> Any:
        self._ask(f"POST {path}")
        if path == "/deployments/filter":
            return [each for each in self.deployments.values() if FORM_TAG in each["tags"]]
        self._add(body["flow_id"], body)
        return {}

    def patch(self, path: str, body: Any) -> Any:
        self._ask(f"PATCH {path}")
        assert list(body) == ["parameter_openapi_schema"], "nothing else is changed"
        self.deployments[path.removeprefix("/deployments/")].update(body)

    def delete(self, path: str) -> Any:
        self._ask(f"DELETE {path}")
        del self.deployments[path.removeprefix("/deployments/")]


def words(changes: list[Change]) -> list[str]:
    return [f"{each.action} {each.name}" for each in changes]


def test_forms_are_applied_once() -> None:
    """Each template gets a deployment like that of its flow; a second time writes nothing; what
    is gone is removed. Flows that are not deployed are left alone."""
    prefect = Prefect("launch-server", "decommission-server")
    assert words(apply_forms(CHOICES, prefect)) == [
        "changed launch-server/launch-server",
        "created launch-server/web",
        "created launch-server/db",
        "changed decommission-server/decommission-server",
    ]
    made = prefect.deployments["launch-server/web"]
    assert made["entrypoint"] == "flows.launch-server"
    assert made["tags"] == ["slipway", FORM_TAG]
    assert made["description"] == "A page."
    prefect.asked.clear()
    assert apply_forms(CHOICES, prefect) == []
    assert not [each for each in prefect.asked if each.split()[0] in ("PATCH", "DELETE")]
    assert "POST /deployments/" not in prefect.asked
    fewer = replace(CHOICES, templates=CHOICES.templates[:1])
    assert words(apply_forms(fewer, prefect)) == [
        "changed launch-server/launch-server",
        "removed launch-server/db",
    ]
    assert set(prefect.deployments) == {
        "launch-server/launch-server", "launch-server/web",
        "decommission-server/decommission-server",
    }  # fmt: skip


def offered(prefect: Prefect, name: str) -> list[str]:
    schema = prefect.deployments["launch-server/launch-server"]["parameter_openapi_schema"]
    found: list[str] = fields(schema, "LaunchRequest")[name].get("enum", [])
    return found


def test_the_keeper_talks_only_when_something_changed(slipway: CommandLine) -> None:
    """New environments, credentials, versions and servers are seen at the next turn; a turn in
    which nothing changed asks nobody, and makes up for one in which Prefect was away."""
    services, prefect = slipway.services, Prefect("launch-server")
    keeper = FormKeeper(services, prefect)
    assert words(keeper.refresh()) == [
        "changed launch-server/launch-server",
        "created launch-server/web",
    ]
    assert offered(prefect, "template") == ["web"]
    prefect.asked.clear()
    regions = slipway.cloud.count("regions")
    assert keeper.refresh() == []
    assert prefect.asked == []

    create_environment(
        services.database, services.clock, "staging", inputs={"TOKEN": "cred:t"}, actor="test"
    )
    prefect.away = True
    with pytest.raises(EngineUnavailable):
        keeper.refresh()
    prefect.away = False
    assert "changed launch-server/launch-server" in words(keeper.refresh())
    assert offered(prefect, "environment") == ["staging"]
    services.vault.put("t", SecretStr("x"))
    services.templates.commit("web", "first", "jo")
    services.templates.tag("web", "web", "prod", actor="test")
    keeper.refresh()
    assert offered(prefect, "template") == ["web", "web@prod", "web@r1"]
    inputs = fields(prefect.deployments["launch-server/web"]["parameter_openapi_schema"], "Inputs")
    assert inputs["TOKEN"]["enum"] == ["cred:t"]
    script = services.settings.templates_dir / "web/scripts/say.sh"
    script.write_text(script.read_text().replace("COUNT", "NUMBER"))
    assert "changed launch-server/web" in words(keeper.refresh())
    assert slipway.cloud.count("regions") == regions, "the cloud is not asked for each of these"


def test_a_cloud_that_is_away_stays_in_the_form(slipway: CommandLine) -> None:
    """What is known of it is offered until it answers again."""
    known = collect_choices(slipway.services)
    assert [each.name for each in known.clouds] == ["fake"]
    slipway.cloud.fail_next("regions", CloudUnavailable("away"), times=2)
    assert collect_choices(slipway.services, known=known).clouds == known.clouds
    assert collect_choices(slipway.services).clouds == ()


def test_what_cannot_be_launched_is_not_offered(slipway: CommandLine) -> None:
    """A working copy with a mistake is left out, its committed versions are not; and a template
    without an image for any of our clouds is left out."""
    services, home = slipway.services, slipway.services.settings.templates_dir
    services.templates.commit("web", "first", "jo")
    (home / "web/template.yaml").write_text("schema: slipway/1\nname: web\nboot: [gone.sh]\n")
    (home / "images/far.yaml").write_text(
        (home / "images/plain.yaml").read_text().replace("fake:", "far:").replace("plain", "far")
    )
    for name, text in {"far": "image: far\n", "layer": ""}.items():
        (home / name).mkdir()
        (home / name / "template.yaml").write_text(f"schema: slipway/1\nname: {name}\n{text}")
    [found] = collect_choices(services).templates
    assert found.references == ("web@r1",)
