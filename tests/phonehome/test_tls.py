"""The agent's connection: encrypted, to the one who was meant, and kept."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slipway.agent.slipway_agent import Api, Refused
from tests.certificates import self_signed


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections: list[tuple[str, int]]
    status = 200

    def do_POST(self) -> None:
        self.connections.append(self.client_address)
        self.rfile.read(int(self.headers["Content-Length"]))
        text = b'{"done": true}' if self.status == 200 else b'{"detail": "no"}'
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """An HTTPS server with a certificate of its own authority, for 127.0.0.1 or for a name."""

    def __init__(self, folder: Path, name: str) -> None:
        certificate, key = self_signed(folder, name)
        self.pem = certificate.read_text()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.handler = type("Handler", (_Answers,), {"connections": []})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self._server.daemon_threads = True
        # A client that refuses our certificate is no news.
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path, "127.0.0.1")
    yield made
    made.close()


def test_the_authority_of_the_user_data_is_trusted(server: Server) -> None:
    """With it the call goes through, and the next one over the same connection."""
    api = Api(server.url, server.pem)
    assert api.call("x", {}, {}) == {"done": True}
    assert api.call("x", {}, {}) == {"done": True}
    first, second = server.handler.connections  # type: ignore[attr-defined]
    assert first == second
    api.close()


def test_an_unknown_authority_is_not_trusted(server: Server) -> None:
    """Without it nothing is sent: the system does not know whom it talks to."""
    with pytest.raises(ssl.SSLCertVerificationError):
        Api(server.url, "").call("x", {}, {})
    assert server.handler.connections == []  # type: ignore[attr-defined]


def test_a_certificate_for_another_name_is_not_trusted(tmp_path: Path) -> None:
    """The right authority, and another server's certificate."""
    server = Server(tmp_path, "other.example.com")
    try:
        with pytest.raises(ssl.SSLCertVerificationError):
            Api(server.url, server.pem).call("x", {}, {})
    finally:
        server.close()


def test_a_connection_that_was_closed_meanwhile_is_opened_anew(server: Server) -> None:
    """An idle connection ends on the other side; the call is made again, and is not an error."""
    api = Api(server.url, server.pem)
    api.call("x", {}, {})
    assert api._connection is not None
    api._connection.sock.close()
    assert api.call("x", {}, {}) == {"done": True}
    api.close()


def test_a_no_carries_its_reason(server: Server) -> None:
    """Status and detail of the problem."""
    server.handler.status = 403  # type: ignore[attr-defined]
    api = Api(server.url, server.pem)
    with pytest.raises(Refused, match="403: no") as refused:
        api.call("x", {}, {})
    assert refused.value.status == 403
    api.close()
