"""MongoDB's own client programs on this machine. Only mongodump is ever run; mongorestore is for restoring by hand."""

from __future__ import annotations

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines.tools import ToolSet, find_sets
from dataguardian.engines.tools import install_command as manager_command
from dataguardian.registry import ClientProgram

_PACKAGE = "mongodb-database-tools"
_PACKAGES = {"apt-get": _PACKAGE, "dnf": _PACKAGE, "zypper": _PACKAGE, "brew": f"mongodb/brew/{_PACKAGE}"}
_DOWNLOADS = "https://www.mongodb.com/try/download/database-tools"
_OLDEST = (100, 9, 1)
"""Before this release mongodump mixes up the fields of options, so that a view comes back sorted by something else;
100.4.0 leaves out documents with a field of no name; older ones know no time series.
"""


def find_mongodump() -> ToolSet | None:
    """Returns the first mongodump on PATH that is new enough."""
    return next((found for found in find_sets(("mongodump",)) if _release(found) >= _OLDEST), None)


def _release(found: ToolSet) -> tuple[int, ...]:
    return tuple(map(int, found.version.split(".")))


def needed_mongodump() -> ToolSet:
    """Raises MissingToolError."""
    found = find_mongodump()
    if found is None:
        old = next(iter(find_sets(("mongodump",))), None)
        oldest = ".".join(map(str, _OLDEST))
        what = "mongodump is not on PATH" if old is None else f"{old.path('mongodump')} is older than {oldest}"
        raise MissingToolError(
            f"{what}, and dump_with=mongodump was asked for",
            hint=f"{install_command()}, or leave dump_with out: the driver writes the same archive",
        )
    return found


def install_command() -> str:
    return f"{manager_command(_PACKAGES, f'install {_PACKAGE}')} (from MongoDB's own repository, or {_DOWNLOADS})"


def client_programs() -> list[ClientProgram]:
    """Returns both programs for `doctor`; neither is needed, because the driver does their work."""
    mongorestore = next(iter(find_sets(("mongorestore",))), None)
    return [_program("mongodump", find_mongodump()), _program("mongorestore", mongorestore)]


def _program(name: str, found: ToolSet | None) -> ClientProgram:
    if found is None:
        return ClientProgram(name, None, None, install_command(), required=False)
    return ClientProgram(name, found.path(name), found.version, install_command(), required=False)
