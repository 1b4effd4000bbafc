"""hello-web, run for real: the page is fetched over loopback from the process a script started."""

from __future__ import annotations

import http.server
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from tests.templates.conftest import StandIn

SECRET = "correct-horse-battery-staple"
BOOT = ["install", "configure", "start"]


def _boot(machine: StandIn, **inputs: str) -> str:
    said = "".join(machine.run(f"hello-web/scripts/{name}.sh", inputs).stdout for name in BOOT)
    assert SECRET not in said
    return said


def _get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False, timeout=10)


def _main(machine: StandIn) -> psutil.Process:
    (process,) = machine.processes()
    return process


def test_the_page_shows_the_inputs(machine: StandIn) -> None:
    """The page says which server it is and every input it was launched with."""
    _boot(machine, GREETING="Good <morning>", COLOR="teal", UPSTREAM="")
    answer = _get(machine.outputs()["url"])
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for expected in (
        "<h1>Good &lt;morning&gt;</h1>",
        "<td>web-1</td>",
        "<code>hello-web@r7</code>",
        "<code>launch-42</code>",
        "<tr><th scope=row>COLOR</th><td><code>teal</code></td></tr>",
        "<tr><th scope=row>UPSTREAM</th><td><i>not set</i></td></tr>",
        "<tr><th scope=row>API_TOKEN</th><td><i>not set</i></td></tr>",
        "Served at",
    ):
        assert expected in answer.text
    assert "<morning>" not in answer.text
    # Nothing is loaded from anywhere else.
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_the_secret_is_nowhere(machine: StandIn) -> None:
    """A secret input is shown as set, and its value is in no file, page or process."""
    _boot(machine, API_TOKEN=SECRET)
    machine.run("hello-web/scripts/restart.sh", {"API_TOKEN": SECRET})
    page = _get(machine.outputs()["url"]).text
    assert "<th scope=row>API_TOKEN</th><td><i>set, hidden</i></td>" in page
    assert SECRET not in page
    for file in machine.root.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file
    assert SECRET not in str(_main(machine).environ())
    assert machine.files()["etc/hello-web/api-token.sha256"][1] == 0o600


def test_the_secret_opens_the_inputs(machine: StandIn) -> None:
    """/inputs.json is for whoever holds API_TOKEN."""
    _boot(machine, API_TOKEN=SECRET, GREETING="Hi")
    url = machine.outputs()["url"] + "inputs.json"
    assert _get(url).status_code == 401
    assert _get(url, Authorization="Bearer wrong").status_code == 401
    answer = _get(url, Authorization=f"Bearer {SECRET}")
    assert answer.json()["greeting"] == "Hi"
    assert SECRET not in answer.text


@pytest.mark.parametrize("authorization", ["Bearer", "Bearer anything"])
def test_without_a_token_the_inputs_are_closed(machine: StandIn, authorization: str) -> None:
    """No token set does not mean that any token opens /inputs.json."""
    _boot(machine)
    url = machine.outputs()["url"] + "inputs.json"
    assert _get(url, Authorization=authorization).status_code == 401


def test_a_second_run_changes_nothing(machine: StandIn) -> None:
    """Booting again leaves files and process as they are."""
    _boot(machine, GREETING="Hi")
    before, process = machine.files(), _main(machine)
    said = _boot(machine, GREETING="Hi")
    assert machine.files() == before
    assert _main(machine) == process
    verbs = {line.split(":")[0] for line in said.splitlines()}
    assert verbs == {"unchanged", "left out", "checked", "page"}


def test_a_new_version_replaces_the_running_one(machine: StandIn) -> None:
    """Installing another version of the program ends the process that runs the old one."""
    _boot(machine)
    process = _main(machine)
    program = machine.root / "usr/local/lib/hello-web/hello_web.py"
    program.write_text(program.read_text() + "# an older version\n")
    _boot(machine)
    assert _main(machine) != process
    assert _get(machine.outputs()["url"]).status_code == 200


def test_set_greeting(machine: StandIn) -> None:
    """The operational script changes the headline of the running page and nothing else."""
    _boot(machine, GREETING="Hi", COLOR="rose")
    process = _main(machine)
    machine.run("hello-web/scripts/set-greeting.sh", {"GREETING": "Good evening"})
    page = _get(machine.outputs()["url"]).text
    assert "<h1>Good evening</h1>" in page
    assert "<code>rose</code>" in page
    assert _main(machine) == process


def test_restart(machine: StandIn) -> None:
    """The operational script restart leaves one new process that serves the same page."""
    _boot(machine, GREETING="Hi")
    process = _main(machine)
    machine.run("hello-web/scripts/restart.sh")
    assert _main(machine) != process
    assert "<h1>Hi</h1>" in _get(machine.outputs()["url"]).text


