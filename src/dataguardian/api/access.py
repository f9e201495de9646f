"""Who asks, and whether they may: every request is made by an actor, every route says which permission it needs.

A route is public, or it has exactly one `requires(Permission.…)`; the application does not start with one that has
neither (`declared`). A request proves who makes it by a token (`Authorization: Bearer dgt_…`) or by a session's cookie.
Where it sends that header, nothing else counts. A change that is asked for with a cookie must come from our own page:
the browser says so in Origin, and the page in X-CSRF-Token. A token needs neither, because no browser adds one itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from dataguardian.api.errors import answer_of
from dataguardian.api.neighbours import SAFE_METHODS, address_in, own_origin, within
from dataguardian.api.patience import patiently
from dataguardian.domain.access import Actor, ActorKind, Permission, Role
from dataguardian.domain.errors import CatalogUnavailableError, DataGuardianError, ForbiddenError, UnauthenticatedError
from dataguardian.service.access.sessions import LONGEST, SignedIn
from dataguardian.service.acting import acting, current_actor
from dataguardian.service.services import Services

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


METRICS = "/metrics"
VIEWING = frozenset({Permission.VIEW})
COOKIE = "dataguardian"
STATE = "dataguardian_session"


SECURITY_SCHEMES: dict[str, dict[str, str]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "dgt_…",
        "description": "A token: POST /api/tokens, or `dataguardian token create` on the machine that holds the home",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "A session: POST /api/session sets the cookie, over TLS with `__Host-` before its name",
    },
}


async def _always() -> bool:
    """What runs by itself may go on."""
    return True


_admission: ContextVar[Callable[[], Awaitable[bool]]] = ContextVar("admission", default=_always)


@dataclass(frozen=True)
class Here:
    """The session that makes a request."""

    known: SignedIn
    secret: str = field(repr=False)


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
        admission = _admission.set(partial(self._stays, scope, actor))
        try:
            with acting(actor):
                await self._app(scope, receive, send)
        finally:
            _admission.reset(admission)

    async def _stays(self, scope: Scope, actor: Actor) -> bool:
        try:
            return await self._authenticated(scope) == actor
        except CatalogUnavailableError:
            return True  # nothing is shown while it is away
        except DataGuardianError:
            return False

    async def _caller(self, scope: Scope) -> Actor | Response:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        public = (method, scope["path"]) in PUBLIC
        if public and scope["path"] not in CURIOUS:
            return stranger(scope)
        try:
            return await patiently(self._authenticated(scope), self._services.context.db)
        except DataGuardianError as error:
            if isinstance(error, UnauthenticatedError) and shows_something(scope):
                self._services.refusals.note("token.refused", actor=stranger(scope))
            if isinstance(error, ForbiddenError):  # a session's, asked for by another page
                changes = {"reason": [None, error.message]}
                self._services.refusals.note("permission.refused", actor=stranger(scope), changes=changes)
            return stranger(scope) if public else answer_of(error)

    async def _authenticated(self, scope: Scope) -> Actor:
        """Raises UnauthenticatedError, CatalogUnavailableError."""
        address = address_of(scope)
        if self._scrapes(scope, address):
            return replace(stranger(scope), name="metrics", permissions=VIEWING, datasources=None)
        secret = None if _sent(scope, b"authorization") else cookie_of(scope)
        if secret is None:
            return replace(await self._services.tokens.authenticate(bearer(scope), address), address=address)
        known = await self._services.sessions.authenticate(secret)
        _check_page(scope, known)
        scope.setdefault("state", {})[STATE] = Here(known, secret)
        return replace(known.actor, address=address)

    def _scrapes(self, scope: Scope, address: str | None) -> bool:
        """Tells whether somebody who need not say who they are asks for the metrics."""
        networks = self._services.context.settings.metrics_networks
        is_silent = not _sent(scope, b"authorization") and cookie_of(scope) is None
        return scope["path"] == METRICS and is_silent and within(address_in(address or ""), networks)


async def still_admitted() -> bool:
    """Tells, in an answer that goes on for long, whether whoever asked for it may still do what they could then."""
    return await _admission.get()()


def bearer(scope: Scope) -> str:
    """Returns the token that a request sends. Raises UnauthenticatedError: none, several headers, another scheme."""
    sent = _sent(scope, b"authorization")
    if not sent:
        raise UnauthenticatedError("this request does not say who makes it", hint=SIGN_IN_HINT)
    scheme, _, token = sent[0].partition(" ")
    if len(sent) > 1 or scheme.lower() != "bearer":
        raise UnauthenticatedError(
            "the header Authorization must be there once, with a Bearer token", hint=SIGN_IN_HINT
        )
    return token.strip()


def shows_something(scope: Scope) -> bool:
    """Tells whether a request tried to prove who makes it."""
    return any(name == b"authorization" for name, _ in scope["headers"])


def cookie_of(scope: Scope) -> str | None:
    """Returns the session's secret that a request sends. Raises UnauthenticatedError when it sends several: a cookie
    that somebody has planted must not be taken for the real one.
    """
    name = cookie_name(scope)
    pairs = [pair.strip().partition("=") for header in _sent(scope, b"cookie") for pair in header.split(";")]
    values = [value for key, _, value in pairs if key == name]
    if len(values) > 1:
        raise UnauthenticatedError("this request sends several sessions", hint="delete this site's cookies")
    return values[0] if values else None


def cookie_name(scope: Scope) -> str:
    """Returns the cookie's name. Browsers let nobody but us, over TLS, set one that begins with `__Host-`."""
    return f"__Host-{COOKIE}" if is_secure(scope) else COOKIE


