"""What every notifier owes: each registered one is pointed at servers that take, refuse and misbehave."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest

from dataguardian.domain.errors import NotifierError, NotifierRejectedError, NotifierTransientError
from dataguardian.domain.urls import parse_url
from dataguardian.notifiers.base import NotifierConfig
from dataguardian.notifiers.registry import NOTIFIERS, build_notifier, channel_config, notifier_config
from tests.notifiers import peers
from tests.notifiers.conftest import Told
from tests.notifiers.samples import notification
from tests.servers import free_port

TOKEN = "t0ken-in-the-address"
PASSWORD = peers.ASCII_PASSWORD
SLACK_SECONDS = 3


def _mail(port: int, timeout_seconds: float = 10) -> NotifierConfig:
    return channel_config(
        {
            "type": "email",
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "username": peers.USERNAME,
            "password": PASSWORD,
            "sender": "backup@example.com",
            "recipients": ["ops@example.com"],
            "timeout_seconds": timeout_seconds,
        }
    )


def _webhook(port: int, timeout_seconds: float = 10) -> NotifierConfig:
    return channel_config(
        {
            "type": "webhook",
            "url": f"http://{peers.USERNAME}:{PASSWORD}@127.0.0.1:{port}/{TOKEN}?key={TOKEN}",
            "secret": PASSWORD,
            "headers": {"X-Api-Key": TOKEN},
            "timeout_seconds": timeout_seconds,
        }
    )


def _apprise(port: int, timeout_seconds: float = 20) -> NotifierConfig:
    url = f"json://{peers.USERNAME}:{PASSWORD}@127.0.0.1:{port}/{TOKEN}"
    return channel_config({"type": "apprise", "urls": [url], "timeout_seconds": timeout_seconds})


@contextmanager
def _mail_server(answer: str) -> Iterator[tuple[int, Callable[[], int]]]:
    with peers.smtp_server(login=PASSWORD) as mailbox:
        if answer != "good":
            mailbox.answers["DATA"] = answer
        yield mailbox.port, lambda: len(mailbox.envelopes)


@contextmanager
def _web_server(answer: str) -> Iterator[tuple[int, Callable[[], int]]]:
    with peers.http_server() as hook:
        hook.status = 200 if answer == "good" else int(answer)
        yield hook.port, lambda: len(hook.requests) if hook.status == 200 else 0


@dataclass(frozen=True)
class Case:
    config: Callable[..., NotifierConfig]
    server: Callable[[str], AbstractContextManager[tuple[int, Callable[[], int]]]]
    temporary: str
    permanent: str | None
    """None: the vendor's library does not tell the two apart, and all counts as worth retrying."""
    greeting: bytes
    hang_seconds: float = 1.0


CASES = {
    "email": Case(_mail, _mail_server, "451 try later", "554 no", b"220-hello "),
    "webhook": Case(_webhook, _web_server, "503", "404", b"HTTP/1.1 200 OK\r\nX-Slow: "),
    "apprise": Case(_apprise, _web_server, "503", None, b"HTTP/1.1 200 OK\r\nX-Slow: ", hang_seconds=6.0),
}


pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_every_registered_notifier_is_held_to_the_contract() -> None:
    """A notifier that is added without a case here fails this suite."""
    assert set(NOTIFIERS.adapters) == set(CASES)


def test_what_the_server_takes_is_sent(case: Case) -> None:
    """A server that takes the message has it once when `send` returns."""
    with case.server("good") as (port, taken):
        build_notifier(case.config(port)).send(notification())
        assert taken() == 1


def test_a_temporary_refusal_is_worth_retrying(case: Case, told: Told) -> None:
    """A server in trouble raises the error that the queue retries."""
    with case.server(case.temporary) as (port, taken), pytest.raises(NotifierTransientError) as caught:
        build_notifier(case.config(port)).send(notification())
    assert taken() == 0
    _assert_discreet(told(caught.value))


def test_a_permanent_refusal_is_not_retried(case: Case, told: Told) -> None:
    """A server that says no for good raises the error that ends the retries."""
    expected = NotifierTransientError if case.permanent is None else NotifierRejectedError
    with case.server(case.permanent or "404") as (port, taken), pytest.raises(expected) as caught:
        build_notifier(case.config(port)).send(notification())
    assert taken() == 0
    _assert_discreet(told(caught.value))


def test_nobody_there_is_worth_retrying(case: Case, told: Told) -> None:
    """A refused connection is transient and says where."""
    with pytest.raises(NotifierTransientError) as caught:
        build_notifier(case.config(free_port())).send(notification())
    assert caught.value.hint
    _assert_discreet(told(caught.value))


@pytest.mark.parametrize("script", [peers.hang_up, peers.echo], ids=["hangs-up", "echoes"])
def test_a_server_that_speaks_something_else(case: Case, script: peers.Script, told: Told) -> None:
    """A server that closes at once, or says back what it hears, gives an error that does not repeat it."""
    with peers.misbehaving_server(script) as server, pytest.raises(NotifierError) as caught:
        build_notifier(case.config(server.port, case.hang_seconds)).send(notification())
    assert server.fired
    _assert_discreet(told(caught.value))


@pytest.mark.parametrize("dribbles", [False, True], ids=["hangs", "dribbles"])
def test_time_is_bounded(case: Case, dribbles: bool, told: Told) -> None:
    """A server that never answers, or answers a byte at a time for ever, is left when the time is up."""
    script = peers.dribble(case.greeting) if dribbles else peers.hang
    with (
        peers.misbehaving_server(script) as server,
        peers.stopwatch() as elapsed,
        pytest.raises(NotifierTransientError) as caught,
    ):
        build_notifier(case.config(server.port, case.hang_seconds)).send(notification())
    assert server.fired
    assert elapsed() <= case.hang_seconds + SLACK_SECONDS
    _assert_discreet(told(caught.value))


def test_an_address_without_secrets_describes_it(case: Case) -> None:
    """What is shown to people and written to logs holds no secret."""
    config = case.config(1)
    _assert_discreet(f"{config.describe()} {config!r} {config} {config.model_dump_json()}")


def test_the_example_is_an_address_that_works() -> None:
    """Every adapter's example, as help texts show it, is understood as its own."""
    for adapter in NOTIFIERS.adapters.values():
        assert isinstance(notifier_config(parse_url(adapter.example)), adapter.config)


def _assert_discreet(text: str) -> None:
    secrets = [PASSWORD, TOKEN, f"\0{peers.USERNAME}\0{PASSWORD}", f"{peers.USERNAME}:{PASSWORD}"]
    for secret in secrets:
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode() not in text
