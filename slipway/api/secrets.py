"""``/v1/credentials`` and ``/v1/tokens``: secrets go in and never come out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from slipway import tokens
from slipway.api.acting import Administering, Writing
from slipway.api.auth import require
from slipway.api.problems import responses
from slipway.api.state import TheServices
from slipway.api.words import CREDENTIAL, ID_OF_ONE, Given
from slipway.records import Token
from slipway.tokens import Scope
from slipway.vault import check_credential_name

router = APIRouter(prefix="/v1")

Credential = Annotated[
    str,
    Path(
        pattern=CREDENTIAL,
        description="Its name, which inputs give as `cred:NAME`. It may contain slashes.",
        examples=["staging-token"],
    ),
]


class CredentialOut(BaseModel):
    """A stored secret; its value is not shown to anybody."""

    model_config = ConfigDict(title="Credential")

    name: str = Field(examples=["staging-token"])


class Credentials(BaseModel):
    """All credentials that people keep."""

    items: list[CredentialOut]


class CredentialIn(Given):
    """A secret."""

    value: SecretStr = Field(
        min_length=1, max_length=64 * 1024, description="The secret.", examples=["hunter2"]
    )


class TokenOut(BaseModel):
    """A bearer token, without its value."""

    model_config = ConfigDict(title="Token")

    id: str = Field(examples=["token-01hkx3v9q2m4c7d8e"])
    name: str = Field(examples=["ci"])
    prefix: str = Field(description="How it begins.", examples=["slw_4Jx2aQ"])
    scopes: list[Scope]
    good: bool = Field(description="Neither revoked nor expired.", examples=[True])
    created_by: str = Field(examples=["ada@workstation"])
    created_at: datetime = Field(examples=["2026-11-20T08:30:00.125000Z"])
    expires_at: datetime | None = Field(examples=["2027-02-18T08:30:00.125000Z"])
    revoked_at: datetime | None = Field(examples=[None])
    last_used_at: datetime | None = Field(
        description="To within a few minutes.", examples=["2026-11-20T09:30:00.125000Z"]
    )

    @classmethod
    def of(cls, token: Token, now: datetime) -> TokenOut:
        """From its record."""
        return cls(
            id=token.id,
            name=token.name,
            prefix=token.prefix,
            scopes=[Scope(scope) for scope in token.scopes],
            good=tokens.is_good(token, now),
            created_by=token.created_by,
            created_at=token.created_at,
            expires_at=token.expires_at,
            revoked_at=token.revoked_at,
            last_used_at=token.last_used_at,
        )


class Tokens(BaseModel):
    """All tokens."""

    items: list[TokenOut]


@router.get(
    "/credentials",
    tags=["credentials"],
    operation_id="listCredentials",
    dependencies=[Depends(require("read"))],
    responses=responses(401, 403, 422),
)
def list_credentials(services: TheServices) -> Credentials:
    """The names of all credentials."""
    return Credentials(items=[CredentialOut(name=name) for name in services.vault.names()])


@router.put(
    "/credentials/{name:path}",
    status_code=204,
    tags=["credentials"],
    operation_id="setCredential",
    responses=responses(401, 403, 413, 422),
)
def set_credential(act: Writing, name: Credential, body: CredentialIn) -> None:
    """Store a credential, over one of the same name. It is encrypted at once."""
    check_credential_name(name)
    services = act.services

    def make() -> str:
        with services.database.transaction() as connection:
            services.vault.put_in(connection, name, body.value)
            act.record(connection, name, f"credential {name} stored")
        return name

    act.once(make)


@router.delete(
    "/credentials/{name:path}",
    status_code=204,
    tags=["credentials"],
    operation_id="deleteCredential",
    responses=responses(401, 403, 404, 422),
)
def delete_credential(act: Writing, name: Credential) -> None:
    """Forget a credential."""
    check_credential_name(name)

    def make() -> str:
        act.services.vault.remove(
            name,
            also=lambda connection: act.record(connection, name, f"credential {name} removed"),
        )
        return name

    act.once(make)


@router.get(
    "/tokens",
    tags=["tokens"],
    operation_id="listTokens",
    dependencies=[Depends(require("admin"))],
    responses=responses(401, 403, 422),
)
def list_tokens(services: TheServices) -> Tokens:
    """All tokens, also those that have ended. New ones are made on the machine that has the
    database, with `slipway token create`: whoever gets hold of a token cannot make others."""
    now = services.clock.now()
    return Tokens(
        items=[TokenOut.of(token, now) for token in tokens.list_tokens(services.database)]
    )


@router.delete(
    "/tokens/{token_id}",
    status_code=204,
    tags=["tokens"],
    operation_id="revokeToken",
    responses=responses(401, 403, 404, 422),
)
def revoke_token(
    act: Administering,
    token_id: Annotated[
        str,
        Path(
            pattern=ID_OF_ONE, description="Id of the token.", examples=["token-01hkx3v9q2m4c7d8e"]
        ),
    ],
) -> None:
    """End a token at once."""
    services = act.services

    def make() -> str:
        tokens.revoke(
            services.database,
            services.clock,
            token_id,
            actor=act.who.actor,
            also=lambda connection: act.record(connection, token_id, f"{token_id} revoked"),
        )
        return token_id

    act.once(make)
