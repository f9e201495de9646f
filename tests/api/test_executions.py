"""Executions: listed, followed, cancelled, pinned, deleted."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from dataguardian.service.logbook import Logbook
from tests.api.stage import Desk, is_error, play


def test_a_run_is_accepted_followed_and_found(tmp_path: Path) -> None:
    """202 with the id, then a row that ends as completed, with sizes, a checksum and a log."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        started = await desk.post(f"/api/backup-jobs/{job['id']}/run")
        assert started.status_code == 202
        path = f"/api/executions/{started.json()['execution_id']}"
        queued = (await desk.get(path)).json()
        assert queued["status"] == "queued"
        assert queued["progress"] is None
        again = is_error(await desk.post(f"/api/backup-jobs/{job['id']}/run"), 409, "conflict")
        assert again["details"]["execution_id"] == queued["id"]
        async with desk.here.working():
            done = await desk.ended(path)
        assert done["status"] == "completed", done
        assert done["size_bytes"] > done["compressed_size_bytes"] > 0
        assert len(done["checksum"]) == 64
        assert done["metadata"]["streams"]
        lines = (await desk.get(f"{path}/logs")).json()
        assert [line["number"] for line in lines["data"]] == list(range(1, lines["pagination"]["total"] + 1))
        assert lines["data"][-1]["message"] == "completed"
        rest = (await desk.get(f"{path}/logs", after=1, limit=1)).json()
        assert [line["number"] for line in rest["data"]] == [2]

    play(tmp_path, story)


def test_the_list_is_narrowed_by_every_filter(tmp_path: Path) -> None:
    """Job, datasource, storage location, state and time, alone and together."""

    async def story(desk: Desk) -> None:
        first, second = await desk.job("first"), await desk.job("second")
        old = await _run(desk, first)
        await desk.post(f"/api/executions/{old}/cancel")
        desk.here.clock.advance(hours=1)
        new = await _run(desk, second)
        moment = (desk.here.clock.now() - timedelta(minutes=30)).isoformat()
        filters: list[tuple[dict[str, str], str]] = [
            ({name: first[column]}, old)
            for name, column in (
                ("job_id", "id"),
                ("datasource_id", "datasource_id"),
                ("storage_location_id", "storage_location_id"),
            )
        ]
        filters += [({"status": "queued"}, new), ({"status": "cancelled", "job_id": first["id"]}, old)]
        filters += [({"from": moment}, new), ({"to": moment}, old)]
        for query, wanted in filters:
            body = (await desk.get("/api/executions", **query)).json()
            assert [row["id"] for row in body["data"]] == [wanted], query
            assert body["pagination"]["total"] == 1
        both = (await desk.get("/api/executions")).json()["data"]
        assert [row["id"] for row in both] == [new, old]
        wrong = [
            {"status": "happy"},
            {"job_id": "x"},
            {"from": "2026-03-01T12:00:00"},
            {"to": "yesterday"},
            {"to": "0.5"},
        ]
        wrong += [{"from": "0001-01-01T00:00:00+14:00"}, {"to": "9999-12-31T23:59:59-14:00"}]
        for query in wrong:
            is_error(await desk.get("/api/executions", **query), 422, "validation")

    play(tmp_path, story)


def test_a_queued_run_is_cancelled_at_once(tmp_path: Path) -> None:
    """202 with the row as it is now; what has ended cannot be cancelled."""

    async def story(desk: Desk) -> None:
        execution = await _run(desk, await desk.job())
        answer = await desk.post(f"/api/executions/{execution}/cancel")
        assert answer.status_code == 202
        assert answer.json()["status"] == "cancelled"
        is_error(await desk.post(f"/api/executions/{execution}/cancel"), 409, "conflict")
        is_error(await desk.post(f"/api/executions/{uuid.uuid4()}/cancel"), 404, "not_found")

    play(tmp_path, story)


