"""Datasources, storage locations and backup jobs: made, shown, changed, tested, deleted."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from dataguardian.service.safekeeping import opened_config
from dataguardian.service.secrets import MASK
from tests.api.stage import Desk, is_error, play
from tests.servers import free_port

SHOP = {
    "name": "shop",
    "type": "postgres",
    "connection_config": {"host": "127.0.0.1", "port": 1, "database": "shop", "username": "u", "password": "s3cret!"},
}


def test_a_datasource_lives_and_dies(tmp_path: Path) -> None:
    """Made, found in the list, changed bit by bit, and gone."""

    async def story(desk: Desk) -> None:
        made = await desk.made("/api/datasources", SHOP | {"tags": ["eu"]})
        assert made["status"] == "unknown"
        assert made["tags"] == ["eu"]
        listed = (await desk.get("/api/datasources")).json()
        assert listed["data"] == [made]
        assert listed["pagination"] == {"total": 1, "page": 1, "limit": 20, "total_pages": 1}
        changed = (await desk.put(f"/api/datasources/{made['id']}", {"name": " shop 2 "})).json()
        assert changed["name"] == "shop 2"
        assert changed["connection_config"] == made["connection_config"]
        assert (await desk.delete(f"/api/datasources/{made['id']}")).status_code == 204
        is_error(await desk.get(f"/api/datasources/{made['id']}"), 404, "not_found")

    play(tmp_path, story)


def test_a_secret_never_comes_out_and_its_mask_keeps_it(tmp_path: Path) -> None:
    """Answers show a mask; sending it back, alone or with other changes, leaves the stored password in place."""

    async def story(desk: Desk) -> None:
        made = await desk.post("/api/datasources", SHOP)
        assert "s3cret!" not in made.text
        config = made.json()["connection_config"]
        assert config["password"] == MASK
        path = f"/api/datasources/{made.json()['id']}"
        answer = await desk.put(path, {"connection_config": config | {"port": 2}})
        assert answer.json()["connection_config"] == config | {"port": 2}
        row = await desk.services.datasources.get(uuid.UUID(made.json()["id"]))
        assert "s3cret!" not in str(row.connection_config)
        assert opened_config(row, desk.services.context.vault)["password"] == "s3cret!"
        answer = await desk.put(path, {"connection_config": {"password": None}})
        assert "password" not in answer.json()["connection_config"]
        is_error(await desk.put(path, {"connection_config": {"password": MASK}}), 422, "wrong_usage")

    play(tmp_path, story)


def test_what_is_wrong_is_named_and_never_repeated(tmp_path: Path) -> None:
    """A body that is not valid gets its fields named; the password in it is in no answer."""

    async def story(desk: Desk) -> None:
        config = SHOP["connection_config"] | {"port": "s3cret!", "color": "red"}  # type: ignore[operator]
        answer = await desk.post("/api/datasources", SHOP | {"connection_config": config})
        fields = {item["field"] for item in is_error(answer, 422, "validation")["details"]["errors"]}
        assert fields == {"body.postgres.connection_config.port", "body.postgres.connection_config.color"}
        assert "s3cret!" not in answer.text
        wrong = [{"name": ""}, {"name": "   "}, {"name": "x" * 201}, {"name": "a\nb"}, {"color": "red"}, {"tags": [""]}]
        for fields_sent in wrong:
            is_error(await desk.post("/api/datasources", SHOP | fields_sent), 422, "validation")
        is_error(await desk.post("/api/datasources", SHOP | {"type": "oracle"}), 422, "validation")
        is_error(await desk.post("/api/datasources", {"name": "x"}), 422, "validation")
        is_error(await desk.post("/api/datasources", []), 422, "validation")

    play(tmp_path, story)


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    """A second thing of the same name is a conflict, when it is made and when it is renamed."""

    async def story(desk: Desk) -> None:
        for path, first, second in (
            ("/api/datasources", SHOP, SHOP | {"name": "other"}),
            ("/api/storage-locations", _disk(tmp_path, "a"), _disk(tmp_path, "b")),
        ):
            await desk.made(path, first)
            other = await desk.made(path, second)
            is_error(await desk.post(path, first), 409, "conflict")
            is_error(await desk.put(f"{path}/{other['id']}", {"name": first["name"]}), 409, "conflict")
        job = await desk.job("nightly")
        body = {"name": "nightly", "datasource_id": job["datasource_id"]}
        is_error(await desk.post("/api/backup-jobs", body), 409, "conflict")

    play(tmp_path, story)


def test_what_is_in_use_cannot_be_deleted_and_says_by_what(tmp_path: Path) -> None:
    """A datasource and a storage location of a job name the job; a job with backups counts them."""

    async def story(desk: Desk) -> None:
        job = await desk.job("nightly")
        for path in (f"datasources/{job['datasource_id']}", f"storage-locations/{job['storage_location_id']}"):
            assert "nightly" in is_error(await desk.delete(f"/api/{path}"), 409, "conflict")["message"]
        await desk.backup(job)
        error = is_error(await desk.delete(f"/api/backup-jobs/{job['id']}"), 409, "conflict")
        assert "executions: 1" in error["message"]

    play(tmp_path, story)


def test_only_one_storage_location_is_the_default(tmp_path: Path) -> None:
    """Making another one the default ends that of the first."""

    async def story(desk: Desk) -> None:
        first = await desk.storage("first", is_default=True)
        second = await desk.storage("second", is_default=True)
        assert second["is_default"]
        path = f"/api/storage-locations/{first['id']}"
        assert (await desk.get(path)).json()["is_default"] is False
        assert (await desk.put(path, {"is_default": True})).json()["is_default"] is True
        assert (await desk.get(f"/api/storage-locations/{second['id']}")).json()["is_default"] is False

    play(tmp_path, story)


def test_a_test_tells_what_it_found(tmp_path: Path) -> None:
    """What answers is ok; what does not is an outcome with a reason, not an error of the call."""

    async def story(desk: Desk) -> None:
        source, storage = await desk.datasource(), await desk.storage()
        for path in (f"datasources/{source['id']}", f"storage-locations/{storage['id']}"):
            answer = await desk.post(f"/api/{path}/test")
            assert answer.status_code == 200
            assert answer.json()["status"] == "ok", answer.text
        closed = await desk.made("/api/datasources", SHOP | {"name": "closed"})
        found = (await desk.post(f"/api/datasources/{closed['id']}/test")).json()
        assert found["status"] == "unreachable"
        assert found["message"]
        (tmp_path / "storage-disk").rmdir()
        (tmp_path / "storage-disk").write_text("a file now")
        found = (await desk.post(f"/api/storage-locations/{storage['id']}/test")).json()
        assert found["status"] != "ok"

    play(tmp_path, story)


def test_a_job_lives_and_dies(tmp_path: Path) -> None:
    """Defaults are filled in, options change one by one, a new schedule counts from now."""

    async def story(desk: Desk) -> None:
        job = await desk.job(schedule_cron="30 2 * * *", backup_options={"compression": "gzip"})
        assert job["retention_policy"]["keep_daily"] == 7
        assert job["backup_options"]["compression"] == "gzip"
        assert job["next_execution_at"] == "2026-03-02T02:30:00.000Z"
        path = f"/api/backup-jobs/{job['id']}"
        changed = (await desk.put(path, {"retention_policy": {"keep_daily": 9}, "schedule_cron": "0 5 * * *"})).json()
        assert changed["retention_policy"] == job["retention_policy"] | {"keep_daily": 9}
        assert changed["backup_options"] == job["backup_options"]
        assert changed["next_execution_at"] == "2026-03-02T05:00:00.000Z"
        by_hand = (await desk.put(path, {"schedule_cron": None})).json()
        assert by_hand["next_execution_at"] is None
        assert (await desk.delete(path)).status_code == 204

    play(tmp_path, story)


IMPOSSIBLE: tuple[dict[str, object], ...] = (
    {"schedule_cron": "61 * * * *"},
    {"schedule_cron": "0 0 31 2 *"},
    {"schedule_timezone": "Mars/Olympus"},
    {"retention_policy": {"keep_daily": -1}},
    {"retention_policy": {"keep_forever": True}},
    {"backup_options": {"compression": "rar"}},
    {"backup_options": {"compression_level": 10**30}},
    {"backup_options": {"compression": "zstd", "compression_level": 99}},
    {"backup_options": {"timeout_minutes": "Infinity"}},
)


def test_a_job_that_could_not_run_is_refused(tmp_path: Path) -> None:
    """A schedule, zone, policy or option that means nothing is refused when it is stored, and when it is changed."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        for fields in IMPOSSIBLE:
            body = {"name": "other", "datasource_id": job["datasource_id"]} | fields
            is_error(await desk.post("/api/backup-jobs", body), 422)
            is_error(await desk.put(f"/api/backup-jobs/{job['id']}", fields), 422)

    play(tmp_path, story)


