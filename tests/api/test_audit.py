"""The audit log as administrators see it: what is in it, what never is, and what it is good for."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from dataguardian.db.repositories.audit import AuditRepository
from dataguardian.domain.access import Role
from dataguardian.domain.auditlog import Chain
from dataguardian.domain.errors import ConflictError, UnauthenticatedError
from dataguardian.service.secrets import MASK
from tests.api.stage import Desk, is_error, play

SHOP = {
    "name": "shop",
    "type": "postgres",
    "connection_config": {"host": "127.0.0.1", "port": 1, "database": "shop", "username": "u", "password": "s3cret!"},
}


async def told(desk: Desk, **query: Any) -> list[dict[str, Any]]:
    """Returns lines of the log, oldest first."""
    await desk.services.refusals.flush()
    answer = await desk.get("/api/audit", limit=100, **query)
    assert answer.status_code == 200, answer.text
    return list(reversed(answer.json()["data"]))


def test_a_datasource_s_life_is_told(tmp_path: Path) -> None:
    """Made, changed, given another password, changed to what it is, deleted: a line each, and none for no change."""

    async def story(desk: Desk) -> None:
        made = await desk.made("/api/datasources", SHOP)
        path = f"/api/datasources/{made['id']}"
        await desk.put(path, {"name": "shop 2", "connection_config": {"port": 2}})
        await desk.put(path, {"connection_config": {"password": "an0ther!"}})
        await desk.put(path, {"connection_config": {"password": "an0ther!", "port": 2}})
        await desk.put(path, {"connection_config": {"password": MASK}})
        await desk.delete(path)
        lines = await told(desk)
        verbs = [line["action"] for line in lines]
        assert verbs == ["datasource.create", "datasource.update", "datasource.update", "datasource.delete"]
        assert {line["entity_id"] for line in lines} == {made["id"]}
        assert {line["actor_kind"] for line in lines} == {"token"}
        assert all(line["request_id"] and line["address"] for line in lines)
        assert lines[0]["changes"]["connection_config.password"] == [None, MASK]
        assert lines[1]["changes"] == {"name": ["shop", "shop 2"], "connection_config.port": [1, 2]}
        assert lines[2]["changes"] == {"connection_config.password": [MASK, MASK]}
        assert lines[3]["changes"]["name"] == ["shop 2", None]
        whole = json.dumps(lines)
        assert "s3cret!" not in whole
        assert "an0ther!" not in whole
        assert "dgs1:" not in whole

    play(tmp_path, story)


def test_a_change_that_is_refused_is_no_line(tmp_path: Path) -> None:
    """A name that is taken, a wrong value, something in use: nothing happened, and nothing is told."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        before = await told(desk)
        is_error(await desk.post("/api/datasources", SHOP), 409)
        is_error(await desk.put(f"/api/backup-jobs/{job['id']}", {"schedule_cron": "nonsense"}), 422)
        is_error(await desk.delete(f"/api/datasources/{job['datasource_id']}"), 409)
        assert await told(desk) == before

    play(tmp_path, story)


