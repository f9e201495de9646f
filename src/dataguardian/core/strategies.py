"""What several targets are for: a backup to all of them at once, or to the first one that takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dataguardian.core.backup import BackupPlan, BackupResult, run_backup
from dataguardian.core.backupkeys import EncryptionOptions
from dataguardian.core.overlap import refuse_twins
from dataguardian.core.progress import Report, silent
from dataguardian.core.targets import DEFAULT_LAG_SECONDS, Target, TargetOutcome, Targets, none_took_it
from dataguardian.domain.errors import CancelledError, DataGuardianError, StorageError
from dataguardian.domain.states import Strategy, TargetStatus
from dataguardian.engines.base import Engine
from dataguardian.storage.base import Storage

Tell = Callable[[str], None]


def _publish_always() -> None:
    """The command line's runs have nobody to ask."""


def back_up(
    plan: BackupPlan,
    engine: Callable[[], Engine],
    targets: Sequence[Target],
    strategy: Strategy,
    *,
    lag_seconds: float = DEFAULT_LAG_SECONDS,
    report: Report = silent,
    before_publish: Callable[[], None] = _publish_always,
    tell: Tell = lambda _: None,
    encryption: EncryptionOptions | None = None,
) -> BackupResult:
    """Takes one backup to several targets, or to one; raises like `run_backup`. `tell` hears of every way round."""
    refuse_twins([target.storage for target in targets if target.storage is not None])
    if strategy is Strategy.REPLICATE or len(targets) == 1:
        everywhere = Targets(targets, lag_seconds=lag_seconds)
        return run_backup(
            plan, engine(), everywhere, report=report, before_publish=before_publish, encryption=encryption
        )
    return _Fallback(plan, engine, report, before_publish, tell, encryption=encryption).first_of(targets)


class _Fallback:
    """Tries one target after the other. Whatever is wrong with a storage leads to the next one, and nothing else."""

    def __init__(
        self,
        plan: BackupPlan,
        engine: Callable[[], Engine],
        report: Report,
        before_publish: Callable[[], None],
        tell: Tell,
        *,
        encryption: EncryptionOptions | None,
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._report = report
        self._before_publish = before_publish
        self._tell = tell
        self._encryption = encryption
        self._published = False

    def first_of(self, targets: Sequence[Target]) -> BackupResult:
        passed: list[TargetOutcome] = []
        errors: list[DataGuardianError] = []
        for target in targets:
            try:
                result = self._run(_checked(target))
            except _Unfit as unfit:
                errors.append(unfit.error)
                passed.append(TargetOutcome(target.name, TargetStatus.UNUSED, unfit.error.code, unfit.error.message))
                self._tell(f"{target.name} did not take the backup: {unfit.error.message}")
            else:
                rest = targets[len(passed) + 1 :]
                stored = TargetOutcome(target.name, TargetStatus.STORED)
                unused = [TargetOutcome(other.name, TargetStatus.UNUSED) for other in rest]
                return replace(result, targets=[*passed, stored, *unused])
        raise none_took_it([target.name for target in targets], errors)

    def _run(self, storage: Storage) -> BackupResult:
        try:
            return run_backup(
                self._plan,
                self._engine(),
                storage,
                report=self._report,
                before_publish=self._publish,
                encryption=self._encryption,
            )
        except StorageError as error:
            if self._published:  # beyond recall: another dump could not be stopped any more
                raise
            raise _Unfit(error) from error

    def _publish(self) -> None:
        self._before_publish()
        self._published = True


class _Unfit(Exception):  # noqa: N818 -- it never leaves this module
    """A target did not take the backup, and the next one may."""

    def __init__(self, error: DataGuardianError) -> None:
        self.error = error


def _checked(target: Target) -> Storage:
    """Proves that a storage takes and gives back, before the source is bothered."""
    if target.storage is None:
        raise _Unfit(target.broken or StorageError("it cannot be opened"))
    try:
        target.storage.check()
    except CancelledError:
        raise
    except DataGuardianError as error:
        raise _Unfit(error) from error
    return target.storage
