"""Who we are: clouds, keys and servers to talk to, as Prefect blocks."""

from blocks.local_cloud import LocalCloudBlock

__all__ = ["LocalCloudBlock"]
