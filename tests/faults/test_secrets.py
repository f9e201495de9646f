"""Secrets at rest in a service that runs: upgrades, lost keys, two keys, rotation and its crashes, restores."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataguardian.service.vault import Key
from tests.faults.service import POINTS, Parts, Service, wait_for
from tests.faults.test_selfrestore import restore

PASSWORD = "Sentinel-of-a-password-that-is-long"
SOURCE = {
    "name": "db",
    "type": "postgres",
    "connection_config": {"host": "127.0.0.1", "port": 9, "database": "shop", "username": "u", "password": PASSWORD},
}


@pytest.fixture
def service(tmp_path: Path, services: Callable[..., Service]) -> Service:
    """On an embedded catalogue."""
    return services(Parts(tmp_path))


def run(service: Service, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a verb on the machine that holds the home."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DATAGUARDIAN_", "DATABASE_"))}
    given = {"DATAGUARDIAN_HOME": str(service.home), **service.parts.environment, **service.env, **env}
    command = [sys.executable, "-m", "dataguardian", *arguments]
    return subprocess.run(command, env={**kept, **given}, capture_output=True, text=True, check=False, timeout=90)


def state(service: Service) -> dict[str, Any]:
    done = run(service, "secrets", "status", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@contextmanager
def catalogue(service: Service) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(service.home / "catalogue.db")) as connection, connection:
        yield connection


def on_disk(service: Service) -> bytes:
    return b"".join(path.read_bytes() for path in service.home.glob("catalogue.db*"))


def probe(service: Service, name: str = "db") -> str:
    """Returns what a test of a datasource says."""
    [row] = [row for row in service.get("/api/datasources", limit=100)["data"] if row["name"] == name]
    return str(service.call("POST", f"/api/datasources/{row['id']}/test").json())


def end(service: Service) -> None:
    assert service.stop() == 0
    service.gone()


def made_old(service: Service) -> None:
    """Puts the catalogue back as a release left it that stored secrets in clear."""
    with catalogue(service) as rows:
        config = json.dumps(SOURCE["connection_config"])
        rows.execute("UPDATE datasources SET connection_config = ? WHERE name = 'db'", [config])
        rows.execute("DELETE FROM system_settings WHERE key IN ('secret_key', 'secret_notices')")
    (service.home / "secret.key").unlink()


def test_an_upgrade_seals_what_was_clear_and_tells_of_old_backups(service: Service) -> None:
    """Not a byte of it is left in the catalogue's files; old backups are told of once, and listed until they go."""
    service.start()
    service.settled()
    service.post("/api/datasources", SOURCE)
    end(service)
    made_old(service)
    assert PASSWORD.encode() in on_disk(service)
    service.start()
    assert PASSWORD.encode() not in on_disk(service)
    [told] = wait_for(lambda: [row for row in _alarms(service) if "in clear" in row["title"]], "it is told", 60)
    exposed = service.get("/api/system/info")["secrets"]["exposed_backups"]
    [own] = [row for row in service.executions() if row["status"] == "completed"]
    assert [row["execution_id"] for row in exposed] == [own["id"]]
    assert own["backup_path"] in told["message"]
    assert "unreachable" in probe(service), "the password opens: the server is asked"
    end(service)
    service.start()
    assert len([row for row in _alarms(service) if "in clear" in row["title"]]) == 1
    job = service.get("/api/backup-jobs")["data"][0]
    service.ended(service.run(job))
    assert service.call("DELETE", f"/api/executions/{own['id']}").status_code < 300
    wait_for(lambda: not service.get("/api/system/info")["secrets"]["exposed_backups"] or None, "they are gone", 60)
    end(service)


def test_backups_of_the_catalogue_that_no_execution_knows_are_found_too(service: Service) -> None:
    """By their manifests, in every storage location."""
    service.start()
    service.settled()
    service.post("/api/datasources", SOURCE)
    end(service)
    made_old(service)
    with catalogue(service) as rows:
        rows.execute("DELETE FROM backup_chunks")
        rows.execute("DELETE FROM execution_logs")
        rows.execute("DELETE FROM backup_executions")
    (service.home / "newest-backup").unlink()
    service.start()
    exposed = wait_for(lambda: service.get("/api/system/info")["secrets"]["exposed_backups"], "it is found", 60)
    assert [row["execution_id"] for row in exposed] == [None]
    end(service)
    shutil.rmtree(service.home / "backups" / "dataguardian")
    service.start()
    wait_for(lambda: not service.get("/api/system/info")["secrets"]["exposed_backups"] or None, "they are gone", 60)
    end(service)


def _alarms(service: Service) -> list[dict[str, Any]]:
    return service.notifications("system_alarm")


def test_a_catalogue_that_was_restored_without_its_key_works_and_says_what_is_lost(
    service: Service, services: Callable[..., Service]
) -> None:
    """An empty home, the backup, no key: everything is there but the secrets; one that is entered again is healed, and
    the old key, put back as a further line, opens the rest.
    """
    service.start()
    service.settled()
    for name in ("db", "other"):
        service.post("/api/datasources", {**SOURCE, "name": name})
    [job] = service.get("/api/backup-jobs")["data"]
    own = service.ended(service.run(job))
    end(service)
    revived = services(service.parts, name="revived")
    revived.home.mkdir(mode=0o700)
    restore(service.home / "backups" / str(own["backup_path"]), f"sqlite://{revived.home / 'catalogue.db'}")
    revived.start()
    lost = revived.get("/api/system/info")["secrets"]["lost"]
    assert {(row["thing"], row["name"], row["field"]) for row in lost} == {
        ("datasource", "db", "password"),
        ("datasource", "other", "password"),
    }
    wait_for(lambda: [row for row in _alarms(revived) if "cannot be opened" in row["title"]] or None, "it is told", 60)
    assert "cannot be opened" in probe(revived)
    rows = {row["name"]: row for row in revived.get("/api/datasources")["data"]}
    address = f"/api/datasources/{rows['db']['id']}"
    refused = revived.call("PUT", address, json={"connection_config": {"database": "b"}})
    assert (refused.status_code, "password" in refused.text) == (409, True), refused.text
    revived.put(address, {"tags": ["still editable"]})
    revived.put(address, {"connection_config": {"database": "b", "password": "new-password"}})
    assert "unreachable" in probe(revived)
    assert "cannot be opened" in probe(revived, "other")
    end(revived)
    with (revived.home / "secret.key").open("a") as file:
        file.write((service.home / "secret.key").read_text())
    revived.start()
    assert revived.get("/api/system/info")["secrets"]["lost"] == []
    assert "unreachable" in probe(revived, "other")
    end(revived)


