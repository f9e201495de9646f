"""What stories about access need: users, browsers and tokens at a desk."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import SecretStr

from dataguardian.domain.access import Permission, Role
from dataguardian.service.access.users import User
from tests.api.stage import BASE_URL, Desk

PASSWORD = "correct horse battery"


@dataclass
class Browser:
    """A browser that is signed in, or not yet: it keeps cookies, and sends Origin and its token with changes."""

    http: httpx.AsyncClient
    origin: str = BASE_URL
    csrf: str = ""

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(path, **options)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {"Origin": self.origin, "X-CSRF-Token": self.csrf} | headers
        return await self.http.request(method, path, **({} if body is None else {"json": body}), headers=sent)

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return await self.send("POST", path, body, **headers)

    async def sign_in(self, name: str, password: str = PASSWORD, code: str | None = None) -> httpx.Response:
        answer = await self.post("/api/session", {"name": name, "password": password, "code": code})
        if answer.status_code == 201:
            self.csrf = answer.json()["csrf_token"]
        return answer

    @property
    def cookie(self) -> str:
        return next(cookie.value or "" for cookie in self.http.cookies.jar)


def client(desk: Desk, address: str = "127.0.0.1", base_url: str = BASE_URL, **headers: str) -> httpx.AsyncClient:
    """A client of the desk's application at some address of the network, which nobody has signed in."""
    transport = httpx.ASGITransport(desk.app, raise_app_exceptions=False, client=(address, 40000))
    return httpx.AsyncClient(transport=transport, base_url=base_url, timeout=60, headers=headers)


@asynccontextmanager
async def browser(desk: Desk, address: str = "127.0.0.1", base_url: str = BASE_URL) -> AsyncIterator[Browser]:
    async with client(desk, address, base_url) as http:
        yield Browser(http, base_url)


async def user(desk: Desk, name: str = "anna", role: Role = Role.ADMIN, **fields: Any) -> User:
    return await desk.services.users.create(name=name, password=SecretStr(PASSWORD), role=role, **fields)


async def token(
    desk: Desk,
    role: Role = Role.ADMIN,
    *,
    permissions: set[Permission] | None = None,
    datasource_ids: frozenset[uuid.UUID] | None = None,
    **fields: Any,
) -> str:
    _, secret = await desk.services.tokens.create(
        name=f"{role} of a story", role=role, permissions=permissions, datasource_ids=datasource_ids, **fields
    )
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}
