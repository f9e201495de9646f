from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from dataguardian.domain.errors import MissingToolError, NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.domain.urls import parse_url
from dataguardian.notifiers.apprise import AppriseConfig, AppriseNotifier
from dataguardian.notifiers.registry import NOTIFIERS, build_notifier
from tests.notifiers import peers
from tests.notifiers.conftest import Told
from tests.notifiers.samples import notification

TOKEN = "t0ken-in-the-address"


def _config(*urls: str, **changes: Any) -> AppriseConfig:
    return AppriseConfig.model_validate({"urls": urls, "timeout_seconds": 20} | changes)


@pytest.mark.parametrize(("severity", "kind"), [("info", "info"), ("warning", "warning"), ("critical", "failure")])
def test_a_message_arrives_with_its_severity(severity: str, kind: str) -> None:
    """A real Apprise service gets title and text, and the severity in Apprise's words."""
    with peers.http_server() as hook:
        config = _config(f"json://127.0.0.1:{hook.port}/{TOKEN}")
        AppriseNotifier(config).send(notification(severity=severity, title="Sicherung ✗", message="a <b> *c*\nd"))
    (body,) = hook.json
    assert (body["title"], body["message"], body["type"]) == ("Sicherung ✗", "a <b> *c*\nd", kind)


def test_one_service_that_fails_does_not_keep_the_others_waiting() -> None:
    """Services get the message at once; the error says which one failed, by position and kind."""
    with peers.http_server() as hook, peers.misbehaving_server(peers.hang_up) as broken:
        config = _config(f"json://127.0.0.1:{broken.port}/{TOKEN}", f"json://127.0.0.1:{hook.port}/")
        with pytest.raises(NotifierTransientError, match=r"service 1 \(json\) did not"):
            AppriseNotifier(config).send(notification())
    assert broken.fired
    assert len(hook.requests) == 1


def test_one_service_that_hangs_does_not_keep_the_others_waiting() -> None:
    """A service that never answers costs its own message only."""
    with peers.http_server() as hook, peers.misbehaving_server(peers.hang) as hanging:
        config = _config(f"json://127.0.0.1:{hanging.port}/{TOKEN}", f"json://127.0.0.1:{hook.port}/")
        with pytest.raises(NotifierTransientError):
            AppriseNotifier(config).send(notification())
    assert hanging.fired
    assert len(hook.requests) == 1


def test_an_unknown_service_is_permanent_and_the_others_have_the_message(told: Told) -> None:
    """A URL that Apprise does not understand will not be understood next time; it is not shown."""
    with peers.http_server() as hook:
        config = _config(f"json://127.0.0.1:{hook.port}/", f"nonsense://{TOKEN}")
        with pytest.raises(NotifierRejectedError, match=r"service 2 \(nonsense\)") as error:
            AppriseNotifier(config).send(notification())
    assert len(hook.requests) == 1
    assert TOKEN not in told(error.value)


def test_the_addresses_reach_no_argument_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other users of the machine can read arguments, so the child gets its order through a pipe."""
    seen: list[Any] = []
    run = subprocess.run

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs["env"]))
        return run(*args, **kwargs)

    monkeypatch.setattr(subprocess, "run", watched)
    with peers.http_server() as hook:
        AppriseNotifier(_config(f"json://127.0.0.1:{hook.port}/{TOKEN}")).send(notification())
    assert seen
    assert TOKEN not in repr(seen)


def test_a_child_that_nobody_waits_for_ends_by_itself() -> None:
    """When the service is killed in the middle of a message, its child does not stay behind a hanging server."""
    with peers.misbehaving_server(peers.hang) as server:
        order = AppriseNotifier(_config(f"json://127.0.0.1:{server.port}/?rto=60", timeout_seconds=5))._order(
            notification()
        )
        command = [sys.executable, "-P", "-m", "dataguardian.notifiers.apprise_child"]
        with peers.stopwatch() as elapsed:
            child = subprocess.run(command, input=order, check=False, capture_output=True, timeout=60)
            assert elapsed() < 30
    assert child.returncode < 0
    assert server.fired


def test_the_package_is_imported_by_the_child_only() -> None:
    """Sending does not load Apprise's plug-ins into the service."""
    code = (
        "import sys; from dataguardian.notifiers.registry import settings_type; settings_type();"
        "sys.exit('apprise' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the channel says what to install."""
    adapter = NOTIFIERS.adapters["apprise"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == adapter.package else object())
    with pytest.raises(MissingToolError) as error:
        build_notifier(_config("json://localhost"))
    assert error.value.hint == "pip install 'dataguardian[apprise]'"


@pytest.mark.parametrize("url", ["", "no-scheme", "json://a b", "json://a\nb", "-v://x"])
def test_a_wrong_address_is_refused_without_being_shown(url: str) -> None:
    """What is no Apprise URL is refused, and the error repeats nothing of the others."""
    with pytest.raises(ValidationError) as error:
        _config(f"json://{TOKEN}", url)
    assert TOKEN not in str(error.value)


def test_an_address_makes_a_configuration() -> None:
    """apprise:// carries Apprise URLs as an option; what is shown names the services only."""
    config = AppriseConfig.from_url(parse_url(f"apprise://?urls=json%3A%2F%2F{TOKEN}%20ntfy%3A%2F%2F{TOKEN}"))
    assert config.services == ["json", "ntfy"]
    assert config.describe() == "apprise (json, ntfy)"
    with pytest.raises(UsageError):
        AppriseConfig.from_url(parse_url("apprise://"))
