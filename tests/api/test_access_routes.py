"""Every route says who may use it, and every role meets exactly that."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from dataguardian.api.access import PUBLIC, declarations, declared, requires
from dataguardian.api.app import ROUTERS
from dataguardian.domain.access import GRANTED, Permission, Role
from tests.api.access_stage import bearer, browser, client, token, user
from tests.api.stage import Desk, play

ROUTES = [
    (method, route)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]
PLACES = {"key": "notifications", "queue": "backup-queue", "job_id": str(uuid.uuid4()), "name": "mail"}


def address(route: APIRoute) -> str:
    """A route's address, of things that are not there."""
    return route.path_format.format(**{name: PLACES.get(name, str(uuid.uuid4())) for name in route.param_convertors})


async def _nothing() -> None:
    """What a forgetful route does."""


def closed() -> Iterator[tuple[str, APIRoute, Permission]]:
    for method, route in ROUTES:
        if (method, route.path) not in PUBLIC:
            yield method, route, declarations(route)[0].permission


def test_every_route_declares_its_permission_once_or_is_public() -> None:
    """A route that somebody adds without a word stops the service from starting."""
    for method, route in ROUTES:
        assert len(declarations(route)) == ((method, route.path) not in PUBLIC), (method, route.path)
    assert {(method, route.path) for method, route in ROUTES} >= PUBLIC
    forgotten, twice, loose = APIRouter(), APIRouter(), APIRouter()
    forgotten.get("/forgotten")(_nothing)
    twice.get("/twice", dependencies=[requires(Permission.VIEW), requires(Permission.RUN)])(_nothing)
    loose.get("/health", dependencies=[requires(Permission.VIEW)])(_nothing)
    for router in (forgotten, twice, loose):
        with pytest.raises(TypeError, match="requires"):
            declared(route for route in router.routes if isinstance(route, APIRoute))


def test_every_role_meets_exactly_what_routes_declare(tmp_path: Path) -> None:
    """401 for nobody; 403 where a role lacks the permission, before anything is looked at; something else elsewhere."""

    async def story(desk: Desk) -> None:
        tokens = {role: await token(desk, role) for role in Role}
        async with client(desk) as http:
            seen = set()
            for method, route, permission in closed():
                path = address(route)
                assert (await http.request(method, path)).status_code == 401, (method, path)
                for role, secret in tokens.items():
                    if permission in GRANTED[role]:
                        continue
                    answer = await http.request(method, path, headers=bearer(secret))
                    assert (answer.status_code, answer.json()["error"]) == (403, "forbidden"), (role, method, path)
                    assert answer.json()["details"]["permission"] == permission
                    seen.add((role, permission))
            declared_ones = {permission for _, _, permission in closed()}
            assert seen == {(role, need) for role in Role for need in declared_ones - GRANTED[role]}
            for method, route, permission in closed():
                for role in (role for role in Role if permission in GRANTED[role]):
                    answer = await http.request(method, address(route), headers=bearer(tokens[role]))
                    refused = answer.status_code in {401, 403}
                    assert not refused or route.path.startswith(("/api/account", "/api/session")), (role, method, route)

    play(tmp_path, story)


def test_sessions_meet_the_same_as_tokens(tmp_path: Path) -> None:
    """How somebody has proved who they are does not change what they may do."""

    async def story(desk: Desk) -> None:
        for role in Role:
            await user(desk, role.value, role)
            async with browser(desk) as page:
                await page.sign_in(role.value)
                for method, route, permission in closed():
                    if permission not in GRANTED[role]:
                        assert (await page.send(method, address(route))).status_code == 403, (role, method, route)
                    elif method == "GET":
                        assert (await page.get(address(route))).status_code not in {401, 403}, (role, route)

    play(tmp_path, story)


def test_public_routes_ask_nobody_who_they_are(tmp_path: Path) -> None:
    """Not even somebody whose token or session is not valid any more: else nobody could sign in again."""

    async def story(desk: Desk) -> None:
        bad = {"Authorization": "Bearer dgt_" + "A" * 43, "Cookie": "dataguardian=" + "A" * 43}
        async with client(desk) as http:
            for method, path in sorted(PUBLIC):
                answer = await http.request(method, path, headers=bad)
                assert answer.status_code in ({200} if method == "GET" else {422}), (method, path, answer.text)

    play(tmp_path, story)


def test_the_document_tells_of_schemes_and_refusals(tmp_path: Path) -> None:
    """Whoever generates a client from it learns how to sign in, and what happens otherwise."""

    async def story(desk: Desk) -> None:
        document = (await desk.get("/api/openapi.json")).json()
        schemes = document["components"]["securitySchemes"]
        assert schemes["token"].items() >= {"type": "http", "scheme": "bearer"}.items()
        assert schemes["session"].items() >= {"type": "apiKey", "in": "cookie", "name": "dataguardian"}.items()
        assert document["security"] == [{"token": []}, {"session": []}]
        assert "no access control" not in str(document)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if (method.upper(), path) in PUBLIC:
                    assert operation["security"] == [], path
                else:
                    assert {"401", "403"} <= set(operation["responses"]), (method, path)
                    assert operation["x-permission"] in set(Permission)

    play(tmp_path, story)
