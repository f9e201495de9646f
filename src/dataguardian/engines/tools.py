"""Client programs: where they lie on this machine and which version they are.

Programs that belong together (pg_dump and pg_restore) are only ever taken from one folder, as a `ToolSet`, because
mixed releases read each other's files badly.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines.processes import run_child

_VERSION = re.compile(r"(?<![\w.])(\d+(?:\.\d+)*)")
_PROBE_SECONDS = 10.0


_MANAGERS = {
    "apt-get": "apt-get install -y {}",
    "dnf": "dnf install -y {}",
    "zypper": "zypper --non-interactive install {}",
    "apk": "apk add {}",
    "pacman": "pacman -S --noconfirm {}",
    "brew": "brew install {}",
}


def package_manager() -> str | None:
    """Returns the program that installs packages on this machine: apt-get, dnf, zypper, apk, pacman or brew."""
    return next((name for name in _MANAGERS if shutil.which(name)), None)


def install_command(packages: Mapping[str, str], otherwise: str) -> str:
    """Returns the exact command for this machine. `packages` names what to install, by package manager; `""` stands
    for those that are not named. `otherwise` is what to say where no manager has it.
    """
    manager = package_manager()
    package = None if manager is None else packages.get(manager, packages.get(""))
    if manager is None or package is None:
        return otherwise
    return as_administrator(_MANAGERS[manager].format(package), manager)


def as_administrator(command: str, manager: str) -> str:
    return command if os.geteuid() == 0 or manager == "brew" else f"sudo {command}"


@dataclass(frozen=True)
class ToolSet:
    """Programs of one release in one folder. `programs` maps a name to its path; `version` is like `17.10`."""

    folder: str
    version: str
    programs: Mapping[str, str]

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def path(self, name: str) -> str:
        """Raises MissingToolError when the folder has no such program."""
        if name not in self.programs:
            raise MissingToolError(f"{self.folder} has no {name}, although its other programs are there", tool=name)
        return self.programs[name]


def find_sets(
    names: Sequence[str], *, patterns: Sequence[str] = (), wheels: Mapping[str, str] | None = None, likely: str = ""
) -> Iterator[ToolSet]:
    """Yields the sets that hold every one of `names`, in the order PATH, folders matching `patterns`, wheels.

    `wheels` maps an importable package to the folder of programs inside it. The version is the first program's, which
    is asked when its set is due: whoever stops early saves the rest. `likely` is a part of a path, such as a release's
    number; folders that have it come before others of `patterns`.
    """
    for folder in _folders(patterns, wheels or {}, likely):
        found = _set_in(folder, tuple(names))
        if found is not None:
            yield found


def _folders(patterns: Sequence[str], wheels: Mapping[str, str], likely: str) -> Iterator[Path]:
    seen: set[Path] = set()
    for folder in _candidates(patterns, wheels, likely):
        if folder.is_absolute() and folder not in seen:
            seen.add(folder)
            yield folder


def _candidates(patterns: Sequence[str], wheels: Mapping[str, str], likely: str) -> Iterator[Path]:
    yield from (Path(entry) for entry in os.environ.get("PATH", os.defpath).split(os.pathsep) if entry)
    matches = (sorted(glob.glob(pattern), reverse=True) for pattern in patterns)  # noqa: PTH207 -- absolute
    folders = [Path(match) for found in matches for match in found]
    yield from sorted(folders, key=lambda folder: not likely or likely not in re.split(r"[/@-]", str(folder)))
    for package, inside in wheels.items():
        spec = importlib.util.find_spec(package)
        yield from (Path(place) / inside for place in (spec.submodule_search_locations or () if spec else ()))


def _set_in(folder: Path, names: tuple[str, ...]) -> ToolSet | None:
    programs = {name: folder / name for name in names}
    if not all(_is_program(path) for path in programs.values()):
        return None
    status = programs[names[0]].stat()
    version = _version_of(str(programs[names[0]]), status.st_mtime_ns, status.st_size)
    if version is None:
        return None
    return ToolSet(str(folder), version, {name: str(path) for name, path in programs.items()})


def _is_program(path: Path) -> bool:
    # Debian's pg_wrapper chooses a release by its own rules; the programs behind it are found where they lie.
    return os.access(path, os.X_OK) and path.is_file() and path.resolve().name != "pg_wrapper"


@cache
def _version_of(path: str, mtime_ns: int, size_bytes: int) -> str | None:  # noqa: ARG001 -- they key the cache
    try:
        code, output, _ = run_child([path, "--version"], timeout_seconds=_PROBE_SECONDS)
    except (OSError, MissingToolError):
        return None
    match = _VERSION.search(output.decode("utf-8", "replace"))
    return match[1] if code == 0 and match else None
