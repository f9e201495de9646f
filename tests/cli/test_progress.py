"""Progress: what the figures mean, and how they look on a terminal and in a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dataguardian.cli.progress import RATE_SECONDS, Lines, Meter, Reading, Watch, describe
from dataguardian.cli.signals import STOP
from dataguardian.core.progress import Progress
from dataguardian.domain.errors import CancelledError
from tests.cli.program import Program, wait_for

MIB = 1 << 20


def test_a_backup_meters_each_stream_of_its_own() -> None:
    """A backup reports bytes over all streams; what is shown is the stream's own share of its own total."""
    meter = Meter(cumulative=True)
    assert meter.changes_stream(Progress("backup", "one", size_bytes=0, total_bytes=10 * MIB))
    assert not meter.changes_stream(Progress("backup", "one", size_bytes=10 * MIB, total_bytes=10 * MIB))
    assert meter.changes_stream(
        Progress("backup", "two", size_bytes=15 * MIB, stored_bytes=5 * MIB, total_bytes=20 * MIB)
    )
    reading = meter.read(1.0)
    assert (reading.size_bytes, reading.percent, reading.ratio) == (5 * MIB, 25, 3.0)


def test_the_rate_spans_streams() -> None:
    """A restore reports per stream; the rate counts the bytes of both."""
    meter = Meter(cumulative=False)
    meter.changes_stream(Progress("restore", "one", size_bytes=0))
    meter.read(0.0)
    meter.changes_stream(Progress("restore", "one", size_bytes=10 * MIB))
    meter.changes_stream(Progress("restore", "two", size_bytes=10 * MIB))
    assert meter.read(2.0).rate == 10 * MIB


def test_readings_further_apart_than_the_window_have_a_rate() -> None:
    """Lines come more seldom than the window is long: the rate is then taken over the whole gap."""
    meter = Meter(cumulative=True)
    for count in range(4):
        meter.changes_stream(Progress("backup", "one", size_bytes=count * 12 * MIB))
        reading = meter.read(count * (RATE_SECONDS + 1))
    assert reading.rate == 2 * MIB


@pytest.mark.parametrize(
    ("size_bytes", "exact", "percent"), [(50, False, 50), (100, False, 99), (101, False, None), (100, True, 100)]
)
def test_a_guess_never_says_that_it_is_done(size_bytes: int, exact: bool, percent: int | None) -> None:
    """Only an exact total may reach 100 %; a guess that was too small shows no percentage at all."""
    assert Reading("s", size_bytes, 100, exact, 1.0, None, 0).percent == percent


def test_figures_read_like_a_sentence() -> None:
    """Bytes, rate, ratio, parts, percentage and time left, each with its unit."""
    reading = Reading("s", 50 * MIB, 100 * MIB, exact=True, rate=0.5 * MIB, ratio=3.96, parts=1)
    assert describe(reading) == "50.0 MiB · 512.0 KiB/s · 4.0x · 1 part · 50% · 1:40 left"


def test_a_lost_signal_stops_the_work_at_the_next_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception raised inside a finalizer is lost; the next report raises it again, also with --json."""
    monkeypatch.setattr(STOP, "signum", 15)
    with pytest.raises(CancelledError) as caught:
        Watch(None, cumulative=True).report(Progress("backup"))
    assert caught.value.exit_code == 143


def test_a_reader_that_is_gone_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the terminal goes away, drawing ends and the backup goes on."""
    lines = Lines("backing up")
    calls = []

    def gone(_: Reading) -> None:
        calls.append(1)
        raise BrokenPipeError

    monkeypatch.setattr(lines, "begin_stream", gone)
    watch = Watch(lines, cumulative=True)
    for stream in ("one", "two"):
        watch.report(Progress("backup", stream))
    assert calls == [1]


def test_a_terminal_shows_a_live_bar(program: Program, slow_tree: Path) -> None:
    """On a terminal, a bar with bytes, rate, ratio and parts is drawn while the backup runs; Ctrl-C ends it cleanly."""
    leader, follower = pty.openpty()
    program.env |= {"TERM": "xterm-256color", "COLUMNS": "110"}
    options = ["--level", "19", "--part-size", "256KiB"]
    process, _ = program.start(
        "backup", f"files://{slow_tree}", program.storage, *options, stdout=follower, stderr=follower
    )
    os.close(follower)
    seen = bytearray()
    reader = threading.Thread(target=_collect, args=(leader, seen))
    reader.start()

    def text() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))

    drawn = re.compile(r"backing up slow.*━.*MiB · .*iB/s · \d\.\dx · \d+ parts")
    try:
        wait_for(lambda: drawn.search(text()), "a bar", seconds=60)
    finally:
        process.send_signal(2)
        process.wait(30)
        reader.join(30)
        os.close(leader)
    assert process.returncode == 130
    assert "stopped by SIGINT" in text()
    assert b"\x1b[?25h" in seen, "the cursor is shown again"


def _collect(leader: int, seen: bytearray) -> None:
    try:
        while data := os.read(leader, 4096):
            seen += data
    except OSError:  # how Linux says that the other end is closed
        return


def test_a_log_gets_plain_lines(program: Program, tree: Path) -> None:
    """Without a terminal, progress is a line per stream, without escape sequences; with --json there is none."""
    plain = program.run("backup", f"files://{tree}", program.storage)
    assert plain.err.splitlines()[0].startswith("backing up tree")
    assert "\x1b" not in plain.err + plain.out
    assert program.run("backup", f"files://{tree}", program.storage, "--json").err == ""


def test_a_closed_pipe_is_quiet(program: Program, tree: Path) -> None:
    """A reader that leaves early (`| head`) neither fails the backup nor causes a stack trace."""
    process, _ = program.start("backup", f"files://{tree}", program.storage, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert len(program.listed()) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_has_closed_do_not_matter(program: Program, tree: Path, closed: str) -> None:
    """Without one of the standard streams a backup is taken and verified all the same, in plain lines and in JSON."""
    without = ["sh", "-c", f'exec "$@" {closed}', "sh"]
    assert program.run("backup", f"files://{tree}", program.storage, prefix=without).code == 0
    (taken,) = program.listed()
    for options in ([], ["--json"]):
        outcome = program.run("verify", "--deep", taken["backup"], *options, prefix=without)
        assert (outcome.code, "Traceback" in outcome.err) == (0, False), outcome


def test_what_is_said_on_a_closed_stream_is_not_written_into_a_file(program: Program, tree: Path) -> None:
    """A stream that is closed leaves its number to the next file, which must not get what was meant for the user."""
    script = "import os, sys; from dataguardian.cli import _replace_closed_streams as replace; replace(); "
    script += "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY); os.write(2, b'cleaning up'); print('done')"
    argv = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", sys.executable, "-c", script, str(tree / "part")]
    subprocess.run(argv, check=True)
    assert (tree / "part").read_bytes() == b""


def test_a_result_that_cannot_be_written_is_an_error(program: Program) -> None:
    """A full disk behind `> file` is told on standard error, with exit code 1."""
    with Path("/dev/full").open("w") as full:
        outcome = program.run("list", program.storage, "--json", stdout=full)
    assert outcome.code == 1
    assert "could not be written" in outcome.err


def test_start_up_loads_nothing_heavy() -> None:
    """Help must come at once: neither the libraries of engines and codecs nor pydantic are loaded for it."""
    script = "import sys; from dataguardian.cli.app import program; program(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "zstandard", "psycopg", "lz4", "pathspec", "rich.progress", "asyncio"} & set(loaded)
