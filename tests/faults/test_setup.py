"""The setup token of several processes that share a catalogue, behind whatever hands requests to one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.faults.service import Parts, Service, catalogue
from tests.faults.test_secrets import run

PERSON = {"name": "ada", "password": "four words that differ"}


def shown_by(service: Service) -> str:
    """Returns the setup token that a start's console shows."""
    service.start()
    assert service.process is not None
    assert service.process.stdout is not None
    return str(json.loads(service.process.stdout.readline())["setup_token"])


def claimed(service: Service, token: str, **other: Any) -> int:
    """Returns the status of a claim."""
    url = f"http://127.0.0.1:{service.port}/api/setup"
    return httpx.post(url, json=PERSON | other | {"token": token}, timeout=30, trust_env=False).status_code


def test_the_setup_token_of_one_process_is_that_of_all(real: Parts, services: Callable[..., Service]) -> None:
    """Two of `--role api` show one token, also after one was started again; the other takes it, and it counts once."""
    one, two = services(real, name="one", role="api"), services(real, name="two", role="api")
    token = shown_by(one)
    assert shown_by(two) == token
    assert one.stop() == 0
    assert shown_by(one) == token
    rows = str(catalogue(real, one.home, "SELECT value::text FROM system_settings"))
    assert token not in rows
    assert claimed(two, "setup_" + "A" * 43) == 401
    assert claimed(two, token) == 201
    assert [claimed(service, token, name="eve") for service in (one, two)] == [409, 409]
    assert catalogue(real, one.home, "SELECT key FROM system_settings WHERE key = 'setup'") == []


def test_a_setup_token_ends_with_the_key_that_it_was_made_with(real: Parts, services: Callable[..., Service]) -> None:
    """Somebody who knew the old key knows the old token: after a rotation there is another one."""
    service = services(real, role="api")
    old = shown_by(service)
    assert service.stop() == 0
    key = service.home / "new"
    assert run(service, "secrets", "rotate", "--new-key-file", str(key)).returncode == 0
    service.env = {"DATAGUARDIAN_SECRET_KEY": "", "DATAGUARDIAN_SECRET_KEY_FILE": str(key)}
    new = shown_by(service)
    assert new != old
    assert claimed(service, old) == 401
    assert claimed(service, new) == 201
