"""What the engines that speak to servers share: their addresses, and probes that always come back."""

from __future__ import annotations

import threading
import time

import pytest

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.engines.base import ProbeResult
from dataguardian.engines.network import NetworkConfig, within
from dataguardian.engines.registry import ENGINES, engine_config, engine_document
from dataguardian.service.secrets import masked, revealed

NETWORKED = sorted(name for name, adapter in ENGINES.adapters.items() if issubclass(adapter.config, NetworkConfig))


@pytest.mark.parametrize("kind", NETWORKED)
@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "a" * 64},
        {"host": "é..x"},
        {"host": "-oProxyCommand=x"},
        {"host": "two words"},
        {"host": ""},
        {"host": "h", "port": 0},
        {"host": "h", "port": 65536},
        {"host": "h", "ssl_mode": "maybe"},
        {"host": "h", "ssl_ca": "relative"},
        {"host": "h", "username": "a\0b"},
        {"host": "h", "socket": "/run/s"},
        {"host": "h", "ssh_tunnel": "http://x"},
        {"host": "h", "ssh_tunnel": {"host": "g", "port": 0}},
        {"host": "h", "ssh_tunnel": {"host": "-x"}},
        {"host": "h", "surprise": 1},
    ],
    ids=str,
)
def test_configurations_that_mean_nothing(kind: str, wrong: dict[str, object]) -> None:
    """What is wrong with a field is found when it is given, not when the driver stumbles over it."""
    with pytest.raises(UsageError):
        engine_document({"type": kind, "password": "s3cr3t", **wrong})


@pytest.mark.parametrize("kind", NETWORKED)
def test_a_tunnel_in_both_forms(kind: str) -> None:
    """A tunnel is an address or an object; its secrets are masked, and its description leads back to it."""
    tunnel = {"host": "gate", "port": 2222, "username": "me", "password": "hush-hush", "private_key": "very-private"}
    config = engine_document({"type": kind, "host": "db", "ssh_tunnel": tunnel})
    assert revealed(config)["ssh_tunnel"] == tunnel
    assert "hush" not in f"{masked(config)} {config!r} {config.describe()}"
    assert "very-private" not in f"{masked(config)} {config!r} {config.describe()}"
    scheme = ENGINES.by_type(kind).schemes[0]
    address = f"{scheme}://u@db/x?ssh_tunnel=ssh://me@gate:2222&ssh_key=/key&ssh_host_key=SHA256:{'A' * 43}"
    config = engine_config(parse_url(address))
    expected = {
        "host": "gate",
        "port": 2222,
        "username": "me",
        "private_key_file": "/key",
        "host_key": "SHA256:" + "A" * 43,
    }
    assert revealed(config)["ssh_tunnel"] == expected
    assert revealed(engine_config(parse_url(config.describe()))) == revealed(config)


def test_a_probe_that_does_not_come_back() -> None:
    """A probe that hangs is answered for, in time; one that fails says so to whoever asked."""
    came_back, began = threading.Event(), time.monotonic()
    assert within(0.2, lambda: (came_back.wait(60), ProbeResult("ok"))[1]).status == "timeout"
    assert time.monotonic() - began < 30
    came_back.set()
    assert within(60, lambda: ProbeResult("ok")).status == "ok"

    def fail() -> ProbeResult:
        raise UsageError("no")

    with pytest.raises(UsageError):
        within(60, fail)
