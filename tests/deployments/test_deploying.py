"""`slipway deploy` on a real Prefect server: what it makes, and that once is enough."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

from deployments import deploy_file
from deployments.deploying import HIDDEN, OURS, deploy
from deployments.prefect_api import PrefectApi
from slipway.cli.wiring import Action, Change
from slipway.errors import Conflict, InvalidInput, NotFound
from tests.engine import ENGINE

pytestmark = ENGINE

DECOMMISSION = "flows.decommission_server.decommission_server"


class Place:
    """A file of the test's own, for a work pool of the test's own."""

    def __init__(self, api: PrefectApi, directory: Path) -> None:
        self.api = api
        self.file = directory / "mine.yaml"
        self.name = f"t-{uuid.uuid4().hex[:8]}"
        self.content: dict[str, Any] = {
            "work_pools": [{"name": self.name}],
            "deployments": [
                {
                    "name": self.name,
                    "entrypoint": DECOMMISSION,
                    "tags": ["a"],
                    "work_pool": {"name": self.name},
                    "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
                    "schedules": [
                        {"slug": "nightly", "cron": "0 3 * * *", "timezone": "Europe/Berlin"},
                        {"slug": "often", "interval": 3600},
                    ],
                    "triggers": [{"expect": ["slipway.launch.stranded"], "within": 0}],
                }
            ],
            "automations": [
                {
                    "name": f"{self.name}: notify",
                    "trigger": {"expect": ["slipway.launch.stranded"], "posture": "Reactive"},
                    "actions": [{"type": "do-nothing"}],
                }
            ],
        }

    @property
    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.content["deployments"][0]
        return found

    def deploy(self, **options: Any) -> list[Change]:
        """What became of everything but the block types, which are the session's."""
        self.file.write_text(yaml.safe_dump(self.content))
        changes = deploy(self.api, file=self.file, **options)
        return [change for change in changes if change.kind != "block type"]

    def actions(self, **options: Any) -> list[tuple[str, str]]:
        return [(change.kind, change.action.value) for change in self.deploy(**options)]

    def found(self) -> Any:
        return self.api.get(f"/deployments/name/decommission-server/{self.name}")


@pytest.fixture
def place(prefect: PrefectApi, tmp_path: Path) -> Place:
    return Place(prefect, tmp_path)


def everything(action: str) -> list[tuple[str, str]]:
    kinds = ("work pool", "deployment", "automation", "automation")
    return [(kind, action) for kind in kinds]


def test_twice_is_once(place: Place) -> None:
    """The first time makes everything, with schedule, limit and trigger; the second time finds
    everything as it is to be; a dry run makes nothing."""
    assert place.actions(dry_run=True) == everything("created")
    assert place.found() is None
    assert place.actions() == everything("created")
    assert place.actions() == everything("unchanged")
    found = place.found()
    assert found["work_pool_name"] == place.name
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    schedules = {each["slug"]: each["schedule"] for each in found["schedules"]}
    assert schedules["nightly"]["cron"] == "0 3 * * *"
    assert schedules["nightly"]["timezone"] == "Europe/Berlin"
    assert schedules["often"]["interval"] == 3600
    assert "server" in found["parameter_openapi_schema"]["properties"]
    pool = place.api.get(f"/work_pools/{place.name}")
    assert pool["type"] == "slipway-inprocess"


def test_an_edit_shows_just_that_edit(place: Place) -> None:
    """Each value that changed with what it was; everything else is unchanged."""
    place.deploy()
    place.deployment["tags"] = ["b", "a"]
    place.deployment["schedules"][0]["cron"] = "30 3 * * *"
    wanted = [
        ("schedules.nightly.schedule.cron", "0 3 * * *", "30 3 * * *"),
        ("tags", ["a"], ["a", "b"]),
    ]
    for options in ({"dry_run": True}, {}):
        changed = [each for each in place.deploy(**options) if each.action is Action.CHANGED]
        assert [each.kind for each in changed] == ["deployment"]
        fields = [(field.path, field.before, field.after) for field in changed[0].fields]
        assert fields == wanted
    assert {change.action for change in place.deploy()} == {Action.UNCHANGED}


