"""The service as a process of its own, to be frozen, killed and started again; and the servers that it stands on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from dataguardian.core.verify import run_verify
from dataguardian.service.vault import Key
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.conftest import require_tool
from tests.servers import PostgresServer, free_port
from tests.signed import signed

T = TypeVar("T")

POINTS = Path(__file__).parent / "points"
MARK = "DATAGUARDIAN_TEST_RUN"
START_SECONDS = 90.0
LOOK_SECONDS = 0.1
SETTLE_SECONDS = 120.0
"""What the project promises: nothing is stuck any more so long after a restart."""
ACTIVE = {"queued", "running"}


class RedisServer:
    """A real Redis with its append-only file on, which can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.program = require_tool("redis-server")
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
        }
        argv = [self.program, *(item for name, value in options.items() for item in (f"--{name}", value))]
        argv += ["--maxmemory-policy", "noeviction"]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.answers, "Redis answers")

    def answers(self) -> bool:
        import redis  # noqa: PLC0415 -- only here

        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(self.url) as client:
            return bool(client.ping())
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


@dataclass
class Parts:
    """What services of one test stand on: embedded parts, or servers that are there already."""

    folder: Path
    postgres: PostgresServer | None = None
    database: str | None = None
    redis: RedisServer | None = None
    secret_key: str = field(default_factory=lambda: Key.generate().text)
    """Of real servers: homes that share a catalogue share what seals its secrets."""

    @property
    def embedded(self) -> bool:
        return self.postgres is None

    @property
    def servers(self) -> dict[str, str]:
        if self.postgres is None or self.redis is None:
            return {}
        return {"DATABASE_URL": self.postgres.url(self.database), "REDIS_URL": self.redis.url}

    @property
    def environment(self) -> dict[str, str]:
        return {} if self.embedded else {**self.servers, "DATAGUARDIAN_SECRET_KEY": self.secret_key}


