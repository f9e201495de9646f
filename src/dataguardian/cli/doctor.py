"""`dataguardian doctor`: what this installation can do, and what to install for the rest."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dataguardian import __version__
from dataguardian.cli import output
from dataguardian.cli.options import Json
from dataguardian.domain.errors import MissingToolError
from dataguardian.domain.sizes import format_size

if TYPE_CHECKING:
    from dataguardian.registry import Adapter, ClientProgram

Document = dict[str, Any]

HELPERS = {
    "setpriv": ("ends client programs even when this program is killed", "util-linux"),
    "stdbuf": ("reads faster from client programs", "coreutils"),
}
"""What each is for, and the package that brings it everywhere."""


def doctor(*, json: Json = False) -> int:
    """Show engines, storages, client programs and what is missing."""
    document = _examine()
    if json:
        output.show_json(document)
    else:
        _show(document)
    return 0 if document["ok"] else MissingToolError.exit_code


def _examine() -> Document:
    """Returns the JSON document. `ok`: at least one engine, one storage and the staging folder can be used."""
    from dataguardian.engines.registry import ENGINES
    from dataguardian.settings import Settings
    from dataguardian.storage.registry import STORAGES

    engines = [_adapter(adapter) for _, adapter in sorted(ENGINES.adapters.items())]
    storages = [_adapter(adapter) for _, adapter in sorted(STORAGES.adapters.items())]
    staging = _folder(str(Settings.from_environment().staging_dir))
    usable = [any(entry["usable"] for entry in entries) for entries in (engines, storages)]
    return {
        "ok": all(usable) and staging["writable"],
        "version": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "platform": platform.platform(),
        "engines": engines,
        "storages": storages,
        "compressions": _compressions(),
        "helpers": [_helper(name) for name in HELPERS],
        "staging": staging,
    }


def _adapter(adapter: Adapter[Any]) -> Document:
    programs = adapter.programs()
    complete = all(program.path is not None for program in programs if program.required)
    return {
        "type": adapter.type,
        "example": adapter.example,
        "installed": adapter.installed,
        "usable": adapter.installed and complete,
        "install": None if adapter.installed else f"pip install 'dataguardian[{adapter.type}]'",
        "programs": [_program(program) for program in programs],
    }


def _program(program: ClientProgram) -> Document:
    return {
        "name": program.name,
        "path": program.path,
        "version": program.version,
        "required": program.required,
        "install": None if program.path is not None else program.install,
    }


def _compressions() -> list[Document]:
    from importlib.metadata import version

    from dataguardian.streams.codecs import CODECS

    packages = {"zstd": "zstandard", "gzip": "isal", "lz4": "lz4"}
    return [
        {
            "name": name,
            "default_level": codec.default_level,
            "library": f"{packages[name]} {version(packages[name])}" if name in packages else None,
        }
        for name, codec in CODECS.items()
    ]


def _helper(name: str) -> Document:
    from dataguardian.engines.tools import install_command

    path = shutil.which(name)
    purpose, package = HELPERS[name]
    install = None if path else install_command({"": package}, f"install {package}")
    return {"name": name, "path": path, "purpose": purpose, "install": install}


def _folder(path: str) -> Document:
    try:
        free_bytes = shutil.disk_usage(path).free
    except OSError:
        return {"path": path, "writable": False, "free_bytes": None}
    return {"path": path, "writable": os.access(path, os.W_OK | os.X_OK), "free_bytes": free_bytes}


def _show(document: Document) -> None:
    for kind in ("engines", "storages"):
        output.show_fields(kind, {entry["type"]: _entry_text(entry) for entry in document[kind]}, style="bold")
        output.show("")
    staging = document["staging"]
    free = "not there" if staging["free_bytes"] is None else f"{format_size(staging['free_bytes'])} free"
    output.show_fields(
        f"dataguardian {document['version']}",
        {
            "python": f"{document['python']['version']} ({document['python']['executable']})",
            "platform": document["platform"],
            "compressions": ", ".join(_compression_text(entry) for entry in document["compressions"]),
            "staging": f"{staging['path']}, {free}{'' if staging['writable'] else ', NOT WRITABLE'}",
        },
        style="bold",
    )
    for helper in document["helpers"]:
        if helper["path"] is None:
            output.warn(f"{helper['name']} is missing: it {helper['purpose']} ({helper['install']})")
    if not document["ok"]:
        output.warn("nothing can be backed up yet: install what is missing above")


def _entry_text(entry: Document) -> str:
    lines = [f"{'ok' if entry['usable'] else 'MISSING'}  {entry['example']}"]
    if entry["install"]:
        lines.append(f"Python package missing: {entry['install']}")
    programs = entry["programs"]
    lines += [_missing_text(program) for program in programs if not program["path"]]
    lines += _found_text([program for program in programs if program["path"]])
    return "\n    ".join(lines)


def _missing_text(program: Document) -> str:
    return f"{program['name']} is missing{'' if program['required'] else ' (optional)'}: {program['install']}"


def _found_text(programs: list[Document]) -> list[str]:
    """Returns a line per folder and release: `17.10  /usr/lib/postgresql/17/bin: pg_dump, pg_restore`."""
    folders: dict[str, list[str]] = {}
    for program in programs:
        folder = f"{program['version'] or '?'}  {PurePath(program['path']).parent}"
        folders.setdefault(folder, []).append(program["name"])
    return [f"{folder}: {', '.join(names)}" for folder, names in folders.items()]


def _compression_text(entry: Document) -> str:
    return f"{entry['name']} ({entry['library']})" if entry["library"] else str(entry["name"])
