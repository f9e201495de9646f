"""Sessions that see some datasources only, and what belongs to them.

Every statement of such a session is narrowed here, whatever its author thought of: lists, counts, single rows, sums and
changes alike. What is outside the limit is not there. Storage locations, users and settings belong to no datasource;
who may see them is a matter of permissions.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, and_, event, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import ORMExecuteState, with_loader_criteria

from dataguardian.db.models import (
    BackupChunk,
    BackupExecution,
    BackupJob,
    Datasource,
    ExecutionTarget,
    HealthCheck,
    NotificationRow,
    Repair,
    Restore,
    Verification,
)
from dataguardian.domain.states import EntityType

Limit = Callable[[], frozenset[uuid.UUID] | None]
"""Returns the datasources that whoever acts now is limited to; None when there is no limit."""


def nobody_is_limited() -> None:
    """The limit of those who have none."""


def narrow(session: AsyncSession, datasource_ids: Iterable[uuid.UUID]) -> None:
    """Lets a session see these datasources, and what belongs to them, and no others."""
    ids = list(datasource_ids)
    criteria = [with_loader_criteria(model, condition) for model, condition in _conditions(ids).items()]
    # A function, because there are queries that join executions under another name.
    executions = with_loader_criteria(BackupExecution, lambda row: row.datasource_id.in_(ids), include_aliases=True)

    def narrowed(state: ORMExecuteState) -> None:
        if state.is_select or state.is_update or state.is_delete:
            state.statement = state.statement.options(executions, *criteria)

    event.listen(session.sync_session, "do_orm_execute", narrowed)


def _conditions(ids: list[uuid.UUID]) -> dict[type[Any], ColumnElement[bool]]:
    """Returns, per table, which rows belong to the datasources."""
    executions = _ids_of(BackupExecution, ids)
    entity_type, entity_id = NotificationRow.entity_type, NotificationRow.entity_id
    return {
        Datasource: Datasource.id.in_(ids),
        BackupJob: BackupJob.datasource_id.in_(ids),
        ExecutionTarget: ExecutionTarget.execution_id.in_(executions),
        BackupChunk: BackupChunk.execution_id.in_(executions),
        Verification: Verification.execution_id.in_(executions),
        Repair: Repair.execution_id.in_(executions),
        # Also what somebody else restores into one of them: of two restores into one target the second sees the first.
        Restore: or_(Restore.execution_id.in_(executions), Restore.target_datasource_id.in_(ids)),
        HealthCheck: or_(HealthCheck.storage_location_id.is_not(None), HealthCheck.datasource_id.in_(ids)),
        NotificationRow: or_(
            and_(entity_type == EntityType.DATASOURCE, entity_id.in_(ids)),
            and_(entity_type == EntityType.BACKUP_JOB, entity_id.in_(_ids_of(BackupJob, ids))),
        ),
    }


def _ids_of(model: type[BackupExecution | BackupJob], ids: list[uuid.UUID]) -> Select[tuple[Any]]:
    # By the table, not by the class: that would be narrowed once more, by this very condition.
    table: Table = model.__table__  # type: ignore[assignment]
    return select(table.c.id).where(table.c.datasource_id.in_(ids))
