"""Everything that a recovery kit says, gathered from the catalogue and from the storages that can be read."""

from __future__ import annotations

import asyncio
import json
import platform
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian import __version__
from dataguardian.core.catalog import load_manifest
from dataguardian.db.models import BackupExecution, BackupJob, Datasource, StorageLocation
from dataguardian.db.repositories.definitions import DatasourceRepository, StorageRepository
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.db.repositories.recovery import RecoveryRepository
from dataguardian.db.repositories.targets import TargetRepository
from dataguardian.domain.artifact import Manifest
from dataguardian.domain.errors import DataGuardianError, SecretUnreadableError
from dataguardian.domain.urls import parse_url
from dataguardian.engines.registry import engine_config, engine_document
from dataguardian.service.acting import current_actor
from dataguardian.service.context import Context
from dataguardian.service.decryption import SETTING as DECRYPTION
from dataguardian.service.keycheck import KeyRecord, find_record
from dataguardian.service.keyring import KEY_FILE
from dataguardian.service.kit.document import Kit, KitBackup, KitCatalogue, KitJob, KitStorage
from dataguardian.service.kit.fingerprints import Fingerprints
from dataguardian.service.kit.pieces import Piece
from dataguardian.service.safekeeping import (
    document_of,
    model_of,
    opened,
    opened_config,
    owner_of,
    setting_owner,
    shown,
)
from dataguardian.service.selfguard import SETTING as SELFGUARD
from dataguardian.storage.registry import build_storage, storage_document

COMMANDS = "how_to_restore"
"""In an execution's `metadata`."""
KNOWN_HOSTS = "known_hosts"
"""In the home: the keys of SSH servers."""
AT_ONCE = 4
"""Manifests that are read at once."""
_SHOWN_ENVIRONMENT = ("host", "port")


@dataclass
class _Numbered:
    """Pieces, each with its number."""

    pieces: list[Piece] = field(default_factory=list)

    def add(self, title: str, text: str, *, verbatim: bool = False) -> Piece:
        """Returns the piece of this text; one that is there already is not written twice."""
        known = next((piece for piece in self.pieces if piece.text == text and piece.verbatim == verbatim), None)
        if known is None:
            known = Piece(f"k{len(self.pieces) + 1}", title, text, verbatim)
            self.pieces.append(known)
        return known


@dataclass(frozen=True)
class Rows:
    """What the catalogue has, read in one transaction. `newest` and `holders` are by job and by execution."""

    storages: Sequence[StorageLocation]
    datasources: Mapping[uuid.UUID, Datasource]
    jobs: Sequence[BackupJob]
    newest: Mapping[uuid.UUID, BackupExecution]
    holders: Mapping[uuid.UUID, Sequence[uuid.UUID]]
    decryption: Mapping[str, Any]
    own_job: str | None
    key: KeyRecord | None


async def read_rows(session: AsyncSession) -> Rows:
    settings, targets, recovery = SettingRepository(session), TargetRepository(session), RecoveryRepository(session)
    jobs = await JobRepository(session).all()
    newest = {job.id: row for job in jobs if (row := await recovery.newest_good(job.id)) is not None}
    return Rows(
        storages=await StorageRepository(session).all(),
        datasources={row.id: row for row in await DatasourceRepository(session).all()},
        jobs=jobs,
        newest=newest,
        holders={row.id: await targets.holders(row) for row in newest.values()},
        decryption=await settings.value(DECRYPTION) or {},
        own_job=(await settings.value(SELFGUARD) or {}).get("job_id"),
        key=await find_record(session),
    )


