"""Memory of a backup to a service: the client's copies count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.test_memory import MOST_BYTES, guarded, make_tree, peak
from tests.cli.program import Program
from tests.storage.peers import shared
from tests.storage.s3_servers import rclone_s3


@pytest.mark.timeout(300)
def test_memory_is_bounded_on_s3(tmp_path: Path) -> None:
    """400 MB that do not compress go up, are verified and come back below 200 MiB with parts of the usual size."""
    program, storage = on_s3(tmp_path)
    source = make_tree(tmp_path / "tree")
    backing_up, outcome = peak(program, "backup", source, storage, "--json")
    backup = outcome.json["backup"]
    verifying, _ = peak(program, "verify", "--deep", backup)
    restoring, _ = peak(program, "restore", backup, f"files://{tmp_path}/back")
    assert max(backing_up, verifying, restoring) < MOST_BYTES, (backing_up, verifying, restoring)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("guard", ["recipient", "passphrase"])
def test_memory_is_bounded_on_s3_when_encrypted(tmp_path: Path, guard: str) -> None:
    """The same with parts that are sealed first, and with a passphrase that is stretched beforehand."""
    program, storage = on_s3(tmp_path)
    source, key = make_tree(tmp_path / "tree"), tmp_path / "key"
    encrypt, decrypt = guarded(program, key, guard)
    backing_up, outcome = peak(program, "backup", source, storage, "--json", *encrypt)
    backup = outcome.json["backup"]
    verifying, _ = peak(program, "verify", "--deep", backup, *decrypt)
    restoring, _ = peak(program, "restore", backup, f"files://{tmp_path}/back", *decrypt)
    assert max(backing_up, verifying, restoring) < MOST_BYTES, (backing_up, verifying, restoring)


def on_s3(folder: Path) -> tuple[Program, str]:
    """Returns the program with the keys of a real server, and the address of a bucket there."""
    program, server = Program(folder), shared(rclone_s3)
    program.env = {"AWS_ACCESS_KEY_ID": server.owner.access_key, "AWS_SECRET_ACCESS_KEY": server.owner.secret_key}
    return program, f"s3://{server.bucket()}/backups?endpoint=http://127.0.0.1:{server.port}"