def test_what_an_operator_has_paused_stays_paused(place: Place) -> None:
    """A schedule, a deployment and an automation that were switched off in Prefect stay off when
    something else about them changes."""
    place.deploy()
    found = place.found()
    schedule = next(each for each in found["schedules"] if each["slug"] == "nightly")
    path = f"/deployments/{found['id']}"
    place.api.patch(f"{path}/schedules/{schedule['id']}", {"active": False})
    place.api.patch(path, {"paused": True})
    automation = next(
        each
        for each in place.api.post("/automations/filter", {"limit": 200})
        if each["name"] == f"{place.name}: notify"
    )
    place.api.patch(f"/automations/{automation['id']}", {"enabled": False})
    assert place.actions() == everything("unchanged")
    place.deployment["tags"] = ["c"]
    place.content["automations"][0]["description"] = "another"
    place.deploy()
    found = place.found()
    active = {each["slug"]: each["active"] for each in found["schedules"]}
    assert active == {"nightly": False, "often": True}
    assert found["paused"] is True
    assert place.api.get(f"/automations/{automation['id']}")["enabled"] is False


def test_what_the_file_no_longer_names_is_removed(place: Place) -> None:
    """Only what this command made: a deployment that somebody else put into the pool stays."""
    place.deploy()
    flow = place.api.post("/flows/", {"name": "somebody-elses"})
    body = {"name": place.name, "flow_id": flow["id"], "work_pool_name": place.name}
    theirs = place.api.post("/deployments/", body)
    kept = place.content["deployments"]
    place.content |= {"deployments": [], "automations": []}
    removed = [("deployment", "removed"), *[("automation", "removed")] * 2]
    assert place.actions(dry_run=True) == [("work pool", "unchanged"), *removed]
    assert place.found() is not None
    assert place.actions() == [("work pool", "unchanged"), *removed]
    assert place.found() is None
    assert place.api.get(f"/deployments/{theirs['id']}") is not None
    place.content["deployments"] = kept
    assert ("deployment", "created") in place.actions()


def test_mistakes_are_found_before_the_first_change(place: Place) -> None:
    """All of them, each with where it stands."""
    place.content["blocks"] = [{"type": "nothing-like-it", "name": "x"}]
    place.deployment["schedules"].append({"slug": "never"})
    place.content["deployments"].append(
        {"name": "b", "entrypoint": "flows.nothing.here", "work_pool": {"name": "elsewhere"}}
    )
    with pytest.raises(InvalidInput) as caught:
        place.deploy()
    said = str(caught.value)
    for words in (
        f"deployment {place.name}: schedules[2]: it says none of cron, interval and rrule",
        "deployment b: No module named 'flows.nothing'",
        "there is no work pool elsewhere",
        "no block type nothing-like-it here; known are slipway-ec2-cloud, slipway-local-cloud",
    ):
        assert words in said, said
    assert place.api.get(f"/work_pools/{place.name}") is None


def test_a_work_pool_of_another_type_is_not_touched(place: Place) -> None:
    """The type of a pool cannot change; the sentence says what can be done."""
    place.api.post("/work_pools/", {"name": place.name, "type": "process"})
    with pytest.raises(Conflict, match=f"work pool {place.name} is of type process and stays so"):
        place.deploy()


