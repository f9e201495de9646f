"""On PostgreSQL, where transactions do not wait for each other by themselves; and by a real service with TLS."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dataguardian.domain.access import Role
from tests.api.access_stage import PASSWORD, bearer, client, token, user
from tests.api.stage import Desk, play
from tests.api.test_access_gate import certificate
from tests.faults.service import RedisServer
from tests.servers import PostgresServer, free_port


@pytest.fixture
def servers(tmp_path: Path, postgres17: PostgresServer) -> Iterator[dict[str, str]]:
    redis = RedisServer(tmp_path / "redis")
    yield {"database_url": postgres17.url(postgres17.database()), "redis_url": redis.url}
    redis.stop()


def test_on_postgresql_one_wins_a_race_and_one_administrator_stays(tmp_path: Path, servers: dict[str, str]) -> None:
    """Strangers who claim at once, administrators who demote each other at once, codes that are spent at once."""

    async def story(desk: Desk) -> None:
        secret = await desk.services.setup.issue()
        async with client(desk, "192.0.2.1") as http:
            names = ("anna", "eve", "bob", "carl")
            bodies = [{"token": secret, "name": name, "password": PASSWORD} for name in names]
            claims = [await_status(http.post("/api/setup", json=body)) for body in bodies]
            assert sorted(await asyncio.gather(*claims)) == [201, 409, 409, 409]
        await user(desk, "otto")
        people = (await desk.get("/api/users")).json()["data"]
        both = [await_status(desk.put(f"/api/users/{row['id']}", {"enabled": False})) for row in people]
        assert sorted(await asyncio.gather(*both)) == [200, 409]
        gone = [await_status(desk.delete(f"/api/users/{row['id']}")) for row in people]
        assert sorted(await asyncio.gather(*gone)) == [204, 409]

    play(tmp_path, story, **servers)


def test_on_postgresql_limits_hold(tmp_path: Path, servers: dict[str, str]) -> None:
    """Lists, numbers and single rows of an operator of one datasource, and its overview."""

    async def story(desk: Desk) -> None:
        mine, other = await desk.job("mine"), await desk.job("other")
        backups = [await desk.backup(job) for job in (mine, other)]
        limit = frozenset({backups[0].datasource_id})
        async with client(desk, **bearer(await token(desk, Role.OPERATOR, datasource_ids=limit))) as http:
            for path in ("/api/datasources", "/api/backup-jobs", "/api/executions"):
                assert (await http.get(path)).json()["pagination"]["total"] == 1
            overview = (await http.get("/api/system/overview")).json()
            assert (overview["backup_jobs"], overview["last_24_hours"]["completed"]) == (1, 1)
            stored = {row["name"]: row["backups"] for row in overview["storage_locations"]}
            assert stored == {"of-mine": 1, "of-other": 0}
            assert (await http.get(f"/api/executions/{backups[1].id}")).status_code == 404
            for path in ("/api/restores", "/api/verifications", "/api/repairs", "/api/health", "/api/notifications"):
                assert (await http.get(path)).status_code == 200
            assert (await http.post("/api/notifications/read-all")).status_code == 200

    play(tmp_path, story, **servers)


async def await_status(answer: object) -> int:
    """Returns the status of an answer that is on its way."""
    return (await answer).status_code  # type: ignore[misc]


def test_a_service_on_the_network_speaks_tls_and_shows_its_setup_token_once(tmp_path: Path) -> None:
    """From `up` to the first administrator: the token is on the console, and in no log, file or later answer."""
    cert, key = certificate(tmp_path)
    home, port = tmp_path / "home", free_port()
    environment = os.environ | {
        "DATAGUARDIAN_HOME": str(home),
        "DATAGUARDIAN_TLS_CERT": str(cert),
        "DATAGUARDIAN_TLS_KEY": str(key),
    }
    argv = [sys.executable, "-m", "dataguardian", "up", "--host", "0.0.0.0", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    try:
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        secret = next(line["setup_token"] for line in lines if "setup_token" in line)
        trust = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust) as http:
            assert http.get("/api/setup").json() == {"needed": True}
            person = {"name": "anna", "password": PASSWORD}
            assert http.post("/api/setup", json=person | {"token": secret}).status_code == 201
            signed_in = http.post("/api/session", json=person)
            assert signed_in.headers["set-cookie"].startswith("__Host-dataguardian=")
            assert "strict-transport-security" in signed_in.headers
            assert http.get("/api/users").json()["pagination"]["total"] == 1
            assert http.post("/api/setup", json=person | {"token": secret}).status_code == 409
            handed_out = [secret, PASSWORD, http.cookies["__Host-dataguardian"], signed_in.json()["csrf_token"]]
            headers = bearer((home / "local-token").read_text().strip())
            assert httpx.get(f"https://localhost:{port}/api/session", headers=headers, verify=trust).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://localhost:{port}/health")
    finally:
        process.terminate()
        process.wait(60)
    written = log.read_bytes() + b"".join(path.read_bytes() for path in home.glob("catalogue.db*"))
    assert not [text for text in handed_out if text.encode() in written]
    assert b"without TLS" not in written
