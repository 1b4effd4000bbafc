"""A new user's first half hour: one `slipway up`, and three ways from there to a server."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from slipway.clouds.local import LocalCloud
from slipway.settings import Settings
from slipway.testing.deb_archive import DebArchive
from slipway.testing.machines import LocalMachines
from slipway.testing.weather import Weather
from slipway.testing.web import Web
from tests.browser import PHONE, check_width, chromium, executable, log_in, picture, window
from tests.clouds.conftest import moto
from tests.clouds.ec2 import KEYS, REGION, TYPES, Moto
from tests.deployments.machine import WITHIN_S, Machine, machine_in, until
from tests.docs.examples import LOOSELY, ROOT, Shell, transcript
from tests.engine import Api
from tests.new_user.prefect_pages import (
    fill,
    open_artifact,
    open_form,
    open_run,
    pick,
    prefect_window,
    state,
    submitted,
)

__all__ = ["moto"]

#: Where the image map of the library looks for Debian's newest image in EC2.
DEBIANS = "ssm:/aws/service/debian/release/12/latest/amd64"

#: Where the commands for a shell are, and the address they are written for.
GUIDE, CHAPTER = ROOT / "docs" / "api.md", "## A server from a shell"
DOCUMENTED = "http://127.0.0.1:4280"

#: What a computer may do without, and where it is on this one.
PROGRAMS = {"chromium": executable(), "curl": shutil.which("curl")}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """The shell of somebody who follows the documentation, and has templates to change."""
    found = Shell(directory=tmp_path / "reader")
    found.prepare()
    return found


@pytest.fixture
def machine(shell: Shell) -> Iterator[Machine]:
    """The computer that shell is on."""
    with machine_in(shell.directory / "home") as found:
        found.environ["SLIPWAY_TEMPLATES_DIR"] = str(shell.directory / "templates")
        yield found
        LocalCloud(Settings(state_dir=found.state_dir)).down()


@pytest.fixture
def account(machine: Machine, shell: Shell, moto: Moto) -> Iterator[Weather]:
    """An account of EC2 that the computer's clouds file names, with the local cloud's machines
    behind its instances; its keys are where boto3 looks for them."""
    there = LocalMachines(LocalCloud(Settings(state_dir=machine.state_dir)))
    with Weather(
        upstream=moto.url, instance_types=TYPES, machines=there, pending_s=0.2, unlisted_s=0.1
    ) as found:
        entry = {
            "type": "ec2",
            "regions": {REGION: {}},
            "endpoint_url": found.url,
            "ssh_port_tag": Weather.SSH_PORT_TAG,
        }
        file = shell.directory / "clouds.yaml"
        file.write_text(json.dumps({"schema": "slipway-clouds/1", "clouds": {"aws": entry}}))
        machine.environ |= {
            "SLIPWAY_CLOUDS_FILE": str(file),
            "AWS_ACCESS_KEY_ID": KEYS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret_access_key.get_secret_value(),
        }
        images = shell.directory / "templates" / "images" / "debian-12.yaml"
        images.write_text(images.read_text().replace(DEBIANS, moto.image_id))
        yield found


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_three_ways_to_a_server(machine: Machine, shell: Shell, account: Weather) -> None:
    """All parts come up on a new state directory. A server is launched from a form of Prefect's UI,
    with curl as documented, and on the dashboard; each is watched until it is operational. An API
    that is killed comes back; a template's form offers what was committed meanwhile, and launches
    it in EC2; Ctrl-C leaves nothing running."""
    up = machine.up("--log-format", "json")
    until(lambda: '"text": "everything is ready"' in machine.log, "everything ready", machine)
    check_ready(machine)
    os.kill(machine.service("api")["pid"], signal.SIGKILL)
    missing = [program for program, found in PROGRAMS.items() if not found]
    if "chromium" in missing:
        check_restarted(machine)
        launch_with_curl(machine, shell)
    else:
        with chromium() as browser, prefect_window(browser) as prefect:
            token = issue_token(machine)
            launch_in_prefect(prefect, machine, token)
            commit(machine, shell)
            launch_with_curl(machine, shell)
            launch_on_dashboard(browser, machine, token)
            mirror_in_prefect(prefect, machine, shell.directory)
            launch_in_ec2(prefect, machine, account)
    LocalCloud(Settings(state_dir=machine.state_dir)).down()
    up.send_signal(signal.SIGINT)
    assert up.wait(WITHIN_S) == 0
    check_ended(machine)
    if missing:
        pytest.skip(f"tried without {' and '.join(missing)}: not on PATH; Debian has packages")


# -- everything together ---------------------------------------------------------------------------


def check_ready(machine: Machine) -> None:
    """The API and the UI answer, and commands find the Prefect server."""
    assert httpx.get(f"{machine.service('api')['url']}/readyz", trust_env=False).is_success
    ui_url = machine.service("prefect")["url"]
    ui = httpx.get(ui_url, trust_env=False, follow_redirects=True)
    assert "<html" in ui.text.lower()
    engine = machine("engine", "status", "--json")
    assert json.loads(engine.stdout)["ui_url"] == ui_url
    assert "'slipway down' stops both" in machine("engine", "down").stderr


def check_restarted(machine: Machine) -> None:
    """The API that was killed is another process, at the same address."""
    until(
        lambda: machine.is_ready("api") and machine.service("api")["restarts"] == 1,
        "the API that was killed",
        machine,
    )
    check = httpx.get(f"{machine.service('api')['url']}/readyz", trust_env=False)
    assert check.status_code == 200


def check_ended(machine: Machine) -> None:
    """Nothing runs, nothing had to be killed, and Prefect went last."""
    assert machine.processes() == []
    lines = [json.loads(line) for line in machine.log.splitlines()]
    stopping = [each["service"] for each in lines if each.get("event") == "stopping"]
    assert stopping[0] == "up"
    assert stopping[-1] == "prefect"
    assert not [each for each in lines if each.get("event") == "killed"], machine.log


def commit(machine: Machine, shell: Shell) -> None:
    """Change a template and keep it as a version."""
    template = shell.directory / "templates" / "hello-web" / "template.yaml"
    template.write_text(template.read_text().replace("A web server with", "One with"))
    done = machine("template", "commit", "hello-web", "-m", "Fewer words")
    assert done.returncode == 0, done.stderr


def issue_token(machine: Machine) -> str:
    """A token to log in with."""
    made = machine("token", "create", "anna", "--scope", "launch")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


# -- the three ways --------------------------------------------------------------------------------


def launch_in_prefect(page: Page, machine: Machine, token: str) -> None:
    """From the front page to an operational server, its timeline, from there to the dashboard, and
    back."""
    ui_url = machine.service("prefect")["url"]
    open_form(page, ui_url, "launch-server")
    assert {"hello-web", "postgres"} <= set(pick(page, "ServerTemplate", "hello-web"))
    fill(page, "Server name", "by-form")
    picture(page, "prefect-form")
    run = submitted(page)
    assert run["parameters"]["request"]["template"] == "hello-web"
    open_run(page, ui_url, run["id"])
    # Without a reload.
    expect(state(page)).to_have_text("Operational")
    open_artifact(page, "timeline-")
    artifact = page.get_by_role("tabpanel")
    expect(artifact).to_contain_text("by-form: operational")
    expect(artifact.get_by_role("row", name="Wait until the system is ready")).to_be_visible()
    drawing = artifact.get_by_role("img", name="Steps on a time axis")
    assert drawing.evaluate("each => each.naturalWidth") > 500
    picture(page, "prefect-timeline")
    check_restarted(machine)
    artifact.get_by_role("link", name="launch", exact=True).click()
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Launch of by-form")
    expect(page.locator("#state .badge")).to_have_text("operational")
    # And back, once the log is whole: the page of a run that has ended does not ask for more.
    with Api(f"{ui_url}/api") as api:
        of_run = {"flow_run_id": {"any_": [run["id"]]}}
        last = "server by-form is operational"
        api.until(lambda: api.text("/logs/filter", logs=of_run), lambda found: last in found)
    page.get_by_role("link", name="Flow run in Prefect").click()
    expect(state(page)).to_have_text("Operational")
    # Only as many lines are in the page as can be seen.
    expect(page.get_by_role("log")).to_contain_text("by-form: template hello-web")
    page.wait_for_load_state("networkidle")
    picture(page, "prefect-run")
    # A page that is open asks for news all the time.
    page.goto("about:blank")


def launch_with_curl(machine: Machine, shell: Shell) -> None:
    """The commands of the documentation, as they stand there but for the port."""
    if not PROGRAMS["curl"]:
        return
    text = GUIDE.read_text().partition(CHAPTER)[2]
    block = text.partition("```console\n")[2].partition("```")[0]
    commands = transcript(block)
    assert DOCUMENTED in commands[0][0]
    script = "\n".join(command for command, _ in commands)
    code, said = shell.run(script.replace(DOCUMENTED, machine.service("api")["url"]))
    assert code == 0, said
    expected = "".join(f"...{output}..." for _, output in commands if output)
    assert doctest.OutputChecker().check_output(expected, said, LOOSELY), said


def launch_on_dashboard(browser: Browser, machine: Machine, token: str) -> None:
    """Log in, fill in the form, watch without a reload, look at the audit; then, on a phone, run a
    script and take the server down."""
    url = machine.service("api")["url"]
    with window(browser) as desk:
        log_in(desk, url, token)
        desk.get_by_role("link", name="Launch a server").first.click()
        # The choice alone asks for the inputs.
        desk.get_by_label("ServerTemplate").select_option("hello-web")
        desk.get_by_label("GREETING").fill("Hello from the dashboard")
        desk.get_by_label("COLOR").select_option("teal")
        desk.get_by_label("API_TOKEN").fill("never-to-be-seen")
        expect(desk.get_by_label("Name")).to_have_value("hello-web-1")
        desk.get_by_role("button", name="Launch", exact=True).click()
        expect(desk.get_by_role("heading", level=1)).to_have_text("Launch of hello-web-1")
        # A page that is loaded anew forgets this.
        desk.evaluate("window.sameAsBefore = true")
        expect(desk.locator("#live")).to_have_text("Live")
        expect(desk.locator("#state .badge")).to_have_text("operational")
        expect(desk).to_have_title("hello-web-1: operational · Slipway")
        expect(desk.locator("#timeline")).to_contain_text("Check the health")
        expect(desk.locator("#output")).to_contain_text("answers HTTP 200")
        expect(desk.locator("#facts")).to_contain_text("Hello from the dashboard")
        expect(desk.locator("#facts")).to_contain_text("by token/anna (dashboard)")
        assert desk.evaluate("window.sameAsBefore")
        desk.locator("#actions").get_by_role("link", name="Audit").click()
        desk.get_by_role("button", name="Verify the chain").click()
        expect(desk.get_by_role("status")).to_contain_text("The chain holds")
        assert "never-to-be-seen" not in desk.content()
    with window(browser, viewport=PHONE, has_touch=True) as phone:
        log_in(phone, url, token)
        use_phone(phone, url)


def use_phone(phone: Page, url: str) -> None:
    """Run a script and take the server down."""
    check_width(phone)
    phone.goto(f"{url}/servers/hello-web-1")
    check_width(phone)
    phone.get_by_role("link", name="Run … set-greeting").click()
    phone.get_by_label("GREETING").fill("Good evening")
    check_width(phone)
    phone.get_by_role("button", name="Run set-greeting").click()
    expect(phone.locator("#timeline")).to_contain_text("set-greeting")
    check_width(phone)
    expect(phone.locator("#timeline table").nth(1).locator("tbody tr")).to_have_class("ok")
    phone.get_by_role("link", name="Decommission …").click()
    check_width(phone)
    phone.get_by_role("button", name="Decommission hello-web-1").click()
    phone.evaluate("window.sameAsBefore = true")
    expect(phone.locator("#state .badge")).to_have_text("terminated")
    assert phone.evaluate("window.sameAsBefore")


def mirror_in_prefect(page: Page, machine: Machine, directory: Path) -> None:
    """The night's run by hand: what changed since the day before is on its page."""
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)
    archive = DebArchive(directory / "upstream", start=start, packages=40)
    with Web(archive.root) as web:
        file = directory / "mirrors.yaml"
        file.write_text(
            "schema: slipway-mirrors/1\nmirrors:\n"
            f"  debian: {{kind: apt, urls: ['{web.url}'], suites: [stable], "
            f"keyring: '{archive.keyring}'}}\n"
        )
        for command in (("add", str(file)), ("sync",)):
            done = machine("mirror", *command)
            assert done.returncode == 0, done.stderr
        archive.advance(change=5, add=2, remove=1)
        ui_url = machine.service("prefect")["url"]
        open_form(page, ui_url, "snapshot-mirrors")
        run = submitted(page)
        open_run(page, ui_url, run["id"])
        expect(state(page)).to_have_text("Taken")
    open_artifact(page, re.compile(r"\bmirrors\b"))
    artifact = page.get_by_role("tabpanel")
    expect(artifact.get_by_role("row", name="debian")).to_contain_text("stable")
    open_run(page, ui_url, run["id"])
    open_artifact(page, "mirror-packages")
    expect(page.get_by_role("tabpanel").get_by_role("row", name="pkg")).to_have_count(8)
    picture(page, "prefect-mirrors")
    page.goto("about:blank")


