"""What executions, restores and verifications have in common: work that one worker holds, and that can be lost.

Every claim and every end is a compare-and-set on `attempt`, so that a worker that lost its lease can never write over
the one that took over.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar, TypeVar

from sqlalchemy import and_, func, literal, or_, select, update

from dataguardian.db.models import IS_ACTIVE
from dataguardian.db.repositories.base import Repository
from dataguardian.db.types import UtcDateTime
from dataguardian.domain.states import ExecutionStatus, WorkStatus

W = TypeVar("W", bound=Any)

YET_TO_COME = timedelta(minutes=10)
"""Added to a moment that is seconds ago: no clock that only ticks brings a row there."""


class WorkRepository(Repository[W]):
    """`words` are the table's states. `fresh` is what a claim resets, beside what every work has."""

    words: ClassVar[type[ExecutionStatus | WorkStatus]] = WorkStatus
    fresh: ClassVar[Mapping[str, Any]] = {}

    async def claim(self, row_id: uuid.UUID, attempt: int, *, worker: str, now: datetime, lease: timedelta) -> bool:
        """Takes queued work; False when somebody else did, or it is no longer queued."""
        values = {
            "status": self.words.RUNNING,
            "attempt": attempt + 1,
            "worker": worker,
            "lease_until": now + lease,
            "started_at": func.coalesce(self.model.started_at, literal(now, UtcDateTime())),
            "updated_at": now,
        }
        return await self._set(row_id, attempt, self.words.QUEUED, {**values, **self.fresh})

    async def renew(self, row_id: uuid.UUID, attempt: int, *, now: datetime, lease: timedelta) -> bool | None:
        """Extends the lease; returns whether a cancel was asked for, None when the work is no longer ours."""
        if not await self._set(row_id, attempt, self.words.RUNNING, {"lease_until": now + lease, "updated_at": now}):
            return None
        statement = select(self.model.cancel_requested).where(self.model.id == row_id)
        return bool((await self.session.execute(statement)).scalar_one())

    async def change(self, row_id: uuid.UUID, attempt: int, now: datetime, **values: Any) -> bool:  # noqa: ANN401 -- columns
        """Writes to running work that is still ours; False means: stop, write nothing more."""
        return await self._set(row_id, attempt, self.words.RUNNING, {"updated_at": now, **values})

    async def change_queued(self, row_id: uuid.UUID, attempt: int, now: datetime, **values: Any) -> bool:  # noqa: ANN401 -- columns
        """Writes to work that nobody has claimed since `attempt` was read."""
        return await self._set(row_id, attempt, self.words.QUEUED, {"updated_at": now, **values})

    async def requeue(self, row: W, now: datetime, *, bump: bool = False, **values: Any) -> None:  # noqa: ANN401 -- columns
        """Puts a row that was locked in this transaction back into the queue; `bump` makes old queue jobs stale.

        Written by the end of the transaction, many rows at once.
        """
        for name, value in {**self.fresh, **values}.items():
            setattr(row, name, value)
        row.status = self.words.QUEUED
        row.lease_until = row.worker = None
        row.enqueue_number += int(bump)
        row.updated_at = now

    async def bump(self, row: W, now: datetime) -> bool:
        """Gives a queued row that nobody touched since it was read a new queue job; False when somebody did."""
        statement = (
            update(self.model)
            .where(
                self.model.id == row.id,
                self.model.status == self.words.QUEUED,
                self.model.enqueue_number == row.enqueue_number,
            )
            .values(enqueue_number=row.enqueue_number + 1, updated_at=now)
        )
        if not await self.changed(statement):
            return False
        row.enqueue_number += 1
        return True

    async def dead(self, home_id: str, boot_id: str, now: datetime, limit: int) -> Sequence[W]:
        """Returns and locks running rows whose worker is dead: another boot of this home, or a lease that ran out."""
        other_boot = and_(
            self.model.worker.startswith(f"{home_id}/", autoescape=True),
            self.model.worker != f"{home_id}/{boot_id}",
        )
        statement = (
            select(self.model)
            .where(
                IS_ACTIVE,
                self.model.status == self.words.RUNNING,
                or_(other_boot, self.model.lease_until < now, self.model.lease_until.is_(None)),
            )
            .order_by(self.model.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .execution_options(populate_existing=True)
        )
        return (await self.session.execute(statement)).scalars().all()

    async def waiting(self, before: datetime, after: uuid.UUID | None, limit: int) -> Sequence[W]:
        """Returns queued rows that nothing touched since `before`, in the order of their ids, from after `after`.

        Rows that were touched in a time yet to come are among them: the clock went back.
        """
        statement = select(self.model).where(
            IS_ACTIVE,
            self.model.status == self.words.QUEUED,
            or_(self.model.updated_at <= before, self.model.updated_at > before + YET_TO_COME),
        )
        if after is not None:
            statement = statement.where(self.model.id > after)
        return (await self.session.execute(statement.order_by(self.model.id).limit(limit))).scalars().all()

    async def _set(self, row_id: uuid.UUID, attempt: int, status: str, values: Mapping[str, Any]) -> bool:
        held = and_(self.model.id == row_id, self.model.attempt == attempt, self.model.status == status)
        return bool(await self.changed(update(self.model).where(held).values(**values)))
