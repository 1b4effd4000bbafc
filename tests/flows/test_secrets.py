"""Secrets stay secret, in everything that is written, sent or shown anywhere along a launch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments.prefect_server import PrefectServer
from flows.launch_server import launch_server
from slipway import audit
from slipway.launches.requests import LaunchRequest
from slipway.launches.timeline import timeline_markdown
from slipway.lifecycle import subject_of
from slipway.records import Launch
from tasks.services import use_services
from tests.engine import ENGINE, Api
from tests.launches.world import DEADLINE_S, World, counted, until

pytestmark = ENGINE

SECRET = """\
-----BEGIN "PRIVATE" KEY-----
MIIEvQIBADANBgkqhkiG'9w0BAQ\\EFAASCBKcwggSj
c2VjcmV0LXZhbHVlLWZvci10ZXN0cw== $HOME `id` ünïcode
-----END "PRIVATE" KEY-----"""

#: Everything that gives the secret away: as it is, escaped, and each line of its own.
FORMS = {
    form.encode()
    for form in (SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1], *SECRET.splitlines())
}

DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()

INPUTS = "# inputs: {KEY: {type: secret}}\n"

#: Uses the secret without showing it, and waits to be looked at meanwhile.
QUIET = """\
echo "digest=$(printf %s "$KEY" | sha256sum | cut -d' ' -f1)" >>"$SLIPWAY_OUTPUT"
touch "$SLIPWAY_ROOT/var/looking"
while [ ! -e "$SLIPWAY_ROOT/var/go" ]; do sleep 0.05; done
"""

#: Shows it in every way a script may: whole, in JSON, line by line, in pieces of any size.
LOUD = """\
echo "key is $KEY"
printf '%s\\n' "$KEY" | sed 's/^/> /'
python3 -c 'import json, os; print(json.dumps({"key": os.environ["KEY"]}))'
for i in $(seq 40); do printf '%s' "$KEY"; done
echo "$KEY" >&2
"""


def with_secret(name: str, body: str) -> str:
    return counted(name, body).replace("# ---\n", "# ---\n" + INPUTS, 1)


def found_in(data: bytes) -> list[bytes]:
    """Which forms of the secret are in there."""
    return [form for form in FORMS if form in data]


def check_files(folder: Path, *, but: str = "") -> None:
    """No file below this directory holds the secret."""
    seen = 0
    for path in folder.rglob("*"):
        if path.is_file() and not (but and path.name == but):
            with contextlib.suppress(FileNotFoundError):
                assert not found_in(path.read_bytes()), path
                seen += 1
    assert seen, f"there is nothing in {folder}"


def check_processes() -> None:
    """No process of this computer shows it in its command line."""
    seen = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = "\0".join(process.cmdline()).encode("utf-8", "surrogateescape")
            assert not found_in(line), process
            seen += 1
    assert seen > 1


def answers(api: Api, launch: Launch, flow_run: str) -> Iterator[str]:
    """Everything Prefect's server tells about the run."""
    mine = {"id": {"any_": [flow_run]}}
    for kind in ("flow_runs", "task_runs", "artifacts"):
        yield api.text(f"/{kind}/filter", flow_runs=mine)
    yield api.text("/logs/filter", logs={"flow_run_id": {"any_": [flow_run]}})
    resource = {"id": [f"slipway.launch.{launch.id}", f"prefect.flow-run.{flow_run}"]}
    yield api.text("/events/filter", filter={"resource": resource}, limit=50)


def launch_through_prefect(world: World, launch: Launch, look: bool) -> Any:
    """Run the real flow for a launch that is on record, looking around while its script runs."""
    request = LaunchRequest(template="tiny", name=launch.server_name, key=launch.idempotency_key)

    async def look_around() -> None:
        await until(lambda: world.now(launch).instance_id, "there is an instance")
        root = world.machine(launch)
        await until((root / "var/looking").exists, "the script runs")
        await asyncio.to_thread(check_processes)
        (root / "var/go").touch()

    async def both() -> Any:
        looking = look_around() if look else asyncio.sleep(0)
        found = await asyncio.gather(launch_server(request, return_state=True), looking)
        return found[0]

    async def limited() -> Any:
        return await asyncio.wait_for(both(), DEADLINE_S)

    with use_services(world.services):
        return asyncio.run(limited())


