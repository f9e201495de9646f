from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import pytest

from dataguardian.api.gate import MAX_BODY_BYTES, MAX_VALUES
from tests.api.stage import Desk, is_error, play

NOBODY = "00000000-0000-7000-8000-000000000000"
MB = 1_000_000
BODIES = {
    "ten megabytes": (b'{"name":"' + b"x" * 10 * MB + b'"}', {413}),
    "deep lists": (b"[" * 900_000, {422}),
    "deep objects": (b'{"a":' * 150_000, {413, 422}),
    "deep enough": (b'{"a":' * 20_000, {422}),
    "a long number": (b'{"name":' + b"9" * 900_000 + b"}", {422}),
    "no text": (b'{"name":"\\ud800","type":"\\u0000"}', {422}),
    "no JSON": (b'{"name": NaN, "limit": 1e999}', {422}),
    "many values": (b'{"tags":[' + b"{}," * 300_000 + b"{}]}", {422}),
    "many fields": (b"{" + b",".join(b'"k%d":1' % at for at in range(80_000)) + b"}", {422}),
    "as many as may be": (b"{" + b",".join(b'"k%d":1' % at for at in range(MAX_VALUES - 10)) + b"}", {422}),
    "null": (b"null", {422}),
    "a list": (b"[]", {422}),
    "not UTF-8": (b"\xff\xfe", {422}),
    "two": (b'{"a":1}{', {422}),
}
NAMES = {"key": "notifications", "channel": "ops"}
SECONDS = 5.0
"""Far above what any takes on an idle machine, far below what the attack is after."""


def _routes(desk: Desk) -> list[tuple[str, str]]:
    """Returns every route that takes a body or might, with ids that nothing has."""
    found = []
    for route in desk.app.state.routes:
        path = re.sub(r"\{(\w+)[^}]*\}", lambda match: NAMES.get(match[1], NOBODY), route.path)
        found += [(method, path) for method in sorted(route.methods - {"GET", "HEAD"})]
    return found


@pytest.mark.parametrize("kind", BODIES)
def test_no_route_chokes_on_a_hostile_body(tmp_path: Path, kind: str) -> None:
    """Each route refuses it in a moment with 413 or 422, or has no use for a body at all; none answers 500."""
    body, refusals = BODIES[kind]

    async def story(desk: Desk) -> None:
        routes = _routes(desk)
        assert len(routes) > 20
        refused = 0
        for method, path in routes:
            began = time.monotonic()
            answer = await desk.http.request(method, path, content=body, headers={"Content-Type": "application/json"})
            assert time.monotonic() - began < SECONDS, (method, path)
            assert len(answer.content) < 100_000
            if len(body) > MAX_BODY_BYTES:
                is_error(answer, 413, "body_too_large")
            assert answer.status_code < 500, (method, path, answer.text)
            refused += answer.status_code in refusals
        assert refused >= 8

    play(tmp_path, story)


@pytest.mark.parametrize(
    "path",
    [
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/datasources/..%2f..%2fx",
        "/api/executions/%0d%0aSet-Cookie:%20a=b",
        "/health%0d%0aSet-Cookie:%20a=b",
        "/api/system/settings/%0d%0aX:1",
        "/api/..;/health",
        "/api/datasources/%00",
        "/api/datasources/%ff%fe",
    ],
)
def test_no_path_leads_out_or_splits_an_answer(tmp_path: Path, path: str) -> None:
    """A path is a name of ours or a 404 or 422; nothing of it becomes a header or a file."""

    async def story(desk: Desk) -> None:
        async with desk.served() as address, httpx.AsyncClient(headers=desk.headers) as http:
            answer = await http.get(address + path)
        assert answer.status_code in {404, 422}
        is_error(answer, answer.status_code)
        assert not {"set-cookie", "x"} & set(answer.headers)

    play(tmp_path, story)
