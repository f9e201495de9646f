"""Child processes, in one place: spawning, feeding, draining, ending.

Rules (each was paid for): stderr is drained all the time, into a bounded tail; every child leads its own process
group, so that Ctrl-C reaches us first and an abort reaches its children too; a child dies when we die (PDEATHSIG, by
`setpriv`: Python's preexec_fn is not safe beside threads); an abort is TERM, closed pipes, and KILL after a limit, in
that order, because a child that sees its input end early may call that success. Spawn from the main thread: PDEATHSIG
fires when the *thread* ends.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import TracebackType
from typing import IO, Self

from dataguardian.domain.errors import MissingToolError
from dataguardian.interruption import unbroken
from dataguardian.settings import without_secrets

PIPE_BYTES = 1 << 20
"""Asked of the kernel for every pipe; 64 KiB pipes cost a wake-up per 64 KiB."""
TERM_GRACE_SECONDS = 5.0
STDERR_TAIL_LINES = 200
STDERR_LINE_BYTES = 4096
STDERR_LONGEST_LINE_BYTES = 64 * 1024
"""A path of 4096 bytes, every byte of it escaped, and a message; `on_stderr` must see where a line ends."""

_living: set[ChildProcess] = set()
"""Children that nobody has waited for yet."""


@cache
def launcher() -> tuple[str, ...]:
    """The prefix that makes a child die with us; empty where util-linux's setpriv is missing or too old."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "TERM", "--")
    probe = subprocess.run([*prefix, "true"], capture_output=True, check=False, timeout=10)
    return prefix if probe.returncode == 0 else ()


@cache
def big_buffers() -> tuple[str, ...]:
    """The prefix that gives a C program 1 MiB of stdio buffer: pg_dump writes 4 KiB at a time otherwise, and the
    system calls cost a quarter of its run (docs/architecture.md has the figures).
    """
    stdbuf = shutil.which("stdbuf")
    return (stdbuf, "-i1M", "-o1M") if stdbuf else ()


