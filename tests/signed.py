"""How tests sign in: with the token that a service keeps in its home for commands of its own user, as people do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx

LOCAL_TOKEN = "local-token"


def token_of(home: Path) -> str:
    """Returns the token that the last start of a service left in its home."""
    return (home / LOCAL_TOKEN).read_text().strip()


def signed(home: Path) -> Callable[[httpx.Request], httpx.Request]:
    """Returns httpx's `auth` for a service, whose token is another one after each start.

    A request that says itself who makes it is left alone; `auth=None` makes one of nobody.
    """

    def sign(request: httpx.Request) -> httpx.Request:
        request.headers.setdefault("Authorization", f"Bearer {token_of(home)}")
        return request

    return sign