def test_what_operators_do_is_told(tmp_path: Path) -> None:
    """Run, pin, unpin, verify, restore, settings, queues, cleanup, sample, deletion: who asked for it, and of what."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        done = await desk.backup(job)
        path = f"/api/executions/{done.id}"
        await desk.post(f"{path}/pin")
        await desk.post(f"{path}/pin")
        await desk.post(f"{path}/unpin")
        assert (await desk.post(f"{path}/verify", {"deep": True})).status_code == 202
        body = {"confirm": "shop", "drop_existing": True}
        restore = (await desk.post(f"{path}/restore", body)).json()
        await desk.post(f"/api/restores/{restore['restore_id']}/cancel")
        await desk.put("/api/system/settings/pruning", {"value": {"logs_days": 5}})
        await desk.post("/api/system/queues/backup-queue/pause")
        await desk.post("/api/system/queues/backup-queue/resume")
        await desk.post("/api/system/cleanup", {"job_id": job["id"]})
        await desk.post("/api/system/scrub")
        lines = (await told(desk))[3:]
        assert [line["action"] for line in lines] == [
            "execution.run",
            "execution.pin",
            "execution.unpin",
            "verification.create",
            "restore.create",
            "restore.cancel",
            "setting.update",
            "queue.pause",
            "queue.resume",
            "cleanup.run",
            "scrub.run",
        ]
        by_action = {line["action"]: line for line in lines}
        assert by_action["execution.run"]["entity_name"] == "shop"
        assert by_action["restore.create"]["changes"]["drop_existing"] == [None, True]
        assert by_action["restore.create"]["changes"]["execution_id"] == [None, str(done.id)]
        assert by_action["setting.update"]["changes"] == {"logs_days": [90, 5]}
        assert by_action["queue.pause"]["entity_name"] == "backup-queue"
        assert by_action["cleanup.run"]["entity_id"] == job["id"]

    play(tmp_path, story)


def test_a_deleted_backup_is_remembered(tmp_path: Path) -> None:
    """Whoever deletes a backup is named, with what is gone; what retention deletes was deleted by DataGuardian."""

    async def story(desk: Desk) -> None:
        job = await desk.job(retention_policy={"keep_daily": 0, "keep_weekly": 0, "keep_monthly": 0, "keep_last": 1})
        taken = []
        for _ in range(3):
            taken.append(await desk.backup(job))
            desk.here.clock.advance(days=1)
        first, second, _third = taken
        assert (await desk.delete(f"/api/executions/{first.id}")).status_code == 204
        await desk.services.cleanup.run(uuid.UUID(job["id"]), force=True)
        lines = await told(desk, action="execution.delete")
        assert [line["entity_id"] for line in lines] == [str(first.id), str(second.id)]
        assert [line["actor_kind"] for line in lines] == ["token", "system"]
        assert lines[0]["changes"]["checksum"] == [first.checksum, None]
        assert lines[0]["changes"]["status"] == ["completed", None]
        assert lines[0]["entity_name"] == "shop"

    play(tmp_path, story)


def test_the_log_is_narrowed(tmp_path: Path) -> None:
    """By who, what, which thing and when; a filter that nothing fits gives none."""

    async def story(desk: Desk) -> None:
        job = await desk.job()
        lines = await told(desk)
        assert [line["action"] for line in await told(desk, action="backup_job.create")] == ["backup_job.create"]
        assert [line["entity_id"] for line in await told(desk, entity_id=job["id"])] == [job["id"]]
        assert len(await told(desk, entity_type="datasource")) == 1
        assert await told(desk, actor="nobody") == []
        assert await told(desk, actor=lines[0]["actor_name"]) == lines
        assert await told(desk, **{"from": "2999-01-01T00:00:00Z"}) == []
        assert await told(desk, to="2999-01-01T00:00:00Z") == lines
        for wrong in ({"entity_id": "x"}, {"actor": "a\0b"}, {"action": "%"}, {"from": "now"}):
            is_error(await desk.get("/api/audit", **wrong), 422)
        assert await told(desk, actor="' OR 1=1 --") == []

    play(tmp_path, story)


def test_the_export_is_checked_without_us(tmp_path: Path) -> None:
    """Every line of the export fits; the last one tells of the export; its head is an anchor that the log still has."""

    async def story(desk: Desk) -> None:
        await desk.job()
        answer = await desk.get("/api/audit/export")
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert lines[-1]["action"] == "audit.export"
        chain = Chain()
        assert all(map(chain.add, lines))
        head = answer.headers["x-audit-head"]
        assert head == f"{lines[-1]['number']}:{lines[-1]['hash']}"
        found = (await desk.get("/api/audit/verify", anchor=head)).json()
        assert found == {"ok": True, "lines": 4, "last": 4, "head": lines[-1]["hash"], "broken": None, "problem": None}
        later = (await desk.get("/api/audit/export", after=3)).text.splitlines()
        assert [json.loads(line)["number"] for line in later] == [4, 5]
        kept = f"9:{'0' * 64}"
        found = (await desk.get("/api/audit/verify", anchor=[head, kept])).json()
        assert (found["ok"], found["broken"]) == (False, 6)
        is_error(await desk.get("/api/audit/verify", anchor="nonsense"), 422)

    play(tmp_path, story)


def test_a_line_that_was_edited_is_named(tmp_path: Path) -> None:
    """Somebody with the database file drops the triggers and edits a line, or its hash as well: it is found."""

    async def story(desk: Desk) -> None:
        for number in range(5):
            await desk.datasource(f"s{number}")
        async with desk.services.context.db.write() as session:
            connection = await session.connection()
            await connection.exec_driver_sql("DROP TRIGGER audit_entries_no_update")
            await connection.exec_driver_sql("UPDATE audit_entries SET actor_name = 'mallory' WHERE number = 3")
        found = (await desk.get("/api/audit/verify")).json()
        assert (found["ok"], found["broken"], found["last"]) == (False, 3, 2)
        assert "line 3 was changed" in found["problem"]

    play(tmp_path, story)


def test_only_administrators_read_it(tmp_path: Path) -> None:
    """Operators and viewers are refused, and that is told: once a minute and address, however often they try."""

    async def story(desk: Desk) -> None:
        _, secret = await desk.services.tokens.create(name="op", role=Role.OPERATOR)
        for path in ("/api/audit", "/api/audit/verify", "/api/audit/export"):
            answer = await desk.http.get(path, headers={"Authorization": f"Bearer {secret}"})
            is_error(answer, 403, "forbidden")
        for _ in range(5):
            is_error(await desk.http.get("/api/audit", headers={"Authorization": "Bearer dgt_wrong"}), 401)
        await desk.services.refusals.flush(last=True)
        lines = [line for line in await told(desk) if not line["action"].startswith("token.create")]
        refused = [(line["action"], line["actor_name"], line["changes"].get("further")) for line in lines]
        assert refused == [
            ("permission.refused", "op", None),
            ("token.refused", "anonymous", None),
            ("permission.refused", "op", [None, 2]),
            ("token.refused", "anonymous", [None, 4]),
        ]
        assert lines[0]["changes"]["request"] == [None, "GET /api/audit"]

    play(tmp_path, story)


def test_a_line_and_its_change_stand_or_fall_together(tmp_path: Path) -> None:
    """When the line cannot be written the change is not made either."""

    async def story(desk: Desk) -> None:
        append = AuditRepository.append

        async def broken(*_: Any) -> Any:
            raise ConflictError("no line today")

        AuditRepository.append = broken  # type: ignore[method-assign]
        try:
            is_error(await desk.post("/api/datasources", SHOP), 409)
        finally:
            AuditRepository.append = append  # type: ignore[method-assign]
        assert (await desk.get("/api/datasources")).json()["data"] == []
        assert await told(desk) == []

    play(tmp_path, story)


def test_sign_ins_are_told(tmp_path: Path) -> None:
    """Who signed in from where, and who could not; a name that nobody has is not told: it may be a password."""

    async def story(desk: Desk) -> None:
        sessions, users = desk.services.sessions, desk.services.users
        password = SecretStr("correct horse battery staple")
        anna = await users.create(name="anna", password=password, role=Role.OPERATOR)
        await sessions.sign_in("anna", password, address="192.0.2.7", agent="browser")
        for name, wrong in (("anna", "wrong horse battery"), ("hunter2-in-the-wrong-field", "x" * 12)):
            with pytest.raises(UnauthenticatedError):
                await sessions.sign_in(name, SecretStr(wrong), address="192.0.2.7")
        await users.change(anna.id, {"role": "viewer"})
        await users.set_password(anna.id, SecretStr("another horse battery staple"))
        token, secret = await desk.services.tokens.create(name="ci", role=Role.VIEWER)
        await desk.services.tokens.revoke(token.id)
        await users.delete(anna.id)
        await desk.services.refusals.flush()
        lines = await told(desk)
        assert [(line["action"], line["actor_name"], line["address"]) for line in lines] == [
            ("user.create", "dataguardian", None),
            ("session.create", "anna", "192.0.2.7"),
            ("session.refused", "anna", "192.0.2.7"),
            ("session.refused", "unknown", "192.0.2.7"),
            ("user.update", "dataguardian", None),
            ("user.update", "dataguardian", None),
            ("token.create", "dataguardian", None),
            ("token.revoke", "dataguardian", None),
            ("user.delete", "dataguardian", None),
        ]
        assert lines[4]["changes"] == {"role": ["operator", "viewer"]}
        assert lines[5]["changes"] == {"password": [MASK, MASK]}
        whole = json.dumps(lines)
        for hidden in ("horse", "hunter2", secret, "argon2", "secret_hash"):
            assert hidden not in whole

    play(tmp_path, story)


UNTOLD = {
    "test_datasource": "changes nothing",
    "test_storage_location": "changes nothing that stays",
    "test_channel": "changes nothing",
    "compare_configuration": "changes nothing",
    "mark_all_notifications_read": "is nobody else's business",
    "mark_notification_read": "is nobody else's business",
    "enrol_second_factor": "counts for nothing until it is confirmed",
}
TOLD = {
    *("create_datasource", "change_datasource", "delete_datasource"),
    *("create_storage_location", "change_storage_location", "delete_storage_location"),
    *("create_backup_job", "change_backup_job", "delete_backup_job", "run_backup_job"),
    *("delete_execution", "cancel_execution", "pin_execution", "unpin_execution"),
    *("restore_execution", "verify_execution", "repair_execution"),
    *("cancel_restore", "cancel_repair", "cancel_verification"),
    *("change_setting", "retry_queue_job", "pause_queue", "resume_queue", "start_cleanup", "start_sample"),
    *("record_key_proof", "set_up", "sign_in", "sign_out", "change_own_password", "confirm_second_factor"),
    *("disable_second_factor", "end_own_sign_in", "create_user", "change_user", "delete_user", "set_user_password"),
    *("disable_user_second_factor", "end_user_sign_ins", "create_token", "revoke_token"),
}


def test_every_route_that_changes_something_is_told_or_says_why_not(tmp_path: Path) -> None:
    """A new route fails here until somebody has decided, and seen to it, that the log tells of it."""

    async def story(desk: Desk) -> None:
        changing = {route.name for route in desk.app.state.routes if set(route.methods) - {"GET", "HEAD"}}
        assert changing == TOLD | set(UNTOLD)

    play(tmp_path, story)


def test_strangers_at_the_setup_are_told(tmp_path: Path) -> None:
    """Whoever guesses at the setup token is in the log, with the address, and what they sent is not."""

    async def story(desk: Desk) -> None:
        await desk.services.setup.issue()
        body = {"token": "setup_guess", "name": "mallory", "password": "correct horse battery"}
        is_error(await desk.http.post("/api/setup", json=body, auth=None), 401)
        (line,) = await told(desk)
        assert (line["action"], line["changes"]["request"]) == ("setup.refused", [None, "POST /api/setup"])
        assert line["address"]
        assert "guess" not in json.dumps(line)

    play(tmp_path, story)


B2_KEY = "S3NTINEL-5"
SECRETS = [
    ("datasources", "postgres", {"host": "h", "database": "d", "username": "u", "password": "S3NTINEL-1"}),
    ("datasources", "mongodb", {"uri": "mongodb://u:S3NTINEL-2@h/d"}),
    ("datasources", "sqlserver", {"host": "h", "database": "d", "username": "u", "password": "S3NTINEL-3"}),
    ("storage-locations", "s3", {"bucket": "abc", "access_key_id": "a", "secret_access_key": "S3NTINEL-4"}),
    (
        "storage-locations",
        "backblaze",
        {"bucket_name": "abcdef", "application_key_id": "a", "application_key": "S3NTINEL-5"},
    ),
]


def test_no_secret_lands_in_the_log(tmp_path: Path) -> None:
    """Of what is made, changed bit by bit, refused and deleted, no secret is told, nor what it is sealed as."""

    async def story(desk: Desk) -> None:
        for number, (kind, name, config) in enumerate(SECRETS):
            field = "connection_config" if kind == "datasources" else "config"
            answer = await desk.post(f"/api/{kind}", {"name": f"n{number}", "type": name, field: config})
            if answer.status_code != 201:
                continue
            path = f"/api/{kind}/{answer.json()['id']}"
            changed = {key: f"{value}-anew" for key, value in config.items() if "S3NTINEL" in value}
            await desk.put(path, {field: changed})
            await desk.put(path, {"name": "S" * 300, field: changed})
            await desk.delete(path)
        hook = {
            "type": "webhook",
            "url": "https://h/S3NTINEL-6",
            "secret": "S3NTINEL-7",
            "headers": {"A": "S3NTINEL-8"},
        }
        mail = {"type": "email", "host": "h", "username": "u", "password": "S3NTINEL-9", "sender": "a@b.c"}
        channels = {"hook": hook, "mail": mail | {"recipients": ["d@e.f"]}}
        answer = await desk.put("/api/system/settings/notifications", {"value": {"channels": channels}})
        assert answer.status_code == 200, answer.text
        whole = json.dumps(await told(desk))
        assert whole.count("datasource.create") >= 2
        assert "setting.update" in whole
        assert "S3NTINEL" not in whole
        assert "dgs1:" not in whole

    play(tmp_path, story)


@pytest.mark.parametrize("catalogue", ["sqlite", "postgresql"])
def test_many_at_once_are_told_one_after_the_other(
    tmp_path: Path, catalogue: str, request: pytest.FixtureRequest
) -> None:
    """Forty requests at once, half of them for a name that another one has: a line for each that did something."""
    servers = {}
    if catalogue == "postgresql":
        server = request.getfixturevalue("postgres16")
        servers["database_url"] = str(server.url(server.database()))

    async def story(desk: Desk) -> None:
        bodies = [SHOP | {"name": f"n{number % 20}"} for number in range(40)]
        answers = await asyncio.gather(*(desk.post("/api/datasources", body) for body in bodies))
        assert sorted(answer.status_code for answer in answers) == [201] * 20 + [409] * 20
        lines = await told(desk)
        assert sorted(line["entity_name"] for line in lines) == sorted(f"n{number}" for number in range(20))
        assert (await desk.get("/api/audit/verify")).json()["ok"]

    play(tmp_path, story, **servers)