class Gathering:
    """Makes one kit."""

    def __init__(self, context: Context, rows: Rows) -> None:
        self._context = context
        self._vault = context.vault
        self._rows = rows
        self._numbered = _Numbered()
        self._gaps: list[str] = []
        self._names = {row.id: f"s{number}" for number, row in enumerate(rows.storages, start=1)}
        self._identities: dict[str, Piece] = {}

    async def kit(self) -> Kit:
        """Reads the manifests of the newest backups; a storage that does not answer only makes the kit say less."""
        prints = Fingerprints(self._vault)
        secret_keys = [
            self._numbered.add(
                f"secret key {key.id} of DataGuardian{'' if number else ', the one that is used'}", key.text
            )
            for number, key in enumerate(self._vault.keys)
        ]
        self._add_identities()
        known_hosts = await asyncio.to_thread(_text_of, self._context.settings.home / KNOWN_HOSTS)
        pins = (
            self._numbered.add("keys of SSH servers that DataGuardian has seen", known_hosts) if known_hosts else None
        )
        storages = [await asyncio.to_thread(self._storage, row, known_hosts) for row in self._rows.storages]
        manifests = await self._manifests()
        jobs = [self._job(row, manifests.get(row.id)) for row in self._rows.jobs]
        self._check_own(jobs)
        return Kit(
            taken_at=self._context.clock.now(),
            taken_by=current_actor().name,
            host=platform.node(),
            version=__version__,
            home=str(self._context.settings.home),
            timezone=self._context.settings.timezone,
            catalogue=self._catalogue(),
            environment=self._environment(),
            key_source=self._key_source(),
            pins=pins,
            secret_keys=secret_keys,
            pieces=self._numbered.pieces,
            storages=storages,
            jobs=jobs,
            gaps=self._gaps,
            covered=prints.covered(self._rows),
        )

    def _add_identities(self) -> None:
        """The service's own private keys: a piece for each, by the public key that it belongs to."""
        from dataguardian.core.proving import identities_in  # noqa: PLC0415 -- 25 MB that most homes can do without

        try:
            document = opened(self._rows.decryption, self._vault, setting_owner(DECRYPTION))
        except SecretUnreadableError as error:
            self._gaps.append(f"private keys of the service cannot be opened: {error.message}")
            return
        for text in document.get("identities") or ():
            for one in identities_in(text):
                title = f"private key of {one.recipient}, which opens encrypted backups"
                self._identities[one.recipient] = self._numbered.add(title, one.text)
        for text in document.get("passphrases") or ():
            self._numbered.add("a passphrase that the service tries on encrypted backups", text, verbatim=True)

    def _storage(self, row: StorageLocation, known_hosts: str) -> KitStorage:
        fields = _told(shown(row.config, model_of(row)))
        name, by_hand, address = self._names[row.id], None, ""
        pieces: dict[str, Piece] = {}
        try:
            config = storage_document(opened_config(row, self._vault))
            address, by_hand = config.describe(), config.by_hand(known_hosts)
        except DataGuardianError as error:
            self._gaps.append(f"the storage location {row.name}: {error.message}")
        if by_hand is not None:
            for key, text in by_hand.files.items():
                words = key.replace("_", " ")
                title = f"{words} of the storage location {row.name}"
                # What people are asked for, they type: it stays as it is.
                pieces[key] = self._numbered.add(title, text, verbatim=key in by_hand.asked)
            self._gaps += [f"the storage location {row.name}: {lacking}" for lacking in by_hand.lacking]
        elif address:
            self._gaps.append(f"the storage location {row.name} is of a type without commands: {row.type}")
            self._add_fields(row, pieces)
        return KitStorage(name, row.name, row.type, address, row.is_default, by_hand, pieces, fields)

    def _add_fields(self, row: StorageLocation, pieces: dict[str, Piece]) -> None:
        """Of a type that nobody has told us about, every secret field is a piece."""
        masks, clear = shown(row.config, model_of(row)), opened_config(row, self._vault)
        for key, value in clear.items():
            if key != "type" and masks.get(key) != value:
                text = value if isinstance(value, str) else json.dumps(value)
                pieces[key] = self._numbered.add(f"{key} of the storage location {row.name}", text)

    async def _manifests(self) -> dict[uuid.UUID, Manifest]:
        """Returns, by job, the manifests of those newest backups whose commands the catalogue does not have."""
        room = asyncio.Semaphore(AT_ONCE)
        rows = {row.id: row for row in self._rows.storages}

        async def read(job: BackupJob, row: BackupExecution) -> tuple[uuid.UUID, Manifest | None]:
            places = [rows[place] for place in self._rows.holders[row.id] if place in rows]
            async with room:
                return job.id, await asyncio.to_thread(self._manifest, job.name, row, places)

        named = {job.id: job for job in self._rows.jobs}
        found = await asyncio.gather(
            *(read(named[job_id], row) for job_id, row in self._rows.newest.items() if not row.details.get(COMMANDS))
        )
        return {job_id: manifest for job_id, manifest in found if manifest is not None}

    def _manifest(self, job: str, row: BackupExecution, places: Sequence[StorageLocation]) -> Manifest | None:
        reasons = []
        for place in places:
            try:
                storage = build_storage(storage_document(opened_config(place, self._vault)))
                manifest = load_manifest(storage, row.backup_path or "")
            except DataGuardianError as error:
                reasons.append(f"{place.name}: {error.message}")
                continue
            if manifest.checksum == row.checksum:
                return manifest
            reasons.append(f"{place.name} holds another backup in its place")
        words = "; ".join(reasons) or "no storage location is known that holds it"
        self._gaps.append(f"the newest backup of {job} could not be looked at ({words})")
        return None

    def _job(self, row: BackupJob, manifest: Manifest | None) -> KitJob:
        source = self._rows.datasources[row.datasource_id]
        execution = self._rows.newest.get(row.id)
        backup = self._backup(execution, manifest) if execution else None
        passphrase, told = self._encryption(row)
        identity = next(
            (self._identities[key] for key in (backup.recipients if backup else ()) if key in self._identities), None
        )
        return KitJob(
            title=row.name,
            datasource=source.name,
            engine=source.type,
            facts=self._facts(row, source, told),
            backup=backup,
            identity=identity,
            passphrase=passphrase if backup and backup.has_passphrase else None,
            is_own=str(row.id) == self._rows.own_job,
        )

    def _backup(self, row: BackupExecution, manifest: Manifest | None) -> KitBackup:
        encryption = row.details.get("encryption") or {}
        has_passphrase = bool(encryption.get("passphrase"))
        return KitBackup(
            directory=row.backup_path or "",
            checksum=row.checksum or "",
            taken_at=row.started_at or row.created_at,
            size_bytes=row.compressed_size_bytes or 0,
            storages=[self._names[place] for place in self._rows.holders[row.id] if place in self._names],
            server_version=str(row.details.get("server_version", "")),
            tools=[f"{tool['name']} {tool['version']}" for tool in row.details.get("tools", ())],
            version=row.details.get("dataguardian_version")
            or (manifest.dataguardian_version if manifest else "unknown"),
            recipients=[] if has_passphrase else encryption.get("recipients", []),
            has_passphrase=has_passphrase,
            compression=str(row.details.get("compression", "")),
            how_to_restore=row.details.get(COMMANDS) or (manifest.how_to_restore if manifest else None),
        )

    def _encryption(self, row: BackupJob) -> tuple[Piece | None, str]:
        """Returns the job's passphrase, and for whom its backups are encrypted."""
        try:
            encryption = opened(row.backup_options, self._vault, owner_of(row)).get("encryption") or {}
        except SecretUnreadableError as error:
            self._gaps.append(f"the backup job {row.name}: {error.message}")
            return None, "unknown"
        if encryption.get("passphrase"):
            piece = self._numbered.add(f"passphrase of the job {row.name}", encryption["passphrase"], verbatim=True)
            return piece, f"with a passphrase, which is {piece.name}"
        recipients = encryption.get("recipients") or ()
        elsewhere = [text for text in recipients if text not in self._identities]
        if recipients and len(elsewhere) == len(recipients):
            self._gaps.append(f"the private key of the backup job {row.name}: whoever holds {' or '.join(recipients)}")
        told = [
            f"{text} ({self._identities[text].name if text in self._identities else 'kept elsewhere'})"
            for text in recipients
        ]
        return None, f"for {', '.join(told)}" if told else "none"

    def _facts(self, row: BackupJob, source: Datasource, encryption: str) -> dict[str, str]:
        options = {
            key: value for key, value in shown(document_of(row), model_of(row)).items() if value not in (None, [], ())
        }
        further = options.pop("storage_targets", [])
        options.pop("encryption", None)
        place = self._names.get(row.storage_location_id) if row.storage_location_id else None
        storages = [place or "the default", *(self._names.get(uuid.UUID(target), target) for target in further)]
        schedule = (
            f"{row.schedule_cron} ({row.schedule_timezone})" if row.schedule_cron else "only when somebody starts it"
        )
        return {
            "what": f"{source.name}: {self._address(source)}",
            "where": ", ".join(storages),
            "schedule": schedule if row.enabled else f"{schedule}; switched off",
            "retention": _words(row.retention_policy),
            "encryption": encryption,
            "options": _words(options),
        }

    def _address(self, row: Datasource) -> str:
        try:
            return engine_document(opened_config(row, self._vault)).describe()
        except DataGuardianError:
            return f"{row.type}, {_words(shown(row.connection_config, model_of(row)))}"

    def _check_own(self, jobs: Sequence[KitJob]) -> None:
        """Says what a fire would take: a catalogue whose only backups lie beside it."""
        own = [job for job in jobs if job.is_own]
        held = {name for job in own if job.backup for name in job.backup.storages}
        if not held:
            self._gaps.append("no backup of DataGuardian's own catalogue is known: the service cannot be brought back")
            return
        for job in own:
            self._check_key(job)
        home = str(self._context.settings.home)
        apart = [row for row in self._rows.storages if self._names[row.id] in held and not _lies_in(row, home)]
        if not apart:
            self._gaps.append(
                f"the backups of DataGuardian's own catalogue lie in its home ({home}) only, and are lost with this "
                "machine: `dataguardian job edit dataguardian --storage NAME` sends them elsewhere"
            )

    def _check_key(self, job: KitJob) -> None:
        """Says that the catalogue which this kit brings back would be one without secrets."""
        key = self._rows.key
        if job.backup is None or key is None or not key.is_later_than(job.backup.taken_at):
            return
        if key.former_key_id not in {known.id for known in self._vault.keys}:
            self._gaps.append(
                f"the secret key {key.former_key_id}, which opens the secrets in the newest backup of DataGuardian's "
                f"own catalogue: run `dataguardian job run {shlex.quote(job.title)} --wait`, then take another kit"
            )

    def _catalogue(self) -> KitCatalogue | None:
        text = self._context.settings.database_url
        if text is None:
            return None
        url = parse_url(text)
        password = url.password.get_secret_value() if url.password else None
        return KitCatalogue(
            address=engine_config(url).describe(),
            url=self._numbered.add("DATABASE_URL, the address of the catalogue with its password", text),
            password=self._numbered.add("password of the catalogue", password, verbatim=True) if password else None,
        )

    def _key_source(self) -> str:
        settings = self._context.settings
        if settings.secret_key is not None:
            return "the variable DATAGUARDIAN_SECRET_KEY"
        return str(settings.secret_key_file or settings.home / KEY_FILE)

    def _environment(self) -> dict[str, str]:
        settings = self._context.settings
        found = {f"DATAGUARDIAN_{name.upper()}": getattr(settings, name) for name in _SHOWN_ENVIRONMENT}
        return {name: str(value) for name, value in found.items() if value is not None}


def _lies_in(row: StorageLocation, home: str) -> bool:
    path = row.config.get("path") if row.type == "local" else None
    return isinstance(path, str) and Path(path).is_relative_to(home)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _told(fields: Mapping[str, Any]) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}


def _words(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in _told(fields).items()) or "none"
