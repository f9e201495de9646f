"""Limits to datasources: what is outside is not there, in no list, number, log, stream or message."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import httpx

from dataguardian.db.repositories.lists import Filters
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.domain.access import Role
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.service.workkinds import Kind
from tests.api.access_stage import bearer, client, token, user
from tests.api.stage import Desk, is_error, notes, play


async def _limited(desk: Desk, *datasource_ids: str, role: Role = Role.OPERATOR) -> httpx.AsyncClient:
    limit = frozenset(uuid.UUID(text) for text in datasource_ids)
    return client(desk, Authorization=f"Bearer {await token(desk, role, datasource_ids=limit)}")


def test_what_is_outside_the_limit_is_not_there(tmp_path: Path) -> None:
    """Two shops with everything: an operator of one sees no trace of the other, and changes nothing there."""

    async def story(desk: Desk) -> None:
        mine, other = await desk.job("mine"), await desk.job("other")
        ids = {}
        for job in (mine, other):
            backup = await desk.backup(job)
            async with desk.restoring():
                started = (await desk.post(f"/api/executions/{backup.id}/verify")).json()
                assert (await desk.ended(f"/api/verifications/{started['verification_id']}"))["ok"]
                restored = (
                    await desk.post(
                        f"/api/executions/{backup.id}/restore", {"confirm": job["name"], "drop_existing": True}
                    )
                ).json()
                assert (await desk.ended(f"/api/restores/{restored['restore_id']}"))["status"] == "completed"
            await _notify(desk, EntityType.DATASOURCE, job["datasource_id"])
            minute = int(desk.here.clock.moment.timestamp()) // 60
            data = {"id": job["datasource_id"], "kind": "datasource", "minute": minute}
            assert await desk.services.health.check(data, last_try=True)
            ids[job["name"]] = {
                "/api/datasources": job["datasource_id"],
                "/api/backup-jobs": job["id"],
                "/api/executions": str(backup.id),
                "/api/verifications": started["verification_id"],
                "/api/restores": restored["restore_id"],
            }
        await _notify(desk, EntityType.SYSTEM, None)
        async with await _limited(desk, mine["datasource_id"]) as http:
            for path, row_id in ids["mine"].items():
                listed = (await http.get(path)).json()
                assert [row["id"] for row in listed["data"]] == [row_id], path
                assert listed["pagination"]["total"] == 1
                assert (await http.get(f"{path}/{row_id}")).status_code == 200
                assert (await desk.get(path)).json()["pagination"]["total"] == 2
            for path, row_id in ids["other"].items():
                is_error(await http.get(f"{path}/{row_id}"), 404)
            await _sees_nothing_else(desk, http, ids["other"])
            await _changes_nothing_else(http, ids["other"])
            seen = str([(await http.get(path)).text for path in EVERYWHERE])
            assert not [row_id for row_id in ids["other"].values() if row_id in seen]

    play(tmp_path, story)


EVERYWHERE = (
    "/api/datasources",
    "/api/backup-jobs",
    "/api/executions",
    "/api/restores",
    "/api/verifications",
    "/api/repairs",
    "/api/health",
    "/api/notifications",
    "/api/system/overview",
    "/api/session",
)


async def _sees_nothing_else(desk: Desk, http: httpx.AsyncClient, other: dict[str, str]) -> None:
    for path in ("/api/executions", "/api/verifications", "/api/restores"):
        for more in ("logs", "events"):
            is_error(await http.get(f"{path}/{other[path]}/{more}"), 404)
    is_error(await http.get(f"/api/backup-jobs/{other['/api/backup-jobs']}/retention-preview"), 404)
    datasource = {"datasource_id": other["/api/datasources"]}
    for path in ("/api/executions", "/api/backup-jobs", "/api/restores", "/api/verifications", "/api/health"):
        assert (await http.get(path, params=datasource)).json()["pagination"]["total"] == 0, path
    notifications = (await http.get("/api/notifications")).json()
    everybodys = (await desk.get("/api/notifications")).json()
    assert 0 < notifications["pagination"]["total"] < everybodys["pagination"]["total"]
    known = {row["id"] for row in notifications["data"]}
    for row in everybodys["data"]:
        assert (await http.get(f"/api/notifications/{row['id']}")).status_code == (200 if row["id"] in known else 404)
    overview = (await http.get("/api/system/overview")).json()
    assert sum(overview["datasources"].values()) == 1
    assert overview["backup_jobs"] == 1
    assert overview["unread_notifications"] == notifications["pagination"]["total"]
    for path in (
        "/api/audit",
        "/metrics",
        "/api/users",
        "/api/system/settings",
        "/api/system/queues/backup-queue/jobs?state=completed",
        "/api/system/cleanup",
    ):
        is_error(await http.get(path), 403, "forbidden")


async def _changes_nothing_else(http: httpx.AsyncClient, other: dict[str, str]) -> None:
    posts: list[tuple[str, Any]] = [
        (f"/api/datasources/{other['/api/datasources']}/test", None),
        (f"/api/backup-jobs/{other['/api/backup-jobs']}/run", None),
        *(
            (f"/api/executions/{other['/api/executions']}/{verb}", None)
            for verb in ("cancel", "pin", "unpin", "verify", "repair")
        ),
        (f"/api/executions/{other['/api/executions']}/restore", {"confirm": "other"}),
        (f"/api/verifications/{other['/api/verifications']}/cancel", None),
        (f"/api/restores/{other['/api/restores']}/cancel", None),
        ("/api/system/cleanup", {"job_id": other["/api/backup-jobs"]}),
    ]
    for path, body in posts:
        is_error(await http.post(path, json=body) if body else await http.post(path), 404)
    for path in ("/api/system/cleanup", "/api/system/scrub", "/api/system/queues/backup-queue/pause"):
        is_error(await http.post(path), 403)


def test_reading_all_messages_reads_ones_own(tmp_path: Path) -> None:
    """Whoever marks everything as read marks what they see."""

    async def story(desk: Desk) -> None:
        mine, other = await desk.datasource("mine"), await desk.datasource("other")
        for row in (mine, other):
            await _notify(desk, EntityType.DATASOURCE, row["id"])
        async with await _limited(desk, mine["id"]) as http:
            assert (await http.post("/api/notifications/read-all")).json() == {"marked": 1}
        unread = (await desk.get("/api/notifications", unread="true")).json()["data"]
        assert [row["entity_id"] for row in unread] == [other["id"]]

    play(tmp_path, story)


def test_a_limit_of_two_and_an_owners_of_one_leave_one(tmp_path: Path) -> None:
    """A token's limit and that of its owner both hold; so no token widens anything."""

    async def story(desk: Desk) -> None:
        rows = [await desk.datasource(name) for name in ("one", "two", "three")]
        ids = [uuid.UUID(row["id"]) for row in rows]
        otto = await user(desk, "otto", Role.OPERATOR, datasource_ids=frozenset(ids[:1]))
        secret = await token(desk, Role.OPERATOR, datasource_ids=frozenset(ids[:2]), user_id=otto.id)
        async with client(desk, **bearer(secret)) as http:
            assert [row["name"] for row in (await http.get("/api/datasources")).json()["data"]] == ["one"]
        desk_answers = [
            await desk.post(
                "/api/users",
                {"name": "x", "password": "a password of words", "role": "admin", "datasource_ids": [rows[0]["id"]]},
            ),
            await desk.put(f"/api/users/{otto.id}", {"role": "admin", "datasource_ids": [rows[0]["id"]]}),
            await desk.post("/api/tokens", {"name": "x", "role": "admin", "datasource_ids": [rows[0]["id"]]}),
        ]
        for answer in desk_answers:
            is_error(answer, 422, "wrong_usage")
        is_error(
            await desk.post("/api/tokens", {"name": "x", "role": "viewer", "datasource_ids": [str(uuid.uuid4())]}), 404
        )

    play(tmp_path, story)


