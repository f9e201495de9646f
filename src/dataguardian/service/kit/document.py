"""What a recovery kit says, before it is put into words."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dataguardian.service.kit.pieces import Piece
from dataguardian.storage.byhand import ByHand


@dataclass(frozen=True)
class KitStorage:
    """A storage location. `name` is what the kit calls it (`s1`); `pieces` are the files that its commands need."""

    name: str
    title: str
    type: str
    address: str
    is_default: bool
    by_hand: ByHand | None
    pieces: Mapping[str, Piece]
    fields: Mapping[str, str]
    """Its configuration as it may be shown: secrets are pieces."""


@dataclass(frozen=True)
class KitBackup:
    """A job's newest good backup. `checksum` is the SHA-256 of its SHA256SUMS; `how_to_restore` are its manifest's own
    lines, None when no storage could be read. `storages` are kit names, the nearest first.
    """

    directory: str
    checksum: str
    taken_at: datetime
    size_bytes: int
    storages: Sequence[str]
    server_version: str
    tools: Sequence[str]
    version: str
    recipients: Sequence[str]
    has_passphrase: bool
    compression: str
    how_to_restore: Sequence[str] | None


@dataclass(frozen=True)
class KitJob:
    """A backup job. `facts` are lines for people; `identity` and `passphrase` are what opens its newest backup, as far
    as the service knows it.
    """

    title: str
    datasource: str
    engine: str
    facts: Mapping[str, str]
    backup: KitBackup | None
    identity: Piece | None = None
    passphrase: Piece | None = None
    is_own: bool = False
    """It backs up DataGuardian's own catalogue."""


@dataclass(frozen=True)
class KitCatalogue:
    """A catalogue that is no file of the home. `address` has no password, `url` is what DATABASE_URL was."""

    address: str
    url: Piece
    password: Piece | None


@dataclass(frozen=True)
class Covered:
    """What a kit was taken of, by id; the values are fingerprints that tell nothing without the key that sealed."""

    key_id: str
    storages: Mapping[uuid.UUID, str]
    jobs: Mapping[uuid.UUID, str]
    identities: Sequence[str]


@dataclass(frozen=True)
class Kit:
    """The whole document. `gaps` are sentences: what it takes besides."""

    taken_at: datetime
    taken_by: str
    host: str
    version: str
    home: str
    timezone: str
    catalogue: KitCatalogue | None
    """None when it lies in the home."""
    environment: Mapping[str, str]
    key_source: str
    """Where the secret key came from: a variable, or a file."""
    pins: Piece | None
    """The home's `known_hosts`."""
    secret_keys: Sequence[Piece]
    pieces: Sequence[Piece]
    storages: Sequence[KitStorage]
    jobs: Sequence[KitJob]
    gaps: Sequence[str]
    covered: Covered = field(repr=False)

    @property
    def own_jobs(self) -> Sequence[KitJob]:
        return [job for job in self.jobs if job.is_own]
