"""Bad requests are refused whole: one sentence per problem, all at once, and nothing is created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr, ValidationError

from slipway.errors import CloudRefused, CloudUnavailable, Conflict, InvalidInput
from slipway.launches.environments import create_environment
from slipway.launches.requests import (
    LaunchRequest,
    plan_launch,
    plan_launches,
    record_launch,
    request_launch,
)
from tests.launches.world import World, counted

HEADER = """\
# inputs:
#   COLOR: {type: choice, of: [red, green], default: red}
#   PORT: {type: int, default: 80}
#   DEBUG: {type: bool, default: false}
#   TOKEN: {type: secret, required: false}
#   PEER: {type: env, required: false}
#   OWNER: {type: text}
"""
SCRIPT = counted("one").replace("# ---\n", "# ---\n" + HEADER, 1)

TODAY = datetime.now(UTC).date()


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What is asked for, and the whole sentence about it."""

    request: Mapping[str, Any]
    says: str
    inputs: Mapping[str, Any] = field(default_factory=dict)


BAD: dict[str, Bad] = {
    "unknown template": Bad(
        request={"template": "tiny-"},
        says=r"template tiny-: .*tiny-.*did you mean 'tiny'\?.*",
    ),
    "unknown tag": Bad(
        request={"template": "tiny@prdo"}, says=r"template tiny@prdo: .*prdo.*prod.*"
    ),
    "unknown revision": Bad(request={"template": "tiny@r99"}, says=r"template tiny@r99: .*r99.*"),
    "bad name": Bad(
        request={"name": "Web_1"},
        says=r"server 'Web_1': a name is 1 to 63 lower-case letters.*such as web-1",
    ),
    "empty name": Bad(request={"name": ""}, says=r"server '': a name is 1 to 63 .*"),
    "name too long": Bad(request={"name": "a" * 64}, says=r"server 'a+': a name is 1 to 63 .*"),
    "name in use": Bad(
        request={"name": "taken"},
        says=r"server taken: this name is in use: its launch launch-\w+ is requested; "
        r"decommission it first or choose another name",
    ),
    "unknown cloud": Bad(
        request={"cloud": "locl"}, says=r"cloud: there is no cloud locl; did you mean 'local'\?"
    ),
    "unknown region": Bad(
        request={"region": "lokal"},
        says=r"region: cloud local has no region lokal; did you mean 'local'\?",
    ),
    "unknown instance type": Bad(
        request={"instance_type": "local.smal"},
        says=r"instance type: cloud local has no local.smal in local; "
        r"did you mean 'local.small'\?",
    ),
    "unknown environment": Bad(
        request={"environment": "stagin"},
        says=r"environment: there is no environment stagin; did you mean 'staging'\?",
    ),
    "freeze date of today": Bad(
        request={"freeze": TODAY},
        says=rf"freeze: freeze date {TODAY} is not in the past; "
        r"the newest day that is complete is yesterday",
    ),
    "future freeze date": Bad(
        request={"freeze": TODAY + timedelta(days=400)},
        says=r"freeze: freeze date \S+ is not in the past; .*",
    ),
    "unknown input": Bad(
        request={},
        inputs={"COLUR": "red"},
        says=r"input COLUR \(launch request\): this template has no input of that name; "
        r"did you mean 'COLOR'\?",
    ),
    "not a choice": Bad(
        request={},
        inputs={"COLOR": "gren"},
        says=r"input COLOR \(launch request\): 'gren' is not one of the choices; "
        r"did you mean 'green'\? \(red, green\)",
    ),
    "not an int": Bad(
        request={},
        inputs={"PORT": "eighty"},
        says=r"input PORT \(launch request\): 'eighty' is not a whole number",
    ),
    "not a bool": Bad(
        request={},
        inputs={"DEBUG": "yes"},
        says=r"input DEBUG \(launch request\): 'yes' is not true or false",
    ),
    "not a reference to a server": Bad(
        request={},
        inputs={"PEER": "db-1.privat_ip"},
        says=r"input PEER \(launch request\): 'db-1.privat_ip' is not SERVER.ATTRIBUTE"
        r"; did you mean 'private_ip'\?.*",
    ),
    "a secret given as itself": Bad(
        request={},
        inputs={"TOKEN": "hunter2hunter2"},
        says=r"input TOKEN \(launch request\): a secret is given as a reference, never as itself.*",
    ),
    "unknown credential": Bad(
        request={},
        inputs={"TOKEN": "cred:web-token"},
        says=r"input TOKEN \(launch request\): there is no credential web-token; "
        r"store it with 'slipway credential set web-token'",
    ),
    "missing input": Bad(
        request={},
        inputs={"OWNER": None},
        says=r"input OWNER: no value is given and there is no default; give it as OWNER=VALUE",
    ),
}


