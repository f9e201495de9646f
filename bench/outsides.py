"""Measures the service as its users meet it: the real program in a process of its own, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import measure

DATAGUARDIAN = Path(sys.executable).parent / "dataguardian"
READY_SECONDS = 60.0
STOP_SECONDS = 60.0
REQUESTS_PER_SECOND = 20.0
AT_ONCE = 3
Row = dict[str, Any]

ROUTES: Mapping[str, str] = {
    "GET /api/executions": "/api/executions?limit=20",
    "GET /api/executions, page 200": "/api/executions?page=200&limit=20",
    "GET /api/executions, running": "/api/executions?status=running&limit=20",
    "GET /api/backup-jobs": "/api/backup-jobs?limit=20",
    "GET /api/datasources": "/api/datasources?limit=20",
    "GET /api/notifications": "/api/notifications?limit=20",
    "GET /api/system/overview": "/api/system/overview",
    "GET /api/system/queues": "/api/system/queues",
    "GET /ready": "/ready",
}


@dataclass
class Service:
    """`dataguardian up` on a home of its own, ended by SIGTERM when the block ends."""

    home: Path
    env: Mapping[str, str] = field(default_factory=dict)
    ready_seconds: float = 0.0
    """From the start of the process to its first answer 200 to GET /ready."""
    ready_cpu_seconds: float = 0.0

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = _free_port()
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("DATAGUARDIAN_", "REDIS_", "DATABASE_"))
        }
        env |= {"DATAGUARDIAN_HOME": str(self.home), "DATAGUARDIAN_PORT": str(self.port), **self.env}
        started = time.perf_counter()
        with (self.home / "service.log").open("ab") as log:
            self.process = subprocess.Popen([DATAGUARDIAN, "up"], env=env, stdout=log, stderr=log, process_group=0)
        try:
            self._wait_until_ready(started)
        except BaseException:
            self._end(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end(signal.SIGTERM)

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    @property
    def headers(self) -> dict[str, str]:
        """Signs in with the token that this start left in its home; without one, until it has."""
        token = _text(str(self.home / "local-token")).strip()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def call(self, method: str, path: str, body: Row | None = None) -> Any:
        """Returns the answer's JSON; raises SystemExit when it is an error."""
        connection = self.connect()
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {**self.headers, "Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path} was answered with {answer.status}: {text.decode()}")
        return json.loads(text) if text else None

    def family(self) -> dict[int, str]:
        """Returns the service's processes and what each is: itself, the queue server, children at work."""
        found = {self.pid: "service"}
        for pid in measure.descendants(self.pid):
            command = _text(f"/proc/{pid}/comm").strip()
            found[pid] = "queue server" if command.startswith("valkey") else "children"
        return found

    def _wait_until_ready(self, started: float) -> None:
        while True:
            try:
                self.call("GET", "/ready")
            except (OSError, http.client.HTTPException, SystemExit):
                if self.process.poll() is not None or time.perf_counter() - started > READY_SECONDS:
                    raise SystemExit(f"the service did not start: see {self.home / 'service.log'}") from None
                time.sleep(0.01)
            else:
                self.ready_seconds = time.perf_counter() - started
                self.ready_cpu_seconds = sum(_cpu_seconds(self.pid))
                return

    def _end(self, signum: int) -> None:
        self.process.send_signal(signum)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()
            raise SystemExit(f"the service did not stop within {STOP_SECONDS:g} seconds") from None


def start(home: Path, env: Mapping[str, str]) -> tuple[Row, Row]:
    """Starts on an empty home and once more on the same; returns what each took."""
    rows = []
    for _ in range(2):
        with Service(home, env) as service:
            rows.append(
                {"seconds": round(service.ready_seconds, 3), "cpu_seconds": round(service.ready_cpu_seconds, 3)}
            )
            _wait_until_quiet(service)
    return rows[0], rows[1]


def idle(home: Path, env: Mapping[str, str], windows: int, seconds: float) -> list[Row]:
    """Returns, per window, the percent of one core that each part of a service without work takes."""
    with Service(home, env) as service:
        _wait_until_quiet(service)
        time.sleep(10)  # what follows a start has ended too
        return [_watch(service, seconds) for _ in range(windows)]


def _watch(service: Service, seconds: float) -> Row:
    """Children that came and went are in their parent's figures of children."""
    names = service.family()
    before = {pid: _cpu_seconds(pid) for pid in names}
    switches = {pid: _switches(pid) for pid in names}
    began = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    used: Row = {"service": 0.0, "queue server": 0.0, "children": 0.0}
    woken: Row = defaultdict(float)
    for pid, name in names.items():
        own, children = (now - then for now, then in zip(_cpu_seconds(pid), before[pid], strict=True))
        used[name] += own
        used["children"] += children
        woken[name] += _switches(pid) - switches[pid]
    percent = {name: round(value / took * 100, 3) for name, value in used.items()}
    wakes = {name: round(value / took, 1) for name, value in woken.items()}
    return {
        "seconds": round(took, 1),
        "percent": percent,
        "total_percent": round(sum(percent.values()), 3),
        "wakes": wakes,
    }


