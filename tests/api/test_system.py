"""Settings, queues, the overview, notifications, health checks and metrics."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from dataguardian import __version__
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.queues.consumer import Consumer, NoRetry
from dataguardian.queues.definitions import SPECS, QueueName
from dataguardian.queues.producer import NewJob, QueueJob
from dataguardian.service.cleanup import Cleanup
from dataguardian.service.events import load_settings
from dataguardian.service.secrets import MASK
from tests.api.stage import Desk, is_error, play
from tests.servers import free_port

SECRET = "https://127.0.0.1:1/token-in-the-path"


def test_settings_are_shown_masked_and_changed_bit_by_bit(tmp_path: Path) -> None:
    """Defaults first; then channels with masked addresses, whose masks keep them; null brings a default back."""

    async def story(desk: Desk) -> None:
        listed = (await desk.get("/api/system/settings")).json()
        keys = ["notifications", "cleanup", "scrub", "decryption", "recovery", "pruning"]
        assert [row["key"] for row in listed["data"]] == keys
        assert all(row["updated_at"] is None for row in listed["data"])
        path = "/api/system/settings/notifications"
        channels = {"ops": {"type": "webhook", "url": SECRET, "secret": "hush-hush"}}
        body = {"value": {"channels": channels, "routes": [{"channels": ["ops"], "entity_ids": [str(uuid.uuid4())]}]}}
        answer = await desk.put(path, body)
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text
        shown = answer.json()["value"]["channels"]["ops"]
        assert (shown["url"], shown["secret"]) == (MASK, MASK)
        await desk.put(path, {"value": {"channels": {"ops": shown | {"timeout_seconds": 7}}}})
        async with desk.services.context.db.read() as session:
            stored = (await load_settings(session, desk.services.context.vault)).channels["ops"]
        assert stored.url.get_secret_value() == SECRET  # type: ignore[attr-defined]
        assert stored.timeout_seconds == 7
        assert (await desk.get(path)).json()["value"]["routes"][0]["channels"] == ["ops"]
        await desk.put(path, {"value": {"routes": None}})
        assert (await desk.get(path)).json()["value"]["routes"] == []
        wrong = [{"channels": {"a": {"type": "pigeon"}}}, {"routes": [{"channels": ["nobody"]}]}, {"color": 1}]
        wrong += [{"channels": {"a": {"type": "webhook", "url": MASK}}}]
        for value in wrong:
            is_error(await desk.put(path, {"value": value}), 422, "wrong_usage")
        is_error(await desk.get("/api/system/settings/selfguard"), 404, "not_found")
        is_error(await desk.put("/api/system/settings/cleanup", {"value": {"cron": "never"}}), 422, "wrong_usage")
        changed = await desk.put("/api/system/settings/cleanup", {"value": {"max_share": 0.25}})
        assert changed.json()["value"]["max_share"] == 0.25

    play(tmp_path, story)


def test_queues_are_seen_paused_and_resumed(tmp_path: Path) -> None:
    """Every queue with its numbers; jobs by state, in pages."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        execution = (await desk.post(f"/api/backup-jobs/{job['id']}/run")).json()["execution_id"]
        queues = {row["name"]: row for row in (await desk.get("/api/system/queues")).json()["data"]}
        assert set(queues) == {name.value for name in QueueName}
        assert queues["backup-queue"]["concurrency"] == 3
        assert queues["backup-queue"]["counts"]["prioritized"] == 1
        path = "/api/system/queues/backup-queue"
        body = (await desk.get(f"{path}/jobs", state="prioritized")).json()
        assert body["pagination"]["total"] == 1
        assert body["data"][0]["data"]["id"] == execution
        assert (await desk.get(f"{path}/jobs", state="prioritized", page=2)).json()["data"] == []
        assert (await desk.post(f"{path}/pause")).status_code == 204
        paused = (await desk.get("/api/system/queues")).json()["data"]
        assert [row["name"] for row in paused if row["paused"]] == ["backup-queue"]
        assert (await desk.post(f"{path}/resume")).status_code == 204
        is_error(await desk.get("/api/system/queues/coffee-queue/jobs"), 422, "validation")
        is_error(await desk.get(f"{path}/jobs", state="happy"), 422, "validation")

    play(tmp_path, story)


