from __future__ import annotations

import socket
from typing import Any

import pytest

from dataguardian.domain.errors import NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.notifiers._targets import ForbiddenTargetError, refuse_forbidden
from dataguardian.notifiers.apprise import AppriseConfig, AppriseNotifier
from dataguardian.notifiers.webhook import WebhookConfig, WebhookNotifier
from dataguardian.settings import Settings, notifier_networks
from tests.notifiers import peers
from tests.notifiers.samples import notification

NETWORKS = "DATAGUARDIAN_NOTIFIER_NETWORKS"

FORBIDDEN = [
    "127.0.0.1",
    "127.255.0.9",
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%lo",
    "fd00:ec2::254",
    "fd20:ce::254",
    "ff02::1",
    "::ffff:169.254.169.254",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "2001:0:a9fe:a9fe::1",
]


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NETWORKS, "")


def _webhook(url: str) -> WebhookNotifier:
    return WebhookNotifier(WebhookConfig.model_validate({"url": url, "timeout_seconds": 10}))


def _apprise(*urls: str) -> AppriseNotifier:
    return AppriseNotifier(AppriseConfig.model_validate({"urls": urls, "timeout_seconds": 30}))


@pytest.mark.parametrize("address", FORBIDDEN)
def test_this_machine_its_link_and_metadata_services_are_forbidden(address: str) -> None:
    """Whatever leads to them is refused, in IPv6's disguises as well."""
    with pytest.raises(ForbiddenTargetError):
        refuse_forbidden(address, ())


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.1.5", "93.184.216.34", "fd12::1", "2606:2800::1", "::ffff:10.0.0.1"]
)
def test_other_networks_are_open(address: str) -> None:
    """A receiver in one's own network is the usual case."""
    refuse_forbidden(address, ())


@pytest.mark.parametrize("name", ["example.com", "", None, b"x", "0x7f.1", "2130706433"])
def test_what_is_no_number_is_refused(name: object) -> None:
    """A name that nobody looked up could become anything."""
    with pytest.raises(ForbiddenTargetError):
        refuse_forbidden(name, ())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "LOCALHOST", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "[::1]",
     "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)  # fmt: skip
def test_a_web_hook_does_not_reach_this_machine(host: str) -> None:
    """However the address is written, not even a connection is opened."""
    with peers.misbehaving_server(peers.hang_up) as server, pytest.raises(NotifierRejectedError) as error:
        _webhook(f"http://{host}:{server.port}/").send(notification())
    assert not server.fired
    assert NETWORKS in (error.value.hint or "")


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that tells a good address first and a forbidden one afterwards is never asked again."""
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])
    asked: list[Any] = []

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setenv(NETWORKS, "127.0.0.2/32")
    with peers.misbehaving_server(peers.hang_up) as server, pytest.raises(NotifierTransientError):
        _webhook(f"http://rebinding.example:{server.port}/").send(notification())
    assert asked == ["rebinding.example"]
    assert not server.fired


def test_a_name_that_leads_to_a_metadata_service_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is where a name leads; one bad address among good ones is enough."""
    addresses = ["169.254.169.254", "127.0.0.2"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda _, port, **__: [(socket.AF_INET, 1, 6, "", (at, port)) for at in addresses]
    )
    with pytest.raises(NotifierRejectedError):
        _webhook("http://metadata.example/").send(notification())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001"])
def test_apprise_does_not_reach_this_machine(host: str) -> None:
    """Apprise's own sockets are held to the same rule, and the error names service and setting."""
    leads_here = pytest.raises(NotifierRejectedError, match=r"service 1 \(json\) leads to this machine")
    with peers.misbehaving_server(peers.hang_up) as server, leads_here as error:
        _apprise(f"json://{host}:{server.port}/").send(notification())
    assert not server.fired
    assert NETWORKS in (error.value.hint or "")


def test_apprise_does_not_follow_a_redirect_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that may be reached cannot send Apprise where it may not go."""
    monkeypatch.setenv(NETWORKS, "127.0.0.1/32")
    with peers.http_server() as elsewhere, peers.http_server() as hook:
        hook.status, hook.headers = 307, {"Location": f"http://127.0.0.9:{elsewhere.port}/"}
        with pytest.raises(NotifierRejectedError):
            _apprise(f"json://127.0.0.1:{hook.port}/").send(notification())
    assert hook.requests
    assert not elsewhere.requests


def test_the_setting_allows_what_it_names_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback is allowed unless somebody says otherwise; the metadata service stays forbidden."""
    monkeypatch.delenv(NETWORKS)
    with peers.http_server() as hook:
        _webhook(f"http://127.0.0.1:{hook.port}/").send(notification())
        _apprise(f"json://127.0.0.1:{hook.port}/").send(notification())
    assert len(hook.requests) == 2
    refuse_forbidden("::ffff:127.0.0.1")
    with pytest.raises(ForbiddenTargetError):
        refuse_forbidden("169.254.169.254")


def test_a_setting_that_holds_no_networks_is_named_at_the_start() -> None:
    """What was meant as a network and is none does not open or close anything silently."""
    with pytest.raises(UsageError, match=NETWORKS):
        Settings.from_environment({NETWORKS: "127.0.0.1/8"})
    assert notifier_networks({NETWORKS: ""}) == ()
