"""Whole-program stories: the installed command, real servers, stock tools."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cli.program import Program
from tests.conftest import missing
from tests.storage.peers import end_shared


@pytest.fixture(scope="session", autouse=True)
def _peers_end_with_the_session() -> Iterator[None]:
    yield
    end_shared()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def small_disk() -> Iterator[Callable[..., Path]]:
    """Mounts a file system of a given size, in memory, on a folder; unmounts it at the end."""
    with ExitStack() as stack:

        def mount(folder: Path, size: str, *options: str) -> Path:
            folder.mkdir(exist_ok=True)
            flags = ",".join([f"size={size}", "mode=0755", *options])
            command = ["mount", "-t", "tmpfs", "-o", flags, "tmpfs", str(folder)]
            if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
                missing("the right to mount a tmpfs")
            stack.callback(subprocess.run, ["umount", "--lazy", str(folder)], capture_output=True, check=False)
            return folder

        yield mount