def test_a_failed_queue_job_is_tried_again_unless_its_row_has_ended(tmp_path: Path) -> None:
    """What only the queue knows goes back; what a row says has ended must be started anew."""

    async def refuse(_: QueueJob) -> None:
        raise NoRetry("on purpose")

    async def story(desk: Desk) -> None:
        queues = desk.services.context.queues
        execution = (await desk.post(f"/api/backup-jobs/{(await desk.job())['id']}/run")).json()["execution_id"]
        await desk.post(f"/api/executions/{execution}/cancel")
        await queues.add(QueueName.HEALTH, NewJob("check-1", {"id": str(uuid.uuid4())}))
        consumers = [Consumer(queues.url, name, refuse) for name in (QueueName.HEALTH, QueueName.BACKUP)]
        for consumer in consumers:
            consumer.start()
        for name, job_id in (("health-queue", "check-1"), ("backup-queue", f"{execution}-1")):
            while not (rows := (await desk.get(f"/api/system/queues/{name}/jobs", state="failed")).json()["data"]):
                pass
            assert (rows[0]["id"], rows[0]["failed_reason"]) == (job_id, "on purpose")
        for consumer in consumers:
            await consumer.stop(0.1, hurry=asyncio.Event())
        again = await desk.post("/api/system/queues/health-queue/jobs/check-1/retry")
        assert again.status_code == 202, again.text
        is_error(await desk.post("/api/system/queues/health-queue/jobs/check-1/retry"), 409, "conflict")
        is_error(await desk.post(f"/api/system/queues/backup-queue/jobs/{execution}-1/retry"), 409, "conflict")
        is_error(await desk.post("/api/system/queues/backup-queue/jobs/nobody/retry"), 404, "not_found")

    play(tmp_path, story)


def test_the_overview_counts_what_there_is(tmp_path: Path) -> None:
    """Datasources, storages with what they hold, failing jobs, the last day, what runs and what is next."""

    async def story(desk: Desk) -> None:
        empty = (await desk.get("/api/system/overview")).json()
        assert (empty["backup_jobs"], empty["unread_notifications"], empty["active_executions"]) == (0, 0, [])
        job = await desk.job(schedule_cron="@daily")
        backup = await desk.backup(job)
        await desk.post(f"/api/backup-jobs/{job['id']}/run")
        found = (await desk.get("/api/system/overview")).json()
        assert found["datasources"]["unknown"] == 1
        storage = found["storage_locations"][0]
        assert storage["name"] == "of-shop"
        assert (found["last_24_hours"]["completed"], found["last_24_hours"]["queued"]) == (1, 1)
        assert [row["status"] for row in found["active_executions"]] == ["queued"]
        assert found["next_runs"][0]["next_execution_at"] == "2026-03-02T00:00:00.000Z"
        assert found["unread_notifications"] == 1
        assert backup.compressed_size_bytes

    play(tmp_path, story)


def test_info_says_what_this_is(tmp_path: Path) -> None:
    """Version and parts, without addresses that hold passwords."""

    async def story(desk: Desk) -> None:
        info = (await desk.get("/api/system/info")).json()
        assert info["version"] == __version__
        assert (info["catalogue"], info["queue"], info["timezone"]) == ("sqlite", "embedded", "UTC")

    play(tmp_path, story)


def test_cleanup_is_started_and_reported(tmp_path: Path) -> None:
    """202 with the queue's job; the report is what the last whole pass wrote."""

    async def story(desk: Desk) -> None:
        assert (await desk.get("/api/system/cleanup")).json() == {"report": None}
        started = await desk.post("/api/system/cleanup")
        assert started.status_code == 202
        jobs = (await desk.get("/api/system/queues/cleanup-queue/jobs", state="waiting")).json()["data"]
        assert [row["id"] for row in jobs] == [started.json()["queue_job_id"]]
        is_error(await desk.post("/api/system/cleanup", {"job_id": str(uuid.uuid4())}), 404, "not_found")
        await Cleanup(desk.services.context, desk.services.events).run()
        assert (await desk.get("/api/system/cleanup")).json()["report"]["complete"] is True

    play(tmp_path, story)


def test_notifications_are_listed_and_read(tmp_path: Path) -> None:
    """Filters, one by one and together; read once, and all at once."""

    async def story(desk: Desk) -> None:
        job_id = uuid.uuid4()
        ids = [
            await _told(desk, NotificationType.BACKUP_FAILED, Severity.CRITICAL, job_id),
            await _told(desk, NotificationType.BACKUP_SUCCESS, Severity.INFO, job_id),
        ]
        for query in (
            {"severity": "critical"},
            {"type": "backup_failed"},
            {"entity_type": "backup_job", "entity_id": str(job_id), "severity": "critical", "unread": "true"},
        ):
            rows = (await desk.get("/api/notifications", **query)).json()["data"]
            assert [row["id"] for row in rows] == ids[:1], query
        assert (await desk.get("/api/notifications", entity_id=str(uuid.uuid4()))).json()["data"] == []
        read = (await desk.post(f"/api/notifications/{ids[0]}/read")).json()
        assert read["read_at"] == "2026-03-01T12:00:00.000Z"
        desk.here.clock.advance(hours=1)
        assert (await desk.post(f"/api/notifications/{ids[0]}/read")).json()["read_at"] == read["read_at"]
        assert [row["id"] for row in (await desk.get("/api/notifications", unread=True)).json()["data"]] == ids[1:]
        assert (await desk.post("/api/notifications/read-all")).json() == {"marked": 1}
        assert (await desk.get("/api/notifications", unread=True)).json()["data"] == []
        assert (await desk.get(f"/api/notifications/{ids[1]}")).json()["read_at"] is not None
        is_error(await desk.get("/api/notifications", type="gossip"), 422, "validation")

    play(tmp_path, story)


