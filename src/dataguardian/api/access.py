"""Who asks, and whether they may: every request is made by an actor, every route says which permission it needs.

A route is public, or it has exactly one `requires(Permission.…)`; the application does not start with one that has
neither (`declared`). A request proves who makes it by a token (`Authorization: Bearer dgt_…`). Where it sends that
header, nothing else counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Depends
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from dataguardian.api.errors import answer_of
from dataguardian.api.patience import patiently
from dataguardian.core.acting import acting, current_actor
from dataguardian.core.services import Services
from dataguardian.domain.access import Actor, ActorKind, Permission, Role
from dataguardian.domain.errors import DataGuardianError, ForbiddenError, UnauthenticatedError

PUBLIC = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/api/setup"),
        ("POST", "/api/setup"),
        ("POST", "/api/session"),
    }
)
"""Routes for everybody: who asks does not matter to them, except that /ready says more to those who may view."""
CURIOUS = frozenset({"/ready"})
SIGN_IN_HINT = (
    "send `Authorization: Bearer dgt_…`; `dataguardian token create` makes a token on the machine that holds the home"
)


@dataclass(frozen=True)
class Required:
    """A route's declaration. `everywhere`: about the whole installation, so not for those limited to datasources."""

    permission: Permission
    everywhere: bool = False

    async def __call__(self) -> None:
        actor = current_actor()
        if not actor.may(self.permission):
            raise ForbiddenError(
                f"{actor.name} may not do this: it needs the permission {self.permission}",
                hint="ask an administrator for another role or token",
                permission=self.permission.value,
            )
        if self.everywhere:
            refuse_limited()


def refuse_limited() -> None:
    """Raises ForbiddenError when the actor is limited to some datasources."""
    actor = current_actor()
    if actor.datasources is not None:
        raise ForbiddenError(
            f"{actor.name} may not do this: it is about every datasource, and not all are within its limit",
            hint="ask somebody who has no limit",
        )


def requires(permission: Permission, *, everywhere: bool = False) -> Any:  # noqa: ANN401 -- fastapi's own marker
    """Returns what goes into a route's `dependencies`: its one declaration of who may use it."""
    return Depends(Required(permission, everywhere))


def declarations(route: BaseRoute) -> list[Required]:
    """Returns a route's declarations: one, or none when it is public."""
    if not isinstance(route, APIRoute):
        return []
    return [entry.dependency for entry in route.dependencies if isinstance(entry.dependency, Required)]


def declared(routes: Iterable[APIRoute]) -> None:
    """Raises TypeError for a route that does not say who may use it: a service with one must not start."""
    for route in routes:
        for method in route.methods or ():
            wanted = 0 if (method, route.path) in PUBLIC else 1
            if len(declarations(route)) != wanted:
                raise TypeError(f"{method} {route.path} must have exactly {wanted} `requires(…)`")


class Access:
    """Finds out who makes a request, and lets them act as who they are. Strangers go before their body is parsed."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        actor = await self._caller(scope)
        if isinstance(actor, Response):
            await actor(scope, receive, send)
            return
        with acting(actor):
            await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Actor | Response:
        public = (scope["method"], scope["path"]) in PUBLIC
        if public and scope["path"] not in CURIOUS:
            return stranger(scope)
        try:
            return await patiently(self._authenticated(scope), self._services.context.db)
        except DataGuardianError as error:
            return stranger(scope) if public else answer_of(error)

    async def _authenticated(self, scope: Scope) -> Actor:
        """Raises UnauthenticatedError, CatalogUnavailableError."""
        address = address_of(scope)
        actor = await self._services.tokens.authenticate(bearer(scope), address)
        return replace(actor, address=address)


def bearer(scope: Scope) -> str:
    """Returns the token that a request sends. Raises UnauthenticatedError: none, several headers, another scheme."""
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    if not sent:
        raise UnauthenticatedError("this request does not say who makes it", hint=SIGN_IN_HINT)
    header: str = sent[0].decode("latin-1")
    scheme, _, token = header.partition(" ")
    if len(sent) > 1 or scheme.lower() != "bearer":
        raise UnauthenticatedError(
            "the header Authorization must be there once, with a Bearer token", hint=SIGN_IN_HINT
        )
    return token.strip()


def stranger(scope: Mapping[str, Any]) -> Actor:
    """Returns who may do nothing, for routes that are for everybody."""
    return Actor(
        ActorKind.USER, "anonymous", Role.VIEWER, frozenset(), datasources=frozenset(), address=address_of(scope)
    )


def address_of(scope: Mapping[str, Any]) -> str | None:
    """Returns the client's address, as the gate has made it out."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else None
