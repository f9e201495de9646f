"""Encrypted backups in the service: keys that are elsewhere, keys that it has, and what it says when it has none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from dataguardian.db.models import BackupChunk, BackupExecution, Restore, Verification
from dataguardian.db.repositories.restores import RestoreRepository, VerificationRepository
from dataguardian.domain.errors import UsageError
from dataguardian.queues.consumer import Consumer
from dataguardian.queues.definitions import QueueName
from dataguardian.service.definitions import shown_options
from dataguardian.service.importing import Importer
from dataguardian.service.sampling import SETTING as SCRUB
from dataguardian.service.sampling import Sampling
from dataguardian.service.systemsettings import SystemSettings
from dataguardian.service.work import Work
from dataguardian.service.workkinds import Kind
from dataguardian.streams.age.x25519 import X25519Identity
from dataguardian.workers.restore import RestoreWorker
from tests.service.backups import play
from tests.service.stage import Stage

IDENTITY = X25519Identity.generate()
RECIPIENT, SECRET = IDENTITY.recipient().text, IDENTITY.secret_text()
PASSPHRASE = "correct horse battery staple"
TO_RECIPIENT = {"encryption": {"recipients": [RECIPIENT]}}
WITH_PASSPHRASE = {"encryption": {"passphrase": PASSPHRASE}}


class Desk:
    """A stage with its work, and one worker for everything."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self.work = Work(here.context, here.events)
        self.settings = SystemSettings(here.context)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        worker = RestoreWorker(self.here.context, self.work, asyncio.Event())
        consumer = Consumer(self.here.context.queues.url, QueueName.RESTORE, worker.process)
        consumer.start()
        try:
            async with self.here.working():
                yield
        finally:
            await consumer.stop(0.1, hurry=asyncio.Event())

    async def back_up(self, options: dict[str, Any]) -> BackupExecution:
        job = await self.here.job(backup_options=options)
        return await self.run(job.id)

    async def run(self, job_id: Any) -> BackupExecution:
        row = await self.here.executions.start(job_id)
        row = await self.here.until(row.id, "completed", "failed")
        assert row.status == "completed", row.error_message
        return row

    async def verified(self, row: BackupExecution, *, deep: bool = True) -> Verification:
        asked = await self.work.start_verification(row.id, deep=deep)
        return await self._ended(VerificationRepository, asked.id)

    async def restored(self, row: BackupExecution) -> Restore:
        job = await self.here.jobs.get(row.job_id)
        asked = await self.work.start_restore(row.id, confirm=job.name, drop_existing=True)
        return await self._ended(RestoreRepository, asked.id)

    async def _ended(self, repository: Any, row_id: Any) -> Any:
        async with asyncio.timeout(120):
            while True:
                async with self.here.context.db.read() as session:
                    row = await repository(session).get(row_id)
                if row.status not in ("queued", "running"):
                    return row
                await asyncio.sleep(0.1)


def everything_stored(here: Stage) -> bytes:
    """Every byte of the home (catalogue, its log) and of the storages."""
    return b"".join(path.read_bytes() for path in here.folder.rglob("*") if path.is_file() and path.suffix != ".sock")


def test_the_private_key_may_be_anywhere_else(tmp_path: Path) -> None:
    """Write-only: backups are taken and their stored bytes verified; deeper is 'not checked', a restore is refused."""

    async def story(here: Stage) -> None:
        desk = Desk(here)
        async with desk.working():
            row = await desk.back_up(TO_RECIPIENT)
            told = {"format": "age", "recipients": [RECIPIENT], "passphrase": False}
            assert row.details["encryption"] == told
            stored = await desk.verified(row, deep=False)
            assert (stored.status, stored.ok, stored.errors) == ("completed", True, [])
            deep = await desk.verified(row)
            assert (deep.status, deep.ok, deep.errors, deep.details["level"]) == ("completed", None, [], "stored")
            assert RECIPIENT in deep.details["not_checked"]
            before = (here.folder / "shop.db").read_bytes()
            restore = await desk.restored(row)
            assert (restore.status, restore.error_code) == ("failed", "key_needed")
            assert (here.folder / "shop.db").read_bytes() == before
            assert not [note for note in await here.notifications() if note.severity == "critical"]

    play(tmp_path, story)


