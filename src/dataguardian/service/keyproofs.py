"""When each key of an encrypted job last opened its newest backup: recorded, shown, and asked for when it is long ago.

Keys that the service itself holds are proven by it every week. For the others somebody has to take a key from where it
is kept: `dataguardian key prove`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.backupkeys import BackupKeys
from dataguardian.core.proofrecords import (
    SERVICE,
    WEEK,
    JobProofs,
    entry_of,
    failed,
    failed_of,
    is_due,
    is_services,
    long_ago,
    proof_of,
    seen,
)
from dataguardian.db.models import BackupExecution, BackupJob
from dataguardian.db.repositories.definitions import StorageRepository
from dataguardian.db.repositories.executions import ExecutionRepository, JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.db.repositories.recovery import RecoveryRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.domain.access import SYSTEM
from dataguardian.domain.clock import to_iso
from dataguardian.domain.errors import (
    DataGuardianError,
    IntegrityError,
    KeyNeededError,
    NotFoundError,
    ObjectMissingError,
    StorageError,
    UsageError,
    WrongKeyError,
)
from dataguardian.domain.sizes import MIB, format_size
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.service.acting import current_actor
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.decryption import ENCRYPTION, keys_for
from dataguardian.service.events import Events, Pending
from dataguardian.service.kit.settings import SETTING, RecoverySettings
from dataguardian.service.removal import open_storage
from dataguardian.storage.base import Storage

STATE = "key_proofs"
MOST_BYTES = 256 * MIB
"""Of an object that is handed out: this service holds it in memory."""
PASSPHRASE = "passphrase"  # noqa: S105 -- a word
_STATE_TEXT = "When each key of an encrypted job last opened a backup of it"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Encrypted:
    """A job, its newest good backup, and the names of the keys that open it."""

    job: BackupJob
    backup: BackupExecution
    keys: Sequence[str]


class KeyProofs:
    def __init__(self, context: Context, events: Events) -> None:
        self._context = context
        self._events = events
        self._audit = Audit(context)

    async def all(self) -> list[JobProofs]:
        """Returns every job whose newest good backup is encrypted, within the actor's limit."""
        async with self._context.db.read() as session:
            settings, state = await self._settings(session), await _state(session)
            found = await _encrypted(session)
        actor, now = current_actor(), self._context.clock.now()
        return [
            _proofs(one, state, now, settings.prove_days) for one in found if actor.may_touch(one.job.datasource_id)
        ]

    async def one(self, execution_id: uuid.UUID) -> BackupExecution:
        """Returns an encrypted backup; raises NotFoundError, also for what is outside the actor's limit, UsageError."""
        async with self._context.db.read() as session:
            row = await ExecutionRepository(session).get(execution_id)
        if not current_actor().may_touch(row.datasource_id):
            raise NotFoundError(f"there is no execution {execution_id}", id=str(execution_id))
        if row.backup_path is None or not row.details.get(ENCRYPTION):
            raise UsageError("this execution has no encrypted backup")
        return row

    async def storages(self, row: BackupExecution) -> list[Storage]:
        """Returns where a backup lies; raises NotFoundError when nowhere, and what is wrong with a configuration."""
        async with self._context.db.read() as session:
            places = await TargetRepository(session).holders(row)
            rows = [await StorageRepository(session).get(place) for place in places]
        if not rows:
            raise NotFoundError("no storage location is known that holds this backup")
        return [open_storage(place, self._context.vault) for place in rows]

    async def object(self, execution_id: uuid.UUID, path: str) -> bytes:
        """Returns an object of an encrypted backup as it is stored, from the first storage that has it.

        Raises NotFoundError, UsageError for one that is too long to be held, and what the storages raise.
        """
        row = await self.one(execution_id)
        storages = await self.storages(row)
        return await asyncio.to_thread(_object, storages, f"{row.backup_path}/{path}")

    async def record(self, execution_id: uuid.UUID, keys: Sequence[str]) -> None:
        """Takes note that these keys opened a backup now. Raises NotFoundError, UsageError for keys of others."""
        row = await self.one(execution_id)
        strangers = sorted({*keys} - {*_keys_of(row)})
        if strangers or not keys or row.job_id is None:
            raise UsageError(
                f"that backup is not encrypted for {strangers[0][:80]}" if strangers else "no key was proven",
                hint="the keys of a backup are in its execution, under metadata.encryption.recipients",
            )
        await self._note(row, row.job_id, keys)

    async def record_failure(self, execution_id: uuid.UUID, message: str) -> None:
        """Takes note that somebody's keys did not open this backup. Raises NotFoundError, UsageError."""
        row = await self.one(execution_id)
        if row.job_id is not None:
            await self._note(row, row.job_id, (), failure=message)

    async def prove(self, row: BackupExecution, keys: BackupKeys) -> Sequence[str]:
        """Opens a backup with keys that somebody has given, and takes note of those that fit; returns them.

        Raises what `core.proving.prove` raises.
        """
        proven = await self._opened_by(row, keys)
        await self.record(row.id, proven)
        return proven

    async def prove_own(self) -> int:
        """Proves the service's own keys that were not proven for a week; returns for how many jobs it did."""
        count, now = 0, self._context.clock.now()
        async with self._context.db.read() as session:
            state, found = await _state(session), await _encrypted(session)
        for one in found:
            entry = entry_of(state, one.job.id)
            if is_due(entry, now):
                count += await self._prove_own(one, is_own=PASSPHRASE in one.keys or is_services(entry, one.keys))
        return count

    async def _prove_own(self, one: _Encrypted, *, is_own: bool) -> bool:
        """`is_own`: the service must have the key, which otherwise is kept elsewhere when nothing here opens it."""
        proven: Sequence[str] = []
        failure: str | None = None
        title = f"The newest backup of {one.job.name} does not open"
        try:
            keys = await keys_for(self._context, one.backup)
            if not keys and not is_own:
                return False
            proven = await self._opened_by(one.backup, keys)
        except (KeyNeededError, WrongKeyError) as error:
            failure = error.message if is_own else None
            title = f"The key that this service has does not open the newest backup of {one.job.name}"
        except DataGuardianError as error:
            log.warning("a key could not be proven", job=one.job.name, message=error.message)
            failure = error.message
            if not isinstance(error, IntegrityError):  # a storage is away, say: others tell of that
                title = ""
        is_news = await self._note(one.backup, one.job.id, proven, failure=failure)
        if failure is not None and title and is_news:
            await self._tell(one, title, failure)
        return bool(proven)

    async def _opened_by(self, row: BackupExecution, keys: BackupKeys) -> Sequence[str]:
        from dataguardian.core.proving import prove  # noqa: PLC0415 -- 25 MB that most services can do without

        storages = await self.storages(row)
        proven = await asyncio.to_thread(prove, storages, row.backup_path or "", keys, checksum=row.checksum)
        return proven.keys

    async def tick(self) -> None:
        """Takes note of keys that are new, and reminds of those that were not proven for long, once a week."""
        now = self._context.clock.now()
        pending: list[Pending] = []
        async with self._context.db.read() as session:
            found = await _encrypted(session)
            if not found and await SettingRepository(session).value(STATE) is None:
                return
        async with self._context.db.write() as session:
            settings, state = await self._settings(session), await _state(session, locked=True)
            before = str(state)
            jobs = {str(one.job.id): seen(entry_of(state, one.job.id), one.keys, now) for one in found}
            state = {**state, "jobs": jobs}
            due = [_proofs(one, state, now, settings.prove_days) for one in found]
            due = [one for one in due if any(key.overdue for key in one.keys)]
            if due and long_ago(state.get("reminded_at"), now, WEEK):
                state["reminded_at"] = to_iso(now)
                pending = await self._remind(session, due, settings.prove_days)
            if str(state) != before:
                await _put(session, state, now)
        await self._events.dispatch(pending)

    async def _note(
        self, row: BackupExecution, job_id: uuid.UUID, keys: Sequence[str], *, failure: str | None = None
    ) -> bool:
        """Takes note of keys that opened a backup, or why none did; tells whether that failure is news."""
        now, actor = self._context.clock.now(), current_actor()
        by = SERVICE if actor == SYSTEM else actor.name
        proof = {"at": to_iso(now), "by": by, "execution_id": str(row.id), "backup": row.backup_path}
        async with self._context.db.write() as session:
            state = await _state(session, locked=True)
            entry = seen(entry_of(state, job_id), _keys_of(row), now)
            before = failed_of(entry)
            if keys:
                entry["failed"] = None
            if failure is not None:
                entry = failed(entry, now, by, failure)
            entry["proofs"] |= dict.fromkeys(keys, proof)
            entry["tried_at"] = to_iso(now) if actor == SYSTEM else entry.get("tried_at")
            state["jobs"] = {**state.get("jobs", {}), str(job_id): entry}
            await _put(session, state, now)
            if actor != SYSTEM and (keys or failure is not None):
                changes = {"keys": [None, sorted(keys)], "backup": [None, row.backup_path]}
                action = "key.prove" if keys else "key.prove_failed"
                await self._audit.record(session, action, "execution", row.id, changes=changes)
        after = failed_of(entry)
        return after is not None and (before is None or before.message != after.message)

    async def _remind(self, session: AsyncSession, due: Sequence[JobProofs], days: int) -> list[Pending]:
        lines = [
            f"{one.job_name}: {key.key}, {f'last proven {to_iso(key.proven_at)}' if key.proven_at else 'never proven'}"
            for one in due
            for key in one.keys
            if key.overdue
        ]
        return await self._events.emit(
            session,
            type=NotificationType.SYSTEM_ALARM,
            severity=Severity.WARNING,
            entity_type=EntityType.SYSTEM,
            entity_id=None,
            title=f"{len(lines)} keys of encrypted backups were not proven for {days} days"
            if len(lines) > 1
            else f"A key of encrypted backups was not proven for {days} days",
            message="\n".join(lines)
            + "\nA key that is lost opens nothing, and nobody notices before the day that it is needed. Where the key "
            "is kept: dataguardian key prove --identity-file FILE (or --passphrase-file FILE)",
            metadata={"jobs": [one.job_name for one in due]},
        )

    async def _tell(self, one: _Encrypted, title: str, message: str) -> None:
        async with self._context.db.write() as session:
            pending = await self._events.emit(
                session,
                type=NotificationType.SYSTEM_ALARM,
                severity=Severity.CRITICAL,
                entity_type=EntityType.BACKUP_JOB,
                entity_id=one.job.id,
                title=title,
                message=f"{one.backup.backup_path}: {message}",
            )
        await self._events.dispatch(pending)

    async def _settings(self, session: AsyncSession) -> RecoverySettings:
        stored = await SettingRepository(session).value(SETTING)
        try:
            return RecoverySettings.model_validate(stored or {})
        except ValidationError:
            log.warning("a setting cannot be read, its defaults are used", setting=SETTING)
            return RecoverySettings()


