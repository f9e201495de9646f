"""`dataguardian key prove`: a key that is kept elsewhere still opens the newest backup, and the service knows."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from tests.cli.service import Prepared, Service


def generated(service: Service) -> tuple[Path, str]:
    """Makes a key pair; returns the private key's file and the public key."""
    path = service.folder / f"{uuid.uuid4().hex}.key"
    return path, service.ok("key", "generate", str(path))["recipient"]


def sealed_for(service: Service, recipient: str) -> Prepared:
    """A job whose backups are encrypted for a key, with one backup."""
    thing = service.prepared()
    service.ok("job", "edit", thing.name, "--recipient", recipient)
    service.backup(thing.name)
    return thing


def proofs_of(service: Service, name: str) -> list[dict[str, Any]]:
    rows = {row["job_name"]: row["keys"] for row in service.ok("status")["key_proofs"]}
    return list(rows[name])


def failure_of(service: Service, name: str) -> dict[str, Any] | None:
    [row] = [row for row in service.client().rows("/api/system/key-proofs") if row["job_name"] == name]
    failed: dict[str, Any] | None = row["failed"]
    return failed


def test_a_key_is_proven_where_it_is_kept(service: Service) -> None:
    """The service sends what is encrypted, the key opens it here, and status says since when it is proven."""
    path, recipient = generated(service)
    thing = sealed_for(service, recipient)
    assert [key["proven_at"] for key in proofs_of(service, thing.name)] == [None]
    told = service.ok("key", "prove", thing.name, "--identity-file", str(path))
    assert [(one["job"], one["keys"]) for one in told["proven"]] == [(thing.name, [recipient])]
    [key] = proofs_of(service, thing.name)
    assert (key["key"], key["proven_at"] is not None, key["overdue"]) == (recipient, True, False)
    assert recipient[:20] in service.told("status")


def test_another_key_proves_nothing(service: Service) -> None:
    """It opens none of the backups: refused with what that is; the failure is shown until the right key opens it."""
    right, recipient = generated(service)
    other, _ = generated(service)
    thing = sealed_for(service, recipient)
    outcome = service.run("key", "prove", thing.name, "--identity-file", str(other), "--json")
    assert outcome.code == 5, outcome
    assert outcome.json["proven"] == []
    assert [key["proven_at"] for key in proofs_of(service, thing.name)] == [None]
    failed = failure_of(service, thing.name)
    assert failed is not None
    shown = service.run("status")
    assert f"{thing.name}: no key opened its newest backup" in " ".join((shown.out + shown.err).split())
    service.ok("key", "prove", thing.name, "--identity-file", str(right))
    assert failure_of(service, thing.name) is None
    service.run("key", "prove", thing.name, "--identity-file", str(other), "--console")
    assert failure_of(service, thing.name) is not None


def test_a_key_for_some_of_all_says_nothing_of_the_others(service: Service) -> None:
    """Nobody named a job: the one that it opens is proven, and nothing is held against the others."""
    path, recipient = generated(service)
    mine, other = sealed_for(service, recipient), sealed_for(service, generated(service)[1])
    service.ok("key", "prove", "--identity-file", str(path))
    assert proofs_of(service, mine.name)[0]["proven_at"] is not None
    assert failure_of(service, other.name) is None


def test_a_part_that_rotted_is_no_proof(service: Service) -> None:
    """The key opens the record, but a part's bytes are others: exit code 3, whoever has the right key."""
    path, recipient = generated(service)
    thing = sealed_for(service, recipient)
    for part in thing.disk.rglob("*.zst.age"):
        data = bytearray(part.read_bytes())
        data[-1] ^= 1
        part.write_bytes(data)
    outcome = service.run("key", "prove", thing.name, "--identity-file", str(path), "--json")
    assert outcome.code == 3, outcome
    assert [key["proven_at"] for key in proofs_of(service, thing.name)] == [None]


def test_a_key_is_proven_at_the_console(service: Service) -> None:
    """On the machine that holds the home no service is asked."""
    path, recipient = generated(service)
    thing = sealed_for(service, recipient)
    told = service.ok("key", "prove", thing.name, "--console", "--identity-file", str(path))
    assert [one["keys"] for one in told["proven"]] == [[recipient]]
    assert proofs_of(service, thing.name)[0]["proven_at"] is not None


def test_what_cannot_be_proven_is_said(service: Service) -> None:
    """No key, an unknown job, a console that is told an address."""
    path, recipient = generated(service)
    assert "no key was given" in service.refused(2, "key", "prove")
    sealed_for(service, recipient)
    assert "'nobody'" in service.refused(5, "key", "prove", "nobody", "--identity-file", str(path))
    at_console = ("key", "prove", "--console", "--url", service.url, "--identity-file", str(path))
    assert "--console asks no service" in service.refused(2, *at_console)
