"""What every service and worker is given. Built by bootstrap, and by nobody else."""

from __future__ import annotations

from dataclasses import dataclass, field

from dataguardian.db.session import Database
from dataguardian.domain.clock import Clock
from dataguardian.queues.live import Live
from dataguardian.queues.producer import Queues
from dataguardian.service.holding import Holding
from dataguardian.service.vault import Vault
from dataguardian.settings import Settings


@dataclass(frozen=True)
class Context:
    """`home_id` names the home directory for ever, `boot_id` this start of it: a row of another boot of the same home
    belongs to a process that is dead, because the home's lock lets only one live.
    """

    settings: Settings
    clock: Clock
    db: Database
    queues: Queues
    live: Live
    home_id: str
    boot_id: str
    vault: Vault
    holding: Holding = field(default_factory=Holding)

    @property
    def worker(self) -> str:
        """Who holds a row: `<home id>/<boot id>`."""
        return f"{self.home_id}/{self.boot_id}"
