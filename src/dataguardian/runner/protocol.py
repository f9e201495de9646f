"""What the service and its runner say to each other: JSON, one message per line.

To the runner: the `Task` on the first line, then an `Answer` per question. From the runner: `Message` lines. The end of
the runner's standard input means that the service has died: the runner then stops as if it had been told to.
Secrets travel only here, through a pipe.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dataguardian.core.backup import BackupPlan
from dataguardian.core.targets import DEFAULT_LAG_SECONDS
from dataguardian.domain.states import Strategy

UNEXPECTED = "unexpected"
"""The word for an exception that nobody foresaw: a defect."""
MAX_LINE_BYTES = 256 * 1024 * 1024
"""A result holds a record per part."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackupOrder(_Line):
    """`earlier` are directories of earlier attempts: a valid manifest there is adopted instead of dumping again.

    `bandwidth_limit_mbps` holds for each storage on its own, beside the storage's own limit. `encryption` is the job's,
    with a passphrase in clear.
    """

    plan: BackupPlan
    earlier: tuple[str, ...] = ()
    strategy: Strategy = Strategy.REPLICATE
    lag_seconds: float = DEFAULT_LAG_SECONDS
    bandwidth_limit_mbps: float | None = None
    encryption: dict[str, Any] | None = Field(default=None, repr=False)


class RestoreOrder(_Line):
    """`checksum` is the backup's, when it is known: a storage that holds another backup in its place is not read.

    `keys` open an encrypted backup: identities and passphrases in clear.
    """

    directory: str
    checksum: str | None = None
    drop_existing: bool = False
    streams: tuple[str, ...] = ()
    keys: dict[str, list[str]] = Field(default={}, repr=False)


class VerifyOrder(_Line):
    directory: str
    checksum: str | None = None
    deep: bool = False
    keys: dict[str, list[str]] = Field(default={}, repr=False)


class RepairOrder(_Line):
    """The task's `storage` is to get what its `others` hold."""

    directory: str
    checksum: str | None = None


class Place(_Line):
    """A storage location: what people call it, and its configuration with secrets in clear."""

    name: str
    config: dict[str, Any]


class Task(_Line):
    """One piece of work. Exactly one order is set; `engine` and `storage` are configurations with secrets in clear.

    `others` are further storages: where a backup goes too, or where the same backup lies.
    """

    storage: dict[str, Any]
    storage_name: str = "the storage"
    others: tuple[Place, ...] = ()
    engine: dict[str, Any] | None = None
    backup: BackupOrder | None = None
    restore: RestoreOrder | None = None
    verify: VerifyOrder | None = None
    repair: RepairOrder | None = None

    @property
    def places(self) -> list[Place]:
        """All storages, in the order of the results' `targets`."""
        return [Place(name=self.storage_name, config=self.storage), *self.others]


class Answer(_Line):
    go: bool


class Failure(_Line):
    """An error of the tree in domain/errors.py, as it crosses the process border."""

    error: str
    message: str
    details: dict[str, Any]
    transient: bool
    stack: str


class Message(_Line):
    """One line from the runner; exactly one member besides `kind` is set."""

    kind: Literal["progress", "log", "confirm", "result", "failure"]
    data: dict[str, Any] = {}
