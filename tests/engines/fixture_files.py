"""Folders for the conformance suite."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dataguardian.domain.urls import parse_url
from tests.acceptance.comparing import tree
from tests.acceptance.sources import odd_tree
from tests.conftest import require_tool
from tests.engines.conformance import EngineFixture

ODD = [
    "-rf",
    "a=b c",
    "quo'te\"s\\ and spaces",
    "ÜPPER lower 日本 🐘",
    "x?y#z",
    "%s{}$1 %41",
    "...",
    "new\nline",
    "\udcff\udcfe",
]


class FilesFixture(EngineFixture):
    type = "files"
    is_server = False
    is_consistent = False  # a file system has no snapshot that an ordinary user could take

    def __init__(self) -> None:
        require_tool("tar")
        self._folder = Path(tempfile.mkdtemp(prefix="dg-files-"))
        self._numbers = itertools.count(1)

    def close(self) -> None:
        shutil.rmtree(self._folder)

    def sample(self) -> str:
        return _address(odd_tree(self._new()))

    def large(self) -> str:
        path = self._new()
        path.mkdir()
        for number in range(30):
            (path / f"file {number}").write_bytes(random.Random(number).randbytes(1_000_000))
        return _address(path)

    def empty(self) -> str:
        path = self._new()
        path.mkdir()
        return _address(path)

    def target(self) -> str:
        return _address(self._new())

    def odd(self) -> Sequence[str]:
        return [self._odd(name) for name in ODD]

    def missing(self) -> str:
        return _address(self._new())

    def content(self, address: str) -> Mapping[str, Any]:
        path = parse_url(address).path
        found = tree(path) if os.path.isdir(path) else {}  # noqa: PTH112 -- names that are not UTF-8
        return {os.fsdecode(name): what for name, what in found.items()}

    def names(self) -> set[str]:
        """Folders only: files come and go with their content."""
        return {folder for folder, _, _ in os.walk(self._folder)}

    def _new(self, name: str = "x") -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder / name

    def _odd(self, name: str) -> str:
        path = self._new(name)
        path.mkdir()
        (path / name).write_text(name, errors="surrogateescape")
        return _address(path)


def _address(path: Path) -> str:
    return f"files://{quote(os.fsencode(path))}"


FIXTURES = [FilesFixture]
