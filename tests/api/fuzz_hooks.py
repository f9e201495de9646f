"""What schemathesis is told about us: ids that exist, so that it gets past 404, and folders that are ours to write in.

Loaded by `schemathesis run` through SCHEMATHESIS_HOOKS; the environment says what test_fuzz.py prepared.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any

import schemathesis

NOBODY = "00000000-0000-7000-8000-000000000000"
KNOWN: dict[str, list[str]] = json.loads(os.environ["DATAGUARDIAN_FUZZ_KNOWN"])
FOLDER = os.environ["DATAGUARDIAN_FUZZ_FOLDER"]
OWN_TOKEN = os.environ["DATAGUARDIAN_FUZZ_OWN_TOKEN"]


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Puts an id that exists into most paths; a DELETE seldom gets one, or soon nothing would be left."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    mapped = dict(path_parameters)
    for name, value in path_parameters.items():
        number = zlib.crc32(repr(value).encode())
        known = KNOWN.get(f"{context.operation.path} {name}") or KNOWN.get(name)
        often = 8 if context.operation.method.upper() == "DELETE" else 1
        if known and number % (often * 3) < 2:
            mapped[name] = known[number % len(known)]
    return mapped


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Passes every request, also boundaries and ids that answers told, which are made without the hooks for values.

    The token that signs in stays, or nothing but 401 would follow, and storage locations stay below one folder: their
    tests write there.
    """
    for name, value in (case.path_parameters or {}).items():
        if OWN_TOKEN in str(value).lower():
            case.path_parameters[name] = NOBODY
    if (body := _in_folder(case.body)) is not case.body:
        case.body = body


def _in_folder(body: Any) -> Any:
    config = body.get("config") if isinstance(body, dict) else None
    if isinstance(config, dict) and isinstance(config.get("path"), str) and config["path"].startswith("/"):
        return body | {"config": config | {"path": FOLDER}}
    return body
