"""Sources, targets and storages that are one: a folder must not be backed up into itself, nor a restore replace the
storage that it reads from, nor one folder pass for two copies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import combinations

from dataguardian.domain import artifact
from dataguardian.domain.errors import ObjectMissingError, UsageError
from dataguardian.engines.base import DumpOptions, Engine
from dataguardian.storage.base import Storage

_WRITTEN = (".temporary", artifact.MANIFEST, artifact.PARTS, artifact.SUMS, "01-data.tar/000001.zst")
"""What a backup writes, the first in the storage's root, the rest in its own folder."""


def refuse_self_backup(engine: Engine, options: DumpOptions, storage: Storage, directory: str) -> None:
    """Raises UsageError when a dump would read what its own backup, in `directory`, writes into a local storage."""
    if engine.local_path is None or storage.local_path is None:
        return
    names = [_WRITTEN[0], *(f"{directory}/{name}" for name in _WRITTEN[1:])]
    places = [path_within(os.path.join(storage.local_path, name), engine.local_path) for name in names]  # noqa: PTH118 -- bytes that are not UTF-8
    if any(place is not None and engine.reads(place, options) for place in places):
        raise UsageError(
            f"the source {_shown(engine.local_path)} contains the storage {_shown(storage.local_path)}: the backup "
            "would read what it writes",
            hint=_way_out(path_within(storage.local_path, engine.local_path)),
        )


def refuse_self_restore(engine: Engine, storage: Storage) -> None:
    """Raises UsageError when the target holds the local storage that is restored from, or lies among its backups."""
    target, root = engine.local_path, storage.local_path
    if target is None or root is None:
        return
    inside = path_within(target, root)
    if path_within(root, target) is not None or (inside and _holds_backups(storage, inside.split("/")[0])):
        raise UsageError(
            f"the target {_shown(target)} and the storage {_shown(root)} overlap: the restore would replace backups",
            hint="choose a target outside of the storage",
        )


def refuse_twins(storages: Sequence[Storage]) -> None:
    """Raises UsageError when two of the storages are one local folder, whatever their names."""
    folders = [storage.local_path for storage in storages if storage.local_path is not None]
    for one, other in combinations(folders, 2):
        if path_within(one, other) == "":
            raise UsageError(
                f"the storages {_shown(one)} and {_shown(other)} are the same folder: there would be one copy, not two",
                hint="give each a folder of its own, on another disk",
            )


def path_within(path: str, folder: str) -> str | None:
    """Returns `path` relative to `folder` ('' for the folder itself), None when it lies elsewhere.

    Links are resolved, and folders compared by what they are, not by name. Neither needs to exist.
    """
    here, rest = os.path.realpath(path), list[str]()
    wanted = os.path.realpath(folder)
    while not (here == wanted or _same(here, wanted)):
        parent, name = os.path.split(here)
        if parent == here:
            return None
        here, rest = parent, [name, *rest]
    return "/".join(rest)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 -- bytes that are not UTF-8
    except OSError:
        return False


def _holds_backups(storage: Storage, job: str) -> bool:
    for run in storage.folders(job):
        try:
            storage.stat(f"{job}/{run}/{artifact.MANIFEST}")
        except ObjectMissingError:
            continue
        return True
    return False


def _way_out(place: str | None) -> str:
    """Returns the hint; `place` is the storage relative to the source, as an exclude pattern would name it."""
    if not place or not place.isprintable():
        return "choose a storage outside of the source"
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", f"/{place}/")
    return f"choose a storage outside of the source, or leave it out: --exclude '{pattern}'"


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