def test_a_channel_is_tested(tmp_path: Path) -> None:
    """One that nobody listens on has failed, with a reason; one that is not there is a 404."""

    async def story(desk: Desk) -> None:
        channels = {"ops": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/"}}
        await desk.put("/api/system/settings/notifications", {"value": {"channels": channels}})
        answer = await desk.post("/api/notifications/channels/ops/test")
        assert answer.status_code == 200
        assert answer.json()["status"] == "failed"
        assert answer.json()["error"] == "notifier_transient"
        is_error(await desk.post("/api/notifications/channels/nobody/test"), 404, "not_found")
        is_error(await desk.post("/api/notifications/channels/%00/test"), 422, "validation")

    play(tmp_path, story)


def test_health_checks_are_listed(tmp_path: Path) -> None:
    """By datasource, storage location, outcome and time."""

    async def story(desk: Desk) -> None:
        source, storage = await desk.datasource(), await desk.storage()
        minute = int(desk.here.clock.now().timestamp() // 60)
        for kind, row in (("datasource", source), ("storage_location", storage)):
            await desk.services.health.check({"id": row["id"], "kind": kind, "minute": minute}, last_try=True)
        rows = (await desk.get("/api/health")).json()["data"]
        assert {row["status"] for row in rows} == {"ok"}
        for query in ({"datasource_id": source["id"]}, {"storage_location_id": storage["id"]}):
            (row,) = (await desk.get("/api/health", status="ok", **query)).json()["data"]
            assert all(row[name] == value for name, value in query.items())
        assert (await desk.get("/api/health", status="timeout")).json()["data"] == []

    play(tmp_path, story)


def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    """Last success, size, duration and failures per job; queue depths; free space; and names with quotes in them."""

    async def story(desk: Desk) -> None:
        name = 'shop "x"\\y'
        job = await desk.job()
        await desk.put(f"/api/backup-jobs/{job['id']}", {"name": name})
        before = await _metrics(desk)
        labels = {"job_id": job["id"], "job": name}
        assert (("dataguardian_job_last_success_timestamp_seconds", labels)) not in before
        backup = await desk.backup(job)
        assert await _metrics(desk) == before  # for some seconds
        desk.here.clock.advance(seconds=6)
        found = {(sample, frozenset(given.items())): value for sample, given, value in await _all(desk)}
        key = frozenset(labels.items())
        assert backup.finished_at is not None
        moment = backup.finished_at.timestamp()
        assert found["dataguardian_job_last_success_timestamp_seconds", key] == moment
        assert found["dataguardian_job_last_success_size_bytes", key] == backup.size_bytes
        assert found["dataguardian_job_last_success_stored_bytes", key] == backup.compressed_size_bytes
        assert found["dataguardian_job_failures_in_row", key] == 0
        assert ("dataguardian_job_last_success_duration_seconds", key) in found
        assert found["dataguardian_queue_up", frozenset()] == 1
        depth = frozenset({"queue": "backup-queue", "state": "waiting"}.items())
        assert found["dataguardian_queue_jobs", depth] == 0
        assert found["dataguardian_info", frozenset({"version": __version__}.items())] == 1

    play(tmp_path, story)


def test_every_queue_of_the_service_is_on_the_board(tmp_path: Path) -> None:
    """A queue that is added later shows up by itself."""

    async def story(desk: Desk) -> None:
        names = [row.name for row in await desk.services.queueboard.queues()]
        assert names == list(SPECS)

    play(tmp_path, story)


async def _told(desk: Desk, kind: NotificationType, severity: Severity, job_id: uuid.UUID) -> str:
    """Emits a notification and returns its id."""
    known = {str(note.id) for note in await desk.here.notifications()}
    async with desk.services.context.db.write() as session:
        await desk.services.events.emit(
            session,
            type=kind,
            severity=severity,
            entity_type=EntityType.BACKUP_JOB,
            entity_id=job_id,
            title="Title",
            message="Message",
        )
    (new,) = {str(note.id) for note in await desk.here.notifications()} - known
    return new


async def _metrics(desk: Desk) -> list[tuple[str, dict[str, str]]]:
    return [(name, labels) for name, labels, _ in await _all(desk)]


async def _all(desk: Desk) -> list[tuple[str, dict[str, str], float]]:
    answer = await desk.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return [(sample.name, dict(sample.labels), sample.value) for family in families for sample in family.samples]
