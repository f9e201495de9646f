from __future__ import annotations

import base64
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dataguardian.domain.errors import NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.notifiers.registry import settings_type
from dataguardian.notifiers.webhook import WebhookConfig, WebhookNotifier, sign, verify_signature
from tests.notifiers import peers
from tests.notifiers.peers import Certificate
from tests.notifiers.samples import notification

SECRET = "shared-with-the-receiver"
DOCUMENT = Path(__file__).parents[2] / "docs" / "notifications.md"


class FixedClock:
    def now(self) -> datetime:
        return datetime(2026, 11, 23, 4, 0, 1, 900_000, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


def _config(port: int, /, **changes: Any) -> WebhookConfig:
    fields = {"url": f"http://127.0.0.1:{port}/hook?team=ops", "secret": SECRET, "timeout_seconds": 10}
    return WebhookConfig.model_validate(fields | changes)


def _code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_a_message_arrives_signed() -> None:
    """The POST has the notification as JSON, its id, and a signature over the time and the very bytes of the body."""
    with peers.http_server() as hook:
        WebhookNotifier(_config(hook.port), clock=FixedClock()).send(notification(title="Sicherung ✗"))
    ((path, headers, body),) = hook.requests
    assert path == "/hook?team=ops"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"].startswith("DataGuardian/")
    assert headers["x-dataguardian-id"] == str(notification().id)
    assert headers["x-dataguardian-timestamp"] == str(int(FixedClock().now().timestamp()))
    assert headers["x-dataguardian-signature"] == sign(SECRET, headers["x-dataguardian-timestamp"], body)
    assert json.loads(body)["title"] == "Sicherung ✗"


def test_the_documented_body_is_the_one_that_is_sent() -> None:
    """docs/notifications.md shows every field of the body, in the form that is sent."""
    documented = next(json.loads(block) for block in _code_blocks("json") if '"severity"' in block)
    with peers.http_server() as hook:
        WebhookNotifier(_config(hook.port)).send(notification(message="pg_dump ended with 1", metadata={"attempt": 3}))
    assert hook.json == [documented]


def test_the_documented_settings_are_valid() -> None:
    """The example of the settings in docs/notifications.md is one."""
    example = next(json.loads(block) for block in _code_blocks("json") if '"channels"' in block)
    settings = settings_type().model_validate(example)
    assert list(settings.channels) == ["ops mail", "incident hook", "phone"]


def test_the_documented_check_takes_ours_and_refuses_others() -> None:
    """The receiver's code in docs/notifications.md believes a real message, and none that was changed or is old."""
    (code,) = _code_blocks("python")
    names: dict[str, Any] = {}
    exec(code, names)
    is_genuine = names["is_genuine"]
    with peers.http_server() as hook:
        WebhookNotifier(_config(hook.port)).send(notification())
    ((_, lowered, body),) = hook.requests
    headers = {name.title().replace("Dataguardian", "DataGuardian"): value for name, value in lowered.items()}
    assert is_genuine(SECRET, headers, body)
    assert not is_genuine(SECRET, headers, body + b" ")
    assert not is_genuine("another secret", headers, body)
    old = str(int(time.time()) - 301)
    replayed = headers | {"X-DataGuardian-Timestamp": old, "X-DataGuardian-Signature": sign(SECRET, old, body)}
    assert not is_genuine(SECRET, replayed, body)


@pytest.mark.parametrize(
    ("changes", "genuine"),
    [
        ({}, True),
        ({"now": 1300.0}, True),
        ({"now": 1301.0}, False),
        ({"now": 699.0}, False),
        ({"body": b"{ }"}, False),
        ({"timestamp": "1001"}, False),
        ({"timestamp": "1000 "}, False),
        ({"timestamp": "\u0661\u0660\u0660\u0660"}, False),
        ({"timestamp": ""}, False),
        ({"secret": "another"}, False),
        ({"signature": ""}, False),
        ({"signature": "sha256=ü\udcff"}, False),
    ],
    ids=str,
)
def test_a_signature_is_for_one_body_one_time_and_one_secret(changes: dict[str, Any], genuine: bool) -> None:
    """Only what we signed, not long ago, verifies; whatever is sent instead is refused without an error."""
    good: dict[str, Any] = {
        "secret": SECRET,
        "timestamp": "1000",
        "body": b"{}",
        "signature": sign(SECRET, "1000", b"{}"),
        "now": 1000.0,
    }
    assert verify_signature(**good | changes) is genuine


def test_every_try_has_its_own_time_and_the_same_id() -> None:
    """A retry is recognised by its id, and is fresh for a receiver that refuses old messages."""
    with peers.http_server() as hook:
        notifier = WebhookNotifier(_config(hook.port))
        notifier.send(notification())
        time.sleep(1.1)
        notifier.send(notification())
    first, second = (headers for _, headers, _ in hook.requests)
    assert first["x-dataguardian-id"] == second["x-dataguardian-id"]
    assert int(first["x-dataguardian-timestamp"]) < int(second["x-dataguardian-timestamp"])


def test_extra_headers_and_a_login_are_sent() -> None:
    """Headers of the configuration, and a user and password in the address, reach the server."""
    with peers.http_server() as hook:
        url = f"http://me:p%40ss@127.0.0.1:{hook.port}"
        WebhookNotifier(_config(hook.port, url=url, secret=None, headers={"X-Api-Key": "k"})).send(notification())
    ((path, headers, _),) = hook.requests
    assert path == "/"
    assert headers["x-api-key"] == "k"
    assert headers["authorization"] == f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert headers["host"] == f"127.0.0.1:{hook.port}"
    assert "x-dataguardian-signature" not in headers


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599, 429, 408, 425])
def test_trouble_of_the_server_is_worth_retrying(status: int) -> None:
    """The statuses that mean "later" are transient."""
    with peers.http_server() as hook:
        hook.status = status
        with pytest.raises(NotifierTransientError, match=str(status)):
            WebhookNotifier(_config(hook.port)).send(notification())
    assert len(hook.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 422])