def define(service: Service, tree: Path, storage: Path) -> list[str]:
    """Defines a datasource per running backup, one storage and the jobs; returns the jobs' ids."""
    storage.mkdir(parents=True, exist_ok=True)
    place = service.call(
        "POST", "/api/storage-locations", {"name": "stored", "type": "local", "config": {"path": str(storage)}}
    )
    jobs = []
    for number in range(1, AT_ONCE + 1):
        config = {"source_path": str(tree)}
        source = service.call(
            "POST", "/api/datasources", {"name": f"tree {number}", "type": "files", "connection_config": config}
        )
        fields = {"name": f"tree {number}", "datasource_id": source["id"], "storage_location_id": place["id"]}
        jobs.append(service.call("POST", "/api/backup-jobs", fields)["id"])
    return jobs


def latencies(service: Service, seconds: float) -> Row:
    """One client asks every route in turn, at a steady rate, over one connection.

    `routes` and `all` count from when a request was sent; `waited`, from when it was due if an earlier answer kept it
    back: an answer that takes long must not hide what the requests behind it would have waited.
    """
    times: dict[str, list[float]] = defaultdict(list)
    waited: list[float] = []
    lateness: list[float] = []
    running: list[int] = []
    connection, headers = service.connect(), service.headers
    costs = _scheduled(service.pid)
    began = due = time.perf_counter()
    for name, path in _round_robin(began + seconds):
        due += 1 / REQUESTS_PER_SECOND
        behind = max(0.0, time.perf_counter() - due)
        if not behind:
            time.sleep(due - time.perf_counter())
            lateness.append(time.perf_counter() - due)
        sent = time.perf_counter()
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = answer.read()
        times[name].append(time.perf_counter() - sent)
        waited.append(times[name][-1] + behind)
        if answer.status != 200:
            raise SystemExit(f"{path} was answered with {answer.status}: {text.decode()}")
        if "running" in name:
            running.append(json.loads(text)["pagination"]["total"])
    connection.close()
    costs = [(now - then) / len(waited) for now, then in zip(_scheduled(service.pid), costs, strict=True)]
    everything = [value for values in times.values() for value in values]
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "all": _quantiles(everything),
        "waited": _quantiles(waited),
        "routes": {name: _quantiles(values) for name, values in times.items()},
        "client_late": _quantiles(lateness),
        "per_request": {
            "processor_ms": round(costs[0], 2),
            "queued_ms": round(costs[1], 2),
            "wakes": round(costs[2], 1),
        },
        "running_mean": round(statistics.fmean(running), 2),
        "running_least": min(running),
    }


@contextmanager
def backups_running(service: Service, jobs: Sequence[str]) -> Iterator[None]:
    """Each job's backup is started again as soon as it has ended, until the block ends; then they are cancelled."""
    over = threading.Event()

    def keep_busy(job_id: str) -> None:
        while not over.is_set():
            execution_id = service.call("POST", f"/api/backup-jobs/{job_id}/run")["execution_id"]
            while service.call("GET", f"/api/executions/{execution_id}")["status"] in {"queued", "running"}:
                if over.wait(0.5):
                    service.call("POST", f"/api/executions/{execution_id}/cancel")
                    return

    threads = [threading.Thread(target=keep_busy, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        _wait_until_running(service, len(jobs))
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _wait_until_running(service: Service, count: int) -> None:
    limit = time.perf_counter() + READY_SECONDS
    while service.call("GET", "/api/executions?status=running")["pagination"]["total"] < count:
        if time.perf_counter() > limit:
            raise SystemExit("the backups did not start")
        time.sleep(0.2)
    time.sleep(1)  # their processes have started too


def _wait_until_quiet(service: Service) -> None:
    """Waits for the end of the service's first backup of itself."""
    active = ("queued", "running")
    while any(service.call("GET", f"/api/executions?status={status}")["pagination"]["total"] for status in active):
        time.sleep(0.2)


def _round_robin(end: float) -> Iterator[tuple[str, str]]:
    while True:
        for route in ROUTES.items():
            if time.perf_counter() >= end:
                return
            yield route


def _quantiles(seconds: Sequence[float]) -> Row:
    ordered = sorted(seconds)
    at = {
        name: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    return {
        "count": len(ordered),
        **{name: round(value * 1000, 2) for name, value in at.items()},
        "max": round(ordered[-1] * 1000, 2),
    }


def _cpu_seconds(pid: int) -> tuple[float, float]:
    """Returns processor time of a process and of its children that have ended; zeros when it has gone."""
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not fields:
        return 0.0, 0.0
    ticks = [int(value) for value in fields[11:15]]
    return (ticks[0] + ticks[1]) / measure.TICKS, (ticks[2] + ticks[3]) / measure.TICKS


def _scheduled(pid: int) -> tuple[float, float, int]:
    """Returns milliseconds that the threads of a process ran and that they waited for a processor, and how often."""
    tasks = [_text(str(task / "schedstat")).split() for task in Path(f"/proc/{pid}/task").iterdir()]
    ran, queued, times = (sum(int(task[index]) for task in tasks if task) for index in range(3))
    return ran / 1e6, queued / 1e6, times


def _switches(pid: int) -> int:
    """Returns how often the threads of a process have gone to sleep of their own will."""
    try:
        tasks = [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return 0
    lines = [line for task in tasks for line in _text(f"/proc/{pid}/task/{task}/status").splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