def launch_in_ec2(page: Page, machine: Machine, account: Weather) -> None:
    """A template's own form offers what has been committed meanwhile, has its inputs as fields and
    the clouds of the clouds file to choose from, and says which field is wrong."""
    ui_url = machine.service("prefect")["url"]
    with Api(f"{ui_url}/api") as api:
        # A worker looks every ten seconds.
        schema = "/deployments/name/launch-server/hello-web"
        api.until(lambda: api.get(schema).text, lambda found: "hello-web@r2" in found)
    open_form(page, ui_url, "hello-web")
    assert "hello-web@r2" in pick(page, "Version", "hello-web@r2")
    fill(page, "GREETING", "Hello from a form")
    picture(page, "prefect-inputs")
    fill(page, "Server name", "Not A Name")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Validation failed for field 'request.name'")).to_be_visible()
    open_form(page, ui_url, "hello-web")
    pick(page, "Version", "hello-web@r2")
    fill(page, "Server name", "in-ec2")
    assert "local" in pick(page, "Cloud", "aws")
    run = submitted(page)
    open_run(page, ui_url, run["id"])
    expect(state(page)).to_have_text("Operational")
    shown = json.loads(machine("show", "in-ec2", "--json").stdout)
    assert (shown["cloud"], shown["region"]) == ("aws", REGION)
    assert shown["instance"].startswith("i-")
    assert account.count("RunInstances") == 1
    page.goto("about:blank")
