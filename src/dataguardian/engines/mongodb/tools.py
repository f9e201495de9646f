"""MongoDB's own client programs on this machine. Only mongodump is ever run; mongorestore is for restoring by hand."""

from __future__ import annotations

from dataguardian.domain.errors import MissingToolError
from dataguardian.engines.base import ClientProgram
from dataguardian.engines.tools import ToolSet, find_sets

_INSTALL = "apt install mongodb-database-tools (from MongoDB's package repository)"


def find_mongodump() -> ToolSet | None:
    return next(iter(find_sets(("mongodump",))), None)


def needed_mongodump() -> ToolSet:
    """Raises MissingToolError."""
    found = find_mongodump()
    if found is None:
        raise MissingToolError(
            "mongodump is not on PATH, and dump_with=mongodump was asked for",
            hint=f"{_INSTALL}, or leave dump_with out: the driver writes the same archive",
        )
    return found


def client_programs() -> list[ClientProgram]:
    """Returns both programs for `doctor`; neither is needed, because the driver does their work."""
    return [_program(name) for name in ("mongodump", "mongorestore")]


def _program(name: str) -> ClientProgram:
    found = next(iter(find_sets((name,))), None)
    if found is None:
        return ClientProgram(name, None, None, _INSTALL, required=False)
    return ClientProgram(name, found.path(name), found.version, _INSTALL, required=False)
