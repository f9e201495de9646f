"""Sources, targets and storages that lie in each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dataguardian.core.backup import run_backup
from dataguardian.core.catalog import list_backups
from dataguardian.core.overlap import path_within
from dataguardian.core.restore import run_restore
from dataguardian.core.strategies import back_up as back_up_to
from dataguardian.core.targets import Target
from dataguardian.core.verify import run_verify
from dataguardian.domain.errors import UsageError
from dataguardian.domain.states import Strategy
from dataguardian.engines.base import RestoreOptions
from dataguardian.engines.files import FilesConfig, FilesEngine
from dataguardian.engines.files import validate as validate_files
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.retrying import wrap
from tests.core.bytes_engine import BytesEngine, BytesStream, plan


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a file, and a storage inside of it."""
    home = tmp_path / "home"
    (home / "my [backups]").mkdir(parents=True)
    (home / "file").write_text("content")
    return home


def storage_at(path: Path) -> LocalStorage:
    return LocalStorage(LocalConfig(path=str(path)))


def back_up(source: Path, storage: Path, **more: Any) -> str:
    engine = FilesEngine(FilesConfig(source_path=str(source)))
    return run_backup(plan("all", engine="files", **more), engine, wrap(storage_at(storage))).directory


def test_a_source_that_contains_its_storage(home: Path) -> None:
    """Refused before anything is written, and the hint is the very pattern that makes it work."""
    storage = home / "my [backups]"
    with pytest.raises(UsageError, match="would read what it writes") as caught:
        back_up(home, storage)
    assert list(storage.iterdir()) == []
    pattern = caught.value.hint.split("--exclude ")[1].strip("'")
    directory = back_up(home, storage, exclude=(pattern,))
    assert run_verify(storage_at(storage), directory, validate=validate_files).ok
    restored = home.parent / "restored"
    run_restore(storage_at(storage), directory, FilesEngine(FilesConfig(source_path=str(restored))), "files")
    assert [path.name for path in restored.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("patterns", "refused"),
    [
        ({"exclude": ("/my*/",)}, False),
        ({"exclude": ("my*",)}, False),
        ({"include": ("/file",)}, False),
        ({"include": ("*.txt",)}, False),
        ({"include": ("*.json",)}, True),
        ({"include": ("my*",)}, True),
        ({"include": ("my*",), "exclude": ("/my*",)}, False),
        ({"exclude": ("*.zst",)}, True),
        ({"exclude": ("/my*/all/",)}, True),
        ({"exclude": ("/file",)}, True),
        ({"exclude": ("*", "!file")}, False),
    ],
)
def test_what_patterns_make_of_it(home: Path, patterns: dict[str, tuple[str, ...]], refused: bool) -> None:
    """Only patterns that leave out everything that the backup writes are good enough."""
    if refused:
        with pytest.raises(UsageError, match="contains the storage"):
            back_up(home, home / "my [backups]", **patterns)
    else:
        back_up(home, home / "my [backups]", **patterns)


@pytest.mark.parametrize("way", ["itself", "by link", "storage by link", "its job's folder", "dots"])
def test_the_same_folder_by_another_name(home: Path, way: str) -> None:
    """The storage itself as source, links to either, a source that is the very folder the backup goes to."""
    storage, source = home / "my [backups]", home
    link = home.parent / "link"
    if way == "itself":
        source = storage
    elif way == "by link":
        link.symlink_to(home)
        source = link
    elif way == "storage by link":
        link.symlink_to(storage)
        storage = link
    elif way == "its job's folder":
        source = storage / "all"
        source.mkdir()
    else:
        source = home / "my [backups]" / ".."
    with pytest.raises(UsageError, match="contains the storage"):
        back_up(source, storage)


def test_neighbours_do_not_overlap(home: Path) -> None:
    """A storage whose path merely begins like the source's, and a source inside the storage's root, are fine."""
    (home.parent / "home2").mkdir()
    back_up(home, home.parent / "home2")
    (home.parent / "home2" / "data").mkdir()
    (home.parent / "home2" / "data" / "file").write_text("x")
    back_up(home.parent / "home2" / "data", home.parent / "home2", execution_id="0002")


@pytest.mark.parametrize("where", ["holds it", "is it", "above", "job", "run", "inside a run"])
def test_a_restore_over_its_own_storage(home: Path, tmp_path: Path, where: str) -> None:
    """--drop-existing on a folder that holds the storage, or on a part of it, must not destroy the backups."""
    storage = tmp_path / "outer" / "storage"
    storage.mkdir(parents=True)
    directory = back_up(home / "my [backups]", storage)
    target = {
        "holds it": tmp_path / "outer",
        "is it": storage,
        "above": tmp_path,
        "job": storage / "all",
        "run": storage / directory,
        "inside a run": storage / directory / "new",
    }[where]
    engine = FilesEngine(FilesConfig(source_path=str(target)))
    with pytest.raises(UsageError, match="overlap"):
        run_restore(wrap(storage_at(storage)), directory, engine, "files", options=RestoreOptions(drop_existing=True))
    assert [found for found, _ in list_backups(storage_at(storage)).backups] == [directory]
    assert run_verify(storage_at(storage), directory, validate=validate_files).ok


def test_a_restore_beside_the_backups(home: Path, tmp_path: Path) -> None:
    """A target next to the jobs' folders harms nothing and is allowed."""
    storage = tmp_path / "storage"
    storage.mkdir()
    directory = back_up(home, storage)
    run_restore(storage_at(storage), directory, FilesEngine(FilesConfig(source_path=str(storage / "back"))), "files")
    assert (storage / "back" / "file").read_text() == "content"
    assert [found for found, _ in list_backups(storage_at(storage)).backups] == [directory]


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [("a/b/c", "a", "b/c"), ("a", "a", ""), ("a", "a/b", None), ("ab", "a", None), ("a/../x", "a", None)],
)
def test_path_within(tmp_path: Path, path: str, folder: str, expected: str | None) -> None:
    """Neither needs to exist."""
    assert path_within(str(tmp_path / path), str(tmp_path / folder)) == expected


@pytest.mark.parametrize("strategy", list(Strategy))
def test_one_folder_is_not_two_storages(tmp_path: Path, strategy: Strategy) -> None:
    """Also by a link or a detour; a folder beside it, or inside of it, is another one."""
    (tmp_path / "disk" / "inside").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("disk")

    def taken(*names: str) -> None:
        targets = [Target(name, storage_at(tmp_path / name)) for name in names]
        back_up_to(
            plan(execution_id=names[1].replace("/", "")),
            lambda: BytesEngine(BytesStream("one", b"1")),
            targets,
            strategy,
        )

    for twin in ("disk", "link", "other/../disk"):
        with pytest.raises(UsageError, match="are the same folder"):
            taken("disk", twin)
    assert list(list_backups(storage_at(tmp_path / "disk")).backups) == []
    taken("disk", "other")
    taken("disk", "disk/inside")
