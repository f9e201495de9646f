"""What the runner does with each kind of order. Results are plain JSON; every error leaves as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dataguardian.core.backupkeys import BackupKeys, EncryptionOptions
from dataguardian.core.catalog import Backup, load_backup
from dataguardian.core.copies import choose_copy
from dataguardian.core.repair import run_repair
from dataguardian.core.restore import run_restore
from dataguardian.core.strategies import back_up
from dataguardian.core.targets import Target, TargetOutcome
from dataguardian.core.verify import VerifyReport, presence_problems, run_verify
from dataguardian.domain.errors import (
    CancelledError,
    DataGuardianError,
    IntegrityError,
    KeyNeededError,
    NotFoundError,
    StorageError,
)
from dataguardian.domain.states import Strategy, TargetStatus
from dataguardian.engines.base import Engine, RestoreOptions
from dataguardian.engines.registry import ENGINES, build_engine, engine_document
from dataguardian.runner.link import Link
from dataguardian.runner.protocol import BackupOrder, Place, RepairOrder, RestoreOrder, Task, VerifyOrder
from dataguardian.storage.base import Storage
from dataguardian.storage.registry import build_storage, storage_document
from dataguardian.storage.retrying import wrap


def carry_out(task: Task, link: Link) -> dict[str, Any]:
    """Does what the task's one order says and returns its result."""
    if task.backup is not None:
        return _backup(task, task.backup, link)
    if task.restore is not None:
        return _restore(task.restore, _engine(task), _opened(task.places, link), link)
    if task.verify is not None:
        return _verify(task.verify, task.places, link)
    if task.repair is not None:
        return _repair(task.repair, _open(task.places[0], link), _opened(task.places[1:], link), link)
    raise ValueError("a task without an order")


def _backup(task: Task, order: BackupOrder, link: Link) -> dict[str, Any]:
    targets = [_target(place, link, order.bandwidth_limit_mbps) for place in task.places]
    for directory in order.earlier:
        adopted = _adopted(targets, directory, order.strategy)
        if adopted is not None:
            link.send("log", {"level": "info", "message": f"adopted {directory}, which an earlier attempt completed"})
            return _described(*adopted, adopted=True)

    def warn(text: str) -> None:
        link.send("log", {"level": "warning", "message": text})

    result = back_up(
        order.plan,
        lambda: _engine(task),
        targets,
        order.strategy,
        lag_seconds=order.lag_seconds,
        report=link.report,
        before_publish=link.confirm,
        tell=warn,
        encryption=EncryptionOptions.model_validate(order.encryption) if order.encryption else None,
    )
    for warning in result.manifest.warnings:
        warn(warning)
    return _described(Backup(result.directory, result.manifest, result.parts), result.targets, adopted=False)


def _restore(order: RestoreOrder, engine: Engine, storages: Sequence[Storage], link: Link) -> dict[str, Any]:
    backup, storages = choose_copy(storages, order.directory, checksum=order.checksum)
    options = RestoreOptions(drop_existing=order.drop_existing, before_swap=link.confirm)
    told: list[str] = []

    def warn(text: str) -> None:
        told.append(text)
        link.send("log", {"level": "warning", "message": text})

    done = run_restore(
        storages[0],
        order.directory,
        engine,
        backup.manifest.engine,
        streams=order.streams,
        options=options,
        report=link.report,
        warn=warn,
        others=storages[1:],
        checksum=order.checksum,
        keys=BackupKeys.model_validate(order.keys),
    )
    for warning in [text for text in done.warnings if text not in told]:
        warn(warning)
    return {"size_bytes": done.size_bytes, "duration_seconds": done.duration_seconds, "warnings": done.warnings}


def _repair(order: RepairOrder, target: Storage, sources: Sequence[Storage], link: Link) -> dict[str, Any]:
    done = run_repair(
        sources, target, order.directory, checksum=order.checksum, report=link.report, before_publish=link.confirm
    )
    return {"copied": done.copied, "size_bytes": done.size_bytes, "parts": len(done.backup.parts)}


def _verify(order: VerifyOrder, places: Sequence[Place], link: Link) -> dict[str, Any]:
    """Checks every copy. One that cannot be reached is not checked, which is no damage; none at all is an error."""
    if len(places) == 1:
        outcome = _verified(order, places[0], link)
        told = {"ok": outcome.ok, "level": outcome.level, "parts": outcome.parts, "errors": outcome.errors}
        return told | _not_checked(outcome.not_checked)
    copies = [_copy(order, place, link) for place in places]
    checked = [copy for copy in copies if copy.error is None]
    if not checked:
        raise next(copy.error for copy in copies if copy.error is not None)
    lacking = next((copy.not_checked for copy in checked if copy.not_checked), None)
    good = all(not copy.problems for copy in checked)
    return _not_checked(lacking) | {
        "ok": None if good and lacking else good,
        "level": "deep" if order.deep and not lacking else "stored",
        "parts": max(copy.parts for copy in checked),
        "errors": [f"{copy.name}: {problem}" for copy in checked for problem in copy.problems],
        "targets": [copy.document() for copy in copies],
    }


