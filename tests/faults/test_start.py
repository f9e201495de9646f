"""A start: quick, once, alone; and what a first one does by itself."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.service import Parts, Service, check_storage, wait_for

START_LIMIT_SECONDS = 30.0
"""On an idle machine it takes less than 3 s; a busy one is given time."""


def test_a_first_start_guards_itself_and_a_second_one_does_not_do_it_again(service: Service) -> None:
    """It backs up its own catalogue at once, as a job that anybody can see; a restart leaves all that as it is."""
    assert service.start() < START_LIMIT_SECONDS
    [row] = service.settled()
    assert row["status"] == "completed", row["error_message"]
    check_storage(service.home / "backups", [row])
    assert service.stop() == 0
    service.gone()
    assert service.start() < START_LIMIT_SECONDS
    assert [found["id"] for found in service.settled()] == [row["id"]]
    for things in ("datasources", "storage-locations", "backup-jobs"):
        assert len(service.get(f"/api/{things}")["data"]) == 1
    assert service.stop() == 0
    service.gone()


def test_roles_share_the_work(real: Parts, services: Callable[..., Service]) -> None:
    """API, worker and scheduler as three processes: what the one queues another carries out, and due jobs run."""
    api, worker, scheduler = (services(real, name=role, role=role) for role in ("api", "worker", "scheduler"))
    for role in (api, worker, scheduler):
        role.spawn()
    wait_for(lambda: '"role": "api"' in _first_line(api) or None, "the API is ready")
    job = api.job("shop")
    started = api.run(job)
    row = api.ended(started)
    assert row["status"] == "completed", row["error_message"]
    check_storage(real.folder / "shop-disk", [row])
    assert "attempt 1 began" in worker.log
    assert "attempt 1 began" not in api.log + scheduler.log
    for role in (api, worker, scheduler):
        assert role.stop() == 0
        role.gone()


def _first_line(service: Service) -> str:
    assert service.process is not None
    assert service.process.stdout is not None
    return service.process.stdout.readline()
