"""The installed program, run as its users run it: a process with real signals, exit codes and streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "DATAGUARDIAN_TEST_RUN"
"""Set to a value of its own in each run's environment, so that the children of just that run can be found."""


def _as_from_a_terminal() -> None:
    """Whoever runs the tests may ignore signals (nohup does), and children inherit that."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_DFL)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    mark: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on standard output."""
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document


@dataclass
class Program:
    """`home` holds the run's sources, storages and staging folder."""

    home: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.home / "staging").mkdir(exist_ok=True)
        (self.home / "storage").mkdir(exist_ok=True)

    @property
    def storage(self) -> str:
        return f"file://{self.home}/storage"

    @property
    def stored(self) -> list[str]:
        """Everything in the storage folder, temporary files and empty folders included."""
        return sorted(str(path.relative_to(self.home / "storage")) for path in (self.home / "storage").rglob("*"))

    @property
    def staged(self) -> list[str]:
        return sorted(str(path) for path in (self.home / "staging").rglob("*"))

    def start(self, *arguments: str, prefix: Sequence[str] = (), **options: Any) -> tuple[subprocess.Popen[str], str]:
        mark = uuid.uuid4().hex
        given = {"DATAGUARDIAN_STAGING_DIR": str(self.home / "staging"), MARK: mark} | self.env
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "dataguardian", *arguments],
            env={**os.environ, **given},
            text=True,
            errors="surrogateescape",
            preexec_fn=_as_from_a_terminal,  # noqa: PLW1509 -- it takes no lock
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
        )
        return process, mark

    def run(self, *arguments: str, prefix: Sequence[str] = (), **options: Any) -> Outcome:
        process, mark = self.start(*arguments, prefix=prefix, **options)
        return finished(process, mark)

    def backup(self, source: str, *options: str) -> dict[str, Any]:
        """Takes a backup that must succeed; returns its JSON."""
        outcome = self.run("backup", source, self.storage, "--json", *options)
        assert outcome.code == 0, outcome
        return outcome.json

    def listed(self) -> list[dict[str, Any]]:
        outcome = self.run("list", self.storage, "--json")
        assert outcome.code == 0, outcome
        backups = outcome.json["backups"]
        assert isinstance(backups, list)
        return backups


def finished(process: subprocess.Popen[str], mark: str, *, seconds: float = 60) -> Outcome:
    out, err = process.communicate(timeout=seconds)
    return Outcome(process.returncode, out or "", err or "", mark)


def running(mark: str) -> dict[int, str]:
    """Returns the processes of one run that still live, by process id, with their command lines."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
    return {pid: line for pid, line in found.items() if line}


def wait_for(condition: Any, what: str, *, seconds: float = 30) -> Any:
    """Waits until `condition()` is true and returns it."""
    limit = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.02)
    return value