@pytest.fixture
def ready(world: World) -> World:
    """A template with every kind of input and a tag, an environment, and a name that is taken."""
    world.template({"one": SCRIPT})
    store = world.services.templates
    store.pin("tiny", author="tests")
    store.tag("tiny", "r1", "prod", actor="ada")
    create_environment(world.services.database, world.services.clock, "staging", actor="ada")
    world.record(name="taken", inputs={"OWNER": "me"})
    return world


def request(bad: Bad) -> LaunchRequest:
    given = {"OWNER": "me", **bad.inputs}
    inputs = {key: value for key, value in given.items() if value is not None}
    return LaunchRequest(**{"template": "tiny", "name": "web-1", "inputs": inputs, **bad.request})


def everything(world: World) -> dict[str, Any]:
    """All rows there are, and all instances."""
    with world.services.database.reading() as connection:
        names = sa.inspect(connection).get_table_names()
        rows = {
            name: [tuple(row) for row in connection.execute(sa.text(f'SELECT * FROM "{name}"'))]
            for name in names
        }
    listed = world.cloud.list_instances("local", tags={})
    return {"rows": rows, "instances": sorted(instance.id for instance in listed)}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_is_refused(ready: World, kind: str) -> None:
    """One sentence says what is wrong, where, and what would be right; nothing has changed."""
    bad = BAD[kind]
    before = everything(ready)
    with pytest.raises(InvalidInput) as caught:
        request_launch(ready.services, request(bad), actor="tests")
    [problem] = caught.value.problems
    assert re.fullmatch(bad.says, str(problem)), str(problem)
    assert "hunter2" not in str(caught.value)
    assert everything(ready) == before


def test_all_problems_come_at_once(ready: World) -> None:
    """Somebody who made five mistakes is told five times, in one go."""
    asked = LaunchRequest(
        template="tiny",
        name="taken",
        environment="stagin",
        inputs={"COLOR": "gren", "PORT": "eighty", "NOPE": "x"},
        region="lokal",
        instance_type="local.smal",
        freeze=TODAY,
    )
    with pytest.raises(InvalidInput) as caught:
        plan_launch(ready.services, asked)
    said = str(caught.value)
    for word in ("taken", "stagin", "gren", "eighty", "NOPE", "OWNER", "lokal", "freeze date"):
        assert word in said


def test_one_bad_request_among_several_refuses_all(ready: World) -> None:
    """A fleet is checked before the first of it is recorded; a name asked for twice shows."""
    before = everything(ready)
    good = request(Bad(request={"name": "web-1"}, says=""))
    with pytest.raises(InvalidInput) as caught:
        plan_launches(
            ready.services, [good, good, request(Bad(request={"name": "Web_2"}, says=""))]
        )
    said = str(caught.value)
    assert "server web-1: this name is asked for twice" in said
    assert "server 'Web_2'" in said
    assert everything(ready) == before


@pytest.mark.parametrize(
    ("field_name", "value"),
    [("inputz", {}), ("on_failure", "explode"), ("inputs", {"A": 1.5}), ("freeze", "tomorrow")],
)
def test_a_request_of_the_wrong_shape_is_refused(field_name: str, value: Any) -> None:
    """Unknown fields and values of the wrong kind are named by the request itself."""
    with pytest.raises(ValidationError, match=field_name):
        LaunchRequest(**{"template": "tiny", "name": "web-1", field_name: value})


