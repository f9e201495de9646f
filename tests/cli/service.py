"""The real service as a process of its own, and the command line that talks to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataguardian.cli.client import Client, connect
from dataguardian.cli.things import DATASOURCE, EXECUTION, JOB, STORAGE
from tests.cli.program import MARK, Outcome, finished, wait_for
from tests.servers import free_port
from tests.signed import LOCAL_TOKEN


@dataclass
class Service:
    """`home` is DATAGUARDIAN_HOME; `folder` holds sources and storages of the tests."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    scheme: str = "http"
    said_after_ready: str = ""
    """On standard output, once it has stopped."""

    @property
    def home(self) -> Path:
        return Path(self.env.get("DATAGUARDIAN_HOME") or self.folder / "home")

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def environment(self) -> dict[str, str]:
        foreign = ("DATAGUARDIAN_", "DATABASE_", "REDIS_", "COLUMNS")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {**kept, "DATAGUARDIAN_HOME": str(self.home), "DATAGUARDIAN_URL": self.url, **self.env}

    def start(self, *arguments: str) -> dict[str, Any]:
        """Starts it and waits until it says that everything answers; returns what it says."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dataguardian", "up", "--port", str(self.port), *arguments],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log
        return dict(json.loads(line))

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ends it and returns its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signum)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            self.said_after_ready = self.process.stdout.read()
            self.process.stdout.close()
        return code

    def kill(self) -> None:
        """For whoever cleans up after a test: nothing of it is left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def client(self) -> Client:
        """Returns a client of the administrator of this machine."""
        return connect(self.url, self.home / LOCAL_TOKEN)

    def begin(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "dataguardian", *arguments],
            env={**self.environment, MARK: uuid.uuid4().hex, **(env or {})},
            text=True,
            **({"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
        )

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, data: str | None = None) -> Outcome:
        """Runs the command line; `data` is its standard input."""
        if data is None:
            return finished(self.begin(*arguments, env=env), "")
        process = self.begin(*arguments, env=env, stdin=subprocess.PIPE)
        out, err = process.communicate(data, timeout=60)
        return Outcome(process.returncode, out, err, "")

    def ok(self, *arguments: str, **options: Any) -> dict[str, Any]:
        """Runs a verb that must succeed, with --json; returns its object."""
        outcome = self.run(*arguments, "--json", **options)
        assert outcome.code == 0, outcome
        return outcome.json

    def told(self, *arguments: str, **options: Any) -> str:
        """Runs a verb that must succeed; returns what it says to people."""
        outcome = self.run(*arguments, **options)
        assert outcome.code == 0, outcome
        return outcome.out

    def refused(self, code: int, *arguments: str, **options: Any) -> str:
        """Runs a verb that must fail with `code`; returns what it says on standard error."""
        outcome = self.run(*arguments, **options)
        assert outcome.code == code, outcome
        assert "Traceback" not in outcome.err
        return outcome.err

    def tree(self, name: str, size_bytes: int = 1000) -> Path:
        """Makes a folder of files to back up."""
        place = self.folder / name
        place.mkdir()
        (place / "a.txt").write_text("hello\n")
        (place / "b.bin").write_bytes(os.urandom(size_bytes))
        return place

    def prepared(self, size_bytes: int = 1000, **options: Any) -> Prepared:
        """Adds a datasource, a storage location and a job (`backup_options`) with names that no other test has."""
        name = f"t{uuid.uuid4().hex[:8]}"
        source, disk = self.tree(f"{name}-source", size_bytes), self.folder / f"{name}-disk"
        disk.mkdir()
        with self.client() as client:
            config = {"source_path": str(source)}
            row = client.post(DATASOURCE.path, {"name": name, "type": "files", "connection_config": config})
            place = client.post(STORAGE.path, {"name": name, "type": "local", "config": {"path": str(disk)}})
            known = {"name": name, "datasource_id": row["id"], "storage_location_id": place["id"]}
            client.post(JOB.path, known | {"backup_options": options})
        return Prepared(name, source, disk)

    def reaches(self, execution_id: str, status: str) -> None:
        """Waits until an execution is in that state."""
        with self.client() as client:
            path = EXECUTION.of(execution_id)
            wait_for(lambda: client.get(path)["status"] == status, f"{execution_id} to be {status}", seconds=90)

    def backup(self, name: str) -> dict[str, Any]:
        """Runs a job to its end, which must be good; returns the execution."""
        return self.ok("job", "run", name, "--wait")


@dataclass(frozen=True)
class Prepared:
    """A datasource, a storage location and a job, all of one name."""

    name: str
    source: Path
    disk: Path


def cleared(folder: Path) -> None:
    """Removes a folder in which a process that is dying may still write."""
    limit = time.monotonic() + 10
    while folder.exists() and time.monotonic() < limit:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def short_folder() -> Path:
    """Returns a new folder whose path is short enough for sockets below it."""
    return Path(tempfile.mkdtemp(prefix="dgs"))
