"""Who calls: a bearer token stands for a name and its scopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.requests import Request

from slipway import tokens
from slipway.api.problems import ApiProblem
from slipway.api.state import TheServices
from slipway.launches.services import Services
from slipway.tokens import Scope

#: RFC 6750: what a 401 says it wants.
_CHALLENGE = 'Bearer realm="slipway"'

_bearer = HTTPBearer(
    scheme_name="bearer",
    description="A token from 'slipway token create'. Scopes: read, launch, write, admin.",
    auto_error=False,
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Whoever a token stands for."""

    name: str
    token_id: str
    scopes: frozenset[Scope]

    @property
    def actor(self) -> str:
        """Who acts, for the audit."""
        return f"token/{self.name}"

    def may(self, scope: Scope | str) -> bool:
        """Whether the token is good for this."""
        return Scope(scope) in self.scopes


def authenticate(services: Services, value: SecretStr) -> Principal | None:
    """Who a token stands for; None for one that is unknown, revoked or expired."""
    token = tokens.find(services.database, services.clock, value)
    if token is None or not tokens.is_good(token, services.clock.now()):
        return None
    return Principal(name=token.name, token_id=token.id, scopes=tokens.allowed(token))


class Require:
    """A dependency that lets only tokens with a scope pass; answers whose it is.

    ``Depends(require("read"))``, or as a parameter: ``who: Annotated[Principal,
    Depends(require("read"))]``.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def __call__(
        self, request: Request, services: TheServices, credentials: _Credentials
    ) -> Principal:
        """Raises a 401 or 403 problem."""
        if credentials is None:
            raise _unauthenticated("send 'Authorization: Bearer slw_…'")
        who = authenticate(services, SecretStr(credentials.credentials))
        if who is None:
            # Which of the three it is would help whoever found the token somewhere.
            raise _unauthenticated("the token is unknown, expired or revoked", invalid=True)
        if not who.may(self.scope):
            challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{self.scope}"'
            raise ApiProblem(
                403,
                "forbidden",
                f"{request.method} {request.url.path} needs the scope {self.scope}, "
                f"which token {who.name} lacks",
                headers={"WWW-Authenticate": challenge},
            )
        return who


def require(scope: str) -> Require:
    """The dependency for a scope."""
    return Require(Scope(scope))


#: A handler's parameter of this type says what it takes to call it.
Reader = Annotated[Principal, Depends(require("read"))]
Launcher = Annotated[Principal, Depends(require("launch"))]
Writer = Annotated[Principal, Depends(require("write"))]
Admin = Annotated[Principal, Depends(require("admin"))]


def _unauthenticated(detail: str, *, invalid: bool = False) -> ApiProblem:
    challenge = f'{_CHALLENGE}, error="invalid_token"' if invalid else _CHALLENGE
    return ApiProblem(401, "unauthenticated", detail, headers={"WWW-Authenticate": challenge})
