"""The catalogue or the queue is away, or hangs: who hears of it, how fast, and that everything goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.api.gateway import Gateway, gateway
from tests.api.stage import Desk, is_error, performed, play
from tests.faults.service import RedisServer
from tests.servers import PostgresServer

WITHIN_SECONDS = 2.0
SLACK_SECONDS = 2.5
"""For a machine that is busy with other tests."""


def test_without_the_queue_only_what_enqueues_is_refused(tmp_path: Path) -> None:
    """Starting work is a 503 that leaves nothing behind; reading, defining and cancelling go on; then all is well."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        backup = await desk.backup(job)
        waiting = (await desk.post(f"/api/backup-jobs/{job['id']}/run")).json()["execution_id"]
        desk.here.server.stop()
        other = await desk.job("other")
        await _refused_in_time(desk, _enqueuing(other["id"], str(backup.id)), "queue_unavailable")
        await _works(desk)
        ready = await desk.get("/ready")
        assert (ready.status_code, ready.json()["status"], ready.json()["catalogue"]) == (503, "unavailable", "ok")
        assert "dataguardian_queue_up 0.0" in (await desk.get("/metrics")).text
        assert (await desk.post(f"/api/executions/{waiting}/cancel")).json()["status"] == "cancelled"
        assert (await desk.get("/api/restores")).json()["data"] == []
        assert len(await desk.here.all_executions()) == 2
        desk.here.server.start()
        await _until(lambda: desk.get("/ready"), 200)
        assert (await desk.post(f"/api/backup-jobs/{other['id']}/run")).status_code == 202

    play(tmp_path, story)


def test_a_queue_that_hangs_is_no_worse_than_one_that_is_gone(tmp_path: Path) -> None:
    """Real Redis behind a line that swallows everything: an answer comes in time, and later all is well."""
    redis = RedisServer(tmp_path / "redis")

    async def story(desk: Desk, line: Gateway) -> None:
        job = await desk.job()
        backup = await desk.backup(job)
        line.hang()
        await _refused_in_time(desk, _enqueuing(job["id"], str(backup.id)), "queue_unavailable")
        await _works(desk)
        assert line.held_up
        line.mend()
        await _until(lambda: desk.post(f"/api/backup-jobs/{job['id']}/run"), 202)

    try:
        _play_behind_a_line(redis.port, lambda port: {"redis_url": f"redis://127.0.0.1:{port}/0"}, tmp_path, story)
    finally:
        redis.stop()


@pytest.mark.parametrize("way", ["cut", "hang"])
def test_without_the_catalogue_only_liveness_is_left(tmp_path: Path, postgres17: PostgresServer, way: str) -> None:
    """Real PostgreSQL, gone or hanging: every call but `/health` is a 503 in time; when it is back, so are they."""
    parts = urlsplit(postgres17.url(postgres17.database()))

    async def story(desk: Desk, line: Gateway) -> None:
        job = await desk.job()
        getattr(line, way)()
        calls: list[tuple[str, str, object]] = [
            ("GET", "/api/datasources", None),
            ("GET", "/api/executions", None),
            ("GET", f"/api/backup-jobs/{job['id']}", None),
            ("PUT", f"/api/backup-jobs/{job['id']}", {"name": "new"}),
            ("POST", f"/api/backup-jobs/{job['id']}/run", None),
            ("GET", "/api/system/overview", None),
            ("POST", "/api/notifications/channels/ops/test", None),
            ("GET", "/metrics", None),
        ]
        await _refused_in_time(desk, calls, "catalog_unavailable")
        started = time.monotonic()
        assert (await desk.get("/health")).json()["status"] == "ok"
        ready = await desk.get("/ready")
        assert (ready.status_code, ready.json()["queue"]) == (503, "ok")
        assert time.monotonic() - started < WITHIN_SECONDS + SLACK_SECONDS
        assert line.held_up
        line.mend()
        await _until(lambda: desk.get("/api/datasources"), 200)
        assert (await desk.get(f"/api/backup-jobs/{job['id']}")).json()["name"] == "shop"
        assert (await desk.post(f"/api/backup-jobs/{job['id']}/run")).status_code == 202

    def url(port: int) -> dict[str, str]:
        netloc = f"{parts.username}:{parts.password}@127.0.0.1:{port}"
        return {"database_url": parts._replace(netloc=netloc).geturl()}

    _play_behind_a_line(postgres17.port, url, tmp_path, story)


def _enqueuing(job_id: str, execution_id: str) -> list[tuple[str, str, object]]:
    return [
        ("POST", f"/api/backup-jobs/{job_id}/run", None),
        ("POST", f"/api/executions/{execution_id}/restore", {"confirm": "shop"}),
        ("POST", f"/api/executions/{execution_id}/verify", {}),
        ("POST", "/api/system/cleanup", None),
        ("GET", "/api/system/queues", None),
        ("POST", "/api/system/queues/backup-queue/pause", None),
    ]


async def _refused_in_time(desk: Desk, calls: list[tuple[str, str, object]], error: str) -> None:
    for method, path, body in calls:
        started = time.monotonic()
        answer = await desk.http.request(method, path, **({} if body is None else {"json": body}))
        seconds = time.monotonic() - started
        is_error(answer, 503, error)
        assert answer.headers["retry-after"]
        assert seconds < WITHIN_SECONDS + SLACK_SECONDS, f"{method} {path} took {seconds:.1f} s"


async def _works(desk: Desk) -> None:
    for path in ("datasources", "storage-locations", "backup-jobs", "executions", "restores", "notifications"):
        assert (await desk.get(f"/api/{path}")).status_code == 200
    for path in ("/api/health", "/api/system/overview", "/api/system/settings", "/health", "/metrics"):
        assert (await desk.get(path)).status_code == 200
    source = (await desk.get("/api/datasources")).json()["data"][0]
    assert (await desk.put(f"/api/datasources/{source['id']}", {"enabled": True})).status_code == 200
    assert (await desk.post(f"/api/datasources/{source['id']}/test")).json()["status"] == "ok"


async def _until(call: Callable[[], Awaitable[httpx.Response]], status: int) -> None:
    async with asyncio.timeout(30):
        while (await call()).status_code != status:
            await asyncio.sleep(0.1)


def _play_behind_a_line(
    port: int, servers: Callable[[int], dict[str, str]], folder: Path, story: Callable[[Desk, Gateway], Awaitable[None]]
) -> None:
    """Plays a story on a stage whose server is reached through a line."""

    async def played() -> None:
        async with gateway("127.0.0.1", port) as line:
            await performed(folder, lambda desk: story(desk, line), **servers(line.port))

    asyncio.run(played())
