"""Storages for the pipeline's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataguardian.storage.local import LocalConfig, LocalStorage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of a local storage."""
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(LocalConfig(path=str(root)))