def test_a_backup_is_pinned_and_deleted(tmp_path: Path) -> None:
    """A pinned backup, and the newest good one, stay; then the objects go with the row."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        older = await desk.backup(job)
        desk.here.clock.advance(hours=1)
        newest = await desk.backup(job)
        path = f"/api/executions/{older.id}"
        assert (await desk.post(f"{path}/pin")).json()["pinned"] is True
        is_error(await desk.delete(path), 409, "conflict")
        assert (await desk.post(f"{path}/unpin")).json()["pinned"] is False
        assert (await desk.delete(path)).status_code == 204
        is_error(await desk.get(path), 404, "not_found")
        held = {file.parts[-3] for file in (tmp_path / "storage-of-shop").rglob("0*.zst")}
        assert held == {str(newest.backup_path).split("/")[1]}
        is_error(await desk.delete(f"/api/executions/{newest.id}"), 409, "conflict")
        assert (await desk.delete(f"/api/executions/{newest.id}", force="true")).status_code == 204

    play(tmp_path, story)


def test_retention_is_told_before_it_happens(tmp_path: Path) -> None:
    """What would go now, when the others die, and why they stay."""

    async def story(desk: Desk) -> None:
        job = await desk.job(retention_policy={"keep_daily": 1, "keep_weekly": 0, "keep_monthly": 0})
        old = await desk.backup(job)
        desk.here.clock.advance(days=3)
        new = await desk.backup(job)
        preview = (await desk.get(f"/api/backup-jobs/{job['id']}/retention-preview")).json()
        assert preview["removed"] == 1
        assert [(row["execution_id"], row["keep"]) for row in preview["backups"]] == [
            (str(new.id), True),
            (str(old.id), False),
        ]
        assert "daily" in preview["backups"][0]["reasons"]
        assert preview["backups"][0]["explanation"].startswith("kept as")
        is_error(await desk.get(f"/api/backup-jobs/{uuid.uuid4()}/retention-preview"), 404)

    play(tmp_path, story)


def test_events_tell_states_and_progress_up_to_the_end(tmp_path: Path) -> None:
    """Over a real connection: queued, running, what it says of itself, completed, and then nothing more."""

    async def story(desk: Desk) -> None:
        execution = await _run(desk, await desk.job())
        async with desk.served() as url, httpx.AsyncClient(base_url=url, timeout=60, headers=desk.headers) as http:
            stream = http.stream("GET", f"/api/executions/{execution}/events")
            async with stream as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                events = asyncio.create_task(_events(answer))
                await desk.services.context.live.set(execution, {"size_bytes": 1})
                await asyncio.sleep(1)
                async with desk.here.working():
                    told = await events
        states = [data["status"] for event, data in told if event == "state"]
        assert states[0] == "queued"
        assert states[-1] == "completed"
        assert told[-1] == ("end", {})

    play(tmp_path, story)


def test_events_of_what_has_ended_end_at_once(tmp_path: Path) -> None:
    """One state, and the end; what is unknown is a 404, not a stream."""

    async def story(desk: Desk) -> None:
        execution = await _run(desk, await desk.job())
        await desk.post(f"/api/executions/{execution}/cancel")
        answer = await desk.get(f"/api/executions/{execution}/events")
        assert [line for line in answer.text.splitlines() if line.startswith("event")] == ["event: state", "event: end"]
        is_error(await desk.get(f"/api/executions/{uuid.uuid4()}/events"), 404, "not_found")

    play(tmp_path, story)


def test_a_stopping_service_ends_its_streams(tmp_path: Path) -> None:
    """Streams of work that goes on for hours do not hold a shutdown up."""

    async def story(desk: Desk) -> None:
        execution = await _run(desk, await desk.job())
        async with (
            asyncio.timeout(30),
            desk.served() as url,
            httpx.AsyncClient(base_url=url, timeout=60, headers=desk.headers) as http,
        ):
            stream = http.stream("GET", f"/api/executions/{execution}/events")
            async with stream as answer:
                lines = answer.aiter_lines()
                while await anext(lines) != "event: state":
                    pass
                desk.app.state.stopping.set()
                assert [line async for line in lines][-1] != "event: end"

    play(tmp_path, story)


def test_progress_is_shown_while_it_runs(tmp_path: Path) -> None:
    """What running work says of itself is in the row's detail, and in the list of active queue jobs."""

    async def story(desk: Desk) -> None:
        execution = await _run(desk, await desk.job())
        claim = await desk.here.executions.claim(uuid.UUID(execution), 1)
        assert claim is not None
        await desk.services.context.live.set(execution, {"size_bytes": 42})
        await Logbook(desk.services.context, claim.execution_id).write("info", "hello", parts=3)
        row = (await desk.get(f"/api/executions/{execution}")).json()
        assert row["status"] == "running"
        assert row["progress"] == {"size_bytes": 42}
        line = (await desk.get(f"/api/executions/{execution}/logs")).json()["data"][0]
        assert (line["message"], line["metadata"]) == ("hello", {"parts": 3})
        asked = (await desk.post(f"/api/executions/{execution}/cancel")).json()
        assert (asked["status"], asked["cancel_requested"]) == ("running", True)

    play(tmp_path, story)


async def _run(desk: Desk, job: dict[str, Any]) -> str:
    answer = await desk.post(f"/api/backup-jobs/{job['id']}/run")
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


async def _events(answer: httpx.Response) -> list[tuple[str, Any]]:
    told: list[tuple[str, Any]] = []
    event = ""
    async for line in answer.aiter_lines():
        if line.startswith("event: "):
            event = line.removeprefix("event: ")
        elif line.startswith("data: "):
            told.append((event, json.loads(line.removeprefix("data: "))))
    return told
