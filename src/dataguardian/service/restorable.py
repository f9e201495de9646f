"""Whether a backup may be restored into a datasource, by whom, and what of it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.models import BackupExecution, Datasource
from dataguardian.db.repositories.definitions import DatasourceRepository
from dataguardian.db.repositories.executions import ExecutionRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.db.repositories.restores import RestoreRepository
from dataguardian.domain.access import Permission
from dataguardian.domain.errors import ConflictError, ForbiddenError, UsageError
from dataguardian.domain.states import HOLDS_A_BACKUP
from dataguardian.service.acting import current_actor
from dataguardian.service.selfguard import SETTING as SELFGUARD


async def locked_backup(session: AsyncSession, execution_id: uuid.UUID) -> BackupExecution:
    """Returns a backup that can be restored, locked: until this transaction ends nobody can begin to delete it."""
    execution = await ExecutionRepository(session).locked(execution_id)
    if execution.status not in HOLDS_A_BACKUP or execution.backup_path is None:
        raise ConflictError(
            f"this execution is {execution.status} and holds no backup",
            hint="choose one that is completed",
            status=execution.status.value,
        )
    return execution


async def check_restore(
    session: AsyncSession, execution: BackupExecution, target: Datasource, confirm: str, streams: Sequence[str]
) -> None:
    """Raises UsageError, ConflictError or ForbiddenError unless `target`, which is locked, may take this backup."""
    await _check_target(session, execution, target, confirm)
    _check_production(target)
    await _check_own(session, execution)
    _check_streams(execution, streams)


async def _check_target(session: AsyncSession, execution: BackupExecution, target: Datasource, confirm: str) -> None:
    source = await DatasourceRepository(session).get(execution.datasource_id)
    if target.type != source.type:
        raise UsageError(
            f"this is a {source.type} backup, and {target.name} is of type {target.type}",
            hint=f"choose a datasource of type {source.type}",
        )
    if confirm != target.name:
        raise UsageError(
            "the confirmation is not the name of the datasource that would be written to",
            hint=f"a restore changes {target.name}: give confirm={target.name!r} if that is what you want",
            field="confirm",
        )
    active = await RestoreRepository(session).active_into(target.id)
    if active is not None:
        raise ConflictError(
            f"another restore into {target.name} is {active.status}",
            hint="wait for it to end, or cancel it",
            restore_id=str(active.id),
        )


def _check_production(target: Datasource) -> None:
    """Raises ForbiddenError when the target is production and the actor may not touch that."""
    if target.production and not current_actor().may(Permission.RESTORE_PRODUCTION):
        raise ForbiddenError(
            f"{target.name} is production: only administrators restore into it",
            hint="ask an administrator, or restore into a datasource that is not production",
            permission=Permission.RESTORE_PRODUCTION.value,
        )


async def _check_own(session: AsyncSession, execution: BackupExecution) -> None:
    """Raises ForbiddenError for the catalogue's own backup: it holds the audit log, hashes of passwords and everything
    else that is for administrators, and a copy of it shows that to whoever can read the copy.
    """
    if current_actor().may(Permission.RESTORE_PRODUCTION):
        return
    own = await SettingRepository(session).value(SELFGUARD) or {}
    if own.get("datasource_id") == str(execution.datasource_id):
        raise ForbiddenError(
            "this is a backup of DataGuardian's own catalogue: only administrators restore it, wherever to",
            hint="ask an administrator",
            permission=Permission.RESTORE_PRODUCTION.value,
        )


def _check_streams(execution: BackupExecution, streams: Sequence[str]) -> None:
    held = execution.details.get("streams", [])
    known = {stream[key] for stream in held for key in ("name", "directory")}
    unknown = [name for name in streams if name not in known]
    if unknown and known:
        raise UsageError(
            f"this backup has no stream {unknown[0]!r}",
            hint=f"it has: {', '.join(stream['name'] for stream in held[:20])}",
            field="streams",
        )
