"""`dataguardian storage check`: a storage is proven without a service."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataguardian.storage.base import PROBE_PREFIX
from tests.cli.program import Program
from tests.storage.peers import shared
from tests.storage.s3_servers import rclone_s3


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_a_folder_is_proven(program: Program) -> None:
    """The probe is put, read, listed and taken away; the answer can be read by people and programs."""
    told = program.run("storage", "check", program.storage)
    assert (told.code, program.stored) == (0, [])
    assert "put, get, list, delete" in told.out
    found = program.run("storage", "check", program.storage, "--json").json
    assert (found["status"], found["storage"]) == ("ok", program.storage)
    assert found["free_bytes"] > 0


def test_a_bucket_is_proven(program: Program) -> None:
    """With right keys it works; with wrong ones the exit code is 5, and the secret is not repeated."""
    server = shared(rclone_s3)
    address = f"s3://{server.bucket()}/backups?endpoint=http://127.0.0.1:{server.port}"
    keys = {"AWS_ACCESS_KEY_ID": server.owner.access_key, "AWS_SECRET_ACCESS_KEY": server.owner.secret_key}
    program.env = keys
    assert program.run("storage", "check", address).code == 0
    wrong = program.run("storage", "check", address.replace("s3://", "s3://somebody:wrong-secret@"))
    assert wrong.code == 5
    assert "wrong-secret" not in wrong.out + wrong.err
    assert PROBE_PREFIX not in wrong.out


def test_what_does_not_work_says_why(program: Program) -> None:
    """A missing folder is no storage, and the address of a source is wrong usage."""
    missing = program.run("storage", "check", program.storage + "/missing", "--json")
    assert (missing.code, missing.json["error"]) == (5, "storage_unreachable")
    assert program.run("storage", "check", "postgresql://host/db").code == 2
