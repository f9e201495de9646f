"""Every kind of storage that a recovery kit must bring back, on real servers, each with files of its own to lose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataguardian.storage.backblaze import BackblazeConfig
from dataguardian.storage.backblaze.objects import BackblazeStorage
from tests.certificates import Authority
from tests.servers import free_port
from tests.ssh.password_peer import USER
from tests.ssh.sshd import PASSPHRASE, SshServer, remove, ssh_server
from tests.storage.fixture_backblaze import b2
from tests.storage.peers import shared
from tests.storage.processes import listening, program
from tests.storage.s3_servers import S3Server, moto_s3, rclone_s3

ODD_PREFIX = "pre fix/é+%41"
PASSWORD = "pä ss'w\"or=d/@:#%&\\ $(x)"
CONFIG_PASSWORD = "seals rclone's file"


@dataclass
class Place:
    """A storage location: `type` and `config` as the API takes them. `lost` are files that burn with the machine."""

    name: str
    type: str
    config: dict[str, Any]
    secrets: list[str] = field(default_factory=list)
    lost: list[Path] = field(default_factory=list)


class Places:
    """Makes them. `folder` is a disk of the machine that will be lost, `disk` one that survives."""

    def __init__(self, stack: ExitStack, folder: Path, disk: Path) -> None:
        self._stack, self._folder, self._disk = stack, folder, disk
        self._authority = Authority(folder)
        self._sshd = shared(ssh_server)

    def all(self) -> list[Place]:
        return [
            self.local(),
            *self.sftp(),
            self.sftp_password(),
            self.s3("s3-moto", shared(moto_s3), prefix=ODD_PREFIX),
            self.s3("s3-rclone", shared(rclone_s3), prefix=ODD_PREFIX, path_style=True),
            self.s3_tls(),
            self.minio(),
            *self.backblaze(),
            *self.rclone(),
        ]

    def local(self) -> Place:
        path = self._disk / "disk of 'last' $(resort)"
        path.mkdir()
        return Place("disk", "local", {"path": str(path)})

    def sftp(self) -> Iterator[Place]:
        """By a key in a file, or a text that a passphrase opens; the host key given, a fingerprint, or on first use."""
        server, root = self._sshd, self._stack.enter_context(_shared_folder(self._sshd))
        key = self._copy(server.key)
        usual = {"host": "127.0.0.1", "port": server.port, "username": server.user}
        text = server.sealed_key.read_text()
        pinned = {"host_key": server.host_key(), "private_key_file": str(key)}
        sealed = {"host_key": server.fingerprint(), "private_key": text, "passphrase": PASSPHRASE}
        ways: dict[str, dict[str, Any]] = {
            "sftp-key": pinned,
            "sftp-sealed-key": sealed,
            "sftp-first-use": {"private_key_file": str(key)},
        }
        for name, way in ways.items():
            folder = root / f"{name}: it's [a] *storage* \\ root"
            folder.mkdir()
            server.own(folder)
            secrets = [PASSPHRASE] if way is sealed else []
            lost = [key] if "private_key_file" in way else []
            yield Place(name, "ssh", {**usual, **way, "remote_path": str(folder)}, secrets, lost)

    def sftp_password(self) -> Place:
        """A server without a shell, that shows its key on first use."""
        port, folder = free_port(), self._disk / "of the password"
        folder.mkdir()
        argv = [sys.executable, "-m", "tests.ssh.password_peer", str(port), str(folder)]
        self._stack.enter_context(listening(argv, port, env={"DG_PEER_PASSWORD": PASSWORD}))
        (folder / "back ups").mkdir()
        config = {"host": "127.0.0.1", "port": port, "username": USER, "password": PASSWORD, "remote_path": "/back ups"}
        return Place("sftp-password", "ssh", config, [PASSWORD])

    def s3(self, name: str, server: S3Server, **more: Any) -> Place:
        config = {
            "bucket": server.bucket(),
            "endpoint": f"http://127.0.0.1:{server.port}",
            "region": "us-east-1",
            "access_key_id": server.owner.access_key,
            "secret_access_key": server.owner.secret_key,
        }
        return Place(name, "s3", config | more, [server.owner.secret_key])

    def s3_tls(self) -> Place:
        """Over TLS, by an authority that nobody else knows."""
        pair = self._authority.issue("s3", "127.0.0.1")
        server = self._stack.enter_context(rclone_s3("--cert", str(pair.certificate), "--key", str(pair.key)))
        (server.folder / "vault").mkdir()
        ca = self._copy(self._authority.file)
        config = {
            "bucket": "vault",
            "endpoint": f"https://127.0.0.1:{server.port}",
            "access_key_id": server.owner.access_key,
            "secret_access_key": server.owner.secret_key,
            "ca_file": str(ca),
        }
        return Place("s3-tls", "s3", config, [server.owner.secret_key], [ca])

    def minio(self) -> Place:
        server = shared(moto_s3)
        config = {
            "endpoint": f"127.0.0.1:{server.port}",
            "bucket": server.bucket(),
            "prefix": "of/ours",
            "access_key": server.owner.access_key,
            "secret_key": server.owner.secret_key,
            "use_ssl": False,
        }
        return Place("minio", "minio", config, [server.owner.secret_key])

    def backblaze(self) -> Iterator[Place]:
        """By the bucket's name, and by its id alone."""
        server = shared(b2)
        key_id, key = server.owner
        usual = {
            "application_key_id": key_id,
            "application_key": key,
            "endpoint": f"http://127.0.0.1:{server.port}",
        }
        yield Place("b2", "backblaze", {**usual, "bucket_name": server.bucket(), "prefix": ODD_PREFIX}, [key])
        bucket = BackblazeConfig.model_validate({**usual, "bucket_name": server.bucket()})
        yield Place("b2-id", "backblaze", {**usual, "bucket_id": BackblazeStorage(bucket).bucket[0]}, [key])

    def rclone(self) -> Iterator[Place]:
        """A remote that signs in with a key of its own; and one upon another, in a file that a password opens."""
        server, root = self._sshd, self._stack.enter_context(_shared_folder(self._sshd))
        (root / "far").mkdir()
        server.own(root / "far")
        key = self._copy(server.key)
        lines = ["[Re mote]", "type = sftp", "host = 127.0.0.1", f"port = {server.port}", f"user = {server.user}"]
        plain = self._folder / "rclone plain.conf"
        plain.write_text("\n".join([*lines, f"key_file = {key}", "shell_type = none", ""]))
        config = {"remote": "Re mote", "path": str(root / "far"), "config_file": str(plain)}
        yield Place("rclone-sftp", "rclone", config, [], [key, plain])
        sealed, far = self._folder / "sealed.conf", self._disk / "far"
        far.mkdir()
        sealed.write_text(f"[disk]\ntype = alias\nremote = {far}\n\n[crypt]\ntype = crypt\nremote = disk:\n")
        env = {**os.environ, "RCLONE_CONFIG": str(sealed), "RCLONE_CONFIG_PASS": ""}
        rclone = program("rclone")
        for command in (
            ["config", "update", "crypt", "password", "a word", "--obscure", "--non-interactive"],
            ["config", "encryption", "set", "--password-command", f"echo {CONFIG_PASSWORD!r}"],
        ):
            subprocess.run([rclone, *command], env=env, check=True, capture_output=True)
        assert "disk" not in sealed.read_text()
        config = {"remote": "crypt", "path": "", "config_file": str(sealed), "config_password": CONFIG_PASSWORD}
        yield Place("rclone-crypt", "rclone", config, [CONFIG_PASSWORD], [sealed])

    def _copy(self, file: Path) -> Path:
        """Returns a copy of the machine's own, which burns with it."""
        number = len(list(self._folder.glob("copy*")))
        copy = self._folder / f"copy {number} of {file.name}"
        shutil.copyfile(file, copy)
        copy.chmod(0o600)
        return copy


@contextmanager
def _shared_folder(server: SshServer) -> Iterator[Path]:
    folder = server.shared_folder()
    try:
        yield folder
    finally:
        remove(folder)
