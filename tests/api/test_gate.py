"""What every request passes: who may ask, in which form, and how every refusal looks."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from tests.api.stage import Desk, is_error, play

JSON = {"Content-Type": "application/json"}


LOOPBACK = ("localhost", "localhost:8484", "127.0.0.1:1", "[::1]:8484", "LOCALHOST")
FOREIGN = ("evil.example.org", "localhost.evil.org", "127.0.0.1.evil.org", "192.168.1.5", "", "localhost@evil.org")
FOREIGN += ("[::1", "0.0.0.0", "localhost:x", "localhost/", "localhost localhost")


def test_unless_others_are_allowed_only_loopback_names_are_answered(tmp_path: Path) -> None:
    """A page that rebinds its own name to 127.0.0.1 sends that name, and gets nothing."""

    async def story(desk: Desk) -> None:
        for host in LOOPBACK:
            assert (await desk.http.get("/health", headers={"Host": host})).status_code == 200, host
        for host in FOREIGN:
            for path in ("/health", "/api/datasources", "/metrics", "/nowhere"):
                is_error(await desk.http.get(path, headers={"Host": host}), 403, "foreign_host")

    play(tmp_path, story)


def test_pages_of_other_sites_are_refused(tmp_path: Path) -> None:
    """A foreign or opaque Origin is refused; our own, or none, is not."""

    async def story(desk: Desk) -> None:
        for origin in ("https://evil.example.org", "null", "http://localhost:9999", "https://localhost:8484"):
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = await desk.http.request(method, "/api/datasources", headers={"Origin": origin})
                is_error(answer, 403, "foreign_site")
        is_error(await desk.http.post("/api/notifications/read-all", headers={"Sec-Fetch-Site": "cross-site"}), 403)
        ours = {"Origin": "http://localhost:8484", "Sec-Fetch-Site": "same-origin"}
        assert (await desk.http.post("/api/notifications/read-all", headers=ours)).status_code == 200
        assert (await desk.http.get("/health", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200

    play(tmp_path, story)


def test_a_form_cannot_change_anything(tmp_path: Path) -> None:
    """Bodies that a browser sends without asking first are refused; so is JSON under another name."""

    async def story(desk: Desk) -> None:
        body = b'{"name": "x"}'
        kinds = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"]
        for kind in kinds:
            answer = await desk.http.post("/api/datasources", content=body, headers={"Content-Type": kind})
            is_error(answer, 415, "not_json")
        answer = await desk.http.post(
            "/api/notifications/read-all", content=body, headers={"Content-Type": "text/plain"}
        )
        is_error(answer, 415, "not_json")
        kind = "application/json; charset=utf-8"
        is_error(await desk.http.post("/api/datasources", content=body, headers={"Content-Type": kind}), 422)

    play(tmp_path, story)


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """Whether its length is announced, hidden or a lie."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b'"' + b"x" * 100_000

    async def story(desk: Desk) -> None:
        large = b'"' + b"x" * 1_000_000 + b'"'
        is_error(await desk.http.post("/api/datasources", content=large, headers=JSON), 413, "body_too_large")
        is_error(await desk.http.post("/api/datasources", content=pieces(), headers=JSON), 413, "body_too_large")
        fits = b'{"name": "' + b"x" * 900_000 + b'"}'
        is_error(await desk.http.post("/api/datasources", content=fits, headers=JSON), 422, "validation")

    play(tmp_path, story)


UNSTORABLE = (
    b"{",
    b"",
    b"\xff\xfe\xfd",
    b"null",
    b"[" * 100_000,
    b'{"name": NaN}',
    b'{"name": "a\\u0000b", "type": "files", "connection_config": {"source_path": "/x"}}',
    b'{"name": "a\\ud800b", "type": "files", "connection_config": {"source_path": "/x"}}',
    b'{"name": "ab", "type": "files\\ud800", "connection_config": {"source_path": "/x"}}',
    b'{"name": "ab", "type": "files", "connection_config": {"source_path": "/x\\u0000"}}',
    b'{"name": "ab", "type": "files", "connection_config": {"source_path": "/x\\udfff"}}',
    b'{"name": "ab", "type": "files", "connection_config": {"source_path": "/x"}, "\\ud800": 1}',
    b'{"name": "ab", "type": "files", "connection_config": {"source_path": "/x"}, "tags": ["\\u0000"]}',
    b'{"name": "ab", "type": "files", "enabled": 1e999, "connection_config": {"source_path": "/x"}}',
    b'{"name": "ab", "type": "files", "enabled": ' + b"9" * 5000 + b', "connection_config": {"source_path": "/x"}}',
    b'{"name": "ab", "type": "postgres", "connection_config": {"port": ' + b"9" * 400 + b"}}",
)


