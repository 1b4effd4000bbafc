"""What a server is told at its first boot."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest

from slipway.phonehome import user_data
from slipway.phonehome.user_data import FORMS, MOST_BYTES, render, trouble_with
from slipway.records import Agent
from tests.records.rows import AT

#: As long as they get: an installation's authority with a large key.
CA = "-----BEGIN CERTIFICATE-----\n" + ("A" * 64 + "\n") * 40 + "-----END CERTIFICATE-----\n"


def agent(**changed: str) -> Agent:
    values = {
        "api_url": "https://slipway.example.com/base/",
        "program": hashlib.sha256(b"program").hexdigest(),
        "ca": CA,
        **changed,
    }
    return Agent(launch_id="launch-1", generation=2, token_hash="", token_expires_at=AT, **values)


@pytest.mark.parametrize("form", list(FORMS))
def test_it_says_where_we_are_and_no_more(form: str) -> None:
    """The address without a slash at its end, the launch, the token, what to fetch and whom to
    trust; in every form, below the smallest limit of the clouds."""
    text = render(form, agent(), "the-token")
    [line] = [line for line in text.splitlines() if '"token"' in line]
    found = json.loads(re.search(r"\{.*\}", line)[0])  # type: ignore[index]
    assert found == {
        "api": "https://slipway.example.com/base",
        "launch": "launch-1",
        "generation": 2,
        "program": hashlib.sha256(b"program").hexdigest(),
        "ca": CA,
        "token": "the-token",
    }
    assert "@" not in line
    assert len(text.encode()) < MOST_BYTES
    assert text.isascii()


def test_forms_begin_as_their_readers_want() -> None:
    """cloud-init takes a #! script, EC2Launch takes <powershell>."""
    assert render("cloud-init", agent(), "t").startswith("#!/bin/sh\n")
    assert render("shell", agent(), "t") == render("cloud-init", agent(), "t")
    assert render("powershell", agent(), "t").startswith("<powershell>\n")
    assert "''" in render("powershell", agent(ca="it's"), "t"), "a quote ends no string"


@pytest.mark.parametrize(
    ("url", "same_host", "trouble"),
    [
        ("https://slipway.example.com", False, None),
        ("http://127.0.0.1:4280", True, None),
        ("http://[::1]:4280", True, None),
        ("http://localhost:4280", True, None),
        ("http://127.0.0.1:4280", False, "leads a server to itself"),
        ("https://localhost", False, "leads a server to itself"),
        ("http://slipway.example.com", True, "needs https"),
        ("http://192.0.2.1:4280", False, "needs https"),
        ("slipway.example.com", False, "give an address like"),
        ("", True, "give an address like"),
    ],
)
def test_an_address_that_servers_cannot_call_is_found_out(
    url: str, same_host: bool, trouble: str | None
) -> None:
    """Before anything is created: clear text, and what leads back to the server."""
    found = trouble_with(url, same_host=same_host)
    assert (found is None) == (trouble is None)
    assert trouble is None or trouble in str(found)


def start(folder: Path, text: str, *, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run user data as a machine would, with its own directory."""
    script = folder / "user-data"
    script.write_text(text)
    environment = {"SLIPWAY_ROOT": str(folder), "PATH": path or "/usr/local/bin:/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/sh", str(script)], env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_server_without_python_says_so(tmp_path: Path) -> None:
    """One sentence, and cloud-init calls it an error, which the boot gate reports."""
    (tmp_path / "bin").mkdir()
    for name in ("mkdir", "cat"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    done = start(tmp_path, render("shell", agent(), "t"), path=str(tmp_path / "bin"))
    assert done.returncode == 1
    assert done.stderr == (
        "slipway: the agent needs Python 3.6 or newer, and this server has none\n"
    )


def test_a_program_that_was_changed_on_the_way_is_not_run(tmp_path: Path) -> None:
    """What was fetched has another hash than the user data says: nothing of it is executed."""
    import http.server
    import threading

    class Liar(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"import sys; open(sys.argv[1], 'w')")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            # Two hours of patience are not for a test.
            text = render("shell", agent(api_url=url, ca=""), "t").replace("7200", "0")
            done = start(tmp_path, text)
        finally:
            server.shutdown()
            serving.join()
    assert done.returncode == 1
    assert "it has SHA-256" in done.stderr
    assert not (tmp_path / "var/lib/slipway/agent/slipway_agent.py").exists()
    assert user_data.is_loopback(url)
