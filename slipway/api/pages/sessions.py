"""Who looks at a page: a cookie stands for a token, and a form proves that a page of ours sent it.

The cookie names the token by its id and is signed; the token itself stays with whoever pasted it.
Every request looks the token up again, so that one that is revoked, has expired or lost a scope
opens nothing from then on.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from fastapi import Request
from markupsafe import Markup
from pydantic import SecretStr
from starlette.responses import Response

from slipway import tokens
from slipway.api.auth import Principal, authenticate
from slipway.launches.services import Services
from slipway.tokens import Scope

#: How long a login lasts.
LASTS = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class PersonWithToken(Principal):
    """Whoever a token stands for, sitting at the dashboard."""

    @property
    def actor(self) -> str:
        """Who acts, for the audit."""
        return f"{super().actor} (dashboard)"


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """Whoever is logged in, and what their forms carry."""

    principal: PersonWithToken
    csrf: str

    @property
    def name(self) -> str:
        """The token's."""
        return self.principal.name

    @property
    def actor(self) -> str:
        """Who acts, for the audit."""
        return self.principal.actor

    @property
    def csrf_field(self) -> Markup:
        """What every form that changes something begins with."""
        return Markup('<input type="hidden" name="csrf" value="{}">').format(self.csrf)

    def can(self, scope: Scope | str) -> bool:
        """Whether a button that needs this scope is shown."""
        return self.principal.may(scope)


class Sessions:
    """Makes and reads the cookies of one installation."""

    def __init__(self, services: Services) -> None:
        self._services = services
        # One key for all processes that share the vault's, so that any of them may answer.
        self._key = services.vault.derive_key("dashboard sessions")
        #: Cookies are shared by all ports of a host; two installations on one must not log each
        #: other out.
        self._name = f"slipway-{hmac.new(self._key, b'name', 'sha256').hexdigest()[:8]}"

    def log_in(self, request: Request, response: Response, value: SecretStr) -> Principal | None:
        """Give the browser a cookie for a token; None for a token that opens nothing."""
        principal = authenticate(self._services, value)
        if principal is None:
            return None
        until = self._services.clock.now() + LASTS
        told = {
            "token": principal.token_id,
            "until": until.isoformat(),
            "nonce": secrets.token_urlsafe(12),
        }
        body = base64.urlsafe_b64encode(json.dumps(told).encode()).decode()
        response.set_cookie(
            self._cookie(request),
            f"{body}.{self._sign('session', body)}",
            max_age=int(LASTS.total_seconds()),
            path="/",
            httponly=True,
            secure=is_secure(request, self._services),
            samesite="strict",
        )
        return principal

    def log_out(self, request: Request, response: Response) -> None:
        """Take the cookie back."""
        response.delete_cookie(
            self._cookie(request),
            path="/",
            httponly=True,
            secure=is_secure(request, self._services),
            samesite="strict",
        )

    def visitor(self, request: Request) -> Visitor | None:
        """Who sent this request; None for nobody we know."""
        body, _, signature = request.cookies.get(self._cookie(request), "").rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._sign("session", body).encode()):
            return None
        try:
            told = json.loads(base64.urlsafe_b64decode(body))
            token_id, until = str(told["token"]), datetime.fromisoformat(told["until"])
        except (binascii.Error, ValueError, KeyError, TypeError):
            return None
        now = self._services.clock.now()
        if now >= until:
            return None
        token = tokens.get(self._services.database, token_id)
        if token is None or not tokens.is_good(token, now):
            return None
        principal = PersonWithToken(
            name=token.name, token_id=token.id, scopes=tokens.allowed(token)
        )
        return Visitor(principal=principal, csrf=self._sign("form", body))

    def _cookie(self, request: Request) -> str:
        # The prefix has the browser refuse the cookie from a subdomain or without TLS.
        prefix = "__Host-" if is_secure(request, self._services) else ""
        return prefix + self._name

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose} {text}".encode(), "sha256").hexdigest()


def is_secure(request: Request, services: Services) -> bool:
    """Whether the browser talks TLS, to us or to a proxy in front of us."""
    return request.url.scheme == "https" or services.settings.api_url.startswith("https:")


def comes_from_us(request: Request, services: Services) -> bool:
    """Whether a browser says that a page of ours sent this. Browsers of today say so by
    ``Sec-Fetch-Site``, and without TLS by ``Origin``; what says neither is no browser."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return True
    ours = {request.headers.get("host", ""), urlsplit(services.settings.api_url).netloc}
    return urlsplit(origin).netloc in ours