def _object(storages: Sequence[Storage], path: str) -> bytes:
    first: DataGuardianError | None = None
    for storage in storages:
        try:
            if storage.stat(path).size_bytes > MOST_BYTES:
                raise UsageError(
                    f"{path} is longer than {format_size(MOST_BYTES)}",
                    hint="prove the key on the machine that holds the home: --console",
                )
            return storage.get(path, MOST_BYTES)
        except ObjectMissingError as error:
            first = first or NotFoundError(f"there is no {path}")
            first.__cause__ = error
        except (IntegrityError, StorageError) as error:
            first = first or error
    assert first is not None  # noqa: S101 -- there is a storage
    raise first


async def _encrypted(session: AsyncSession) -> list[_Encrypted]:
    """Returns the jobs whose newest good backup is encrypted."""
    found = []
    for job in await JobRepository(session).all():
        backup = await RecoveryRepository(session).newest_good(job.id)
        if backup is not None and backup.backup_path is not None and (keys := _keys_of(backup)):
            found.append(_Encrypted(job, backup, keys))
    return found


def _keys_of(row: BackupExecution) -> list[str]:
    """Returns the public keys that a backup is encrypted for, or the word for a passphrase."""
    encryption = row.details.get(ENCRYPTION) or {}
    return [PASSPHRASE] if encryption.get("passphrase") else list(encryption.get("recipients") or ())


def _proofs(one: _Encrypted, state: Mapping[str, Any], now: datetime, days: int) -> JobProofs:
    entry = seen(entry_of(state, one.job.id), one.keys, now)
    keys = [proof_of(key, entry, now, days) for key in one.keys]
    backup = one.backup
    return JobProofs(
        one.job.id,
        one.job.name,
        one.job.datasource_id,
        backup.id,
        backup.backup_path or "",
        backup.checksum or "",
        keys,
        failed_of(entry),
    )


async def _state(session: AsyncSession, *, locked: bool = False) -> dict[str, Any]:
    settings = SettingRepository(session)
    return dict(await (settings.locked_value(STATE) if locked else settings.value(STATE)) or {})


async def _put(session: AsyncSession, state: dict[str, Any], now: datetime) -> None:
    await SettingRepository(session).put(STATE, state, _STATE_TEXT, now)
