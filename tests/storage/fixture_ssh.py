"""SFTP under test: on a real sshd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from dataguardian.domain.sizes import MIB
from dataguardian.storage.base import Storage
from dataguardian.storage.registry import build_storage
from dataguardian.storage.ssh import SshConfig
from tests.ssh.sshd import SshServer, remove, ssh_server
from tests.storage.conformance import Harness
from tests.storage.fixture_local import small_disk
from tests.storage.peers import Peers, shared


class SshHarness(Harness):
    kill_bytes: ClassVar[int] = 16 * MIB
    kills: ClassVar[int] = 4
    rounds: ClassVar[int] = 10

    def __init__(self, server: SshServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.root = folder / "storage root"
        self.address = ("127.0.0.1", server.port)
        self.root.mkdir()
        server.own(self.root)

    @property
    def config(self) -> SshConfig:
        return self.on()

    def on(self, root: Path | None = None, **given: Any) -> SshConfig:
        """Returns the usual configuration with some of its fields changed."""
        usual = {
            "host": "127.0.0.1",
            "port": self.server.port,
            "username": self.server.user,
            "private_key_file": str(self.server.key),
            "host_key": self.server.host_key(),
            "remote_path": str(root or self.root),
        }
        return SshConfig.model_validate(usual | given)

    def at(self, host: str, port: int, *, timeout_seconds: float) -> SshConfig:
        return self.on(host=host, port=port, timeout_seconds=timeout_seconds)

    def missing(self) -> Storage:
        return build_storage(self.on(self.folder / "not there"))

    def wrong_credentials(self) -> Iterable[Storage]:
        stranger = self.server.wrong_key.with_suffix(".pub").read_text(encoding="ascii")
        changes = [
            {"private_key_file": str(self.server.wrong_key)},
            {"private_key_file": None, "password": "wrong"},
            {"username": "dg-no-such-user"},
            {"host_key": stranger},
            {"host_key": "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},
        ]
        return [build_storage(self.on(**change)) for change in changes]

    @contextmanager
    def denied(self) -> Iterator[Storage]:
        (self.root / "there").write_bytes(b"x")
        self.root.chmod(0)
        try:
            yield self.open()
        finally:
            self.root.chmod(0o700)

    @contextmanager
    def full(self) -> Iterator[Storage]:
        with small_disk(self.folder / "small disk") as folder:
            self.server.own(folder)
            yield build_storage(self.on(folder))
            assert [path.name for path in folder.rglob("*") if path.is_file() and path.name.startswith(".")] == []

    def fill(self, paths: Iterable[str], data: bytes) -> None:
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(data)


@contextmanager
def on_sshd(_folder: Path) -> Iterator[Harness]:
    server = shared(ssh_server)
    folder = server.shared_folder()
    try:
        yield SshHarness(server, folder)
    finally:
        remove(folder)


PEERS: Peers = {"sshd": on_sshd}
