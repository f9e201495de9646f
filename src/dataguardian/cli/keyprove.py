"""`dataguardian key prove`: that a key still opens the newest backups, tried where the key is kept.

The service sends records and one part of each backup, encrypted as they are stored; the key stays here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dataguardian.cli import look, output
from dataguardian.cli.client import Document, ServiceUrl, connect
from dataguardian.cli.console import at_home
from dataguardian.cli.credentials import TokenFile
from dataguardian.cli.key import key
from dataguardian.cli.keyoptions import IdentityFiles, PassphraseFile, keys_from
from dataguardian.cli.options import Json
from dataguardian.core.proofrecords import MOST_CHARACTERS
from dataguardian.domain.errors import (
    DataGuardianError,
    IntegrityError,
    KeyNeededError,
    NotFoundError,
    UsageError,
    WrongKeyError,
)

if TYPE_CHECKING:
    from dataguardian.core.backupkeys import BackupKeys
    from dataguardian.service.services import Services

PROOFS = "/api/system/key-proofs"


@dataclass(frozen=True)
class Tried:
    """How it went with one job. `keys` are those that opened its newest backup; `error` says why none did."""

    job: str
    backup: str
    keys: Sequence[str]
    error: DataGuardianError | None = None
    execution_id: str = ""

    def document(self) -> dict[str, Any]:
        told = None if self.error is None else {"error": self.error.code, "message": self.error.message}
        return {"job": self.job, "backup": self.backup, "keys": list(self.keys), "error": told}


@key.command()
def prove(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="JOB…", help="Only these jobs; else every one that is encrypted.")
    ] = None,
    *,
    identity_file: IdentityFiles = None,
    passphrase_file: PassphraseFile = None,
    console: Annotated[
        bool, typer.Option("--console", help="On the machine that holds the home: no service has to run.")
    ] = False,
    url: ServiceUrl = None,
    token_file: TokenFile = None,
    json: Json = False,
) -> None:
    """Prove that a key still opens the newest backup of each encrypted job, and have that recorded.

    The key does not leave this machine: the service sends what is encrypted, and is told what opened it.
    """
    keys = keys_from(identity_file, passphrase_file)
    if not keys:
        raise UsageError("no key was given", hint="--identity-file FILE, or --passphrase-file FILE")
    if console and (url or token_file):
        raise UsageError("--console asks no service", hint="leave --url and --token-file out")
    tried = _at_console(keys, jobs) if console else _by_service(keys, jobs, url, token_file)
    _show(tried, json=json)
    failed = [one.error for one in tried if one.error is not None]
    graver = [error for error in failed if not isinstance(error, WrongKeyError)]
    if graver or not any(one.keys for one in tried):  # a key that is for some of the jobs is as it should be
        raise typer.Exit((graver or failed)[0].exit_code)


def _by_service(keys: BackupKeys, jobs: list[str] | None, url: str | None, token_file: Path | None) -> list[Tried]:
    from dataguardian.cli.servedbackups import ServedBackups
    from dataguardian.core.proving import prove as proven

    tried: list[Tried] = []
    with connect(url, token_file) as client:
        for row in _chosen(client.rows(PROOFS), jobs):
            try:
                found = proven([ServedBackups(client, row)], row["directory"], keys, checksum=row["checksum"])
                client.post(PROOFS, {"execution_id": row["execution_id"], "keys": list(found.keys)})
            except DataGuardianError as error:
                tried.append(Tried(row["job_name"], row["directory"], (), error, row["execution_id"]))
            else:
                tried.append(Tried(row["job_name"], row["directory"], found.keys))
        for one, why in _failures(tried, jobs):
            body = {"execution_id": one.execution_id, "keys": [], "failure": why.message[:MOST_CHARACTERS]}
            client.post(PROOFS, body)
    return tried


def _at_console(keys: BackupKeys, jobs: list[str] | None) -> list[Tried]:
    async def work(services: Services) -> list[Tried]:
        known = await services.proofs.all()
        rows = [
            {"job_id": str(one.job_id), "job_name": one.job_name, "execution_id": one.execution_id} for one in known
        ]
        tried: list[Tried] = []
        for row in _chosen(rows, jobs):
            backup = await services.proofs.one(row["execution_id"])
            try:
                found = await services.proofs.prove(backup, keys)
            except DataGuardianError as error:
                tried.append(Tried(row["job_name"], backup.backup_path or "", (), error, str(backup.id)))
            else:
                tried.append(Tried(row["job_name"], backup.backup_path or "", found))
        for one, why in _failures(tried, jobs):
            await services.proofs.record_failure(uuid.UUID(one.execution_id), why.message)
        return tried

    return at_home(work)


def _failures(tried: Sequence[Tried], jobs: list[str] | None) -> list[tuple[Tried, DataGuardianError]]:
    """Returns what is to be recorded: damage, and keys that opened none at all, or not what somebody named.

    A key that opens some of all jobs says nothing of the others, whose keys are others.
    """
    meant = bool(jobs) or not any(one.keys for one in tried)
    return [
        (one, one.error)
        for one in tried
        if isinstance(one.error, IntegrityError) or (meant and isinstance(one.error, WrongKeyError | KeyNeededError))
    ]


def _chosen(rows: Sequence[Document], jobs: list[str] | None) -> list[Document]:
    """Returns the encrypted jobs that were named, by name or id. Raises NotFoundError."""
    if not rows:
        raise NotFoundError("no job has an encrypted backup yet", hint="`dataguardian job list` shows what there is")
    known = {row["job_name"]: row for row in rows} | {row["job_id"]: row for row in rows}
    unknown = [name for name in jobs or () if name not in known]
    if unknown:
        raise NotFoundError(
            f"no job {unknown[0]!r} has an encrypted backup",
            hint=f"there are: {', '.join(r['job_name'] for r in rows)}",
        )
    return [known[name] for name in dict.fromkeys(jobs)] if jobs else list(rows)


def _show(tried: Sequence[Tried], *, json: bool) -> None:
    if json:
        output.show_json(
            {
                "proven": [one.document() for one in tried if one.keys],
                "failed": [one.document() for one in tried if not one.keys],
            }
        )
        return
    rows = [
        [
            one.job,
            look.state("ok" if one.keys else "failed"),
            ", ".join(one.keys) or str(one.error and one.error.message),
        ]
        for one in tried
    ]
    look.show_table(["JOB", "", "OPENED BY"], rows)