def test_a_refusal_is_permanent(status: int) -> None:
    """The statuses that mean "never" are not retried."""
    with peers.http_server() as hook:
        hook.status = status
        with pytest.raises(NotifierRejectedError, match=str(status)):
            WebhookNotifier(_config(hook.port)).send(notification())
    assert len(hook.requests) == 1


@pytest.mark.parametrize("status", [201, 202, 204])
def test_every_kind_of_success_is_one(status: int) -> None:
    """A receiver may answer with any 2xx."""
    with peers.http_server() as hook:
        hook.status = status
        WebhookNotifier(_config(hook.port)).send(notification())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    """A message, with its signature and headers, goes nowhere that was not configured."""
    with peers.http_server() as elsewhere, peers.http_server() as hook:
        hook.status = status
        hook.headers = {"Location": f"http://127.0.0.1:{elsewhere.port}/"}
        with pytest.raises(NotifierRejectedError, match=str(status)) as error:
            WebhookNotifier(_config(hook.port)).send(notification())
    assert "redirect" in error.value.hint
    assert not elsewhere.requests


def test_a_huge_answer_is_not_read() -> None:
    """The status is enough: an endless body costs neither time nor memory."""
    sent = 0

    def script(connection: Any, server: peers.Misbehaving) -> None:
        nonlocal sent
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while not server.over.is_set():
            sent += connection.send(bytes(65536))

    with peers.misbehaving_server(script) as server, peers.stopwatch() as elapsed:
        WebhookNotifier(_config(server.port, timeout_seconds=60)).send(notification())
        assert elapsed() < 30  # to read until its time is up would take twice as long
    assert server.fired
    assert sent < 64 * 2**20


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X-Many: 1\r\n" * 200,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**17,
        b"HTTP/9 ?\r\n\r\n",
        b"\0" * 70000,
    ],
    ids=["many headers", "long header", "odd status", "zeros"],
)
def test_nonsense_is_an_error_of_ours(answer: bytes) -> None:
    """Whatever comes instead of an answer ends in a transient error, not in one of a library."""

    def script(connection: Any, server: peers.Misbehaving) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        server.over.wait()

    with peers.misbehaving_server(script) as server, pytest.raises(NotifierTransientError):
        WebhookNotifier(_config(server.port, timeout_seconds=2)).send(notification())
    assert server.fired