def test_a_job_needs_parties_that_exist(tmp_path: Path) -> None:
    """An unknown datasource or storage location is named as not found."""

    async def story(desk: Desk) -> None:
        job, nobody = await desk.job(), str(uuid.uuid4())
        for name in ("datasource_id", "storage_location_id"):
            body = {"name": "other", "datasource_id": job["datasource_id"]} | {name: nobody}
            assert nobody in is_error(await desk.post("/api/backup-jobs", body), 404, "not_found")["message"]
            is_error(await desk.put(f"/api/backup-jobs/{job['id']}", {name: nobody}), 404, "not_found")
        is_error(await desk.put(f"/api/backup-jobs/{job['id']}", {"datasource_id": None}), 422, "validation")

    play(tmp_path, story)


def test_lists_come_in_pages(tmp_path: Path) -> None:
    """Every row on exactly one page, newest first; beyond the last page there is nothing; 100 is the most."""

    async def story(desk: Desk) -> None:
        names = [f"source {number}" for number in range(7)]
        for name in names:
            await desk.made("/api/datasources", SHOP | {"name": name})
        found = []
        for page in (1, 2, 3, 4):
            body = (await desk.get("/api/datasources", page=page, limit=3)).json()
            assert body["pagination"] == {"total": 7, "page": page, "limit": 3, "total_pages": 3}
            found += [row["name"] for row in body["data"]]
        assert sorted(found) == sorted(names)
        for query in ({"page": 0}, {"limit": 0}, {"limit": 101}, {"page": "x"}, {"page": 10**20}):
            is_error(await desk.get("/api/datasources", **query), 422, "validation")
        assert (await desk.get("/api/datasources", page=10**9, limit=100)).json()["data"] == []
        assert (await desk.get("/api/datasources", color="red")).status_code == 200
        assert (await desk.get("/api/datasources", status="unknown")).json()["pagination"]["total"] == 7
        for path in ("/api/datasources", "/api/storage-locations"):
            assert (await desk.get(path, status="healthy")).json()["data"] == []
            is_error(await desk.get(path, status="happy"), 422, "validation")

    play(tmp_path, story)