class ChildProcess:
    """A running client program. Use as a context manager: leaving it ends the child, whatever happened.

    `argv` never holds a secret; those go into `env`. `stdin` and `stdout` are pipes when asked for, else /dev/null.
    """

    def __init__(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bool = False,
        stdout: bool = False,
        stdbuf: bool = False,
        cwd: str | bytes | None = None,
        on_stderr: Callable[[str], None] | None = None,
    ) -> None:
        """Spawns it. `on_stderr` is told every line, from the draining thread, and must neither block nor raise."""
        self.name = os.path.basename(os.fsdecode(argv[0]))  # noqa: PTH119 -- the name of a program, not a path to open
        self._tail: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._on_stderr = on_stderr
        command = [*launcher(), *(big_buffers() if stdbuf else ()), *argv]
        try:
            # A stop between the spawn and the caller's `with` would leave the child to nobody: then the exit ends it.
            with unbroken:
                self._spawn(command, without_secrets(os.environ if env is None else env), stdin, stdout, cwd)
        except FileNotFoundError as error:
            raise MissingToolError(f"{self.name} is not installed, or was removed a moment ago") from error

    def _spawn(
        self, command: list[str | bytes], env: dict[str, str], stdin: bool, stdout: bool, cwd: str | bytes | None
    ) -> None:
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            bufsize=0,
            process_group=0,
        )
        self._drain = threading.Thread(target=self._drain_stderr, name=f"stderr of {self.name}", daemon=True)
        _living.add(self)
        for pipe in (self._popen.stdin, self._popen.stdout):
            _enlarge(pipe)
        self._drain.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stderr_lines(self) -> list[str]:
        """The last lines that the child wrote to stderr; complete once `wait` returned."""
        return list(self._tail)

    @property
    def stderr_text(self) -> str:
        """The same, shortened to what fits an error message."""
        return "\n".join(self._tail)[-2000:].strip()

    def readinto(self, buffer: memoryview) -> int:
        """Reads what is there, at least one byte; returns 0 when the child closed its output."""
        return os.readv(self._pipe(self._popen.stdout).fileno(), [buffer])

    def has_output(self, deadline: float) -> bool:
        """Waits for output, or for its end, until `deadline` (of time.monotonic); tells whether there is any."""
        poll = select.poll()
        poll.register(self._pipe(self._popen.stdout), select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))

    def read_and_feed(self, buffer: memoryview, other: ChildProcess) -> int:
        """Like `readinto`, and `other` gets the same bytes on its standard input; raises BrokenPipeError.

        Where the kernel can (tee(2)), the pages of one pipe are shared with the other and not copied through here.
        """
        source, target = self._pipe(self._popen.stdout).fileno(), self._pipe(other._popen.stdin).fileno()
        try:
            count = tee(source, target, min(len(buffer), PIPE_BYTES))
        except BrokenPipeError:  # no error when `other` has left and nothing is left to read either
            if self.readinto(buffer) == 0:
                return 0
            raise
        if count is None:
            count = self.readinto(buffer)
            other.write(buffer[:count])
            return count
        filled = 0
        while filled < count:
            filled += self.readinto(buffer[filled:count])
        return count

    def write(self, data: bytes | memoryview) -> None:
        """Writes all of it; raises BrokenPipeError when the child has stopped reading."""
        descriptor = self._pipe(self._popen.stdin).fileno()
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def feed(self, chunks: Iterable[bytes]) -> threading.Thread:
        """Writes `chunks` from a thread of its own, then closes the child's input; for children that are also read.

        `chunks` runs in that thread and must not raise: the child would take the early end for a complete input. The
        thread has its own descriptor, so that an abort never closes it under a write; a dead child ends the thread.
        """
        pipe = self._pipe(self._popen.stdin)
        descriptor = os.dup(pipe.fileno())
        pipe.close()
        thread = threading.Thread(target=_feed, args=(descriptor, chunks), name=f"stdin of {self.name}", daemon=True)
        thread.start()
        return thread

    def close_stdin(self) -> None:
        """Tells the child that its input is complete. Never call it on the way out of an error: use `abort`."""
        self._pipe(self._popen.stdin).close()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Returns the exit code (negative: ended by that signal); raises subprocess.TimeoutExpired."""
        code = self._popen.wait(timeout_seconds)
        _living.discard(self)
        self._drain.join(timeout=TERM_GRACE_SECONDS)
        return code

    def abort(self) -> None:
        """Ends the child and everything in its group; does nothing when it has ended and was waited for."""
        if self._popen.returncode is None:
            self._signal(signal.SIGTERM)
        self._close_pipes()
        try:
            self._popen.wait(TERM_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._popen.wait()
        _living.discard(self)
        self._drain.join(timeout=TERM_GRACE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with unbroken:  # what comes next may undo what the child did, which must have ended by then
            self.abort()

    def _signal(self, signum: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signum)

    def _close_pipes(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _drain_stderr(self) -> None:
        stream = self._pipe(self._popen.stderr)
        rest = b""
        while data := stream.read(STDERR_LINE_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take_stderr(line)
            if len(rest) > STDERR_LONGEST_LINE_BYTES:
                self._take_stderr(rest)
                rest = b""
        if rest:
            self._take_stderr(rest)
        stream.close()

    def _take_stderr(self, line: bytes) -> None:
        self._tail.append(line[:STDERR_LINE_BYTES].decode("utf-8", "backslashreplace"))
        if self._on_stderr is not None:
            self._on_stderr(line.decode("utf-8", "backslashreplace"))

    @staticmethod
    def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
        if stream is None:
            raise ValueError("this child was started without that pipe")
        return stream


def _feed(descriptor: int, chunks: Iterable[bytes]) -> None:
    try:
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
    except BrokenPipeError:
        pass  # the child has ended: its exit code says why
    finally:
        os.close(descriptor)


def tee(source: int, target: int, limit_bytes: int) -> int | None:
    """Shares what waits in one pipe with another one: at least a byte, at most the limit.

    Returns how many bytes, 0 at the end, None where the kernel cannot; raises OSError such as BrokenPipeError.
    """
    call = _tee()
    while call is not None:
        count = int(call(source, target, limit_bytes, 0))
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number in (errno.EINVAL, errno.ENOSYS):
            return None
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return None


@cache
def _tee() -> Callable[[int, int, int, int], int] | None:
    call = getattr(ctypes.CDLL(None, use_errno=True), "tee", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
        call.restype = ctypes.c_ssize_t
    return call


def _enlarge(pipe: IO[bytes] | None) -> None:
    """Asks for a bigger pipe; the kernel may refuse (a user's limit on pipe memory), which only costs speed."""
    if pipe is not None and hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def run_child(
    argv: Sequence[str | bytes], *, env: Mapping[str, str] | None = None, timeout_seconds: float = 60.0
) -> tuple[int, bytes, str]:
    """Runs a short-lived program to its end; returns (exit code, standard output, end of standard error).

    A program that takes longer is ended: its exit code is negative then.
    """
    deadline = time.monotonic() + timeout_seconds
    output = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    with ChildProcess(argv, env=env, stdout=True) as child:
        while child.has_output(deadline) and (count := child.readinto(buffer)):
            output += buffer[:count]
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.abort()
        return child.wait(), bytes(output), child.stderr_text


@atexit.register
def _end_leftovers() -> None:
    """Ends children that a stop request tore from their owners."""
    for child in list(_living):
        child.abort()