def test_blocks_from_the_file(place: Place, tmp_path: Path) -> None:
    """A block's values are compared like all others."""
    block = {"type": "slipway-local-cloud", "name": place.name, "values": {}}
    place.content = {"blocks": [block]}
    assert place.actions() == [("block", "created")]
    assert place.actions() == [("block", "unchanged")]
    block["values"] = {"state_dir": str(tmp_path)}
    [change] = place.deploy()
    [field] = change.fields
    assert (field.path, field.before, field.after) == ("state_dir", None, str(tmp_path))
    assert place.actions() == [("block", "unchanged")]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_secrets_are_neither_shown_nor_in_the_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come from the environment, and a change of one is told without its value; a notification
    is made when there is a block to notify with."""
    monkeypatch.setattr("deployments.deploying._block_classes", lambda: [_webhook()])
    place.content = {
        "blocks": [{"type": "slack-webhook", "name": place.name, "values": {"url": "{{ $HOOK }}"}}],
        "automations": [
            {
                "name": f"{place.name}: notify",
                "trigger": {"expect": ["slipway.launch.stranded"], "posture": "Reactive"},
                "actions": [
                    {
                        "type": "send-notification",
                        "block": "{{ $NOTIFY }}",
                        "subject": "{{ event.resource.name }}",
                        "body": "it is stranded",
                    }
                ],
            }
        ],
    }
    monkeypatch.setenv("HOOK", "http://127.0.0.1/secret-1")
    created, left_out = place.deploy()
    assert created.action is Action.CREATED
    assert left_out.action is Action.LEFT_OUT
    assert "SLIPWAY_NOTIFY_BLOCK" in left_out.note
    monkeypatch.setenv("HOOK", "http://127.0.0.1/secret-2")
    monkeypatch.setenv("NOTIFY", f"slack-webhook/{place.name}")
    changed, notify = place.deploy()
    assert [(f.path, f.before, f.after) for f in changed.fields] == [("url", HIDDEN, HIDDEN)]
    assert "secret" not in repr(changed)
    assert notify.action is Action.CREATED
    assert {change.action for change in place.deploy()} == {Action.UNCHANGED}
    monkeypatch.setenv("NOTIFY", "slack-webhook/nobody")
    with pytest.raises(NotFound, match="Prefect has no block slack-webhook/nobody"):
        place.deploy()


def _webhook() -> Any:
    from prefect.blocks.notifications import SlackWebhook

    return SlackWebhook


def test_what_is_shipped(prefect: PrefectApi) -> None:
    """The file that comes with Slipway deploys every flow there is, described and tagged, and once
    it is deployed nothing is left to do."""
    changes = list(deploy(prefect))
    assert {change.action for change in changes} <= {Action.UNCHANGED, Action.LEFT_OUT}
    assert Counter(change.kind for change in changes)["work pool"] == 1
    root = deploy_file.SHIPPED.parent.parent
    named = {each.entrypoint for each in deploy_file.read(deploy_file.SHIPPED).deployments}
    for module in (root / "flows").glob("*.py"):
        # A flow's module is named like the flow.
        if f'@flow(\n    name="{module.stem.replace("_", "-")}"' in module.read_text():
            assert f"flows.{module.stem}.{module.stem}" in named
    for each in deploy_file.read(deploy_file.SHIPPED).deployments:
        found = prefect.get(f"/deployments/name/{each.name}/{each.name}")
        assert found["description"]
        assert "slipway" in found["tags"]
        assert found["labels"][OURS] == "slipway"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("deployments: [{name: a", "it is no YAML"),
        ("deployments: [{name: a}]", "deployments[0].entrypoint: Field required"),
        (
            "deployments: [{name: a, entrypoint: flows/x.py:x, work_pool: {name: p}}]",
            "'flows/x.py:x' is no module path",
        ),
        ("work_pools: [{name: a, typ: b}]", "work_pools[0].typ: Extra inputs are not permitted"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, content: str, words: str) -> None:
    """Refused with the place in it."""
    file = tmp_path / "bad.yaml"
    file.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        deploy_file.read(file)
    assert f"{file}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Refused with its name."""
    with pytest.raises(InvalidInput, match=r"none\.yaml: No such file"):
        deploy_file.read(tmp_path / "none.yaml")


def test_the_pools_of_the_documentation(tmp_path: Path) -> None:
    """The files it shows for other work pools are understood, and name a flow of ours."""
    page = (Path(__file__).parents[2] / "docs" / "worker.md").read_text()
    shown = [each.partition("```")[0] for each in page.split("```yaml\n")[1:]]
    found = []
    for number, text in enumerate(shown):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        found.append(deploy_file.read(file, {"PREFECT_API_URL": "http://prefect.example/api"}))
    assert [each.work_pools[0].type for each in found] == ["process", "docker"]
    for each in found:
        [deployment] = each.deployments
        assert deployment.work_pool.name == each.work_pools[0].name
        assert load_flow_from_entrypoint(deployment.entrypoint).name == "launch-server"
    assert found[1].deployments[0].work_pool.job_variables["env"] == {
        "PREFECT_API_URL": "http://prefect.example/api"
    }