def test_keys_in_the_setting_open_backups(tmp_path: Path) -> None:
    """Deep verification and restores work; the key is sealed in the catalogue, and shown as a mask."""

    async def story(here: Stage) -> None:
        desk = Desk(here)
        stranger = X25519Identity.generate().secret_text()
        async with desk.working():
            row = await desk.back_up(TO_RECIPIENT)
            await desk.settings.change("decryption", {"identities": [stranger]})
            deep = await desk.verified(row)
            assert (deep.ok, "none of the keys" in deep.details["not_checked"]) == (None, True)
            wrong = await desk.restored(row)
            assert (wrong.status, wrong.error_code) == ("failed", "wrong_key")
            await desk.settings.change("decryption", {"identities": ["**********", SECRET]})
            deep = await desk.verified(row)
            assert (deep.status, deep.ok, deep.details["level"]) == ("completed", True, "deep")
            assert "not_checked" not in deep.details
            restore = await desk.restored(row)
            assert restore.status == "completed", restore.error_message
            shown = (await desk.settings.get("decryption")).value
            assert shown["identities"] == ["**********", "**********"]
            assert SECRET.encode() not in everything_stored(here)
            assert stranger.encode() not in everything_stored(here)

    play(tmp_path, story)


def test_a_job_s_passphrase_opens_its_own_backups(tmp_path: Path) -> None:
    """No setting is needed; another passphrase later does not open the older backup, until the setting has it too."""

    async def story(here: Stage) -> None:
        desk = Desk(here)
        async with desk.working():
            row = await desk.back_up(WITH_PASSPHRASE)
            assert row.details["encryption"]["passphrase"] is True
            assert (await desk.verified(row)).ok is True
            restore = await desk.restored(row)
            assert restore.status == "completed", restore.error_message
            job = await here.jobs.get(row.job_id)
            assert shown_options(job)["encryption"]["passphrase"] == "**********"
            assert PASSPHRASE.encode() not in everything_stored(here)
            await here.jobs.update(job.id, {"backup_options": {"encryption": {"passphrase": "quite another one"}}})
            assert (await desk.verified(row)).ok is None
            await desk.settings.change("decryption", {"passphrases": [PASSPHRASE]})
            assert (await desk.verified(row)).ok is True
            newer = await desk.run(job.id)
            assert (await desk.verified(newer)).ok is True
            changed = await here.jobs.update(job.id, {"backup_options": {"encryption": None}})
            assert shown_options(changed)["encryption"] is None
            assert "encryption" not in (await desk.run(job.id)).details

    play(tmp_path, story)


def test_the_weekly_sample_checks_what_it_can(tmp_path: Path) -> None:
    """A deep sample of a backup whose key is elsewhere is one of its stored bytes; with a key it is deep."""

    async def story(here: Stage) -> None:
        desk = Desk(here)
        sampling = Sampling(here.context, here.events, desk.work)
        await desk.settings.change(SCRUB, {"deep": True, "percent": 100})
        async with here.working():
            await desk.back_up(TO_RECIPIENT)
        for keys, deep in (([], False), ([SECRET], True)):
            await desk.settings.change("decryption", {"identities": keys})
            await sampling.run_now()
            async with here.context.db.read() as session:
                rows = await VerificationRepository(session).all()
            [row] = [row for row in rows if row.status == "queued"]
            assert row.deep is deep
            claim = await desk.work.claim(Kind.VERIFICATION, row.id, row.enqueue_number)
            assert claim is not None
            await desk.work.complete(claim, {"ok": True, "errors": [], "level": "stored", "parts": 1})
            here.clock.advance(days=1)

    play(tmp_path, story)