class _Copy:
    """What became of the verification of one copy. `error`: why it was not checked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts = 0
        self.problems: list[str] = []
        self.error: DataGuardianError | None = None
        self.not_checked: KeyNeededError | None = None

    def document(self) -> dict[str, Any]:
        if self.error is not None:
            return {"ok": None, "message": f"not checked: {self.error.message}"}
        if self.not_checked is not None and not self.problems:
            return {
                "ok": None,
                "message": f"its stored bytes are good, the rest was not checked: {self.not_checked.message}",
            }
        return {"ok": not self.problems, "message": "; ".join(self.problems[:5])}


def _not_checked(error: KeyNeededError | None) -> dict[str, str]:
    """Why an encrypted backup was checked at a lower level than was asked for; nothing when it was not."""
    return {} if error is None else {"not_checked": f"{error.message} ({error.hint})"}


def _copy(order: VerifyOrder, place: Place, link: Link) -> _Copy:
    copy = _Copy(place.name)
    try:
        outcome = _verified(order, place, link)
    except CancelledError:
        raise
    except (IntegrityError, NotFoundError) as error:
        copy.problems = [error.message]
    except DataGuardianError as error:
        copy.error = error
    else:
        copy.parts, copy.problems, copy.not_checked = outcome.parts, outcome.errors, outcome.not_checked
    return copy


def _verified(order: VerifyOrder, place: Place, link: Link) -> VerifyReport:
    storage = _open(place, link)
    validate = ENGINES.by_type(load_backup(storage, order.directory).manifest.engine).validate if order.deep else None
    keys = BackupKeys.model_validate(order.keys)
    return run_verify(
        storage, order.directory, validate=validate, keys=keys, report=link.report, checksum=order.checksum
    )


def _adopted(
    targets: Sequence[Target], directory: str, strategy: Strategy
) -> tuple[Backup, list[TargetOutcome]] | None:
    """Returns what an earlier attempt completed, and which of the targets hold it; None when none does.

    One of several targets that does not answer holds nothing that could be adopted now.
    """
    found: Backup | None = None
    outcomes: list[TargetOutcome] = []
    lacking = TargetStatus.BEHIND if strategy is Strategy.REPLICATE else TargetStatus.UNUSED
    for target in targets:
        try:
            backup = _whole(_storage_of(target), directory)
        except CancelledError:
            raise
        except DataGuardianError:
            if len(targets) == 1:
                raise
            backup = None
        if backup is not None and (found is None or backup.manifest.checksum == found.manifest.checksum):
            found = found or backup
            outcomes.append(TargetOutcome(target.name, TargetStatus.STORED))
        else:
            outcomes.append(
                TargetOutcome(target.name, lacking, "", "an attempt that was interrupted did not get so far")
            )
    return None if found is None else (found, outcomes)


def _whole(storage: Storage, directory: str) -> Backup | None:
    """Returns the backup when it has a valid manifest, which is written last, and all its parts."""
    try:
        backup = load_backup(storage, directory)
    except (IntegrityError, NotFoundError):
        return None
    return None if any(presence_problems(storage, backup)) else backup


def _described(backup: Backup, targets: Sequence[TargetOutcome], *, adopted: bool) -> dict[str, Any]:
    """What the catalogue records of a backup; `chunks` are (path, stored size, stored SHA-256)."""
    manifest = backup.manifest
    return {
        "directory": backup.directory,
        "adopted": adopted,
        "manifest": manifest.model_dump(mode="json", exclude={"streams": {"__all__": {"metadata"}}}),
        "chunks": [(part.path, part.stored_size_bytes, part.stored_sha256) for part in backup.parts],
        "targets": [
            {"status": outcome.status.value, "code": outcome.code, "message": outcome.message} for outcome in targets
        ],
    }


def _engine(task: Task) -> Engine:
    if task.engine is None:
        raise ValueError("a task without a datasource")
    return build_engine(engine_document(task.engine))


def _open(place: Place, link: Link, limit_mbps: float | None = None) -> Storage:
    return wrap(build_storage(storage_document(place.config)), sleep=link.stop.sleep, limit_mbps=limit_mbps)


def _target(place: Place, link: Link, limit_mbps: float | None = None) -> Target:
    try:
        return Target(place.name, _open(place, link, limit_mbps))
    except DataGuardianError as error:
        return Target(place.name, None, error)


def _opened(places: Sequence[Place], link: Link) -> list[Storage]:
    """Returns those that can be opened; raises the error of the first when none can."""
    targets = [_target(place, link) for place in places]
    storages = [target.storage for target in targets if target.storage is not None]
    return storages or [_storage_of(target) for target in targets]


def _storage_of(target: Target) -> Storage:
    if target.storage is None:
        raise target.broken or StorageError(f"{target.name} cannot be opened")
    return target.storage
