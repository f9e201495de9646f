"""Progress of long work: a live bar on a terminal, plain lines every few seconds elsewhere, nothing with --json.

The reports come from the hot path, one per piece that passes, so almost all of them end after a look at the clock.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Protocol, Self

from dataguardian.cli import output
from dataguardian.cli.signals import STOP
from dataguardian.core.progress import Progress
from dataguardian.domain.sizes import format_size

DRAW_SECONDS = 0.1
LINE_SECONDS = 5.0
RATE_SECONDS = 5.0
"""The rate is the average of this long a window."""


@dataclass(frozen=True)
class Reading:
    """What is shown: `size_bytes` of this stream, `rate` in bytes per second over all, `ratio` raw to stored."""

    stream: str
    size_bytes: int
    total_bytes: int | None
    exact: bool
    rate: float
    ratio: float | None
    parts: int

    @property
    def percent(self) -> int | None:
        """None when the end is not known; a guess never says 100."""
        if not self.total_bytes or (self.size_bytes > self.total_bytes and not self.exact):
            return None
        return min(100 if self.exact else 99, self.size_bytes * 100 // self.total_bytes)

    @property
    def seconds_left(self) -> float | None:
        if self.percent is None or self.total_bytes is None or self.rate <= 0:
            return None
        return (self.total_bytes - self.size_bytes) / self.rate


@dataclass
class Meter:
    """Turns reports into readings. A backup reports bytes over all streams; verify and restore report per stream."""

    cumulative: bool
    _latest: Progress | None = None
    _before_bytes: int = 0
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def changes_stream(self, progress: Progress) -> bool:
        """Takes a report in; true when another stream than the last report's begins."""
        latest, self._latest = self._latest, progress
        if latest is not None and latest.stream == progress.stream:
            return False
        if latest is not None:
            self._before_bytes = latest.size_bytes + (0 if self.cumulative else self._before_bytes)
        return True

    def read(self, now: float) -> Reading:
        latest = self._latest or Progress(phase="")
        overall = latest.size_bytes + (0 if self.cumulative else self._before_bytes)
        self._samples.append((now, overall))
        while len(self._samples) > 1 and now - self._samples[1][0] >= RATE_SECONDS:
            self._samples.popleft()
        then, size_then = self._samples[0]
        return Reading(
            stream=latest.stream,
            size_bytes=latest.size_bytes - (self._before_bytes if self.cumulative else 0),
            total_bytes=latest.total_bytes,
            exact=latest.exact,
            rate=(overall - size_then) / (now - then) if now > then else 0.0,
            ratio=latest.size_bytes / latest.stored_bytes if latest.stored_bytes else None,
            parts=latest.parts,
        )


class Display(Protocol):
    interval_seconds: float

    def draw(self, reading: Reading) -> None: ...

    def begin_stream(self, reading: Reading) -> None: ...

    def close(self) -> None: ...


class Watch:
    """What the work reports to: `report` is its callback. It also stops the work when a signal was lost."""

    def __init__(self, display: Display | None, *, cumulative: bool) -> None:
        self._display = display
        self._meter = Meter(cumulative)
        self._next = 0.0

    def report(self, progress: Progress) -> None:
        if STOP.signum is not None:
            STOP.check()
        if self._display is None:
            return
        now = time.monotonic()
        changed = self._meter.changes_stream(progress)
        if changed or now >= self._next:
            self._next = now + self._display.interval_seconds
            self._draw(self._display, now, changed)

    def _draw(self, display: Display, now: float, changed: bool) -> None:
        try:
            reading = self._meter.read(now)
            (display.begin_stream if changed else display.draw)(reading)
        except OSError:  # the terminal or the reader of our lines is gone; the work goes on
            self._display = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._display is not None:
            with suppress(OSError):
                self._display.close()


class Lines:
    """Plain lines, for logs."""

    interval_seconds = LINE_SECONDS

    def __init__(self, verb: str) -> None:
        self._verb = verb

    def begin_stream(self, reading: Reading) -> None:
        size = (
            f" ({'' if reading.exact else 'about '}{format_size(reading.total_bytes)})" if reading.total_bytes else ""
        )
        output.note(f"{self._verb} {reading.stream}{size}")

    def draw(self, reading: Reading) -> None:
        output.note(f"{self._verb} {reading.stream}: {describe(reading)}")

    def close(self) -> None:
        """Nothing is left open."""


class Bar:
    """A live bar."""

    interval_seconds = DRAW_SECONDS

    def __init__(self, verb: str) -> None:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.table import Column

        self._verb = verb
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(
                "{task.description}", markup=False, table_column=Column(max_width=32, overflow="ellipsis", no_wrap=True)
            ),
            BarColumn(bar_width=None, table_column=Column(min_width=8, ratio=1)),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
            console=output.console(error=True),
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
            refresh_per_second=round(1 / DRAW_SECONDS),
        )
        self._task = self._progress.add_task(verb, total=None, figures="")
        self._progress.start()

    def begin_stream(self, reading: Reading) -> None:
        self._progress.reset(self._task, total=None)
        self.draw(reading)

    def draw(self, reading: Reading) -> None:
        known = reading.percent is not None
        self._progress.update(
            self._task,
            description=f"{self._verb} {output.clean(reading.stream)}",
            completed=reading.size_bytes if known else 0,
            total=reading.total_bytes if known else None,
            figures=describe(reading),
        )

    def close(self) -> None:
        self._progress.stop()


def describe(reading: Reading) -> str:
    """Returns `12.0 MiB · 80.1 MiB/s · 4.0x · 3 parts · 41% · 0:12 left`, without what is not known."""
    pieces = [format_size(reading.size_bytes), f"{format_size(reading.rate)}/s"]
    if reading.ratio is not None:
        pieces.append(f"{reading.ratio:.1f}x")
    pieces.append("1 part" if reading.parts == 1 else f"{reading.parts} parts")
    if reading.percent is not None:
        pieces.append(f"{reading.percent}%")
    if reading.seconds_left is not None:
        minutes, seconds = divmod(round(reading.seconds_left), 60)
        pieces.append(f"{minutes}:{seconds:02d} left")
    return " · ".join(pieces)


def watch(verb: str, *, quiet: bool, cumulative: bool = False) -> Watch:
    """Returns the watch that fits: `quiet` for --json, a bar for a terminal, lines for everything else."""
    if quiet:
        return Watch(None, cumulative=cumulative)
    terminal = (
        sys.stderr.isatty()
        and output.console(error=True).is_terminal
        and not output.console(error=True).is_dumb_terminal
    )
    return Watch(Bar(verb) if terminal else Lines(verb), cumulative=cumulative)


def busy(text: str, *, quiet: bool) -> AbstractContextManager[object]:
    """Shows on a terminal that something without measurable progress goes on."""
    if quiet or not sys.stderr.isatty():
        return nullcontext()
    return output.console(error=True).status(text)
