"""rclone under test: its SFTP remote on a real sshd, where uploads are visible before they are complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from dataguardian.storage.base import Storage
from dataguardian.storage.rclone import RcloneConfig
from dataguardian.storage.registry import build_storage
from tests.ssh.sshd import SshServer, remove, ssh_server
from tests.storage.conformance import Harness
from tests.storage.fixture_ssh import SshHarness
from tests.storage.peers import Peers, shared
from tests.storage.processes import program


class SftpRemoteHarness(SshHarness):
    reads_whole: ClassVar[bool] = False

    def __init__(self, server: SshServer, folder: Path) -> None:
        super().__init__(server, folder)
        self._files = 0

    @property
    def config(self) -> RcloneConfig:
        return self.on()

    def on(self, root: Path | None = None, *, timeout_seconds: float = 60, **changes: object) -> RcloneConfig:
        """Writes a configuration of rclone's with one remote, and returns ours that names it."""
        fields = {
            "type": "sftp",
            "host": "127.0.0.1",
            "port": self.server.port,
            "user": self.server.user,
            "key_file": self.server.key,
            "shell_type": "none",
        }
        self._files += 1
        file = self.folder / f"rclone-{self._files}.conf"
        lines = [f"{key} = {value}" for key, value in (fields | changes).items()]
        file.write_text("\n".join(["[Re mote]", *lines, ""]), encoding="utf-8")
        return RcloneConfig(
            remote="Re mote", path=str(root or self.root), config_file=str(file), timeout_seconds=timeout_seconds
        )

    def at(self, host: str, port: int, *, timeout_seconds: float) -> RcloneConfig:
        return self.on(timeout_seconds=timeout_seconds, host=host, port=port)

    def wrong_credentials(self) -> Iterable[Storage]:
        changes = [{"key_file": self.server.wrong_key}, {"user": "dg-no-such-user"}]
        return [build_storage(self.on(**change)) for change in changes]


@contextmanager
def on_sftp(_folder: Path) -> Iterator[Harness]:
    program("rclone")
    server = shared(ssh_server)
    folder = server.shared_folder()
    try:
        yield SftpRemoteHarness(server, folder)
    finally:
        remove(folder)


PEERS: Peers = {"sftp": on_sftp}
