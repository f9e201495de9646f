"""Several storages that hold the same backup: which of them to read it from."""

from __future__ import annotations

from collections.abc import Sequence

from dataguardian.core.catalog import Backup, load_backup
from dataguardian.core.verify import check_recorded, presence_problems, sums_problems
from dataguardian.domain.errors import DamagedPartError, DataGuardianError, IntegrityError, NotFoundError, StorageError
from dataguardian.storage.base import Storage


def choose_copy(
    storages: Sequence[Storage], directory: str, *, checksum: str | None = None
) -> tuple[Backup, list[Storage]]:
    """Returns a backup's records, and the storages, with the one first that the records came from.

    That is the first one whose records are there and belong together. Raises what is wrong with the first storage when
    there is none, and the error itself when it is the only one. `checksum`, when it is known, must be the backup's.
    """
    first: DataGuardianError | None = None
    for storage in storages:
        try:
            backup = load_backup(storage, directory)
            check_recorded(backup, checksum)
            if len(storages) > 1:
                _check_records(storage, backup)
        except (IntegrityError, StorageError, NotFoundError) as error:
            first = first or error
        else:
            return backup, [storage, *(other for other in storages if other is not storage)]
    assert first is not None  # noqa: S101 -- there is a storage
    raise first


def missing_everywhere(storages: Sequence[Storage], backup: Backup) -> list[str]:
    """Returns a sentence for every part that no storage holds in its size. One that does not answer holds nothing."""
    problems = list(presence_problems(storages[0], backup))
    for storage in storages[1:]:
        if not problems:
            break
        try:
            here = {_path_of(text) for text in presence_problems(storage, backup)}
        except StorageError:
            continue
        problems = [text for text in problems if _path_of(text) in here]
    return problems


def _check_records(storage: Storage, backup: Backup) -> None:
    for problem in sums_problems(storage, backup):
        raise DamagedPartError(f"{backup.directory}: {problem}")


def _path_of(problem: str) -> str:
    return problem.split(" ", 1)[0]
