"""The catalogue is lost. Its own newest backup, restored by the stock command, gives a working service again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import EMBEDDED, REAL
from tests.faults.service import Parts, Service, check_storage, stored
from tests.servers import PostgresServer


def restore(backup: Path, target: str) -> None:
    command = [sys.executable, "-m", "dataguardian", "restore", f"file://{backup}", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


class Lost:
    """A service that backed up its catalogue, then a job, then lost everything but the storages."""

    def __init__(self, service: Service) -> None:
        self.service = service
        service.start()
        service.settled()
        [self.own_job] = service.get("/api/backup-jobs")["data"]
        self.job = service.job("shop", schedule_cron="0 3 * * *")
        self.before = service.ended(service.run(self.job))
        self.own = service.ended(service.run(self.own_job))
        self.after = service.ended(service.run(self.job))
        assert {row["status"] for row in (self.before, self.own, self.after)} == {"completed"}
        assert service.stop() == 0

    @property
    def own_backup(self) -> Path:
        return self.service.home / "backups" / str(self.own["backup_path"])

    def check(self, revived: Service) -> None:
        """Everything that was completed is so again, jobs run, and a cleanup removes nothing."""
        rows = {row["id"]: row for row in revived.settled()}
        for known in (self.before, self.own, self.after):
            assert rows[known["id"]]["status"] == "completed", rows[known["id"]]
            assert rows[known["id"]]["backup_path"] == known["backup_path"]
            assert rows[known["id"]]["checksum"] == known["checksum"]
        assert rows[self.own["id"]]["metadata"]["imported"] is True
        assert rows[self.after["id"]]["metadata"]["imported"] is True
        own, shop = self.service.home / "backups", self.service.folder("shop-disk")
        present = stored(own), stored(shop)
        report = revived.clean_up()
        assert (report["removed"], report["problems"]) == (0, []), report
        assert (stored(own), stored(shop)) == present
        jobs = {job["name"]: job for job in revived.get("/api/backup-jobs")["data"]}
        assert all(job["next_execution_at"] for job in jobs.values())
        again = revived.ended(revived.run(jobs["shop"]))
        assert again["status"] == "completed", again["error_message"]
        check_storage(shop, [self.before, self.after, again])


@pytest.fixture(params=[EMBEDDED, REAL])
def lost(request: pytest.FixtureRequest, tmp_path: Path, services: Callable[..., Service]) -> Lost:
    parts = Parts(tmp_path) if request.param == EMBEDDED else request.getfixturevalue("real")
    return Lost(services(parts))


@pytest.fixture
def empty_database(postgres17: PostgresServer) -> Iterator[str]:
    name = f"revived{os.getpid()}"
    yield name
    postgres17.drop(name)


def test_an_empty_home_comes_to_life(lost: Lost, services: Callable[..., Service], request: Any) -> None:
    """On another machine: a catalogue from its backup, and what was backed up since then is found in the storages."""
    parts = lost.service.parts
    if parts.postgres is None:
        revived = services(parts, name="revived")
        revived.home.mkdir()
        restore(lost.own_backup, f"sqlite://{revived.home / 'catalogue.db'}")
    else:
        name = request.getfixturevalue("empty_database")
        restore(lost.own_backup, parts.postgres.url(name))
        revived = services(replace(parts, database=name), name="revived")
    revived.start()
    lost.check(revived)
    guard_again(revived, lost.own_job)
    assert revived.stop() == 0


def guard_again(revived: Service, job: dict[str, Any]) -> None:
    """Tells the service's own job where its home is now, as docs/service.md says, and no more; it goes on there."""
    [place] = [row for row in revived.get("/api/storage-locations")["data"] if row["name"] == "local"]
    revived.put(f"/api/storage-locations/{place['id']}", {"config": {"path": str(revived.home / "backups")}})
    if revived.parts.embedded:
        config = {"connection_config": {"file_path": str(revived.home / "catalogue.db")}}
        revived.put(f"/api/datasources/{job['datasource_id']}", config)
    ended = revived.ended(revived.run(job))
    assert ended["status"] == "completed", ended["error_message"]
    assert (revived.home / "backups" / ended["backup_path"]).exists()


def test_an_old_catalogue_in_the_very_file_is_recognised(tmp_path: Path, services: Callable[..., Service]) -> None:
    """By hand, without a new file: what the old content does not know is found again all the same."""
    lost = Lost(services(Parts(tmp_path)))
    restore(lost.own_backup, f"sqlite://{tmp_path / 'copy.db'}")
    shutil.copyfile(tmp_path / "copy.db", lost.service.home / "catalogue.db")
    lost.service.start()
    lost.check(lost.service)
    assert lost.service.stop() == 0
