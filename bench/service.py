"""Measures the service: `make bench`, after `bench/run.py`, or this file alone.

Writes `bench/results_service.json` and `bench/results_service.md`. Sections that were not measured this time keep
their last figures. Everything lies in `bench/work/service` and is removed again, except the tree that is backed up.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import generate
import measure
import outsides
import report
import service_report
from dataguardian.queues.embedded import EmbeddedServer
from servers import PostgresServer

HERE = Path(__file__).resolve().parent
SEEDED = 20_000
"""Ended executions in the catalogue that the API is asked about."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured, and for how long."""

    name: str
    due: int
    dead: tuple[int, int]
    completed: tuple[int, int]
    tree: generate.Scale
    api_seconds: float
    idle_windows: int
    idle_seconds: float
    starts: int


FULL = Size(
    "full",
    due=10_000,
    dead=(10_000, 100_000),
    completed=(10_000, 100_000),
    tree=generate.Scale("service", rows=0, pgbench=0, small_files=20_000, big_files=4, big_mib=150),
    api_seconds=60,
    idle_windows=5,
    idle_seconds=60,
    starts=5,
)
QUICK = Size(
    "quick",
    due=1000,
    dead=(1000, 5000),
    completed=(1000, 10_000),
    tree=generate.Scale("service", rows=0, pgbench=0, small_files=2000, big_files=2, big_mib=100),
    api_seconds=15,
    idle_windows=1,
    idle_seconds=20,
    starts=2,
)


