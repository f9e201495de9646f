"""A rotation of the secret key that is killed wherever it is, started twice, or met by a service that starts."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dataguardian.service.keyring import create_key_file, read_keys
from dataguardian.service.vault import Key
from tests.faults.service import POINTS, Parts, Service, wait_for
from tests.faults.test_secrets import SOURCE, end, probe, run, state

CHANGE = "dataguardian.service.keychange"
BETWEEN_ROWS, BEFORE_COMMIT = "dataguardian.service.resealing:put_document", "dataguardian.bootstrap.secrets:record"
BEHIND_COMMIT = f"{CHANGE}:scrub"
ROWS = 25
HOME, ENVIRONMENT, FILE = "home", "environment", "file"
STEPS = {
    HOME: (f"{CHANGE}:put_next", BETWEEN_ROWS, BEFORE_COMMIT, f"{CHANGE}:replace_key", BEHIND_COMMIT),
    ENVIRONMENT: (f"{CHANGE}:create_key_file", BETWEEN_ROWS, BEFORE_COMMIT, BEHIND_COMMIT),
}
"""Before the new key is written, between rows, behind the last of them, and when all is committed: before the old file
goes, and before the space is overwritten.
"""


@dataclass
class Rotating:
    """A service's catalogue, and who says which key it has: its `home`, the `environment`, or a `file` it names."""

    service: Service
    source: str
    keys: int = 0
    secrets: int = 0

    def __post_init__(self) -> None:
        self.named = self.service.parts.folder / "named.key"
        key = Key.generate()
        create_key_file(self.named, key)
        self.new = self.named
        self.give(self.named)

    def give(self, file: Path) -> None:
        """Has every process from now on take that file's key, where the home has none of its own."""
        self.named = file
        text = read_keys(file)[0].text
        given = {HOME: {}, ENVIRONMENT: {"DATAGUARDIAN_SECRET_KEY": text}, FILE: {}}[self.source]
        if self.source == FILE:
            given = {"DATAGUARDIAN_SECRET_KEY_FILE": str(file)}
        self.service.env = {"DATAGUARDIAN_SECRET_KEY": "", **given}

    def next(self) -> list[str]:
        """Returns the command that rotates to a key which is not there yet."""
        if self.source == HOME:
            return ["secrets", "rotate"]
        self.keys += 1
        self.new = self.service.parts.folder / f"new-{self.keys}.key"
        return ["secrets", "rotate", "--new-key-file", str(self.new)]

    def begun(self, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DATAGUARDIAN_", "DATABASE_"))}
        given = {"DATAGUARDIAN_HOME": str(self.service.home), **self.service.parts.environment, **self.service.env}
        argv = [sys.executable, "-m", "dataguardian", *command]
        null = subprocess.DEVNULL
        return subprocess.Popen(argv, env={**kept, **given, **env}, stdout=null, stderr=null)

    def killed_at(self, command: list[str], point: str) -> None:
        """Kills a rotation at a point."""
        folder = self.service.folder(f"kill-{time.monotonic_ns()}")
        child = self.begun(command, FAULT_POINTS=point, FAULT_FOLDER=str(folder), PYTHONPATH=str(POINTS))
        while not (folder / point).exists():
            assert child.poll() is None, f"it ended before {point}"
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()

    def consistent(self) -> None:
        """One key opens all, the one from before or the new one; nothing is sealed with two."""
        found, before = state(self.service), self.named
        if found["own_key_id"] != found["key_id"]:
            assert self.source != HOME
            self.give(self.new)
            found = state(self.service)
        self.give(before)
        assert (found["lost"], found["own_key_id"]) == ([], found["key_id"])
        assert found["sealed"] == {found["key_id"]: self.secrets}

    def ended(self, command: list[str]) -> None:
        """The same command once more, by somebody whose services have the old key still, ends it."""
        again = run(self.service, *command)
        assert again.returncode == 0, again.stderr
        if self.source != HOME:
            self.give(self.new)
        folders = (self.service.home, self.new.parent)
        files = [path.name for folder in folders for path in folder.iterdir() if ".key" in path.name]
        assert not [name for name in files if not name.endswith(".key")], files


@pytest.fixture
def rotating(request: pytest.FixtureRequest, parts: Parts, services: Callable[..., Service]) -> Rotating:
    """A catalogue of many secrets whose service has ended."""
    made = Rotating(services(parts), request.param)
    made.service.start()
    made.service.settled()
    for number in range(ROWS):
        made.service.post("/api/datasources", {**SOURCE, "name": f"db {number}"})
    end(made.service)
    [made.secrets] = state(made.service)["sealed"].values()
    assert made.secrets >= ROWS
    return made


def started(rotating: Rotating) -> None:
    """The service starts with the key that it was given last, and its secrets open."""
    rotating.service.start()
    assert rotating.service.get("/api/system/info")["secrets"]["lost"] == []
    assert "unreachable" in probe(rotating.service, f"db {ROWS - 1}")
    assert rotating.service.call("GET", "/api/audit/verify").json()["ok"]
    end(rotating.service)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rotating", [HOME, ENVIRONMENT], indirect=True)
def test_a_rotation_may_be_killed_at_any_step(rotating: Rotating) -> None:
    """Afterwards one key opens everything, and the same command ends it; the service starts. The old key is refused."""
    for point in STEPS[rotating.source]:
        command = rotating.next()
        rotating.killed_at(command, point)
        rotating.consistent()
        rotating.ended(command)
    rotating.consistent()
    started(rotating)
    if rotating.source != HOME:
        old = rotating.named
        command = rotating.next()
        rotating.killed_at(command, BEHIND_COMMIT)
        refused = run(rotating.service, "up", "--port", str(rotating.service.port))
        assert (refused.returncode, "sealed with the key" in refused.stderr) == (1, True), refused.stderr
        rotating.give(rotating.new)
        assert rotating.named != old
        started(rotating)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rotating", [HOME, FILE], indirect=True)
def test_a_rotation_may_be_killed_at_any_moment(rotating: Rotating) -> None:
    """At moments that nobody chose, from its first instruction to its last."""
    chooser = random.Random()
    began = time.monotonic()
    command = rotating.next()
    rotating.ended(command)
    seconds = time.monotonic() - began
    moments = [chooser.uniform(0, seconds / 2) for _ in range(3)]
    for moment in moments:
        command = rotating.next()
        child = rotating.begun(command)
        time.sleep(moment)
        child.kill()
        child.wait()
        rotating.consistent()
        rotating.ended(command)
    rotating.consistent()
    started(rotating)


@pytest.mark.parametrize("rotating", [ENVIRONMENT], indirect=True)
def test_whoever_starts_while_a_rotation_is_under_way_is_refused_or_has_the_right_key(
    rotating: Rotating, services: Callable[..., Service], tmp_path: Path
) -> None:
    """On one home the start is refused; of homes that share a catalogue the rotation gives way, and nothing changes."""
    service, before = rotating.service, state(rotating.service)
    folder, point = service.folder("pause"), f"{CHANGE}:change_key"
    faults = {"FAULT_POINTS": point, "FAULT_FOLDER": str(folder), "PYTHONPATH": str(POINTS)}
    child = rotating.begun(rotating.next(), **faults)
    wait_for(lambda: (folder / point).exists() or None, "the rotation has begun its transaction", 60)
    here = run(service, "up", "--port", str(service.port))
    assert (here.returncode, "another DataGuardian runs" in here.stderr) == (1, True), here.stderr
    twice = run(service, *rotating.next())
    assert (twice.returncode, "another DataGuardian runs" in twice.stderr) == (1, True), twice.stderr
    if service.parts.embedded:
        (folder / f"{point}.go").touch()
        assert child.wait(60) == 0
        return
    other = services(service.parts, name="other", env=dict(service.env))
    other.start()
    (folder / f"{point}.go").touch()
    assert child.wait(60) == 1
    assert "unreachable" in probe(other, "db 0")
    end(other)
    found: dict[str, Any] = state(service)
    assert (found["key_id"], found["sealed"]) == (before["key_id"], before["sealed"])
    started(rotating)


def test_a_kit_after_a_rotation_leads_to_a_backup_that_its_key_opens(
    tmp_path: Path, services: Callable[..., Service]
) -> None:
    """Before the service has started again the kit says what it lacks; then the newest backup has the new key."""
    service = services(Parts(tmp_path))
    service.start()
    service.post("/api/datasources", {**SOURCE, "name": "db"})
    [own] = service.get("/api/backup-jobs")["data"]
    service.settled()
    service.ended(service.run(own))
    end(service)
    assert lacking(service, "one") == []
    old = state(service)["key_id"]
    assert run(service, "secrets", "rotate").returncode == 0
    [gap] = lacking(service, "two")
    assert old in gap
    assert "dataguardian job run dataguardian --wait" in gap
    service.start()
    newest, *_ = service.settled()
    assert (newest["job_id"], newest["status"]) == (own["id"], "completed")
    assert len(service.executions()) == 3
    end(service)
    assert lacking(service, "three") == []
    service.start()
    assert len(service.settled()) == 3
    end(service)


def lacking(service: Service, name: str) -> list[str]:
    """Takes a kit; returns which secret keys it says that it lacks."""
    file = service.parts.folder / f"{name}.txt"
    taken = run(service, "recovery-kit", "--plain", "--output", str(file))
    assert taken.returncode == 0, taken.stderr
    items = file.read_text().replace("\n  ", " ").splitlines()
    return [line for line in items if line.startswith("* the secret key ")]
