"""What `make tour` shows: a sample database is backed up, verified, restored beside the original, and compared.

Every step is the real program, run as a user would run it; the comparison uses none of its code.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from dataguardian.cli.sample import make_shop
from dataguardian.domain.sizes import format_size


def tour(home: Path) -> int:
    """Runs the tour in `home`; returns 0 when the restored database equals the original."""
    original, restored, storage = home / "sample" / "shop.db", home / "sample" / "shop-restored.db", home / "backups"
    shutil.rmtree(home / "sample", ignore_errors=True)
    for folder in (original.parent, storage):
        folder.mkdir(parents=True, exist_ok=True)
    rows = make_shop(original)
    _say("sample", f"{original.name}: {', '.join(f'{count} {name}' for name, count in rows.items())}")
    taken = _run("backup", _address("sqlite", original), _address("file", storage), "--name", "shop")
    sizes = f"{format_size(taken['size_bytes'])} stored in {format_size(taken['compressed_size_bytes'])}"
    _say("backup", f"{sizes}, {taken['duration_seconds']:.2f} s")
    _run("verify", "--deep", taken["backup"])
    _say("verify", "deep: every part and the whole dump are good")
    back = _run("restore", taken["backup"], _address("sqlite", restored))
    _say("restore", f"{restored.name} beside the original, {back['duration_seconds']:.2f} s")
    digests = [_digest(path) for path in (original, restored)]
    if digests[0] != digests[1]:
        _say("compare", "the restored database DIFFERS from the original")
        return 1
    _say("compare", f"equal, by an SQL dump of both (SHA-256 {digests[0][:16]}…)")
    _tell_places({"original": original, "restored": restored, "backups": storage}, taken["backup"])
    return 0


def _run(verb: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "dataguardian", verb, *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 -- our own program
    answer: dict[str, Any] = json.loads(done.stdout)
    if done.returncode:
        sys.exit(f"{verb} failed: {answer.get('message') or answer.get('errors')}")
    return answer


def _address(scheme: str, path: Path) -> str:
    return path.resolve().as_uri().replace("file://", f"{scheme}://", 1)


def _digest(path: Path) -> str:
    """Returns the SHA-256 of the statements that would make this database again."""
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path)) as database:
        for statement in database.iterdump():
            digest.update(statement.encode() + b"\n")
    return digest.hexdigest()


def _tell_places(places: dict[str, Path], backup: str) -> None:
    print()  # noqa: T201 -- this is a program's output
    for name, path in places.items():
        _say(name, str(path.resolve()))
    print(  # noqa: T201 -- as above
        f"\nNow yours:\n  . .venv/bin/activate\n  dataguardian list {shlex.quote(backup.rsplit('/', 2)[0])}\n"
        "  dataguardian backup files:///etc file:///somewhere/safe"
    )


def _say(step: str, text: str) -> None:
    print(f"  {step:<9} {text}", flush=True)  # noqa: T201 -- this is a program's output


if __name__ == "__main__":
    sys.exit(tour(Path(sys.argv[1])))