def set_cookie(scope: Scope, response: Response, secret: str) -> None:
    """Gives the browser a session; its scripts never see it, and other sites cannot make it send it."""
    response.set_cookie(
        cookie_name(scope),
        secret,
        max_age=int(LONGEST.total_seconds()),
        path="/",
        secure=is_secure(scope),
        httponly=True,
        samesite="strict",
    )


def end_cookie(scope: Scope, response: Response) -> None:
    response.delete_cookie(cookie_name(scope), path="/", secure=is_secure(scope), httponly=True, samesite="strict")


def is_secure(scope: Scope) -> bool:
    """Tells whether the browser speaks TLS, with us or with a proxy that we trust."""
    return bool(scope["scheme"] == "https")


def signed_in(request: Request) -> Here | None:
    """Returns the session that makes a request; None when a token does."""
    here: Here | None = getattr(request.state, STATE, None)
    return here


async def _by_session(request: Request) -> Here:
    here = signed_in(request)
    if here is None:
        raise ForbiddenError("this needs a session, and the request has a token", hint="sign in with name and password")
    return here


SignedInHere = Annotated[Here, Depends(_by_session)]


def _check_page(scope: Scope, known: SignedIn) -> None:
    """Raises ForbiddenError for a request that another site may have made a browser send."""
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None and origin.lower() != own_origin(scope):
        raise ForbiddenError("this request comes from a page of another site", hint="call DataGuardian with a token")
    if scope["method"] in SAFE_METHODS:
        return
    if origin is None or len(_sent(scope, b"x-csrf-token")) != 1 or not known.has_csrf(headers["x-csrf-token"]):
        raise ForbiddenError(
            "this change does not prove that our own page has sent it",
            hint="send Origin, and X-CSRF-Token as GET /api/session gives it; or use a token instead of a session",
        )


def _sent(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def stranger(scope: Mapping[str, Any]) -> Actor:
    """Returns who may do nothing, for routes that are for everybody."""
    return Actor(
        ActorKind.USER, "anonymous", Role.VIEWER, frozenset(), datasources=frozenset(), address=address_of(scope)
    )


def address_of(scope: Mapping[str, Any]) -> str | None:
    """Returns the client's address, as the gate has made it out."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else None
