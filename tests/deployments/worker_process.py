"""``prefect worker start`` as a person types it, with gates that do not pause: what is tested is
the worker, not how long a boot is watched.

``python -m tests.deployments.worker_process QUEUE NAME``

With ``PRETEND_SOCKET`` its cloud and servers are the test's: see `tests.deployments.pretend`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


def only(times: int, function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """The function, which may be called so often where the flows run and no more: there, whatever
    blocks holds up every launch of the worker."""
    left = times

    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if threading.current_thread().name == "slipway-flows":
            left -= 1
            assert left >= 0, f"{what} in the loop of the flows"
        return function(*args, **kwargs)

    return called


def main() -> None:
    """Start the worker."""
    import slipway.gates.linux
    from slipway import workers

    slipway.gates.linux.LINUX = dataclasses.replace(
        slipway.gates.linux.LINUX, spacing_s=0.05, first_pause_s=0.05, max_pause_s=0.2
    )
    # Whoever is dead is found at the next look; how long a look takes to come is not tested.
    workers.RENEW_EVERY_S = 1.0
    import deployments.inprocess_worker

    deployments.inprocess_worker.RESCUE_EVERY_S = 0.5
    deployments.inprocess_worker.CANCEL_EVERY_S = 0.5
    # The forms on the server are shared with other tests, whose templates are others.
    deployments.inprocess_worker.FORMS_EVERY_S = 3600.0
    from prefect.cli import app
    from prefect.client.base import PrefectHttpxSyncClient
    from prefect.client.orchestration import SyncPrefectClient

    # Making one takes longer than all else about a run.
    SyncPrefectClient.__init__ = only(  # type: ignore[method-assign]
        1, SyncPrefectClient.__init__, "a blocking client for each run"
    )
    PrefectHttpxSyncClient.send = only(  # type: ignore[method-assign]
        0, PrefectHttpxSyncClient.send, "a blocking question to Prefect"
    )
    queue, name = sys.argv[1:]
    sys.argv = ["prefect", "worker", "start", "--type", "slipway-inprocess"]
    sys.argv += ["--pool", "slipway", "--work-queue", queue, "--name", name]
    with contextlib.ExitStack() as stack:
        if path := os.environ.get("PRETEND_SOCKET"):
            deployments.inprocess_worker.CANCEL_EVERY_S = 5.0
            from tasks.services import use_services
            from tests.deployments.pretend import pretended_services

            stack.enter_context(use_services(pretended_services(path)))
        app()


if __name__ == "__main__":
    main()
