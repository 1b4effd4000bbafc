"""What Prefect asks of every block, and what its UI shows of ours."""

from __future__ import annotations

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite

import blocks
from slipway.settings import Settings

ALL = [getattr(blocks, name) for name in blocks.__all__]


class TestBlocks(BlockStandardTestSuite):
    """Every block keeps to Prefect's own standard."""

    @pytest.fixture(params=ALL, ids=lambda each: each.__name__)
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        found: type[Block] = request.param
        return found

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """Ours is served by the API, which need not run here: see tests/pages/test_blocks.py."""
        assert str(block._logo_url).startswith(f"{Settings().api_url}/static/")