def test_bodies_that_no_catalogue_could_store_are_refused(tmp_path: Path) -> None:
    """Broken JSON, NUL characters, halves of surrogates and numbers without end are 422, never an error of ours."""

    async def story(desk: Desk) -> None:
        for body in UNSTORABLE:
            answer = await desk.http.post("/api/datasources", content=body, headers=JSON)
            is_error(answer, 422, "validation")

    play(tmp_path, story)


def test_free_json_is_looked_through_as_well(tmp_path: Path) -> None:
    """Where any JSON is taken, at any depth, the same rules hold, for keys too."""

    async def story(desk: Desk) -> None:
        source = await desk.datasource()
        deep: object = 1
        for _ in range(60):
            deep = [deep]
        for value in ("\x00", {"\x00": 1}, [["\udc00"]], 2**63, -(2**63) - 1, deep):
            for path, body in (
                (f"/api/datasources/{source['id']}", {"connection_config": {"file_path": value}}),
                ("/api/system/settings/notifications", {"value": {"routes": value}}),
            ):
                answer = await desk.http.put(path, content=json.dumps(body).encode(), headers=JSON)
                is_error(answer, 422, "validation")

    play(tmp_path, story)


def test_unknown_addresses_and_methods_have_our_shape(tmp_path: Path) -> None:
    """404 and 405 are errors like all others; ids must be UUIDs."""

    async def story(desk: Desk) -> None:
        is_error(await desk.get("/api/nowhere"), 404, "not_found")
        is_error(await desk.get("/docs"), 404, "not_found")
        refused = await desk.http.patch("/api/datasources")
        is_error(refused, 405, "method_not_allowed")
        assert refused.headers["allow"] == "GET, POST"
        is_error(await desk.get("/api/datasources/not-an-id"), 422, "validation")
        for what in ("datasources", "storage-locations", "backup-jobs", "executions", "restores", "verifications"):
            is_error(await desk.get(f"/api/{what}/{uuid.uuid4()}"), 404, "not_found")
        is_error(await desk.get(f"/api/notifications/{uuid.uuid4()}"), 404, "not_found")

    play(tmp_path, story)


def test_every_answer_carries_a_request_id_and_security_headers(tmp_path: Path) -> None:
    """An id that was sent comes back, a strange one is replaced; refusals carry both, too."""

    async def story(desk: Desk) -> None:
        answer = await desk.http.get("/health", headers={"X-Request-ID": "my-own.id_1"})
        assert answer.headers["x-request-id"] == "my-own.id_1"
        for strange in ("a b", "x" * 65, "ü", '{"a":1}'):
            answer = await desk.http.get("/health", headers={"X-Request-ID": strange.encode()})
            assert uuid.UUID(answer.headers["x-request-id"])
        for path, host in (("/health", "localhost"), ("/nowhere", "localhost"), ("/health", "evil.org")):
            headers = (await desk.http.get(path, headers={"Host": host})).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert headers["x-request-id"]

    play(tmp_path, story)


def test_a_request_is_one_line_of_the_log_and_says_no_secret(tmp_path: Path) -> None:
    """Method, path, status and time, with the request's id; neither query nor body."""

    async def story(desk: Desk) -> None:
        with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            await desk.http.get("/api/datasources?token=s3cret", headers={"X-Request-ID": "abc"})
            await desk.post("/api/datasources", {"name": "x", "password": "s3cret"})
        assert "s3cret" not in str(lines)
        first, second = lines
        duration = first.pop("duration_ms")
        assert 0 < duration < 60_000
        assert first == {
            "event": "request",
            "log_level": "info",
            "method": "GET",
            "path": "/api/datasources",
            "status": 200,
            "request_id": "abc",
        }
        assert second["status"] == 422

    play(tmp_path, story)


def test_a_defect_is_a_500_in_our_shape_and_the_log_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody foresaw tells the caller an id to look for, and nothing of our insides."""
    caplog.set_level(logging.CRITICAL)

    async def story(desk: Desk) -> None:
        async def broken(*_: object) -> None:
            raise RuntimeError("the secret insides")

        monkeypatch.setattr(type(desk.services.history), "datasources", broken)
        with structlog.testing.capture_logs() as lines:
            answer = await desk.http.get("/api/datasources", headers={"X-Request-ID": "find-me"})
        body = is_error(answer, 500, "internal")
        assert body["details"]["request_id"] == "find-me"
        assert "insides" not in answer.text
        assert any(line["log_level"] == "error" and "exc_info" in line for line in lines)

    play(tmp_path, story)
