"""Runs one flow in a process of its own: ``python -m deployments.runner``.

The flow's name and parameters come as one JSON object on standard input, not as arguments: the
process list is for everybody to read.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any, get_args

from slipway.launches.engine import FlowName


def run(flow: FlowName, parameters: Mapping[str, Any]) -> int:
    """Run the flow to its end; 0 when its final state is a completed one."""
    module = importlib.import_module(f"flows.{flow}")
    # What was imported stays: the collector need not look through it again and again.
    gc.freeze()
    state = asyncio.run(getattr(module, flow)(**parameters, return_state=True))
    sys.stdout.write(f"{flow}: {state.name}: {state.message or ''}\n")
    return 0 if state.is_completed() else 1


def main() -> None:
    """Read the job, run it."""
    job = json.load(sys.stdin)
    if job["flow"] not in get_args(FlowName):
        sys.exit(f"there is no flow {job['flow']}; known are {', '.join(get_args(FlowName))}")
    sys.exit(run(job["flow"], job["parameters"]))


if __name__ == "__main__":
    main()
