"""Checking every backup of a storage, or a sample of them, so that rot is found before a restore needs the bytes.

What is not what was written is `damaged`. What could not be read for another reason (a storage that is away or refuses,
an engine that is not installed) is `unchecked`, and never called rot. What is deleted meanwhile is `gone`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from dataguardian.core.backupkeys import NO_KEYS, BackupKeys
from dataguardian.core.catalog import Listing, list_backups, load_manifest
from dataguardian.core.progress import Progress, Report, silent
from dataguardian.core.verify import VerifyReport, run_verify
from dataguardian.domain.artifact import Manifest
from dataguardian.domain.errors import (
    CancelledError,
    DataGuardianError,
    IntegrityError,
    NotFoundError,
    ObjectMissingError,
    StorageDeniedError,
    StorageError,
    UnsupportedFormatError,
)
from dataguardian.engines.base import StreamValidator
from dataguardian.storage.base import Storage

Validators = Callable[[Manifest], StreamValidator]
"""Returns the check of the engine that made a backup; raises UsageError when there is no such engine."""


class Verdict(StrEnum):
    GOOD = "good"
    DAMAGED = "damaged"
    UNCHECKED = "unchecked"
    GONE = "gone"


@dataclass(frozen=True)
class Checked:
    """What became of one backup. `error` says why it is `unchecked`."""

    directory: str
    verdict: Verdict
    report: VerifyReport
    error: DataGuardianError | None = None


@dataclass
class ScrubReport:
    """`left_out` counts what the sample did not hold; `unfinished` are directories of runs that have no manifest."""

    checked: list[Checked] = field(default_factory=list)
    left_out: int = 0
    unfinished: list[str] = field(default_factory=list)

    def of(self, verdict: Verdict) -> list[Checked]:
        return [entry for entry in self.checked if entry.verdict is verdict]

    @property
    def ok(self) -> bool:
        """Nothing is damaged, and everything that was to be checked was."""
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """3 when anything is damaged, else the code of the first thing that could not be checked, else 0."""
        if self.of(Verdict.DAMAGED):
            return IntegrityError.exit_code
        return next((entry.error.exit_code for entry in self.checked if entry.error), 0)


def _tell_nobody(_: Checked) -> None:
    """For callers that wait for the end."""


def run_scrub(
    storage: Storage,
    *,
    sample_percent: float | None = None,
    validators: Validators | None = None,
    keys: BackupKeys = NO_KEYS,
    report: Report = silent,
    tell: Callable[[Checked], None] = _tell_nobody,
) -> ScrubReport:
    """Checks every backup of a storage, oldest first, or so many percent of them; with `validators` deeply.

    Of an encrypted backup that none of `keys` opens the stored bytes are checked; deeply, it counts as unchecked.
    `tell` is called with each result as it comes.

    Raises StorageError when the storage cannot even be listed. One that goes away later ends the scrub: what was
    found until then is returned, the rest as unchecked.
    """
    storage.free_space()  # tells a storage that is not there from an empty one
    listing = list_backups(storage)
    chosen = sampled(listing, sample_percent)
    known = dict(listing.backups)
    outcome = ScrubReport(
        left_out=len(listing.backups) + len(listing.unreadable) - len(chosen), unfinished=list(listing.unfinished)
    )
    scrub = _Scrub(storage, validators, keys, _Overall(report, known, chosen))
    for directory in chosen:
        outcome.checked.append(scrub.check(directory, known.get(directory)))
        tell(outcome.checked[-1])
    return outcome


def sampled(listing: Listing, percent: float | None) -> list[str]:
    """Returns directories in the order of the listing: all, or as many by chance as the percentage, but never none."""
    everything = [*(directory for directory, _ in listing.backups), *listing.unreadable]
    if percent is None or not everything:
        return everything
    count = min(len(everything), max(1, math.ceil(len(everything) * percent / 100)))
    places = sorted(random.sample(range(len(everything)), count))
    return [everything[place] for place in places]


class _Scrub:
    """One scrub in progress. `_away` is why the storage is not asked any more."""

    def __init__(self, storage: Storage, validators: Validators | None, keys: BackupKeys, overall: _Overall) -> None:
        self._storage = storage
        self._validators = validators
        self._keys = keys
        self._overall = overall
        self._away: StorageError | None = None

    def check(self, directory: str, manifest: Manifest | None) -> Checked:
        level: Literal["stored", "deep"] = "deep" if self._validators else "stored"
        nothing = VerifyReport(directory, level)
        if self._away is not None:
            return Checked(directory, Verdict.UNCHECKED, nothing, self._away)
        self._overall.begin(directory, manifest)
        try:
            found = self._verify(directory, manifest)
        except CancelledError:
            raise
        except (NotFoundError, ObjectMissingError) as error:
            verdict = Verdict.GONE if self._is_gone(directory) else Verdict.UNCHECKED
            return Checked(directory, verdict, nothing, None if verdict is Verdict.GONE else error)
        except DataGuardianError as error:
            self._look_after(directory, error)
            return Checked(directory, Verdict.UNCHECKED, nothing, error)
        finally:
            self._overall.end()
        if found.ok is None:
            return Checked(directory, Verdict.UNCHECKED, found, found.not_checked)
        found.level = level
        if found.ok:
            return Checked(directory, Verdict.GOOD, found)
        return Checked(directory, Verdict.GONE if self._is_gone(directory) else Verdict.DAMAGED, found)

    def _verify(self, directory: str, manifest: Manifest | None) -> VerifyReport:
        """Raises what keeps the backup from being checked; damage is in the report."""
        try:
            manifest = manifest or load_manifest(self._storage, directory)
        except UnsupportedFormatError:
            raise
        except IntegrityError:
            validate = None
        else:
            validate = self._validators(manifest) if self._validators else None
        return run_verify(self._storage, directory, validate=validate, keys=self._keys, report=self._overall.tell)

    def _is_gone(self, directory: str) -> bool:
        """Tells whether a backup is being deleted: its manifest goes first."""
        try:
            load_manifest(self._storage, directory)
        except ObjectMissingError:
            return True
        except DataGuardianError:
            return False
        return False

    def _look_after(self, directory: str, error: DataGuardianError) -> None:
        """After a part that could not be read: is it that part, or the storage as a whole?"""
        if not isinstance(error, StorageError) or isinstance(error, StorageDeniedError):
            return
        try:
            load_manifest(self._storage, directory)
        except (IntegrityError, ObjectMissingError, StorageDeniedError):
            return
        except StorageError as away:
            self._away = away


class _Overall:
    """Makes one progress of the progress of many backups: raw bytes of all that are to be checked."""

    def __init__(self, report: Report, known: dict[str, Manifest], chosen: Sequence[str]) -> None:
        self._report = report
        self._total_bytes = sum(known[directory].size_bytes for directory in chosen if directory in known)
        self._label = "1 backup" if len(chosen) == 1 else f"{len(chosen)} backups"
        self._ended_bytes = self._size_bytes = self._before_bytes = self._ended_parts = 0
        self._latest = Progress(phase="verify")

    def begin(self, directory: str, manifest: Manifest | None) -> None:
        self._directory = directory
        self._size_bytes = manifest.size_bytes if manifest else 0
        self._before_bytes = 0
        self._latest = Progress(phase="verify")

    def tell(self, progress: Progress) -> None:
        if progress.stream != self._latest.stream:
            self._before_bytes += self._latest.size_bytes
        self._latest = progress
        within = min(self._size_bytes, self._before_bytes + progress.size_bytes)
        self._report(
            replace(
                progress,
                stream=self._label,
                size_bytes=self._ended_bytes + within,
                parts=self._ended_parts + progress.parts,
                total_bytes=self._total_bytes or None,
            )
        )

    def end(self) -> None:
        self._ended_bytes += self._size_bytes
        self._ended_parts += self._latest.parts
