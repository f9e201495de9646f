"""MongoDB's own client programs on this machine. Only mongodump is ever run; mongorestore is for restoring by hand."""

from __future__ import annotations

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines.tools import ToolSet, find_sets
from dataguardian.engines.tools import install_command as manager_command
from dataguardian.registry import ClientProgram

_PACKAGE = "mongodb-database-tools"
_PACKAGES = {"apt-get": _PACKAGE, "dnf": _PACKAGE, "zypper": _PACKAGE, "brew": f"mongodb/brew/{_PACKAGE}"}
_DOWNLOADS = "https://www.mongodb.com/try/download/database-tools"


def find_mongodump() -> ToolSet | None:
    return next(iter(find_sets(("mongodump",))), None)


def needed_mongodump() -> ToolSet:
    """Raises MissingToolError."""
    found = find_mongodump()
    if found is None:
        raise MissingToolError(
            "mongodump is not on PATH, and dump_with=mongodump was asked for",
            hint=f"{install_command()}, or leave dump_with out: the driver writes the same archive",
        )
    return found


def install_command() -> str:
    return f"{manager_command(_PACKAGES, f'install {_PACKAGE}')} (from MongoDB's own repository, or {_DOWNLOADS})"


def client_programs() -> list[ClientProgram]:
    """Returns both programs for `doctor`; neither is needed, because the driver does their work."""
    return [_program(name) for name in ("mongodump", "mongorestore")]


def _program(name: str) -> ClientProgram:
    found = next(iter(find_sets((name,))), None)
    if found is None:
        return ClientProgram(name, None, None, install_command(), required=False)
    return ClientProgram(name, found.path(name), found.version, install_command(), required=False)