def test_jobs_are_filtered_by_their_parties(tmp_path: Path) -> None:
    """A list of jobs can be narrowed to a datasource or a storage location."""

    async def story(desk: Desk) -> None:
        first, second = await desk.job("first"), await desk.job("second")
        for name in ("datasource_id", "storage_location_id"):
            for job in (first, second):
                rows = (await desk.get("/api/backup-jobs", **{name: job[name]})).json()["data"]
                assert [row["name"] for row in rows] == [job["name"]]

    play(tmp_path, story)


def _disk(folder: Path, name: str) -> dict[str, object]:
    return {"name": name, "type": "local", "config": {"path": str(folder / name)}}


def test_a_storage_that_nothing_answers_for_says_so_at_once(tmp_path: Path) -> None:
    """The test of a storage is not retried behind the scenes: the answer is the reason, and no timeout."""

    async def story(desk: Desk) -> None:
        port = free_port()
        config = {"host": "127.0.0.1", "port": port, "username": "u", "password": "secret", "remote_path": "/x"}
        row = await desk.made("/api/storage-locations", {"name": "nas", "type": "ssh", "config": config})
        began = time.monotonic()
        told = (await desk.post(f"/api/storage-locations/{row['id']}/test")).json()
        assert time.monotonic() - began < 10
        assert told["status"] == "unreachable"
        assert "127.0.0.1" in told["message"]

    play(tmp_path, story)