@pytest.mark.parametrize("kind", ["quiet", "loud", "failing"])
def test_a_secret_is_nowhere(
    world: World,
    api: Api,
    prefect_home: Path,
    tmp_path: Path,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The script gets the exact value; no record, file, log, answer or process list has it."""
    bodies = {"quiet": QUIET, "loud": LOUD, "failing": LOUD + 'echo "no $KEY" >&2\nexit 3'}
    world.template({"one": with_secret("one", bodies[kind]), "two": counted("two", "env")})
    launch = world.record(secrets={"KEY": SECRET})
    state = launch_through_prefect(world, launch, look=kind == "quiet")
    now = world.now(launch)
    assert state.name == ("Stranded" if kind == "failing" else "Operational")
    folder = world.cloud.directory / "instances" / (now.instance_id or "")
    if kind == "failing":
        # A stranded server is kept for a look, with what its scripts printed, for root to read.
        check_files(folder, but="output")
        assert found_in(b"".join(world.outputs_on_machine(launch).values()))
    else:
        # The machine itself has kept it nowhere: no script file, no output, no environment, no log.
        check_files(folder)
    if kind == "quiet":
        assert now.outputs == {"digest": DIGEST}
    else:
        output = b"".join(world.outputs_on_record(launch).values())
        assert output.count(b"<hidden input KEY>") >= 40
    check_files(world.services.settings.state_dir)
    check_files(tmp_path)
    exported = audit.export(world.services.database, subject_of(launch.id))
    texts = [json.dumps(row) for row in exported]
    texts += [repr(entry) for entry in world.entries(launch)]
    texts.append(timeline_markdown(world.services, launch.id))
    texts += answers(api, launch, str(state.state_details.flow_run_id))
    texts += [str(state), repr(state), caplog.text, *capfd.readouterr()]
    for text in texts:
        assert not found_in(text.encode()), text
    check_files(PrefectServer(prefect_home).home)
    world.verify(launch)


def test_a_secret_given_as_itself_is_refused(world: World, api: Api) -> None:
    """A secret given as itself is refused without being repeated; nothing is recorded."""
    world.template({"one": with_secret("one", "true")})
    # Not the one that the other tests look for in Prefect's files: it is in this run's parameters.
    line = "c2VjcmV0LWdpdmVuLWFzLWl0c2VsZg=="

    async def asked() -> Any:
        request = LaunchRequest(template="tiny", name="web-1", inputs={"KEY": line})
        return await launch_server(request, return_state=True)

    with use_services(world.services):
        state = asyncio.run(asked())
    assert state.is_failed()
    assert "a secret is given as a reference, never as itself" in state.message
    assert line not in state.message
    assert world.launch_ids() == []


def test_an_error_that_quotes_a_secret_does_not_leave_with_it(
    world: World,
    api: Api,
    prefect_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A library that tells what it was given in its exception tells it to nobody else: neither the
    record nor Prefect, its logs and its tracebacks."""

    def fails(_remote: object, script: Any, **_: object) -> None:
        raise RuntimeError(f"cannot send {script.secrets['KEY'].get_secret_value()}")

    monkeypatch.setattr("slipway.launches.scripts.run_once", fails)
    world.template({"one": with_secret("one", "true")})
    launch = world.record(secrets={"KEY": SECRET})
    state = launch_through_prefect(world, launch, look=False)
    assert state.name == "Stranded"
    assert world.now(launch).reason.endswith("cannot send <hidden input KEY>")
    texts = [repr(entry) for entry in world.entries(launch)]
    texts += answers(api, launch, str(state.state_details.flow_run_id))
    texts += [str(state), repr(state), caplog.text, *capfd.readouterr()]
    for text in texts:
        assert not found_in(text.encode()), text
    check_files(world.services.settings.state_dir)
    check_files(PrefectServer(prefect_home).home)