def test_restart_after_a_power_cut(machine: StandIn) -> None:
    """A pid file left over from a process that was killed does not keep the page from coming
    back."""
    _boot(machine)
    _main(machine).kill()
    _until(lambda: machine.processes() == [])
    machine.run("hello-web/scripts/restart.sh")
    machine.run("hello-web/scripts/healthy.sh", {"PORT": "8080"})


def test_health(machine: StandIn) -> None:
    """The health check passes while the page is served and fails when it is not."""
    _boot(machine)
    assert "answers HTTP 200" in machine.run("hello-web/scripts/healthy.sh").stdout
    machine.run("hello-web/scripts/drain.sh")
    assert "does not answer" in machine.run("hello-web/scripts/healthy.sh", code=1).stderr


def test_drain_stops_it(machine: StandIn) -> None:
    """Decommissioning ends the server; doing it again, or before anything was installed, is
    fine."""
    assert "never installed" in machine.run("hello-web/scripts/drain.sh").stdout
    _boot(machine)
    url = machine.outputs()["url"]
    assert "stopped" in machine.run("hello-web/scripts/drain.sh").stdout
    assert machine.processes() == []
    with pytest.raises(httpx.ConnectError):
        _get(url)
    assert "unchanged" in machine.run("hello-web/scripts/drain.sh").stdout


def test_drain_finishes_the_request_in_hand(machine: StandIn) -> None:
    """A request that has begun when the drain begins is answered."""
    _boot(machine)
    host, port = machine.text("run/hello-web/listen").strip().split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        # Another request was served since, so the first one is in the server's hands.
        assert _get(machine.outputs()["url"]).status_code == 200
        drain = threading.Thread(target=machine.run, args=["hello-web/scripts/drain.sh"])
        drain.start()
        _until(lambda: not _listens(host, int(port)))
        client.sendall(b"\r\n")
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk
        drain.join()
    assert answer.startswith(b"HTTP/1.0 200 OK")
    assert answer.endswith(b"</html>")


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(10)
        return probe.connect_ex((host, port)) == 0


def _until(condition: Callable[[], bool], limit_s: float = 20) -> None:
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.02)


# --- Ports and upstreams ----------------------------------------------------------------------


def test_a_taken_port_is_replaced(machine: StandIn) -> None:
    """Where another program has the port, as on a Mac with one loopback address, a free one is
    taken and published."""
    with socket.create_server((machine.address, 0)) as other:
        taken = other.getsockname()[1]
        said = _boot(machine, PORT=str(taken))
        url = machine.outputs()["url"]
        assert f"port {taken} is taken" in said
        assert f":{taken}/" not in url
        assert _get(url).status_code == 200
        machine.run("hello-web/scripts/healthy.sh", {"PORT": str(taken)})


def test_the_upstream_is_reached(machine: StandIn, neighbour: StandIn) -> None:
    """A second hello-web which is given the first one's address shows that it reached it."""
    _boot(machine, GREETING="Hello")
    url = machine.outputs()["url"]
    said = _boot(neighbour, UPSTREAM_HOST=url)
    assert f"reached: {url} (HTTP 200 Hello from web-1)" in said
    page = _get(neighbour.outputs()["url"]).text
    assert "<section id=upstream>" in page
    assert f"<code>{url}</code> (web-1)" in page
    assert "“Hello from web-1”" in page


@pytest.mark.skipif(sys.platform != "linux", reason="needs an address for each machine")
def test_an_address_alone_names_an_upstream(machine: StandIn, neighbour: StandIn) -> None:
    """`web-1.private_ip` is an address without a port: 8080 is meant."""
    _boot(machine)
    _boot(neighbour, UPSTREAM_HOST=machine.address)
    page = _get(neighbour.outputs()["url"]).text
    assert f"<code>http://{machine.address}:8080/</code>" in page


@pytest.fixture
def broken_upstream() -> Iterator[str]:
    """A web server that answers 500 to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, *_: object) -> None:
            """Nothing: the test's output is not its log."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_an_upstream_that_fails_fails_the_launch(machine: StandIn, broken_upstream: str) -> None:
    """An upstream that was given and is not reached is an error, not a line on a page."""
    machine.run("hello-web/scripts/install.sh")
    machine.environment["HELLO_WEB_TRIES"] = "2"
    done = machine.run("hello-web/scripts/configure.sh", {"UPSTREAM": broken_upstream}, code=1)
    assert f"the upstream {broken_upstream} was not reached" in done.stderr
    assert not (machine.root / "etc/hello-web/page.json").exists()


def test_a_wrong_color_is_refused(machine: StandIn) -> None:
    """A colour that the page does not have is refused, naming those it has."""
    machine.run("hello-web/scripts/install.sh")
    done = machine.run("hello-web/scripts/configure.sh", {"COLOR": "octarine"}, code=1)
    assert "COLOR must be one of indigo, teal, amber, rose, slate, not 'octarine'" in done.stderr
