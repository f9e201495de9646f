"""Which of the client programs on this machine may dump a server: its own flavour's, the newest of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines.mysql.config import Flavour
from dataguardian.engines.processes import run_child
from dataguardian.engines.tools import find_sets
from dataguardian.engines.tools import install_command as manager_command
from dataguardian.registry import ClientProgram

_NAMES: dict[Flavour, tuple[str, ...]] = {"MariaDB": ("mariadb-dump", "mysqldump"), "MySQL": ("mysqldump",)}
_PATTERNS = ("/usr/local/mysql/bin", "/opt/homebrew/opt/m[ay]*/bin", "/usr/lib/mysql*/bin")
_PACKAGES: dict[Flavour, dict[str, str]] = {
    "MariaDB": {"": "mariadb-client", "dnf": "mariadb", "pacman": "mariadb-clients", "brew": "mariadb"},
    "MySQL": {"apt-get": "mysql-client", "dnf": "mysql", "zypper": "mysql-community-client", "brew": "mysql-client"},
}
_REPOSITORIES = "https://dev.mysql.com/downloads/repo/"
_MARIADB = re.compile(r"(?:Distrib |from )?(\d+\.\d+\.\d+)-MariaDB")
_MYSQL = re.compile(r"(?:Ver|Distrib) (\d+\.\d+\.\d+)(?![\d.]*-MariaDB)")


@dataclass(frozen=True)
class DumpProgram:
    """mysqldump or mariadb-dump; `flavour` is whose it is, whatever it is called."""

    path: str
    name: str
    flavour: Flavour
    version: str

    @property
    def release(self) -> tuple[int, ...]:
        return tuple(map(int, self.version.split(".")))

    @property
    def client(self) -> str:
        """The interactive client that belongs to it, for commands by hand."""
        return "mariadb" if self.name == "mariadb-dump" else "mysql"


def installed() -> list[DumpProgram]:
    """Returns the programs found, on PATH first; a link to another one counts once."""
    found: dict[str, DumpProgram] = {}
    for name in _NAMES["MariaDB"]:
        for tools in find_sets((name,), patterns=_PATTERNS):
            path = tools.path(name)
            if known := _identify(path):
                found.setdefault(str(Path(path).resolve()), DumpProgram(path, name, *known))
    return list(found.values())


def program_for(flavour: Flavour, what: str) -> DumpProgram:
    """Returns the newest program of the server's flavour, else of the other; raises MissingToolError."""
    found = installed()
    fitting = [program for program in found if program.flavour == flavour] or found
    if not fitting:
        raise MissingToolError(
            f"{what} needs {_NAMES[flavour][0]}, which is not installed",
            hint=f"{install_command(flavour)}, or put the folder that holds it on PATH",
        )
    return max(fitting, key=lambda program: program.release)


def client_programs(flavour: Flavour) -> list[ClientProgram]:
    """Returns what `doctor` shows for one of the two types."""
    install = install_command(flavour)
    found = [program for program in installed() if program.flavour == flavour] or installed()
    if not found:
        return [ClientProgram(_NAMES[flavour][0], None, None, install)]
    return [ClientProgram(program.name, program.path, program.version, install) for program in found]


def install_command(flavour: Flavour) -> str:
    command = manager_command(_PACKAGES[flavour], f"install {_NAMES[flavour][0]} of {flavour}")
    # Few distributions carry MySQL's own programs.
    return command if flavour == "MariaDB" else f"{command} (MySQL's own repositories: {_REPOSITORIES})"


@cache
def _identify(path: str) -> tuple[Flavour, str] | None:
    code, output, _ = run_child([path, "--version"], timeout_seconds=10.0)
    text = output.decode("utf-8", "replace")
    if code == 0 and (match := _MARIADB.search(text)):
        return "MariaDB", match[1]
    if code == 0 and (match := _MYSQL.search(text)):
        return "MySQL", match[1]
    return None