@dataclass
class Bench:
    """Where it works, how much of it, and the servers that stand for a production's own."""

    work: Path
    size: Size

    @contextmanager
    def home(self) -> Iterator[Path]:
        """An empty folder, removed afterwards. Its path is short enough for a socket."""
        folder = Path(tempfile.mkdtemp(prefix="home-", dir=self.work))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    @contextmanager
    def embedded(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """A home with a catalogue on SQLite and a queue server of ours."""
        with self.home() as home:
            server = EmbeddedServer(home / "queue")
            server.start()
            try:
                yield home, {"DATAGUARDIAN_HOME": str(home), "REDIS_URL": server.url}
            finally:
                server.stop()

    @contextmanager
    def production(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """A home whose catalogue is on PostgreSQL, and whose queue is on Redis."""
        with self.home() as home, PostgresServer(self.work) as postgres, _redis(home) as redis_url:
            postgres.drop("catalogue")
            postgres.sql("CREATE DATABASE catalogue")
            yield (
                home,
                {"DATAGUARDIAN_HOME": str(home), "DATABASE_URL": postgres.url("catalogue"), "REDIS_URL": redis_url},
            )
            postgres.drop("catalogue")

    def tree(self) -> Path:
        """What the running backups read."""
        tree = self.work / f"tree-{self.size.name}"
        generate.make_tree(tree, self.size.tree)
        return tree


def due(bench: Bench) -> Row:
    """Jobs that are due in one minute, two schedulers, on both pairs of servers."""
    count = bench.size.due
    runs = {}
    for name, place in (("SQLite + embedded Valkey", bench.embedded), ("PostgreSQL + Redis", bench.production)):
        with place() as (home, env):
            inside("fill-due", home, env, count)
            runs[name] = _told(name, with_load(lambda home=home, env=env: inside("tick", home, env, count)))
    return {"count": count, "runs": runs}


def recovery(bench: Bench) -> Row:
    """The reconciler after a crash that left running executions, and its look at as many that wait."""
    runs = {}
    for count in bench.size.dead:
        with bench.embedded() as (home, env):
            inside("fill-dead", home, env, count)
            for step in ("recover", "look-again"):
                name = f"{step} {count}"
                runs[name] = _told(
                    name, with_load(lambda home=home, env=env, step=step, count=count: inside(step, home, env, count))
                )
    return {"counts": bench.size.dead, "runs": runs}


def cleanup(bench: Bench) -> Row:
    """What retention decides about many backups: of one job, and of a hundred."""
    runs = {}
    least, most = bench.size.completed
    for count, jobs in ((least, 1), (most, 1), (most, 100)):
        with bench.embedded() as (home, env):
            inside("fill-completed", home, env, count, jobs)
            name = f"{count} of {jobs}"
            runs[name] = _told(
                name,
                with_load(lambda home=home, env=env, jobs=jobs, count=count: inside("plan", home, env, count, jobs)),
            )
    return {"counts": bench.size.completed, "runs": runs}


def api(bench: Bench) -> Row:
    """What one client waits for, with nothing running and with three backups running."""
    tree = bench.tree()
    with bench.home() as home:
        inside("fill-completed", home, {"DATAGUARDIAN_HOME": str(home), "REDIS_URL": "unix:///nowhere"}, SEEDED, 20)
        with outsides.Service(home) as service:
            jobs = outsides.define(service, tree, home / "stored")
            outsides.latencies(service, 3)  # statements are compiled, pages are in memory
            quiet = _told("nothing running", with_load(lambda: outsides.latencies(service, bench.size.api_seconds)))
            with outsides.backups_running(service, jobs):
                busy = _told("three backups", with_load(lambda: outsides.latencies(service, bench.size.api_seconds)))
    return {"executions": SEEDED, "raw_bytes": generate.tree_size(tree)[1], "quiet": quiet, "busy": busy}


def idle(bench: Bench) -> Row:
    """A service without work: the processor time of it, its queue server and its children."""
    with bench.home() as home:
        return with_load(lambda: {"windows": outsides.idle(home, {}, bench.size.idle_windows, bench.size.idle_seconds)})


def start(bench: Bench) -> Row:
    """From the start of the process to ready: on an empty home, and on one that is in use."""
    rounds = []
    for _ in range(bench.size.starts):
        with bench.home() as home:
            rounds.append(
                with_load(lambda home=home: dict(zip(("first", "second"), outsides.start(home, {}), strict=True)))
            )
        print(f"  {rounds[-1]}", flush=True)
    return {"rounds": rounds}


SECTIONS: dict[str, Callable[[Bench], Row]] = {
    "due": due,
    "api": api,
    "recovery": recovery,
    "cleanup": cleanup,
    "idle": idle,
    "start": start,
}


def inside(step: str, home: Path, env: dict[str, str], count: int, jobs: int = 1) -> Row:
    """Runs one step of insides.py in a process of its own."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DATAGUARDIAN_", "DATABASE_URL", "REDIS_URL"))
    }
    argv = [sys.executable, HERE / "insides.py", step, home, str(count), str(jobs)]
    done = subprocess.run(argv, env={**clean, **env}, check=False, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{step} ended with {done.returncode}")
    told: Row = json.loads(done.stdout)
    return told


def with_load(work: Callable[[], Row]) -> Row:
    """Adds what else the machine did: load averages of the last minute, and the cores' share that was not idle."""
    before, busy, began = os.getloadavg()[0], measure.machine_seconds(), time.perf_counter()
    row = work()
    cores, took = len(os.sched_getaffinity(0)), time.perf_counter() - began
    share = (measure.machine_seconds() - busy) / took / cores
    return row | {
        "load_before": round(before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "busy_share": round(share, 3),
    }


def main() -> int:
    options = _options()
    measure.as_installed()
    if not outsides.DATAGUARDIAN.exists():
        sys.exit(f"run this with the Python of the environment that DataGuardian is installed in, not {sys.executable}")
    work = (options.work or HERE / "work") / "service"
    work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped on the way out
    bench = Bench(work, QUICK if options.quick else FULL)
    with _alone(work):
        machine = report.machine(work)
        for name in options.only:
            print(name, flush=True)
            _keep(options.results, name, {**SECTIONS[name](bench), "machine": machine, "scale": bench.size.name})
    print(f"written: {options.results}.md")
    return 0


def _told(name: str, row: Row) -> Row:
    brief = {key: value for key, value in row.items() if not isinstance(value, dict) or key == "all"}
    print(f"  {name}: {brief}", flush=True)
    return row


@contextmanager
def _redis(home: Path) -> Iterator[str]:
    """A Redis server on a socket, with the settings that the documentation asks for."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("the bench needs redis-server (Debian: apt-get install redis-server)")
    path = home / "redis.sock"
    options = ["--port", "0", "--unixsocket", path, "--dir", home, "--appendonly", "yes", "--save", ""]
    with (home / "redis.log").open("wb") as log:
        server = subprocess.Popen([program, *options, "--maxmemory-policy", "noeviction"], stdout=log, stderr=log)
    try:
        while not path.exists() and server.poll() is None:
            time.sleep(0.02)
        yield f"unix://{path}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Two benches at once would measure each other."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another bench runs in {work}")
        yield


def _keep(results: Path, name: str, section: Row) -> None:
    """Adds one section to what is known, at once: a bench that is stopped keeps what it has measured."""
    path = results.with_suffix(".json")
    known = json.loads(path.read_text()) if path.exists() else {"sections": {}}
    known["sections"][name] = section
    path.write_text(json.dumps(known, indent=1) + "\n")
    service_report.write(known, results.with_suffix(".md"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a tenth of it, results in the work folder")
    parser.add_argument("--only", type=_names, default=list(SECTIONS), help=f"of: {','.join(SECTIONS)}")
    parser.add_argument("--work", type=lambda text: Path(text).resolve(), help="where it works (bench/work)")
    parser.add_argument(
        "--results", type=lambda text: Path(text).resolve(), help="without suffix (bench/results_service)"
    )
    options = parser.parse_args()
    quick_results = (options.work or HERE / "work") / "quick-results_service"
    options.results = options.results or (quick_results if options.quick else HERE / "results_service")
    return options


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
