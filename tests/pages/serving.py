"""The API on a port of loopback, for a browser."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from slipway.mirrors.serving import FileProtocol

DEADLINE_S = 60.0


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve the application inside the block; answers its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        config = uvicorn.Config(
            app, http=FileProtocol, log_level="warning", timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="api")
        thread.start()
        try:
            deadline = time.monotonic() + DEADLINE_S
            while not server.started:
                assert time.monotonic() < deadline, "the API never answered"
                assert thread.is_alive(), "the API did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)
