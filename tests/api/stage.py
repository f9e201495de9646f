"""A stage for stories about the API: the real application on a real catalogue and a real queue server."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from dataguardian.api.app import create_app
from dataguardian.bootstrap.service import listen
from dataguardian.db.models import BackupExecution
from dataguardian.queues.consumer import Consumer
from dataguardian.queues.definitions import QueueName
from dataguardian.service.services import Services, assemble
from dataguardian.workers.restore import RestoreWorker
from tests.service.stage import Stage, stage
from tests.signed import signed, token_of

BASE_URL = "http://localhost:8484"


@dataclass
class Desk:
    """The API, and what is behind it. Calls return httpx's answers; they are the administrator's of this machine."""

    here: Stage
    app: FastAPI
    services: Services
    http: httpx.AsyncClient

    @property
    def token(self) -> str:
        return token_of(self.here.context.settings.home)

    @property
    def headers(self) -> dict[str, str]:
        """What a request of one's own needs to be the administrator's."""
        return {"Authorization": f"Bearer {self.token}"}

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self.http.get(path, params=query)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.http.post(path, **({} if body is None else {"json": body}), **options)

    async def put(self, path: str, body: Any) -> httpx.Response:
        return await self.http.put(path, json=body)

    async def delete(self, path: str, **query: Any) -> httpx.Response:
        return await self.http.delete(path, params=query)

    async def made(self, path: str, body: Any) -> dict[str, Any]:
        """Creates something and returns it."""
        answer = await self.post(path, body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def datasource(self, name: str = "shop", **fields: Any) -> dict[str, Any]:
        path = self.here.folder / f"{name}.db"
        database(path)
        body = {"name": name, "type": "sqlite", "connection_config": {"file_path": str(path)}}
        return await self.made("/api/datasources", body | fields)

    async def storage(self, name: str = "disk", **fields: Any) -> dict[str, Any]:
        folder = self.here.folder / f"storage-{name}"
        folder.mkdir(exist_ok=True)
        body = {"name": name, "type": "local", "config": {"path": str(folder)}}
        return await self.made("/api/storage-locations", body | fields)

    async def job(self, name: str = "shop", **fields: Any) -> dict[str, Any]:
        """A job on a small SQLite database, with a storage of its own."""
        source = await self.datasource(name)
        storage = await self.storage(f"of-{name}")
        body = {"name": name, "datasource_id": source["id"], "storage_location_id": storage["id"]}
        return await self.made("/api/backup-jobs", body | fields)

    async def backup(self, job: dict[str, Any]) -> BackupExecution:
        """Runs a job to its end and returns the completed execution."""
        started = await self.post(f"/api/backup-jobs/{job['id']}/run")
        assert started.status_code == 202, started.text
        async with self.here.working():
            done = await self.here.until(uuid.UUID(started.json()["execution_id"]), "completed", "failed")
        assert done.status == "completed", done.error_message
        return done

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[asyncio.Event]:
        """A worker for restores and verifications is at work within the block; yields the event of a shutdown."""
        stopping = asyncio.Event()
        worker = RestoreWorker(self.services.context, self.services.work, stopping)
        consumer = Consumer(self.services.context.queues.url, QueueName.RESTORE, worker.process)
        consumer.start()
        try:
            yield stopping
        finally:
            await consumer.stop(0.1, hurry=stopping)

    async def ended(self, path: str, seconds: float = 60) -> dict[str, Any]:
        """Waits until what is under an address has ended, and returns it."""
        async with asyncio.timeout(seconds):
            while True:
                row = (await self.get(path)).json()
                if row["status"] not in {"queued", "running"}:
                    return dict(row)
                await asyncio.sleep(0.1)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """Serves the application on a real port within the block; yields its address."""
        listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            self.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            self.app.state.stopping.set()
            server.should_exit = True
            await serving


Story = Callable[[Desk], Awaitable[None]]


def play(folder: Path, story: Story, **servers: str) -> None:
    """Plays a story on a stage of its own; `servers` are `database_url` and `redis_url` of real ones."""

    asyncio.run(performed(folder, story, **servers))


async def performed(folder: Path, story: Story, **servers: str) -> None:
    """Like `play`, for those who have a loop already."""
    async with stage(folder, **servers) as here:
        services = assemble(here.context)
        app = create_app(services)
        home = here.context.settings.home
        await services.tokens.make_local(home, here.context.home_id)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        options: dict[str, Any] = {"transport": transport, "base_url": BASE_URL, "timeout": 60}
        async with httpx.AsyncClient(**options, auth=signed(home)) as http:
            await story(Desk(here, app, services, http))


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    try:
        yield connection
        connection.commit()
    finally:
        connection.close()


def database(path: Path, note: str = "hello") -> None:
    """Writes a small SQLite database."""
    with opened(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, body TEXT)")
        connection.execute("INSERT INTO notes (body) VALUES (?)", (note,))


def notes(path: Path) -> list[str]:
    with opened(path) as connection:
        return [row[0] for row in connection.execute("SELECT body FROM notes ORDER BY id")]


def is_error(answer: httpx.Response, status: int, error: str | None = None) -> dict[str, Any]:
    """Checks that an answer is an error of the one shape, and returns it."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"] == "application/json"
    body = dict(answer.json())
    assert set(body) == {"error", "message", "details"}
    assert body["message"]
    if error is not None:
        assert body["error"] == error, body
    return body
