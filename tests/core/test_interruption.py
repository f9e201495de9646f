"""Stop requests at the worst of moments: what belongs together is not torn apart, and children find their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from dataguardian.cli.signals import StopRequest
from dataguardian.domain.errors import CancelledError
from dataguardian.engines import processes
from dataguardian.engines.processes import ChildProcess, run_child
from dataguardian.engines.sqlite.process import staged_file
from dataguardian.interruption import unbroken, undoing
from tests.cli.program import wait_for


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[StopRequest]:
    """A stop request that answers SIGUSR1 as the program answers SIGTERM."""
    request = StopRequest()
    before = signal.signal(signal.SIGUSR1, request._handle)
    yield request
    signal.signal(signal.SIGUSR1, before)


def hit() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(100):
        pass  # Python runs the handler between two of these


def late() -> None:
    """Waits for a stop that comes a moment later."""
    time.sleep(30)
    raise AssertionError("no stop was raised")


def test_a_stop_waits_for_the_end_of_an_unbroken_block(stop: StopRequest) -> None:
    """The block runs to its end, nested ones included; then the stop is raised, once."""
    steps = []
    with pytest.raises(CancelledError), unbroken:  # noqa: PT012 -- the block is the test
        with unbroken:
            hit()
            steps.append("inner")
        steps.append("outer")
    assert steps == ["inner", "outer"]
    with unbroken:
        pass


def test_an_unbroken_block_that_fails_still_stops(stop: StopRequest) -> None:
    """The stop comes out of a block that ended with an error, too, and the error is its context."""
    with pytest.raises(CancelledError) as caught, unbroken:  # noqa: PT012 -- the block is the test
        hit()
        raise ValueError("inner")
    assert isinstance(caught.value.__context__, ValueError)


def test_a_stop_while_something_is_undone_is_not_raised(stop: StopRequest) -> None:
    """The error that is on its way stays the one that is told; the request is remembered."""
    steps = []
    with pytest.raises(ValueError, match="broken"):  # noqa: PT012 -- the block is the test
        try:
            int("broken")
        except ValueError:
            with undoing():
                hit()
                steps.append("undone")
            raise
    assert (steps, stop.signum) == (["undone"], signal.SIGUSR1)


def test_a_stop_that_waited_before_something_was_undone_is_raised(stop: StopRequest) -> None:
    """It came in the block around it, which goes on."""
    with pytest.raises(CancelledError), unbroken:  # noqa: PT012 -- the block is the test
        hit()
        with undoing():
            pass


def test_other_threads_hold_nothing_back(stop: StopRequest) -> None:
    """A thread in such a block does not delay a stop of the main one."""
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with unbroken:
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(10)
    with pytest.raises(CancelledError):
        hit()
    leave.set()
    thread.join()


@pytest.mark.parametrize("line", ["import hit_inside", "importlib.import_module('hit_inside')"])
def test_a_stop_waits_for_the_end_of_an_import(
    stop: StopRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """The module and what it imports are loaded whole, also where Python or a library makes an error of its own of
    what is raised there; then the stop is raised, once.
    """
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("hit_inside", "hit_further_inside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "hit_inside.py").write_text(
        "try:\n    import hit_further_inside\nexcept Exception:\n    hit_further_inside = None\ndone = True\n"
    )
    (tmp_path / "hit_further_inside.py").write_text(
        "from tests.core.test_interruption import hit\n"
        "class Named:\n    def __set_name__(self, *_):\n        hit()\n"
        "class Owner:\n    named = Named()\n"
    )
    alarm = signal.getsignal(signal.SIGALRM)
    with pytest.raises(CancelledError):  # noqa: PT012 -- the second line waits for what the first one led to
        exec(f"import importlib\n{line}", {})
        late()
    assert sys.modules["hit_inside"].done
    assert sys.modules["hit_inside"].hit_further_inside.Owner.named
    assert signal.getsignal(signal.SIGALRM) is alarm


def test_a_stop_waits_for_the_start_of_a_thread(stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread begins as any other and its pool knows it; then the stop is raised."""
    original = threading._start_new_thread  # type: ignore[attr-defined]

    def start(*arguments: object) -> int:
        number = original(*arguments)
        hit()
        return int(number)

    monkeypatch.setattr(threading, "_start_new_thread", start)
    ran = threading.Event()
    thread = threading.Thread(target=ran.set)
    with pytest.raises(CancelledError):  # noqa: PT012 -- the second line waits for what the first one led to
        thread.start()
        late()
    thread.join(10)
    assert ran.is_set()
    stop.signum = None
    futures: list[Future[int]] = []
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(CancelledError):  # noqa: PT012 -- see above
            futures.append(pool.submit(int, "7"))
            late()
        assert len(pool._threads) == 1
    assert [future.result() for future in futures] == [7]


def test_a_stop_waits_for_a_condition_that_is_being_entered(stop: StopRequest) -> None:
    """Its lock is not left locked, whatever the moment."""

    class Hit:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.acquire, self.release = self.lock.acquire, self.lock.release

        def __enter__(self) -> None:
            self.lock.acquire()
            hit()

        def __exit__(self, *_: object) -> None:
            self.lock.release()

    condition, lock = threading.Condition(hitting := Hit()), hitting.lock  # type: ignore[arg-type]  # as good as a lock
    with pytest.raises(CancelledError), condition:
        late()
    assert not lock.locked()


def test_after_the_commit_a_stop_comes_too_late(stop: StopRequest, capfd: pytest.CaptureFixture[str]) -> None:
    """Before it, it raises; from then on it only says so."""
    stop.commit()
    hit()
    assert stop.signum is None
    assert "too late to stop" in capfd.readouterr().err


