"""schemathesis against the running API's own document: no server error, and nothing that the document does not say."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dataguardian.api import stream
from tests.api.stage import Desk, play

CHECKS = os.environ.get(
    "DATAGUARDIAN_FUZZ_CHECKS",
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
)
SECONDS = int(os.environ.get("DATAGUARDIAN_FUZZ_SECONDS", "60"))
"""Time for generated requests; what the document itself suggests (examples, boundaries) comes before that."""
SEED = os.environ.get("DATAGUARDIAN_FUZZ_SEED", "1")


@pytest.mark.timeout(SECONDS + 300)
def test_the_api_is_what_its_document_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests of every kind that the document allows, and of kinds that it does not."""
    monkeypatch.setattr(stream, "MOST_SECONDS", 1.0)  # streams of work that nobody carries out would not end

    async def story(desk: Desk) -> None:
        known = await _furnished(desk)
        async with desk.served() as url:
            own = (await desk.get("/api/session")).json()["id"]
            code, output = await _fuzzed(url, known, tmp_path / "storage-of-shop", desk.token, own)
            assert (await desk.get("/api/session")).status_code == 200
        assert code == 0, output[-20_000:]
        assert "Test cases" in output or "passed" in output, output

    play(tmp_path, story)


async def _furnished(desk: Desk) -> dict[str, list[str]]:
    """Makes one of everything; returns their ids by the names that paths use."""
    job, other = await desk.job(), await desk.job("other")
    backup = await desk.backup(job)
    path = f"/api/executions/{backup.id}"
    verification = (await desk.post(f"{path}/verify")).json()["verification_id"]
    restore = (await desk.post(f"{path}/restore", {"confirm": "shop"})).json()["restore_id"]
    queued = (await desk.post(f"/api/backup-jobs/{other['id']}/run")).json()["execution_id"]
    channels = {"ops": {"type": "webhook", "url": "http://127.0.0.1:1/"}}
    await desk.put("/api/system/settings/notifications", {"value": {"channels": channels}})
    user = await desk.made("/api/users", {"name": "anna", "password": "four words that differ", "role": "viewer"})
    token = await desk.made("/api/tokens", {"name": "ci", "role": "viewer"})
    return {
        "user_id": [user["id"]],
        "token_id": [token["id"]],
        "datasource_id": [job["datasource_id"], other["datasource_id"]],
        "storage_location_id": [job["storage_location_id"]],
        "job_id": [job["id"], other["id"]],
        "/api/system/queues/{queue}/jobs/{job_id}/retry job_id": [f"{queued}-1"],
        "execution_id": [str(backup.id), queued],
        "work_id": [restore, verification],
        "notification_id": [row["id"] for row in (await desk.get("/api/notifications")).json()["data"]],
        "name": ["ops"],
        "key": ["notifications", "cleanup", "pruning"],
    }


async def _fuzzed(url: str, known: dict[str, Any], folder: Path, token: str, own: str) -> tuple[int, str]:
    """Runs schemathesis as the program that it is; returns its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "schemathesis.cli", "run", f"{url}/api/openapi.json", "--checks", CHECKS, "--seed", SEED),
        *("--max-time", str(SECONDS), "--continue-on-failure", "--request-timeout", "30", "--no-color"),
        *("--header", f"Authorization: Bearer {token}"),
        *("--suppress-health-check", "all", "--warnings", "off"),
        cwd=folder,
        env=os.environ
        | {
            "SCHEMATHESIS_HOOKS": "tests.api.fuzz_hooks",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "DATAGUARDIAN_FUZZ_KNOWN": json.dumps(known),
            "DATAGUARDIAN_FUZZ_FOLDER": str(folder),
            "DATAGUARDIAN_FUZZ_OWN_TOKEN": own,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, output.decode("utf-8", "replace")
