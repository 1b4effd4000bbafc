"""What blocks in Prefect's UI point at."""

from __future__ import annotations

import struct
from urllib.parse import urlsplit

import blocks
from tests.pages.yard import Browser, Yard


def test_icons_and_pages_of_blocks_are_open(yard: Yard) -> None:
    """Without a login there is a square picture, as Prefect wants it, and a page with a section
    for every block."""
    client = Browser(yard).client
    for name in blocks.__all__:
        block = getattr(blocks, name)
        picture = yard.runner.run(client.get(urlsplit(str(block._logo_url)).path))
        assert picture.headers["content-type"] == "image/png"
        width, height = struct.unpack(">II", picture.content[16:24])
        assert 45 < width == height < 1000
        address = urlsplit(str(block._documentation_url))
        page = yard.runner.run(client.get(address.path))
        assert page.status_code == 200
        assert f'<h2 id="{address.fragment}">{block._block_type_name}</h2>' in page.text