def test_a_commit_after_a_lost_stop_raises(stop: StopRequest) -> None:
    """An exception that somebody swallowed is raised at the last moment that is left."""
    with pytest.raises(CancelledError):
        hit()
    with pytest.raises(CancelledError):
        stop.commit()


def test_a_child_whose_owner_was_torn_away_is_ended(stop: StopRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop in the middle of a spawn: nobody holds the child, yet it is known, and the exit ends it."""
    spawned = []
    processes.launcher()
    real = subprocess.Popen

    def spawn(*args: object, **options: object) -> subprocess.Popen[bytes]:
        child = real(*args, **options)
        spawned.append(child)
        hit()
        return child

    monkeypatch.setattr(processes.subprocess, "Popen", spawn)
    with pytest.raises(CancelledError):
        ChildProcess(["sleep", "60"])
    (child,) = spawned
    assert child.poll() is None
    processes._end_leftovers()
    assert child.returncode == -signal.SIGTERM
    assert not processes._living


def test_a_staged_file_whose_owner_was_torn_away_is_removed(
    stop: StopRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stop right after the file was made, and one right before it is removed: it is removed both times."""
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", str(tmp_path))
    real = os.open

    def open_and_stop(*args: object, **options: object) -> int:
        descriptor = real(*args, **options)
        hit()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_stop)
    with pytest.raises(CancelledError), staged_file():
        pytest.fail("the stop was lost")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("DATAGUARDIAN_STAGING_DIR", str(tmp_path))
    stop.signum = None
    real_close = os.close

    def close_and_stop(descriptor: int) -> None:
        monkeypatch.setattr(os, "close", real_close)
        real_close(descriptor)
        hit()

    with pytest.raises(CancelledError), staged_file():
        monkeypatch.setattr(os, "close", close_and_stop)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_takes_too_long_is_ended() -> None:
    """A short-lived program that hangs, silent or talking, and one that leaves its output to a grandchild."""
    for script, expected in (
        ("sleep 60", -signal.SIGTERM),
        ("trap '' TERM PIPE; while :; do echo x; done", -signal.SIGKILL),
        ("exec >&-; sleep 60", -signal.SIGTERM),
    ):
        began = time.monotonic()
        code, _, _ = run_child(["sh", "-c", script], timeout_seconds=2)  # the shell has set its trap by then
        assert code == expected
        assert time.monotonic() - began < 30
    code, output, _ = run_child(["sh", "-c", "sleep 60 & echo done"], timeout_seconds=2)
    assert (code, output) == (0, b"done\n")


def test_no_descriptor_is_closed_under_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit never closes a pipe from another thread: its number could belong to somebody else by then."""
    closers = set()
    real = ChildProcess._close_pipes

    def note(self: ChildProcess) -> None:
        closers.add(threading.current_thread())
        real(self)

    monkeypatch.setattr(ChildProcess, "_close_pipes", note)
    run_child(["sleep", "60"], timeout_seconds=0.1)
    assert closers == {threading.current_thread()}


LOADING = """
import os, signal, sys
class Hit:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Hit())
sys.argv = ["dataguardian", "list", "file:///nowhere", *{options}]
from dataguardian.cli import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "pydantic", "dataguardian.bootstrap", "dataguardian.core.catalog"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stop_while_the_program_is_loaded(module: str, name: str, code: int) -> None:
    """Ctrl-C in the first tenths of a second: the right exit code and a message, never a stack trace."""
    options = ["--json"] if name == "SIGTERM" else []
    script = LOADING.format(module=module, signal=name, options=options)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert f"stopped by {name}" in (done.stdout if options else done.stderr)


def test_a_stop_that_nobody_can_catch_is_not_told_twice() -> None:
    """Raised inside a finalizer it is lost there, without a stack trace, and found at the next look."""
    script = """
import os, signal
from dataguardian.cli.signals import STOP
STOP.install()
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100): pass
Finalized()
try:
    STOP.check()
except Exception as error:
    print(error)
class Broken:
    def __del__(self): raise ValueError("a real one")
Broken()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "stopped by SIGTERM\n"
    assert "SIGTERM" not in done.stderr
    assert "a real one" in done.stderr


def test_children_die_with_a_killed_program(tmp_path: Path) -> None:
    """kill -9 of the owner of a child: the child gets its TERM from the kernel."""
    script = (
        "from dataguardian.engines.processes import ChildProcess\nimport time\n"
        "child = ChildProcess(['sleep', '61'])\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        wait_for(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0061\x00", "the child to run")
        owner.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text(), "its end")


PROBING = """
import os, signal, sys, tempfile, time
from dataguardian.cli.signals import STOP
from dataguardian.domain.errors import CancelledError

make = os.open

def stopped_just_then(path, *arguments, **options):
    os.open = make
    descriptor = make(path, *arguments, **options)
    print("made", flush=True)
    signal.raise_signal(signal.SIGTERM)
    return descriptor

os.open = stopped_just_then
STOP.install()
try:
    tempfile.gettempdir()
    time.sleep(5)
except CancelledError:
    print("stopped", os.listdir(sys.argv[1]))
"""


def test_a_stop_leaves_nothing_of_python_s_look_at_the_temporary_folder(tmp_path: Path) -> None:
    """It writes a file to see whether it can; a stop between making and removing that waits for a moment."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-c", PROBING, str(tmp_path)]
    done = subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=30)
    assert done.stdout.splitlines() == ["made", "stopped []"]