def test_tls_is_verified_unless_told_otherwise(certificate: Certificate) -> None:
    """A self-made certificate is refused, taken with its authority's file, and taken when the check is off."""
    with peers.http_server(certificate.context) as hook:
        url = f"https://localhost:{hook.port}/"
        with pytest.raises(NotifierRejectedError, match="not trusted"):
            WebhookNotifier(_config(hook.port, url=url)).send(notification())
        assert not hook.requests
        WebhookNotifier(_config(hook.port, url=url, ca_file=certificate.file)).send(notification())
        WebhookNotifier(_config(hook.port, url=url, verify_tls=False)).send(notification())
    assert len(hook.requests) == 2


def test_a_certificate_for_another_name_is_refused(certificate: Certificate) -> None:
    """The authority's file does not make its certificate good for every host."""
    with peers.http_server(certificate.context) as hook:
        url = f"https://127.1:{hook.port}/"  # another way to write 127.0.0.1
        with pytest.raises(NotifierRejectedError, match="not trusted"):
            WebhookNotifier(_config(hook.port, url=url, ca_file=certificate.file)).send(notification())


@pytest.mark.parametrize("host", ["nobody.invalid", "a..b", f"{'x' * 70}.example"])
def test_a_name_that_does_not_resolve_is_transient(host: str) -> None:
    """A host that DNS does not know, or that is no name, says so."""
    with pytest.raises(NotifierTransientError, match="resolved"):
        WebhookNotifier(_config(1, url=f"http://{host}/")).send(notification())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("url", "ftp://example.com/", "http://"),
        ("url", "http:///path", "malformed"),
        ("url", "http://example.com:99999/", "malformed"),
        ("url", "http://exa mple.com/", "ASCII"),
        ("url", "http://example.com/\r\nX: y", "ASCII"),
        ("url", "http://example.com/ü", "ASCII"),
        ("secret", "short", "at least 8"),
        ("headers", {"X-A": "b\r\nX-Evil: c"}, "printable"),
        ("headers", {"X-A\r\nX-Evil": "c"}, "names"),
        ("headers", {"host": "evil"}, "must not set host"),
        ("headers", {"X-DataGuardian-Signature": "x"}, "must not set"),
        ("colour", "red", "Extra"),
    ],
)
def test_a_wrong_configuration_is_refused_without_being_shown(field: str, value: object, words: str) -> None:
    """What cannot work, or could smuggle a header in, is refused, and the error repeats no value."""
    with pytest.raises(ValidationError, match=words) as error:
        _config(1, **{field: value})
    assert "evil" not in str(error.value).lower()
    assert SECRET not in str(error.value)


def test_an_address_makes_a_configuration() -> None:
    """The address reaches the server whole, also what looks like a secret in it, and is shown without."""
    config = WebhookConfig.from_url(parse_url("https://me:p%40ss@hooks.example.com:8443/a%20b/T0KEN?token=x%26y&z="))
    assert config.url.get_secret_value() == "https://me:p%40ss@hooks.example.com:8443/a%20b/T0KEN?token=x%26y&z="
    assert config.describe() == "https://hooks.example.com:8443"
    with pytest.raises(UsageError):
        WebhookConfig.from_url(parse_url("https:///x"))