def test_a_sample_without_the_key_is_never_an_alarm(tmp_path: Path) -> None:
    """A deep sample over two locations, with the key elsewhere: stored bytes are good, and that is what it says; then
    one copy rots, which is found without the key.
    """

    async def story(here: Stage) -> None:
        desk = Desk(here)
        sampling = Sampling(here.context, here.events, desk.work)
        await desk.settings.change(SCRUB, {"deep": True, "percent": 100})
        further = await here.storage("further")
        async with desk.working():
            row = await desk.back_up(TO_RECIPIENT | {"storage_targets": [str(further.id)]})
            assert {verification.ok for verification in await _sampled(desk, sampling)} == {True}
            assert not [note for note in await here.notifications() if note.severity != "info"]
            part = next((here.folder / "further" / str(row.backup_path)).rglob("000001.*"))
            good = part.read_bytes()
            part.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            here.clock.advance(days=1)
            assert False in {verification.ok for verification in await _sampled(desk, sampling)}
            part.write_bytes(good)
            assert (await desk.verified(row)).ok is None

    play(tmp_path, story)


async def _sampled(desk: Desk, sampling: Sampling) -> list[Verification]:
    """Runs a sample to its end; returns its verifications, of which none claims to have looked deeper than it could."""
    async with desk.here.context.db.read() as session:
        before = {row.id for row in await VerificationRepository(session).all()}
    await sampling.run_now()
    async with asyncio.timeout(120):
        while True:
            await sampling.tick()
            async with desk.here.context.db.read() as session:
                rows = [row for row in await VerificationRepository(session).all() if row.id not in before]
            if rows and all(row.status not in ("queued", "running") for row in rows):
                break
            await asyncio.sleep(0.2)
    assert {(row.status, row.deep, row.details["level"]) for row in rows} == {("completed", False, "stored")}
    return rows


def test_an_encrypted_backup_is_adopted_and_imported(tmp_path: Path) -> None:
    """Without any key: its manifest tells all that the catalogue needs, also for whom it is encrypted."""

    async def story(here: Stage) -> None:
        desk = Desk(here)
        async with here.working():
            row = await desk.back_up(TO_RECIPIENT)
        directory, details = str(row.backup_path), row.details
        await here.forget_end(row.id, directory)
        later = here.reboot()
        await later.executions.reconcile()
        async with later.working():
            row = await later.until(row.id, "completed")
        assert (row.backup_path, row.details["adopted"]) == (directory, True)
        assert row.details["encryption"] == details["encryption"]
        async with here.context.db.write() as session:
            await session.execute(delete(BackupChunk))
            await session.execute(delete(BackupExecution))
        assert (await Importer(here.context).run()).backups == 1
        [row] = await here.all_executions()
        assert (row.status, row.details["encryption"]) == ("completed", details["encryption"])
        manifest = json.loads(next(path for path in here.stored() if path.name == "manifest.json").read_text())
        assert manifest["encryption"]["recipients"] == [RECIPIENT]

    play(tmp_path, story)


@pytest.mark.parametrize(
    "encryption",
    [{}, {"recipients": ["me"]}, {"recipients": [RECIPIENT], "passphrase": PASSPHRASE}, {"passphrase": "short"}],
    ids=["nothing", "no key", "two ways", "short"],
)
def test_a_job_with_keys_that_are_none_is_refused(tmp_path: Path, encryption: dict[str, Any]) -> None:
    """When it is stored, and not in the night."""

    async def story(here: Stage) -> None:
        with pytest.raises(UsageError, match="encryption"):
            await here.job(backup_options={"encryption": encryption})
        with pytest.raises(UsageError, match="identities"):
            await SystemSettings(here.context).change("decryption", {"identities": ["no key"]})

    play(tmp_path, story)
