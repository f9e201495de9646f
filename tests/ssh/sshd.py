"""A real OpenSSH server with keys and a port of its own. It lets one user in: this one, or `nobody` when root runs it,
so that permissions count.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from dataguardian.ssh import SshTarget
from tests.conftest import missing
from tests.servers import free_port
from tests.storage.processes import listening

SSHD = "/usr/sbin/sshd"
PASSPHRASE = "pä ss'w\"or=d"

_SETTINGS = """
ListenAddress 127.0.0.1
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
MaxStartups 100
LogLevel ERROR
Subsystem sftp internal-sftp
"""


class SshServer:
    """`user` may sign in with `key` (no passphrase) or `sealed_key` (PASSPHRASE), but not with `wrong_key`."""

    def __init__(self, folder: Path, *, settings: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.host_keys = {kind: self._keygen(f"host_{kind}", kind=kind) for kind in ("ed25519", "ecdsa")}
        self.key, self.wrong_key = self._keygen("key"), self._keygen("wrong_key")
        self.sealed_key = self._keygen("sealed_key", passphrase=PASSPHRASE)
        self._allow(self.key, self.sealed_key)
        self.settings = settings
        self._running = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, only: str | None = None) -> None:
        """Starts it on its port; `only` leaves it one kind of host key."""
        keys = [f"HostKey {key}" for kind, key in self.host_keys.items() if only in (None, kind)]
        lines = [f"Port {self.port}", *keys, f"AuthorizedKeysFile {self.folder / 'authorized'}", _SETTINGS]
        config = self.folder / "sshd_config"
        config.write_text(self.settings + "\n" + "\n".join(lines), encoding="utf-8")
        self._process = self._running.enter_context(listening([SSHD, "-D", "-e", "-f", str(config)], self.port))

    def stop(self) -> None:
        """Kills it and every connection that it serves."""
        if self._process is not None:
            for child in _descendants(self._process.pid):
                _kill(child)
            self._process = None
        self._running.close()

    def new_host_keys(self) -> None:
        self.host_keys = {kind: self._keygen(f"host_{kind}", kind=kind) for kind in self.host_keys}

    def host_key(self, kind: str = "ed25519") -> str:
        """Returns the public key as `ssh-keyscan` prints it."""
        return f"[127.0.0.1]:{self.port} {self.host_keys[kind].with_suffix('.pub').read_text(encoding='ascii')}"

    def fingerprint(self, kind: str = "ed25519") -> str:
        shown = subprocess.run(["ssh-keygen", "-lf", self.host_keys[kind]], capture_output=True, check=True, text=True)
        return shown.stdout.split()[1]

    def target(self, **given: Any) -> SshTarget:
        usual = {"host": "127.0.0.1", "port": self.port, "username": self.user, "private_key_file": str(self.key)}
        return SshTarget(**(usual | given))

    def shared_folder(self) -> Path:
        """Returns a fresh folder that the server's user may enter, and in which it may make others."""
        folder = Path(tempfile.mkdtemp(prefix="dg-sftp-"))
        folder.chmod(0o755)
        self.own(folder)
        return folder

    def own(self, path: Path) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam(self.user)
            os.chown(path, user.pw_uid, user.pw_gid)

    def _keygen(self, name: str, *, kind: str = "ed25519", passphrase: str = "") -> Path:
        path = self.folder / name
        path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path], check=True)
        return path

    def _allow(self, *keys: Path) -> None:
        public = "".join(key.with_suffix(".pub").read_text(encoding="ascii") for key in keys)
        (self.folder / "authorized").write_text(public, encoding="ascii")


@contextmanager
def ssh_server(*, settings: str = "") -> Iterator[SshServer]:
    """Yields a running server; fails or skips, by name, where there is none."""
    if not Path(SSHD).exists():
        missing("sshd (apt-get install openssh-server)")
    if os.geteuid() == 0:  # Debian makes it when the service starts, and here it may never have
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dg-sshd-"))
    folder.chmod(0o755)  # the user's process reads the authorized keys
    server = SshServer(folder, settings=settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def remove(folder: Path) -> None:
    """The server may still be writing down what a client that was killed had sent."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text(encoding="ascii").split()] if children.exists() else []
    return found + [deeper for child in found for deeper in _descendants(child)]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