def test_a_named_key_that_is_not_the_catalogues_stops_the_start(service: Service) -> None:
    """With the ids of both, and with a way out for a key that is lost for ever."""
    service.env["DATAGUARDIAN_SECRET_KEY"] = new_key()
    service.start()
    service.settled()
    service.post("/api/datasources", SOURCE)
    end(service)
    assert not (service.home / "secret.key").exists()
    before = state(service)["key_id"]
    service.env["DATAGUARDIAN_SECRET_KEY"] = new_key()
    refused = run(service, "up", "--port", str(service.port))
    assert refused.returncode == 1
    assert before in refused.stderr
    assert "secrets reset" in refused.stderr
    assert run(service, "secrets", "reset").returncode == 2
    assert run(service, "secrets", "reset", "--yes").returncode == 0
    service.start()
    assert [row["name"] for row in service.get("/api/system/info")["secrets"]["lost"]] == ["db"]
    end(service)


def test_machines_that_share_a_catalogue_share_its_key(real: Parts, services: Callable[..., Service]) -> None:
    """A second one with a key of its own refuses to start; with the first one's key it works."""
    first, second = services(real, name="first"), services(real, name="second")
    first.start()
    first.post("/api/datasources", SOURCE)
    refused = run(second, "up", "--port", str(second.port), DATAGUARDIAN_SECRET_KEY=Key.generate().text)
    assert refused.returncode == 1
    assert "sealed with the key" in refused.stderr
    busy = run(second, "secrets", "rotate", "--new-key-file", str(second.home / "new"))
    assert "stop every service" in busy.stderr
    end(first)
    second.start()
    assert second.get("/api/system/info")["secrets"]["lost"] == []
    end(second)
    rotated = run(second, "secrets", "rotate", "--new-key-file", str(second.home / "new"))
    assert rotated.returncode == 0, rotated.stderr
    assert run(first, "up", "--port", str(first.port)).returncode == 1
    second.env = {"DATAGUARDIAN_SECRET_KEY": "", "DATAGUARDIAN_SECRET_KEY_FILE": str(second.home / "new")}
    second.start()
    assert second.get("/api/system/info")["secrets"]["lost"] == []
    end(second)


def test_a_rotation_seals_everything_anew_and_keeps_nothing_of_the_old_key(service: Service) -> None:
    """Not beside a service that runs; afterwards no text in the catalogue's files names the old key."""
    service.start()
    service.settled()
    service.post("/api/datasources", SOURCE)
    busy = run(service, "secrets", "rotate")
    assert (busy.returncode, "stop it first" in busy.stderr) == (1, True)
    end(service)
    old = state(service)["key_id"]
    done = run(service, "secrets", "rotate", "--json")
    assert done.returncode == 0, done.stderr
    rotated = json.loads(done.stdout)
    assert rotated["old_key_id"] == old
    assert state(service)["sealed"] == {rotated["new_key_id"]: 1}
    assert f"dgs1:{old}".encode() not in on_disk(service)
    assert not (service.home / "secret.key.next").exists()
    service.start()
    assert "unreachable" in probe(service)
    entries = service.get("/api/audit", limit=50)["data"]
    assert [row["action"] for row in entries if row["action"].startswith("secrets")] == ["secrets.rotate"]
    end(service)


MODULE = "dataguardian.service.keychange"


@pytest.mark.parametrize(
    "point", [f"{MODULE}:change_key", f"{MODULE}:put_next", f"{MODULE}:replace_key", f"{MODULE}:scrub"]
)
def test_a_rotation_that_is_killed_leaves_a_working_catalogue(service: Service, point: str) -> None:
    """Before the new key is written, before and after the rows are sealed with it, before the old file goes."""
    service.start()
    service.settled()
    service.post("/api/datasources", SOURCE)
    end(service)
    _kill_rotation(service, point)
    found = state(service)
    assert found["lost"] == []
    assert found["own_key_id"] == found["key_id"]
    service.start()
    assert service.get("/api/system/info")["secrets"]["lost"] == []
    assert "unreachable" in probe(service)
    end(service)
    assert not (service.home / "secret.key.next").exists()
    assert run(service, "secrets", "rotate").returncode == 0


def _kill_rotation(service: Service, point: str) -> None:
    folder = service.folder("kill")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DATAGUARDIAN_", "DATABASE_"))}
    given = {"FAULT_POINTS": point, "FAULT_FOLDER": str(folder), "PYTHONPATH": str(POINTS)}
    child = subprocess.Popen(
        [sys.executable, "-m", "dataguardian", "secrets", "rotate"],
        env={**kept, **given, "DATAGUARDIAN_HOME": str(service.home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (folder / point).exists():
        assert child.poll() is None, "it ended before the point"
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
