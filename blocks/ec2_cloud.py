"""An account of EC2, or of a cloud that speaks its API, as a Prefect block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.blocks.core import Block
from pydantic import Field, SecretStr, model_validator

from blocks import about

if TYPE_CHECKING:
    from slipway.clouds.ec2 import Ec2Cloud


class Ec2CloudBlock(Block):
    """Who we are in EC2, for flows of one's own.

    Slipway's own flows take their clouds by name from SLIPWAY_CLOUDS_FILE, which the command line
    and the API read as well.

    Example:
        What runs there:
        ```python
        from blocks import Ec2CloudBlock

        block = Ec2CloudBlock.load("BLOCK_NAME")
        for instance in block.get_client().list_instances("eu-central-1", tags={}):
            print(instance.id, instance.state)
        ```
    """

    _block_type_name = "Slipway EC2 Cloud"
    _block_type_slug = "slipway-ec2-cloud"
    _logo_url = about.icon()
    _documentation_url = about.page("ec2-cloud")
    _description = "An account of Amazon EC2, or of a cloud with its API, such as Eucalyptus."

    regions: list[str] = Field(
        min_length=1,
        title="Regions",
        description="The first is the default.",
        examples=[["eu-central-1"]],
    )
    access_key_id: str | None = Field(
        default=None,
        title="Access key id",
        description="Empty: boto3 searches, as the AWS command line does.",
    )
    secret_access_key: SecretStr | None = Field(
        default=None, title="Secret access key", description="Its other half."
    )
    session_token: SecretStr | None = Field(
        default=None, title="Session token", description="Of temporary keys."
    )
    profile: str | None = Field(
        default=None, title="Profile", description="Of the worker's AWS configuration files."
    )
    role_arn: str | None = Field(
        default=None, title="Role", description="ARN of a role to assume with those keys."
    )
    external_id: str | None = Field(
        default=None, title="External id", description="What the role's trust policy asks for."
    )
    endpoint_url: str | None = Field(
        default=None, title="Endpoint URL", description="Of another cloud than Amazon's."
    )

    @model_validator(mode="after")
    def _whole_keys(self) -> Ec2CloudBlock:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("an access key has two halves; give both, or neither")
        if self.access_key_id is not None and self.profile is not None:
            raise ValueError("an access key and a profile both say who we are; give one of them")
        return self

    def get_client(self) -> Ec2Cloud:
        """The cloud's adapter; it needs the extra ``ec2``. Nothing is asked before its first
        call."""
        from slipway.clouds.ec2 import Ec2Cloud, Ec2Credentials, Ec2Options, Ec2Region

        options = Ec2Options(
            regions={region: Ec2Region() for region in self.regions},
            endpoint_url=self.endpoint_url,
            profile=self.profile,
            role_arn=self.role_arn,
            external_id=self.external_id,
        )
        if self.access_key_id is None or self.secret_access_key is None:
            return Ec2Cloud("ec2", options)
        keys = Ec2Credentials(
            access_key_id=self.access_key_id,
            secret_access_key=self.secret_access_key,
            session_token=self.session_token,
        )
        return Ec2Cloud("ec2", options, credentials=lambda: keys)
