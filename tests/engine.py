"""Flows in tests: without an engine for most, with Prefect's own server for a few."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest import mock

import httpx
import psutil
import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_LOGGING_LEVEL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)
from prefect.tasks import Task

from deployments.prefect_server import PrefectServer, ServerProcess

T = TypeVar("T")

#: How long the server may take to record what its clients have sent.
RECORDED_WITHIN_S = 60.0

#: Marks of tests that need the server. Prefect's clients leave sockets behind when an event loop
#: ends; they warn when they are collected.
ENGINE = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def call_without_engine(task: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What calling a task comes to without an engine: its function, and its own retry rule
    without the pauses."""
    if not inspect.iscoroutinefunction(task.fn):
        return task.fn(*args, **kwargs)

    async def run() -> Any:
        left = task.retries
        while True:
            try:
                return await task.fn(*args, **kwargs)
            except Exception as error:
                state = SimpleNamespace(data=error)
                if not left or not task.retry_condition_fn(task, None, state):
                    raise
                left -= 1

    return run()


@contextlib.contextmanager
def no_engine() -> Iterator[None]:
    """Inside the block tasks are plain coroutines: no server, no run records."""
    with mock.patch.object(Task, "__call__", call_without_engine):
        yield


@contextlib.contextmanager
def prefect_server(shared: Path) -> Iterator[ServerProcess]:
    """A Prefect server for the block, and this process as its client; whoever comes first starts
    it, the last one to leave stops it."""
    server = PrefectServer(shared)
    users = shared / "users"
    users.mkdir(parents=True, exist_ok=True)
    # A process may come in several times.
    here = users / f"{os.getpid()}-{uuid.uuid4().hex}"
    with turn(shared):
        here.touch()
        found = server.up()
    try:
        settings = {
            PREFECT_API_URL: found.api_url,
            PREFECT_HOME: server.home,
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
            PREFECT_LOGGING_LEVEL: "WARNING",
        }
        with temporary_settings(settings):
            yield found
    finally:
        with turn(shared):
            here.unlink()
            pids = [int(user.name.partition("-")[0]) for user in users.iterdir()]
            if not any(psutil.pid_exists(pid) for pid in pids):
                _end(found)


class Api:
    """What Prefect's server tells about runs, as a person's browser would ask it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, timeout=60)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def text(self, path: str, **query: Any) -> str:
        """The whole answer. A server on SQLite that is busy says 503, and is asked again, as
        Prefect's own clients do."""
        deadline = time.monotonic() + RECORDED_WITHIN_S
        response = self._client.post(path, json=query)
        while response.status_code == 503 and time.monotonic() < deadline:
            time.sleep(0.2)
            response = self._client.post(path, json=query)
        response.raise_for_status()
        return response.text

    def get(self, path: str) -> httpx.Response:
        """The answer, whatever it is."""
        return self._client.get(path)

    def filter(self, kind: str, **query: Any) -> list[dict[str, Any]]:
        """The matching flow runs, task runs, logs or artifacts."""
        found: list[dict[str, Any]] = json.loads(self.text(f"/{kind}/filter", **query))
        return found

    def task_runs(self, flow_run: str) -> list[dict[str, Any]]:
        return self.filter("task_runs", flow_runs={"id": {"any_": [flow_run]}})

    def events(self, launch_id: str) -> list[str]:
        """The names of the launch's events."""
        return self.events_of(f"slipway.launch.{launch_id}")

    def events_of(self, resource_id: str) -> list[str]:
        """The names of the events that are about this."""
        resource = {"id": [resource_id]}
        answer = self.text("/events/filter", filter={"resource": resource}, limit=50)
        return [event["event"] for event in json.loads(answer)["events"]]

    def until(self, ask: Callable[[], T], enough: Callable[[T], bool]) -> T:
        """Ask until the answer is enough: the server records task runs and events in batches."""
        deadline = time.monotonic() + RECORDED_WITHIN_S
        while not enough(found := ask()):
            assert time.monotonic() < deadline, f"the server still says {found}"
            time.sleep(0.1)
        return found


def _end(server: ServerProcess) -> None:
    """Kill the server: nothing in its database is wanted any more. It may stay a zombie until the
    worker that started it ends."""
    deadline = time.monotonic() + RECORDED_WITHIN_S
    psutil.Process(server.pid).kill()
    while server.alive:
        assert time.monotonic() < deadline, f"the Prefect server {server.pid} does not end"
        time.sleep(0.05)


@contextlib.contextmanager
def turn(shared: Path) -> Iterator[None]:
    """Only one process at a time inside the block."""
    with (shared / "turn.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