@dataclass
class Service:
    """A service with a home of its own. `env` and `points` (see points/sitecustomize.py) count from the next start."""

    parts: Parts
    name: str = "home"
    role: str = "all"
    env: dict[str, str] = field(default_factory=dict)
    points: Sequence[str] = ()
    mark: str = ""
    port: int = field(default_factory=free_port)
    starts: int = 0
    process: subprocess.Popen[str] | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    http: httpx.Client | None = None

    @property
    def home(self) -> Path:
        return self.parts.folder / self.name

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.parts.folder / f"{self.name}.log"
        return path.read_text() if path.exists() else ""

    @property
    def fault_folder(self) -> Path:
        return self.parts.folder / f"{self.name}-faults-{self.starts}"

    def spawn(self, *arguments: str) -> None:
        """Starts the process and does not wait for it."""
        self.starts += 1
        self.mark = uuid.uuid4().hex
        self.fault_folder.mkdir()
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DATAGUARDIAN_", "DATABASE_"))}
        given = {"DATAGUARDIAN_HOME": str(self.home), MARK: self.mark, "DATAGUARDIAN_LOG_FORMAT": "json"}
        if self.points:
            given |= {"FAULT_POINTS": ";".join(self.points), "FAULT_FOLDER": str(self.fault_folder)}
            given |= {"PYTHONPATH": str(POINTS)}
        with (self.parts.folder / f"{self.name}.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dataguardian", "up", "--port", str(self.port), "--role", self.role, *arguments],
                env={**kept, **given, **self.parts.environment, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self, *arguments: str) -> float:
        """Starts it and returns after how many seconds it said that everything answers."""
        began = time.monotonic()
        self.spawn(*arguments)
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log[-4000:]
        self.ready = json.loads(line)
        return time.monotonic() - began

    def reached(self, point: str) -> int:
        """Waits until a process has stopped at a point; returns its id."""
        mark = self.fault_folder / point

        def look() -> int | None:
            assert self.process is not None
            assert self.process.poll() is None, f"it ended before {point}: {self.log[-4000:]}"
            return int(mark.read_text() or 0) if mark.exists() else None

        return wait_for(look, f"{point} was reached", START_SECONDS)

    def go(self, point: str) -> None:
        """Lets the process that stopped at a point go on."""
        (self.fault_folder / f"{point}.go").touch()

    def kill(self) -> str:
        """kill -9 of the service alone; returns the mark of what it may leave behind."""
        self.signal(signal.SIGKILL)
        self.wait()
        return self.mark

    def cut_power(self) -> None:
        """kill -9 of the service and of everything that it started; frozen first, so that none sees another one end."""
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid, _ in list(self.processes()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
        self.wait()
        self.gone()

    def stop(self, seconds: float = 90) -> int:
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def signal(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self, seconds: float = 90) -> int:
        assert self.process is not None
        code = self.process.wait(seconds)
        self._let_go()
        return code

    def processes(self, mark: str | None = None) -> Iterator[tuple[int, str]]:
        """Ids and command lines of all that this start of the service, or an earlier one, began and that lives."""
        given = f"{MARK}={mark or self.mark}".encode()
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                ours = given in (folder / "environ").read_bytes().split(b"\0")
                # Valkey writes its title where its environment was.
                ours = ours or (mark is None and (folder / "cwd").readlink() == self.home / "queue")
                if ours and "\nState:\tZ" not in (folder / "status").read_text():
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    yield int(folder.name), command

    def gone(self, mark: str | None = None, seconds: float = 60) -> None:
        """Waits until nothing of it lives any more."""
        left = lambda: list(self.processes(mark))  # noqa: E731 -- asked twice
        wait_until(lambda: not left(), lambda: f"all have ended, except {left()}", seconds)

    def end(self) -> None:
        """For fixtures: whatever state it is in, nothing of it is left."""
        for pid, _ in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None and self.process.returncode is None:
            self.process.wait(30)
        self._let_go()

    def _let_go(self) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        if self.http is not None:
            self.http.close()
            self.http = None

    # What the API says

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Returns the answer, whatever it is."""
        if self.http is None:
            url = f"http://127.0.0.1:{self.port}"
            self.http = httpx.Client(base_url=url, timeout=30, trust_env=False, auth=signed(self.home))
        return self.http.request(method, path, **options)

    def get(self, path: str, **query: Any) -> Any:
        return _said(self.call("GET", path, params=query))

    def post(self, path: str, body: Any = None) -> Any:
        return _said(self.call("POST", path, json=body))

    def put(self, path: str, body: Any) -> Any:
        return _said(self.call("PUT", path, json=body))

    def executions(self, **query: Any) -> list[dict[str, Any]]:
        return list(self.get("/api/executions", limit=100, **query)["data"])

    def notifications(self, kind: str | None = None) -> list[dict[str, Any]]:
        found = self.get("/api/notifications", limit=100)["data"]
        return [row for row in found if kind is None or row["type"] == kind]

    def settled(self, seconds: float = SETTLE_SECONDS) -> list[dict[str, Any]]:
        """Waits until nothing is queued or running; returns all executions."""

        def look() -> list[dict[str, Any]] | None:
            rows = self.executions()
            return rows if rows and not any(row["status"] in ACTIVE for row in rows) else None

        return wait_for(look, "nothing is queued or running", seconds)

    def ended(self, path: str, seconds: float = SETTLE_SECONDS) -> dict[str, Any]:
        """Waits until an execution, restore or verification has ended; returns it."""

        def look() -> dict[str, Any] | None:
            row: dict[str, Any] = self.get(path)
            return row if row["status"] not in ACTIVE else None

        return wait_for(look, f"{path} has ended", seconds)

    def clean_up(self) -> dict[str, Any]:
        """Runs a cleanup of everything to its end; returns its report."""
        before = (self.get("/api/system/cleanup")["report"] or {}).get("started_at")
        self.post("/api/system/cleanup")

        def look() -> dict[str, Any] | None:
            report: dict[str, Any] | None = self.get("/api/system/cleanup")["report"]
            return report if report and report.get("started_at") != before else None

        return wait_for(look, "a cleanup has ended", 60)

    # Things to back up

    def folder(self, name: str) -> Path:
        path = self.parts.folder / name
        path.mkdir(exist_ok=True)
        return path

    def tree(self, name: str, size_bytes: int = 3_000_000) -> Path:
        """Makes a folder of incompressible files."""
        path = self.folder(name)
        (path / "a.txt").write_text("hello\n")
        (path / "b.bin").write_bytes(os.urandom(size_bytes))
        return path

    def job(self, name: str, *, storage_path: Path | None = None, **fields: Any) -> dict[str, Any]:
        """A job on a folder of files in parts of 1 MiB, with a storage location of its own."""
        source = {"type": "files", "connection_config": {"source_path": str(self.tree(f"{name}-source"))}}
        disk = {"type": "local", "config": {"path": str(storage_path or self.folder(f"{name}-disk"))}}
        body = {
            "name": name,
            "datasource_id": self.post("/api/datasources", {"name": name, **source})["id"],
            "storage_location_id": self.post("/api/storage-locations", {"name": name, **disk})["id"],
            "backup_options": {"part_size_mb": 1},
        }
        return dict(self.post("/api/backup-jobs", body | fields))

    def run(self, job: dict[str, Any]) -> str:
        """Starts a job; returns the execution's path in the API."""
        started = self.post(f"/api/backup-jobs/{job['id']}/run")
        return f"/api/executions/{started['execution_id']}"


def _said(answer: httpx.Response) -> Any:
    assert answer.is_success, (answer.status_code, answer.text)
    return answer.json() if answer.content else None


def wait_for(look: Callable[[], T | None], what: str | Callable[[], str], seconds: float = 60) -> T:
    """Returns the first answer of `look` that is neither None nor false."""
    end = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        assert time.monotonic() < end, f"not within {seconds:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(LOOK_SECONDS)


def wait_until(look: Callable[[], bool], what: str | Callable[[], str], seconds: float = 60) -> None:
    wait_for(lambda: look() or None, what, seconds)


def stored(disk: Path) -> dict[str, set[str]]:
    """Every directory of backups in a storage, with the names of what it holds; without what health checks put."""
    found: dict[str, set[str]] = {}
    for path in disk.rglob("*"):
        job, run, *rest = (*path.relative_to(disk).parts, "", "")
        if run and path.is_file():
            found.setdefault(f"{job}/{run}", set()).add("/".join(rest).rstrip("/"))
    return found


def check_storage(disk: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A storage holds what its completed executions say, each whole, and nothing else."""
    expected = {row["backup_path"] for row in rows if row["status"] == "completed"}
    assert set(stored(disk)) == expected
    storage = LocalStorage(LocalConfig(path=str(disk)))
    for path in expected:
        assert run_verify(storage, path).ok, path


def catalogue(parts: Parts, home: Path, query: str) -> list[tuple[Any, ...]]:
    """Asks the catalogue itself, while no service may answer."""
    if parts.postgres is not None and parts.database is not None:
        return [tuple(row) for row in parts.postgres.execute(parts.database, query)]
    with contextlib.closing(sqlite3.connect(f"file:{home / 'catalogue.db'}?mode=ro", uri=True, timeout=10)) as database:
        return database.execute(query).fetchall()


def words(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")