def test_operators_restore_into_what_is_not_production_and_nothing_else(tmp_path: Path) -> None:
    """The answer comes before anything is queued; an administrator may."""

    async def story(desk: Desk) -> None:
        job = await desk.job("shop")
        backup = await desk.backup(job)
        trial = await desk.datasource("trial", production=False)
        path = f"/api/executions/{backup.id}/restore"
        async with client(desk, Authorization=f"Bearer {await token(desk, Role.OPERATOR)}") as http:
            refused = is_error(await http.post(path, json={"confirm": "shop", "drop_existing": True}), 403, "forbidden")
            assert refused["details"]["permission"] == "restore_production"
            body = {"confirm": "trial", "target_datasource_id": trial["id"], "drop_existing": True}
            async with desk.restoring():
                started = await http.post(path, json=body)
                assert started.status_code == 202
                done = await desk.ended(f"/api/restores/{started.json()['restore_id']}")
            assert done["status"] == "completed"
            assert notes(desk.here.folder / "trial.db") == ["hello"]
        async with client(desk, Authorization=f"Bearer {await token(desk, Role.VIEWER)}") as http:
            is_error(await http.post(path, json=body), 403)
        assert (await desk.post(path, {"confirm": "shop", "drop_existing": True})).status_code == 202

    play(tmp_path, story)


def test_the_catalogues_own_backup_is_not_for_operators(tmp_path: Path) -> None:
    """It holds what only administrators may see, so that nobody else has it copied to where they can read it."""

    async def story(desk: Desk) -> None:
        job = await desk.job("shop")
        backup = await desk.backup(job)
        trial = await desk.datasource("trial", production=False)
        async with desk.here.context.db.write() as session:
            own = {"datasource_id": str(backup.datasource_id)}
            await SettingRepository(session).put("selfguard", own, "", desk.here.context.clock.now())
        path, body = f"/api/executions/{backup.id}/restore", {"confirm": "trial", "target_datasource_id": trial["id"]}
        async with client(desk, Authorization=f"Bearer {await token(desk, Role.OPERATOR)}") as http:
            is_error(await http.post(path, json=body), 403, "forbidden")
        assert (await desk.post(path, body)).status_code == 202

    play(tmp_path, story)


def test_limits_do_not_leak_from_one_request_into_another(tmp_path: Path) -> None:
    """Many at once, limited and not: each sees its own, and what runs by itself sees everything."""

    async def story(desk: Desk) -> None:
        rows = [await desk.datasource(name) for name in ("one", "two", "three")]
        https = [await _limited(desk, row["id"], role=Role.VIEWER) for row in rows]
        for _ in range(5):
            answers = await asyncio.gather(*(http.get("/api/datasources") for http in [*https, desk.http]))
            names = [sorted(row["name"] for row in answer.json()["data"]) for answer in answers]
            assert names == [["one"], ["two"], ["three"], ["one", "three", "two"]]
        assert (await desk.services.history.datasources(Filters(), 1, 10)).total == 3
        assert (await desk.services.history.works(Kind.RESTORE, Filters(), 1, 10)).total == 0
        for http in https:
            await http.aclose()

    play(tmp_path, story)


async def _notify(desk: Desk, entity_type: EntityType, entity_id: str | None) -> None:
    async with desk.services.context.db.write() as session:
        await desk.services.events.emit(
            session,
            type=NotificationType.CONNECTION_LOST,
            severity=Severity.INFO,
            entity_type=entity_type,
            entity_id=uuid.UUID(entity_id) if entity_id else None,
            title="something",
            message="about it",
        )
