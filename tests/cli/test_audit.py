"""`dataguardian audit` against a running service: the list, an export, and what its checks find."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dataguardian.domain.auditlog import GENESIS, chained
from tests.cli.service import Service

ROOT = Path(__file__).parents[2]


def test_the_log_is_listed_exported_and_checked(service: Service) -> None:
    """What was made is told with who made it; export and log are whole, and an anchor of one fits the other."""
    made = service.prepared()
    text = service.told("audit", "list", "--action", "backup_job.create")
    assert made.name in text
    listed = service.ok("audit", "list", "--entity-type", "datasource", "--limit", "100")["data"]
    assert {"token", "system"} <= {line["actor_kind"] for line in listed}
    file = service.folder / f"{made.name}.jsonl"
    written = service.ok("audit", "export", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (written["ok"], written["lines"]) == (True, len(file.read_text().splitlines()))
    assert service.ok("audit", "verify", str(file)) == written
    assert service.ok("audit", "verify", "--anchor", written["anchor"])["lines"] >= written["lines"]
    later = service.folder / f"{made.name}-later.jsonl"
    service.told("audit", "export", str(later), "--after", str(written["last"]))
    assert "were not checked" in service.told("audit", "verify", str(later))
    refused = service.run("audit", "verify", "--anchor", f"99999:{'0' * 64}", "--json")
    assert (refused.code, refused.json["error"]) == (3, "integrity")
    assert "its tail is gone" in refused.json["message"]


def test_the_documented_check_holds(service: Service, tmp_path: Path) -> None:
    """What docs/audit.md has people run, without us, agrees with `verify` about a whole and about an edited file."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "audit.md").read_text(), re.DOTALL)[0]
    service.prepared()
    written = service.ok("audit", "export", str(tmp_path / "audit.jsonl"))
    options: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], check=False, **options)
    assert done.stdout.split() == [str(written["last"]), written["head"]], done.stderr
    (tmp_path / "audit.jsonl").write_text((tmp_path / "audit.jsonl").read_text().replace("create", "update", 1))
    assert "AssertionError: 1\n" in subprocess.run([sys.executable, "-c", code], check=False, **options).stderr


def test_every_kind_of_damage_to_an_export_is_named(service: Service, tmp_path: Path) -> None:
    """An edited, a missing, a swapped, a doubled line, a cut tail, other text: exit 3 with the first line that is not
    right. A whole rewritten chain is found by an anchor alone.
    """
    service.prepared()
    file = tmp_path / "audit.jsonl"
    service.told("audit", "export", str(file))
    good = file.read_text().splitlines()
    edited = json.loads(good[2]) | {"actor_name": "nobody"}
    anchor = f"{len(good)}:{json.loads(good[-1])['hash']}"
    damages = {
        3: [*good[:2], json.dumps(edited), *good[3:]],
        2: [good[0], *good[2:]],
        4: [*good[:3], good[4], good[3], *good[5:]],
        5: [*good[:4], good[3], *good[4:]],
        len(good): good[:-1],
        1: ["[[[[" * 100_000],
    }
    for broken, lines in damages.items():
        file.write_text("\n".join(lines) + "\n")
        told = service.run("audit", "verify", str(file), "--anchor", anchor, "--json")
        assert (told.code, told.json["details"]["broken"]) == (3, broken), told.stdout
    previous, forged = GENESIS, []
    for text in good:
        line = json.loads(text) | {"actor_name": "nobody", "previous_hash": previous}
        previous = line["hash"] = chained(previous, line)
        forged.append(json.dumps(line))
    file.write_text("\n".join(forged) + "\n")
    service.told("audit", "verify", str(file))
    told = service.run("audit", "verify", str(file), "--anchor", anchor, "--json")
    assert (told.code, told.json["details"]["broken"]) == (3, len(good))


@pytest.mark.parametrize("given", ["1", "x:y", f"1:{'A' * 64}", f"-1:{'a' * 64}"])
def test_an_anchor_that_is_none_is_refused(given: str, service: Service, tmp_path: Path) -> None:
    """Wrong usage, before anything is read."""
    assert "anchor" in service.refused(2, "audit", "verify", str(tmp_path / "none"), f"--anchor={given}")