def test_a_broken_template_is_named_with_its_line(ready: World) -> None:
    """What is wrong in a file is told with file and line."""
    path = ready.templates_dir / "tiny/template.yaml"
    path.write_text("schema: slipway/1\nname: tiny\nimage: plain\nbot: []\n")
    with pytest.raises(InvalidInput, match=r"tiny/template.yaml:4.*bot"):
        plan_launch(ready.services, request(Bad(request={}, says="")))


def test_a_template_changed_between_plan_and_record_is_a_conflict(ready: World) -> None:
    """What was checked is what is launched, or nothing."""
    plan = plan_launch(ready.services, request(Bad(request={}, says="")))
    ready.template({"one": SCRIPT + "# changed\n"})
    with pytest.raises(Conflict, match="template tiny was changed meanwhile; ask again"):
        record_launch(ready.services, plan, actor="tests")


def test_a_name_taken_between_plan_and_record_is_a_conflict(ready: World) -> None:
    """The database decides who was first; the second leaves nothing behind."""
    first, second = (
        plan_launch(
            ready.services,
            request(Bad(request={}, says="")),
            secrets={"TOKEN": SecretStr("a secret of " + who)},
        )
        for who in ("one", "two")
    )
    record_launch(ready.services, first, actor="tests")
    before = everything(ready)
    with pytest.raises(Conflict, match="server web-1 has a launch already"):
        record_launch(ready.services, second, actor="tests")
    assert everything(ready) == before


def test_asking_again_with_the_same_key_finds_the_launch(ready: World) -> None:
    """Also when the name is in use by then, and also for a plan that was made before."""
    asked = request(Bad(request={"key": "once"}, says=""))
    plan = plan_launch(ready.services, asked)
    launch = request_launch(ready.services, asked, actor="tests")
    before = everything(ready)
    assert request_launch(ready.services, asked, actor="tests") == launch
    assert record_launch(ready.services, plan, actor="tests").id == launch.id
    assert everything(ready) == before


@pytest.mark.parametrize("asked", ["regions", "resolve_image", "instance_types"])
def test_a_cloud_that_does_not_answer_is_no_fault_of_the_request(
    ready: World, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """A good request may be made again; a bad one is refused for what is wrong with it, and told
    that the rest could not be seen. Both alone and among others."""

    def fail(*_: object) -> None:
        raise CloudUnavailable("the local cloud did not answer: timed out")

    monkeypatch.setattr(ready.cloud, asked, fail)
    good = request(Bad(request={}, says=""))
    bad = request(Bad(request={"name": "web-2"}, inputs={"COLOR": "gren"}, says=""))
    for wanted in ([good], [good, good.model_copy(update={"name": "web-3"})]):
        with pytest.raises(CloudUnavailable, match="timed out"):
            plan_launches(ready.services, wanted)
    for wanted in ([bad], [good, bad]):
        with pytest.raises(InvalidInput) as caught:
            plan_launches(ready.services, wanted)
        told = [problem.where for problem in caught.value.problems]
        assert told == ["input COLOR (launch request)", "cloud local"]


def test_a_cloud_that_refuses_is_a_problem(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking again would change nothing: the sentence names the cloud, nothing is recorded."""

    def refuse(*_: object) -> None:
        raise CloudRefused("AuthFailure: the keys are not valid")

    monkeypatch.setattr(ready.cloud, "regions", refuse)
    with pytest.raises(InvalidInput, match="cloud local: AuthFailure"):
        plan_launch(ready.services, request(Bad(request={}, says="")))


def test_an_image_that_is_gone_is_named(ready: World) -> None:
    """The nearest image there is comes with it."""
    ready.write_image("plain", "no-such-image")
    with pytest.raises(InvalidInput, match=r"image no-such-image: no image .*the nearest is"):
        plan_launch(ready.services, request(Bad(request={}, says="")))
