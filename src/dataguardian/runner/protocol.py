"""What the service and its runner say to each other: JSON, one message per line.

To the runner: the `Task` on the first line, then an `Answer` per question. From the runner: `Message` lines. The end of
the runner's standard input means that the service has died: the runner then stops as if it had been told to.
Secrets travel only here, through a pipe.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dataguardian.core.backup import BackupPlan

MAX_LINE_BYTES = 256 * 1024 * 1024
"""A result holds a record per part."""


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackupOrder(_Line):
    """`earlier` are directories of earlier attempts: a valid manifest there is adopted instead of dumping again."""

    plan: BackupPlan
    earlier: tuple[str, ...] = ()


class RestoreOrder(_Line):
    directory: str
    drop_existing: bool = False
    streams: tuple[str, ...] = ()


class VerifyOrder(_Line):
    directory: str
    deep: bool = False


class Task(_Line):
    """One piece of work. Exactly one order is set; `engine` and `storage` are configurations with secrets in clear."""

    storage: dict[str, Any]
    engine: dict[str, Any] | None = None
    backup: BackupOrder | None = None
    restore: RestoreOrder | None = None
    verify: VerifyOrder | None = None


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
