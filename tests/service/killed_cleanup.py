"""Cleans up and kills itself at a delete: `python -m tests.service.killed_cleanup HOME QUEUE DELETES_BEFORE`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from pathlib import Path

from dataguardian.db.models import StorageLocation
from dataguardian.db.session import Database
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.service.cleanup import Cleanup
from dataguardian.service.context import Context
from dataguardian.service.events import Events
from dataguardian.service.vault import Key, Vault
from dataguardian.settings import Settings
from dataguardian.storage.base import Storage
from dataguardian.storage.local import LocalConfig, LocalStorage
from tests.service.stage import SettableClock


class Deadly(LocalStorage):
    left = 0

    def delete(self, path: str) -> None:
        if Deadly.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        Deadly.left -= 1
        super().delete(path)


def deadly(row: StorageLocation, _: Vault) -> Storage:
    return Deadly(LocalConfig.model_validate({"type": "local", **row.config}))


async def main(home: str, url: str, deletes: str) -> None:
    Deadly.left = int(deletes)
    settings = Settings(staging_dir=Path(home), home=Path(home))
    database = Database(settings.catalogue_url)
    boot = uuid.uuid4().hex
    context = Context(settings, SettableClock(), database, Queues(url), Live(url), boot, boot, Vault([Key.generate()]))
    await Cleanup(context, Events(context), opener=deadly).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
