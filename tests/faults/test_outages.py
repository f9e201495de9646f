"""Servers that go and come back. The API says so in time, running work is not lost, and nobody has to do anything."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.faults.service import Parts, RedisServer, Service, check_storage, wait_for, wait_until
from tests.faults.test_kills import MANIFEST_STORED, PARTS_STORED
from tests.servers import PostgresServer

AWAY_SECONDS = float(os.environ.get("FAULTS_AWAY_SECONDS", "12"))
"""The project promises a minute; CI is given less."""
ANSWER_SECONDS = 2.0
SLACK_SECONDS = 3.0
"""For a machine that is busy with other tests; the limits themselves are what the code is given."""


def asked(service: Service, method: str, path: str) -> int:
    """Returns the status of an answer, which must come in time."""
    began = time.monotonic()
    answer = service.call(method, path)
    assert time.monotonic() - began < ANSWER_SECONDS + SLACK_SECONDS
    return answer.status_code


def valkey_of(service: Service) -> int:
    [pid] = [pid for pid, command in service.processes() if "valkey" in command.split(" ", 1)[0]]
    return pid


def test_the_embedded_queue_server_is_killed(tmp_path: Path, services: Callable[..., Service]) -> None:
    """It is started again, has kept its jobs, and neither running nor waiting work is lost."""
    service = services(Parts(tmp_path), points=[PARTS_STORED])
    service.start()
    job = service.job("shop")
    service.reached(PARTS_STORED)
    service.post("/api/system/queues/backup-queue/pause")
    waiting = service.run(job)
    killed = valkey_of(service)
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: asked(service, "GET", "/api/system/queues") == 200 and valkey_of(service) != killed, "it is back"
    )
    assert service.get("/api/system/queues")["data"][0]["paused"] is True
    service.go(PARTS_STORED)
    service.post("/api/system/queues/backup-queue/resume")
    rows = service.settled()
    assert {row["status"] for row in rows} == {"completed"}
    assert {row["attempt"] for row in rows} == {1}
    assert service.ended(waiting)["status"] == "completed"
    assert service.stop() == 0
    service.gone()


def test_redis_is_away(real: Parts, services: Callable[..., Service], redis: RedisServer) -> None:
    """Only what enqueues answers 503; a backup that runs is completed meanwhile; later everything goes on by itself."""
    service = services(real, points=[PARTS_STORED])
    service.start()
    job = service.job("shop")
    service.reached(PARTS_STORED)
    redis.stop()
    gone_at = time.monotonic()
    assert asked(service, "POST", f"/api/backup-jobs/{job['id']}/run") == 503
    assert asked(service, "GET", "/api/executions") == 200
    assert asked(service, "GET", "/api/backup-jobs") == 200
    assert asked(service, "GET", "/health") == 200
    service.go(PARTS_STORED)
    [row] = service.settled()
    assert (row["status"], row["attempt"]) == ("completed", 1)
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - gone_at)))
    redis.start()
    path = wait_for(lambda: _run(service, job), "jobs can be started again")
    assert service.ended(path)["status"] == "completed"
    assert len(service.executions()) == 2
    assert service.stop() == 0


def _run(service: Service, job: dict[str, str]) -> str | None:
    answer = service.call("POST", f"/api/backup-jobs/{job['id']}/run")
    assert answer.status_code in (202, 503), answer.text
    return f"/api/executions/{answer.json()['execution_id']}" if answer.status_code == 202 else None


@pytest.mark.parametrize("point", [PARTS_STORED, MANIFEST_STORED])
def test_the_catalogue_is_away(
    tmp_path: Path,
    services: Callable[..., Service],
    fresh_postgres: Callable[..., PostgresServer],
    redis: RedisServer,
    point: str,
) -> None:
    """All but `/health` answers 503; a backup that ends just then waits with its last step, and is not made again."""
    server = fresh_postgres()
    parts = Parts(tmp_path, server, server.database(), redis)
    service = services(parts, points=[point])
    service.start()
    service.reached(point)
    server.stop()
    gone_at = time.monotonic()
    service.go(point)
    assert asked(service, "GET", "/api/executions") == 503
    assert asked(service, "GET", "/api/system/overview") == 503
    assert asked(service, "GET", "/ready") == 503
    assert asked(service, "GET", "/health") == 200
    wait_until(lambda: "waiting for the catalogue" in service.log, "the last step waits")
    time.sleep(max(0.0, AWAY_SECONDS - (time.monotonic() - gone_at)))
    server.start()
    wait_until(lambda: asked(service, "GET", "/api/executions") == 200, "the API is back")
    [row] = service.settled()
    assert (row["status"], row["attempt"], row["metadata"]["adopted"]) == ("completed", 1, False)
    check_storage(service.home / "backups", [row])
    assert len(service.notifications()) == 1
    assert service.stop() == 0


def test_nothing_answers_any_more_and_yet_it_stops(
    real: Parts, services: Callable[..., Service], redis: RedisServer
) -> None:
    """With a queue server that hangs SIGTERM still ends the service, with nothing left of it."""
    service = services(real)
    service.start()
    service.settled()
    assert redis.process is not None
    os.kill(redis.process.pid, signal.SIGSTOP)
    try:
        assert asked(service, "GET", "/api/executions") == 200
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            service.call("POST", "/api/system/cleanup").raise_for_status()
        assert service.stop() == 0
        service.gone()
    finally:
        os.kill(redis.process.pid, signal.SIGCONT)
