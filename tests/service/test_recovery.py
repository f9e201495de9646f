"""The recovery kit's status, the proofs of keys, and who is reminded of them when."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from dataguardian.core.backup import BackupPlan, attempt_directory, run_backup
from dataguardian.core.backupkeys import BackupKeys, EncryptionOptions
from dataguardian.core.proofrecords import KeyProof
from dataguardian.db.models import BackupExecution
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.domain.access import Actor, ActorKind, Permission, Role
from dataguardian.domain.errors import UsageError, WrongKeyError
from dataguardian.domain.states import ExecutionStatus, NotificationType, Severity, Trigger
from dataguardian.engines.files import FilesConfig, FilesEngine
from dataguardian.service.acting import acting
from dataguardian.service.audit import Audit
from dataguardian.service.executions import details_of, new_execution
from dataguardian.service.keycheck import first_record
from dataguardian.service.keyproofs import KeyProofs
from dataguardian.service.kit.settings import SETTING
from dataguardian.service.kit.text import render
from dataguardian.service.recovery import Recovery
from dataguardian.service.systemsettings import SystemSettings
from dataguardian.service.vault import Key, Vault
from dataguardian.streams.age.x25519 import X25519Identity
from tests.acceptance.test_recovery_kit import blocks
from tests.service.backups import play, storage_of
from tests.service.stage import Stage

KEEPER = Actor(ActorKind.CONSOLE, "keeper", Role.ADMIN, frozenset(Permission))
EVIL = {
    "host": "example.org",
    "username": "$(touch x)",
    "remote_path": "/a\n```\ntouch x\n```sh\ntouch x; '\n!touch x\n$(touch x)",
    "password": "a\nEND-OF-K2\ntouch x\n```\n```sh\ntouch x\n",
}
WORDS = "some words that open it"


class Worst:
    """A stage on its way to the worst day; with `vault`, after its secret key was changed."""

    def __init__(self, here: Stage, vault: Vault | None = None) -> None:
        self.here = here
        self.context = here.context if vault is None else replace(here.context, vault=vault)
        self.proofs = KeyProofs(self.context, here.events)
        self.recovery = Recovery(self.context, here.events, self.proofs)
        self.settings = SystemSettings(self.context)

    async def begin(self) -> None:
        """The first start: the catalogue gets its key."""
        async with self.context.db.write() as session:
            await first_record(session, self.context.vault, self.context.clock.now())

    async def take(self) -> str:
        with acting(KEEPER):
            kit = await self.recovery.gather()
            await self.recovery.note(kit, "passphrase")
        return render(kit)

    async def reminders(self) -> list[str]:
        """Returns the titles of what people were reminded of, after the service has looked once more."""
        await self.recovery.tick()
        rows = [row for row in await self.here.notifications() if row.type is NotificationType.SYSTEM_ALARM]
        assert all(row.severity is Severity.WARNING for row in rows)
        return [row.title for row in rows]

    async def reasons(self) -> list[tuple[str, str]]:
        return [(reason.what, reason.name) for reason in (await self.recovery.status()).reasons]

    async def one_key(self) -> KeyProof:
        [job] = await self.proofs.all()
        [key] = job.keys
        return key

    async def sealed(self, encryption: EncryptionOptions, name: str = "sealed") -> BackupExecution:
        """A job that is encrypted so, and a backup of it, which is real."""
        job = await self.here.job(name, backup_options={"encryption": encryption.revealed()})
        source = self.here.folder / "source"
        source.mkdir(exist_ok=True)
        (source / "note.txt").write_text("hello")
        row = new_execution(job, None, Trigger.SCHEDULED, self.here.clock.now())
        directory = attempt_directory(name, row.created_at, str(row.id), 1)
        plan = BackupPlan(execution_id=str(row.id), name=name, engine="files", source="here", directory=directory)
        engine = FilesEngine(FilesConfig(type="files", source_path=str(source)))
        manifest = run_backup(plan, engine, storage_of(self.here, name), encryption=encryption).manifest
        row.status, row.backup_path, row.checksum = ExecutionStatus.COMPLETED, directory, manifest.checksum
        row.details = details_of(manifest.model_dump(mode="json"), adopted=False)
        async with self.context.db.write() as session:
            await ExecutionRepository(session).add(row)
        return row


def keys_of(*identities: X25519Identity) -> BackupKeys:
    return BackupKeys(identities=tuple(SecretStr(identity.secret_text()) for identity in identities))


def test_who_never_took_a_kit_is_reminded_after_a_week_and_once_a_week(tmp_path: Path) -> None:
    """Not while there is nothing but the catalogue; then a week after the first start, and every week from then on."""

    async def story(here: Stage) -> None:
        worst = Worst(here)
        await worst.begin()
        here.clock.advance(days=8)
        assert await worst.reminders() == []
        await here.job()
        assert await worst.reminders() == ["Take a recovery kit"]
        here.clock.advance(days=6)
        assert len(await worst.reminders()) == 1
        here.clock.advance(days=2)
        assert len(await worst.reminders()) == 2
        await worst.take()
        here.clock.advance(days=30)
        assert len(await worst.reminders()) == 2

    play(tmp_path, story)


def test_a_first_week_is_left_in_peace(tmp_path: Path) -> None:
    """Whoever sets things up is not told at once that something is missing."""

    async def story(here: Stage) -> None:
        worst = Worst(here)
        await worst.begin()
        await here.job()
        here.clock.advance(days=6)
        assert await worst.reminders() == []

    play(tmp_path, story)


def test_each_new_key_reminds_once_and_a_kit_ends_it(tmp_path: Path) -> None:
    """A second key is told although a first one was told just now; the kit makes reminders read, and none follows."""

    async def story(here: Stage) -> None:
        worst = Worst(here)
        await worst.begin()
        await here.job()
        await worst.take()
        keys = [X25519Identity.generate().secret_text() for _ in range(2)]
        await worst.settings.change("decryption", {"identities": keys[:1]})
        for _ in range(3):
            assert await worst.reminders() == ["Take a new recovery kit"]
            here.clock.advance(hours=1)
        await worst.take()
        assert [row.read_at for row in await here.notifications()] == [here.clock.now()]
        for _ in range(3):
            assert (await worst.recovery.status()).due is False
            assert len(await worst.reminders()) == 1
            here.clock.advance(hours=1)
        await worst.settings.change("decryption", {"identities": keys})
        assert len(await worst.reminders()) == 2
        rotated = Worst(here, Vault([Key.generate(), *here.context.vault.keys]))
        assert len(await rotated.reminders()) == 3
        assert len(await rotated.reminders()) == 3
        await rotated.take()
        assert all(row.read_at for row in await here.notifications())
        here.clock.advance(days=30)
        assert len(await rotated.reminders()) == 3

    play(tmp_path, story)


def test_what_is_new_makes_a_kit_outdated_and_a_new_key_reminds(tmp_path: Path) -> None:
    """A storage, a job, a password, a private key of the service; and the secret key itself, which is told at once."""

    async def story(here: Stage) -> None:
        worst = Worst(here)
        await worst.begin()
        job = await here.job()
        await worst.take()
        assert (await worst.recovery.status()).outdated is False
        here.clock.advance(hours=1)
        later = here.clock.now()
        await here.storage("another")
        status = await worst.recovery.status()
        assert (status.outdated, status.outdated_since) == (True, later)
        assert await worst.reasons() == [("storage location", "another")]
        await here.job("second")
        assert ("backup job", "second") in await worst.reasons()
        assert await worst.reminders() == []
        await worst.take()
        await here.storages.update(job.storage_location_id, {"config": {"path": str(here.folder / "elsewhere")}})
        assert await worst.reasons() == [("storage location", "storage of shop")]
        await worst.take()
        identity = X25519Identity.generate()
        await worst.settings.change("decryption", {"identities": [identity.secret_text()]})
        assert await worst.reasons() == [("private key", "of the service")]
        assert await worst.reminders() == ["Take a new recovery kit"]
        await worst.take()
        changed = Worst(here, Vault([Key.generate(), *here.context.vault.keys]))
        assert await changed.reasons() == [("secret key", changed.context.vault.key_id)]
        here.clock.advance(days=8)
        assert len(await changed.reminders()) == 2

    play(tmp_path, story)


def test_the_kit_says_what_it_lacks(tmp_path: Path) -> None:
    """A private key that is elsewhere, a storage that is away: the kit is made, and says so."""

    async def story(here: Stage) -> None:
        worst, identity = Worst(here), X25519Identity.generate()
        await worst.begin()
        row = await worst.sealed(EncryptionOptions(recipients=(identity.recipient().text,)))
        text = await worst.take()
        assert "ITS PRIVATE KEY IS NOT IN THIS KIT" in text
        assert "the service cannot be brought back" in " ".join(text.split())
        (here.folder / "storage-of-sealed").rename(here.folder / "away")
        assert "could not be looked at" not in await worst.take()  # the catalogue knows enough
        async with here.context.db.write() as session:
            kept = await ExecutionRepository(session).get(row.id)
            kept.details = {"encryption": row.details["encryption"]}
        text = await worst.take()
        assert "could not be looked at" in " ".join(text.split())
        assert "jq -r '.how_to_restore[]' manifest.json" in text
        lines = [line async for line in Audit(here.context).lines()]
        assert [line["action"] for line in lines].count("recovery_kit.create") == 3
        assert here.context.vault.keys[0].text not in json.dumps(lines)

    play(tmp_path, story)


def test_a_name_cannot_become_a_command(tmp_path: Path) -> None:
    """What people call things is text in the kit, whatever it looks like."""

    async def story(here: Stage) -> None:
        worst = Worst(here)
        await worst.begin()
        (here.folder / "place").mkdir()
        await here.job("```sh $(touch x) 'y'")
        await here.storages.create({"name": "s", "type": "ssh", "config": EVIL})
        text = await worst.take()
        commands = [block for all_of in blocks(text).values() for block in all_of]
        script = "\n".join(block for block in commands if not block.startswith("names_"))
        bash = ["bash", "-c", f"cd {here.folder}/place\n{script}\nfor s in s1 s2; do fetch_$s it; names_$s it; done"]
        done = subprocess.run(bash, capture_output=True, text=True, check=False)
        assert done.stderr.count("its folder has a line break") == 2
        assert "WRONG" not in done.stdout
        assert "k2: right" in done.stdout
        assert (here.folder / "place" / "k2").read_text() == EVIL["password"]
        assert not list(here.folder.glob("**/x"))

    play(tmp_path, story)


def test_a_key_that_is_kept_elsewhere_is_asked_for(tmp_path: Path) -> None:
    """After so many days without a proof somebody is reminded, weekly; a proof ends that, and a wrong key is none."""

    async def story(here: Stage) -> None:
        worst, identity = Worst(here), X25519Identity.generate()
        await worst.begin()
        row = await worst.sealed(EncryptionOptions(recipients=(identity.recipient().text,)))
        await worst.take()
        assert await worst.reminders() == []
        here.clock.advance(days=91)
        assert await worst.reminders() == ["A key of encrypted backups was not proven for 90 days"]
        assert (await worst.one_key()).overdue is True
        with acting(KEEPER):
            with pytest.raises(WrongKeyError):
                await worst.proofs.prove(row, keys_of(X25519Identity.generate()))
            with pytest.raises(UsageError, match="not encrypted for"):
                await worst.proofs.record(row.id, [X25519Identity.generate().recipient().text])
            assert (await worst.one_key()).proven_at is None
            proven = await worst.proofs.prove(row, keys_of(X25519Identity.generate(), identity))
        assert proven == [identity.recipient().text]
        key = await worst.one_key()
        assert (key.proven_at, key.proven_by, key.overdue) == (here.clock.now(), "keeper", False)
        here.clock.advance(days=89)
        assert len(await worst.reminders()) == 1
        here.clock.advance(days=2)
        assert len(await worst.reminders()) == 2
        await worst.settings.change(SETTING, {"prove_days": 0})
        here.clock.advance(days=400)
        assert len(await worst.reminders()) == 2

    play(tmp_path, story)


@pytest.mark.parametrize("kind", ["identity", "passphrase"])
def test_the_service_proves_its_own_keys_every_week(tmp_path: Path, kind: str) -> None:
    """Nobody has to do anything for a key that the service holds; and damage that it meets is told."""

    async def story(here: Stage) -> None:
        worst, identity = Worst(here), X25519Identity.generate()
        await worst.begin()
        options = EncryptionOptions(recipients=(identity.recipient().text,))
        if kind == "passphrase":
            options = EncryptionOptions(passphrase=SecretStr(WORDS))
        else:
            await worst.settings.change("decryption", {"identities": [identity.secret_text()]})
        row = await worst.sealed(options)
        await worst.take()
        assert await worst.reminders() == []
        first = await worst.one_key()
        assert (first.proven_at, first.proven_by) == (here.clock.now(), "the service")
        here.clock.advance(days=3)
        assert await worst.reminders() == []
        assert (await worst.one_key()).proven_at == first.proven_at
        here.clock.advance(days=5)
        assert await worst.reminders() == []
        assert (await worst.one_key()).proven_at == here.clock.now()
        [part] = (here.folder / "storage-of-sealed" / str(row.backup_path)).rglob("000001.*")
        part.write_bytes(bytes(part.stat().st_size))
        here.clock.advance(days=8)
        await worst.recovery.tick()
        told = [note.title for note in await here.notifications() if note.severity is Severity.CRITICAL]
        assert told == ["The newest backup of sealed does not open"]

    play(tmp_path, story)


def test_the_service_s_own_key_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """Once, as an alarm, and in the list of proofs until it fits again; then the failure is gone."""

    async def story(here: Stage) -> None:
        worst, identity = Worst(here), X25519Identity.generate()
        await worst.begin()
        await worst.settings.change("decryption", {"identities": [identity.secret_text()]})
        await worst.sealed(EncryptionOptions(recipients=(identity.recipient().text,)))
        await worst.take()
        await worst.recovery.tick()
        assert (await worst.proofs.all())[0].failed is None
        await worst.settings.change("decryption", {"identities": [X25519Identity.generate().secret_text()]})
        await worst.take()
        for _ in range(2):
            here.clock.advance(days=8)
            await worst.recovery.tick()
        titles = [(row.title, row.severity) for row in await here.notifications()]
        assert titles == [
            ("The key that this service has does not open the newest backup of sealed", Severity.CRITICAL)
        ]
        [job] = await worst.proofs.all()
        assert job.failed is not None
        assert (job.failed.at, job.failed.by) == (here.clock.now(), "the service")
        await worst.settings.change("decryption", {"identities": [identity.secret_text()]})
        here.clock.advance(days=2)
        await worst.recovery.tick()
        [job] = await worst.proofs.all()
        assert (job.failed, job.keys[0].proven_at) == (None, here.clock.now())

    play(tmp_path, story)
