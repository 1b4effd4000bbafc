"""The cloud that runs on this machine, as a Prefect block."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from blocks import about
from slipway.clouds.local import LocalCloud
from slipway.settings import Settings


class LocalCloudBlock(Block):
    """The local cloud of one state directory: stand-in machines for templates under test.

    Example:
        What runs there:
        ```python
        from blocks import LocalCloudBlock

        block = LocalCloudBlock.load("BLOCK_NAME")
        for machine in block.get_client().list_instances("local", tags={}):
            print(machine.id, machine.state)
        ```
    """

    _block_type_name = "Slipway Local Cloud"
    _block_type_slug = "slipway-local-cloud"
    _logo_url = about.icon()
    _documentation_url = about.page("local-cloud")
    _description = "Stand-in machines on the worker's own computer. Holds no credentials."

    state_dir: Path | None = Field(
        default=None,
        title="State directory",
        description="Where the machines live; empty: SLIPWAY_STATE_DIR of the worker.",
    )

    def get_client(self) -> LocalCloud:
        """The cloud's adapter. Its supervisor process is started by the first call."""
        settings = Settings() if self.state_dir is None else Settings(state_dir=self.state_dir)
        return LocalCloud(settings)
