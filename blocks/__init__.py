"""Who we are: clouds, keys and servers to talk to, as Prefect blocks."""

from blocks.ec2_cloud import Ec2CloudBlock
from blocks.local_cloud import LocalCloudBlock

__all__ = ["Ec2CloudBlock", "LocalCloudBlock"]
