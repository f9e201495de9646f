"""The recovery kit as the service knows it: when one was taken, whether it is outdated, and who must be reminded.

What a kit says is never kept, and no answer of the API has it: it is made on the machine that holds the home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.repositories.notifications import NotificationRepository, SettingRepository
from dataguardian.domain.clock import to_iso
from dataguardian.domain.states import EntityType, NotificationType, Severity
from dataguardian.service.audit import Audit
from dataguardian.service.context import Context
from dataguardian.service.decryption import ENCRYPTION
from dataguardian.service.decryption import SETTING as DECRYPTION
from dataguardian.service.events import Events, Pending
from dataguardian.service.keycheck import SETTING as SECRET_KEY
from dataguardian.service.keyproofs import KeyProofs
from dataguardian.service.kit.document import Kit
from dataguardian.service.kit.fingerprints import Fingerprints
from dataguardian.service.kit.gather import Gathering, Rows, read_rows

STATE = "recovery_kit"
REMINDED = "recovery_kit_reminder"
PATIENCE = timedelta(days=7)
"""After the first start, and between two reminders."""
KEYS = frozenset({"secret key", "private key", "encryption"})
"""What makes a kit useless rather than incomplete: somebody is reminded."""
_FIRST, _NEXT = "Take a recovery kit", "Take a new recovery kit"
"""Titles of reminders: once a kit was taken, they are read."""
_STATE_TEXT = "When the last recovery kit was taken, with which key, and of what"


@dataclass(frozen=True)
class Reason:
    """Why a kit is outdated: `what` is new or another one: secret key, storage location, backup job, encryption,
    private key. `since` of None is not known.
    """

    what: str
    name: str
    since: datetime | None


@dataclass(frozen=True)
class KitStatus:
    """`taken_at` of None: never. `protection` is passphrase, recipients or none. `due`: somebody should take one."""

    taken_at: datetime | None
    taken_by: str | None
    key_id: str | None
    version: str | None
    protection: str | None
    storages: int
    jobs: int
    reasons: Sequence[Reason]
    due: bool

    @property
    def outdated(self) -> bool:
        return bool(self.reasons)

    @property
    def outdated_since(self) -> datetime | None:
        """The earliest time that is known."""
        return min((reason.since for reason in self.reasons if reason.since), default=None)


class Recovery:
    def __init__(self, context: Context, events: Events, proofs: KeyProofs) -> None:
        self._context = context
        self._events = events
        self._proofs = proofs
        self._audit = Audit(context)

    async def gather(self) -> Kit:
        """Returns a kit of what there is now; `note` takes note of it."""
        async with self._context.db.read() as session:
            rows = await read_rows(session)
        return await Gathering(self._context, rows).kit()

    async def note(self, kit: Kit, protection: str) -> None:
        """Takes note that somebody has this kit now: nobody needs the reminders any more."""
        covered = kit.covered
        value = {
            "taken_at": to_iso(kit.taken_at),
            "taken_by": kit.taken_by,
            "key_id": covered.key_id,
            "version": kit.version,
            "protection": protection,
            "covered": {
                "storages": {str(row_id): print_ for row_id, print_ in covered.storages.items()},
                "jobs": {str(row_id): print_ for row_id, print_ in covered.jobs.items()},
                "identities": list(covered.identities),
            },
        }
        changes = {
            "key_id": [None, covered.key_id],
            "protection": [None, protection],
            "storages": [None, len(covered.storages)],
            "jobs": [None, len(covered.jobs)],
        }
        async with self._context.db.write() as session:
            now = self._context.clock.now()
            await SettingRepository(session).put(STATE, value, _STATE_TEXT, now)
            await NotificationRepository(session).mark_titled_read([_FIRST, _NEXT], now)
            await self._audit.record(session, "recovery_kit.create", "system", changes=changes)

    async def status(self) -> KitStatus:
        async with self._context.db.read() as session:
            return await self._status(session)

    async def tick(self) -> None:
        """Proves the service's own keys, and reminds of kits and of proofs that are owed."""
        await self._remind()
        await self._proofs.tick()
        await self._proofs.prove_own()

    async def _status(self, session: AsyncSession) -> KitStatus:
        settings = SettingRepository(session)
        state = await settings.value(STATE)
        rows = await read_rows(session)
        if state is None:
            due = len(rows.jobs) > (1 if rows.own_job else 0) and await self._is_old(settings)
            return KitStatus(None, None, None, None, None, 0, 0, [], due)
        reasons = [
            *await self._new_keys(state, rows, settings),
            *self._changed_storages(state, rows),
            *self._changed_jobs(state, rows),
        ]
        return KitStatus(
            taken_at=datetime.fromisoformat(state["taken_at"]),
            taken_by=state["taken_by"],
            key_id=state["key_id"],
            version=state["version"],
            protection=state["protection"],
            storages=len(state["covered"]["storages"]),
            jobs=len(state["covered"]["jobs"]),
            reasons=reasons,
            due=any(reason.what in KEYS for reason in reasons),
        )

    async def _new_keys(self, state: Mapping[str, Any], rows: Rows, settings: SettingRepository) -> list[Reason]:
        reasons, key_id = [], self._context.vault.key_id
        if state["key_id"] != key_id:
            row = await settings.by_key(SECRET_KEY)
            reasons.append(Reason("secret key", key_id, row.updated_at if row else None))
        prints = Fingerprints(self._context.vault, state["key_id"])
        known = set(state["covered"]["identities"])
        if prints.possible and not {*prints.identities(rows.decryption)} <= known:
            row = await settings.by_key(DECRYPTION)
            reasons.append(Reason("private key", "of the service", row.updated_at if row else None))
        return reasons

    def _changed_storages(self, state: Mapping[str, Any], rows: Rows) -> list[Reason]:
        prints, known = Fingerprints(self._context.vault, state["key_id"]), state["covered"]["storages"]
        return [
            Reason("storage location", row.name, None if str(row.id) in known else row.created_at)
            for row in rows.storages
            if prints.differs(known.get(str(row.id)), prints.storage(row))
        ]

    def _changed_jobs(self, state: Mapping[str, Any], rows: Rows) -> list[Reason]:
        prints, known = Fingerprints(self._context.vault, state["key_id"]), state["covered"]["jobs"]
        return [
            Reason(
                "encryption" if row.backup_options.get(ENCRYPTION) else "backup job",
                row.name,
                None if str(row.id) in known else row.created_at,
            )
            for row in rows.jobs
            if prints.differs(known.get(str(row.id)), prints.job(row))
        ]

    async def _is_old(self, settings: SettingRepository) -> bool:
        """Tells whether the first start was a week ago: the catalogue got its key then."""
        row = await settings.by_key(SECRET_KEY)
        return row is not None and self._context.clock.now() - row.created_at > PATIENCE

    async def _remind(self) -> None:
        """Once for every new key, and once a week for as long as no kit was taken."""
        now = self._context.clock.now()
        async with self._context.db.read() as session:
            status, last = await self._status(session), await SettingRepository(session).value(REMINDED)
            if not status.due or _was_told(last, status, now):
                return
        pending: list[Pending] = []
        async with self._context.db.write() as session:
            settings = SettingRepository(session)
            status = await self._status(session)
            if status.due and not _was_told(await settings.locked_value(REMINDED), status, now):
                told = {"at": to_iso(now), "kit": _kit_of(status), "keys": _new_keys(status)}
                await settings.put(REMINDED, told, "When somebody was last reminded of the kit, and of which keys", now)
                pending = await self._emit(session, status)
        await self._events.dispatch(pending)

    async def _emit(self, session: AsyncSession, status: KitStatus) -> list[Pending]:
        keys = _new_keys(status)
        why = (
            f"Since the last one, of {to_iso(status.taken_at)}, there are new keys: {'; '.join(keys)}."
            if status.taken_at
            else "None was ever taken. If this machine is lost, so are the keys and passwords that only it has."
        )
        return await self._events.emit(
            session,
            type=NotificationType.SYSTEM_ALARM,
            severity=Severity.WARNING,
            entity_type=EntityType.SYSTEM,
            entity_id=None,
            title=_NEXT if status.taken_at else _FIRST,
            message=f"{why}\nOn this machine: dataguardian recovery-kit --output FILE. Keep it somewhere else.",
            metadata={"reasons": keys},
        )


def _new_keys(status: KitStatus) -> list[str]:
    return [f"{reason.what}: {reason.name}" for reason in status.reasons if reason.what in KEYS]


def _kit_of(status: KitStatus) -> str | None:
    return to_iso(status.taken_at) if status.taken_at else None


def _was_told(last: Mapping[str, Any] | None, status: KitStatus, now: datetime) -> bool:
    """Tells whether somebody knows: of each of these keys, since this kit, and within a week."""
    if last is None or last.get("kit") != _kit_of(status) or not {*_new_keys(status)} <= {*last.get("keys", ())}:
        return False
    return timedelta() <= now - datetime.fromisoformat(last["at"]) < PATIENCE
