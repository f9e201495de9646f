"""Measuring real command lines from outside: wall clock, processor time, peak memory, in interleaved rounds."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
LIMIT_SECONDS = 1800.0
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.02


def adopt_orphans() -> None:
    """Makes grandchildren ours when their parent ends first: bash does not wait for `>(sha256sum)`, we count it."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def as_installed() -> None:
    """Lets programs keep their bytecode, as pip does when it installs them, whatever this environment says: else every
    run of an editable install compiles all of its modules.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@dataclass(frozen=True)
class Cost:
    """One run. `server_seconds` is the processor time of the database server, `others_seconds` of everything else."""

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    server_seconds: float
    others_seconds: float


@dataclass(frozen=True)
class Memory:
    """Peaks in bytes: of the process itself, of it and its Python children together, and of the whole family."""

    main_bytes: int
    python_bytes: int
    family_bytes: int


def _nothing() -> None:
    """For sides that need no preparation."""


@dataclass(frozen=True)
class Side:
    """One side of a comparison: `before` and `after` are not counted; `after` deletes what the run made."""

    name: str
    argv: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing


@dataclass
class Meter:
    """Runs command lines. `server_pid` is the database server, whose time counts apart, and which is never reaped."""

    work: Path
    server_pid: int | None = None
    kept_pids: set[int] = field(default_factory=set)
    """Other servers that a section runs, which are not to be waited for."""

    def rounds(self, sides: Sequence[Side], count: int) -> dict[str, list[Cost]]:
        """Runs A B A B …: one warm-up of each that does not count, then `count` rounds."""
        costs: dict[str, list[Cost]] = {side.name: [] for side in sides}
        for number in range(count + 1):
            for side in sides:
                side.before()
                cost = self.cost(side)
                side.after()
                print(f"  {side.name:34} {cost.wall_seconds:7.2f} s{'' if number else '  (warm-up)'}", flush=True)
                if number:
                    costs[side.name].append(cost)
        return costs

    def cost(self, side: Side) -> Cost:
        settle()
        server, machine = self._server_seconds(), machine_seconds()
        with self._started(side) as run:
            run.wait()
        wall = run.wall_seconds
        user, system = run.cpu_seconds()
        for orphan in self._orphans():
            usage = os.wait4(orphan, 0)[2]
            user, system = user + usage.ru_utime, system + usage.ru_stime
        time.sleep(0.1)  # the server reaps a backend a moment after its client has gone
        server = self._server_seconds() - server
        others = machine_seconds() - machine - user - system - server
        return Cost(round(wall, 4), round(user, 3), round(system, 3), round(server, 3), round(max(0.0, others), 3))

    def memory(self, side: Side) -> Memory:
        settle()
        side.before()
        peaks: dict[int, tuple[bool, int]] = {}
        seen: Counter[int] = Counter()
        with self._started(side) as run:
            while run.poll():
                for pid in (run.pid, *descendants(run.pid)):
                    peaks[pid] = _peak(pid) or peaks.get(pid, (False, 0))
                    seen[pid] += 1
                time.sleep(POLL_SECONDS)
        side.after()
        # A child that is about to become another program is Python for a moment, with its parent's own pages.
        peaks = {pid: peak for pid, peak in peaks.items() if seen[pid] > 1}
        python = sum(peak for is_python, peak in peaks.values() if is_python)
        return Memory(peaks[run.pid][1], python, sum(peak for _, peak in peaks.values()))

    def output(self) -> str:
        """Returns what the last run printed."""
        return (self.work / "stdout").read_text()

    def _started(self, side: Side) -> _Run:
        return _Run(side, self.work)

    def _orphans(self) -> list[int]:
        return [pid for pid in _children(os.getpid()) if pid not in {self.server_pid, *self.kept_pids}]

    def _server_seconds(self) -> float:
        """The server's own time and that of the backends that it has reaped."""
        if self.server_pid is None:
            return 0.0
        fields = Path(f"/proc/{self.server_pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(ticks) for ticks in fields[11:15]) / TICKS


class _Run:
    """One command line, timed from its start to the end of its first process."""

    def __init__(self, side: Side, work: Path) -> None:
        self._side, self._work = side, work

    def __enter__(self) -> Self:
        out, err = (self._work / "stdout").open("wb"), (self._work / "stderr").open("wb")
        with out, err:
            self._started_at = time.monotonic()
            self._process = subprocess.Popen(
                self._side.argv,
                env={**os.environ, **self._side.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                process_group=0,
            )
        self.pid = self._process.pid
        self._timer = threading.Timer(LIMIT_SECONDS, os.killpg, (self.pid, signal.SIGKILL))
        self._timer.start()
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        self._timer.cancel()
        if kind is not None and self._process.returncode is None:
            os.killpg(self.pid, signal.SIGTERM)
            self._process.wait()

    def wait(self) -> None:
        self._ended(*os.wait4(self.pid, 0)[1:])

    def poll(self) -> bool:
        """Returns whether it still runs."""
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self._ended(status, usage)
        return not pid

    def cpu_seconds(self) -> tuple[float, float]:
        return self._usage.ru_utime, self._usage.ru_stime

    def _ended(self, status: int, usage: resource.struct_rusage) -> None:
        self.wall_seconds = time.monotonic() - self._started_at
        self._usage = usage
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode:
            tail = (self._work / "stderr").read_text(errors="replace")[-2000:]
            raise SystemExit(f"{self._side.name} ended with {self._process.returncode}\n{tail}")


def settle() -> None:
    """Writes out what earlier runs left dirty, so that it is not billed to the next one."""
    os.sync()
    time.sleep(0.2)


def machine_seconds() -> float:
    """Returns the processor time that the whole machine has spent since boot, all cores, idle and waiting excluded."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _waiting, irq, softirq, steal = (int(ticks) for ticks in fields)
    return (user + nice + system + irq + softirq + steal) / TICKS


def descendants(pid: int) -> Iterator[int]:
    for child in _children(pid):
        yield child
        yield from descendants(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def _peak(pid: int) -> tuple[bool, int] | None:
    """Returns (is it Python, peak resident bytes), None when the process has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        program = Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return None
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return None if peak is None else (program.startswith("python"), int(peak.split()[1]) * 1024)
