"""What the catalogue remembers of proofs of keys: plain JSON for each job, and what it means at a moment."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dataguardian.domain.clock import to_iso

WEEK = timedelta(days=7)
TRY_AGAIN = timedelta(days=1)
"""After a proof of the service's own that failed."""
SERVICE = "the service"
MOST_CHARACTERS = 500
"""Of what is told about a proof that failed."""


@dataclass(frozen=True)
class KeyProof:
    """`key` is a public key, or the word `passphrase`. `since` is when it was first seen: from then on its time counts.
    `proven_at` of None means never.
    """

    key: str
    since: datetime
    proven_at: datetime | None
    proven_by: str | None
    overdue: bool


@dataclass(frozen=True)
class FailedProof:
    """A try since the last proof that opened nothing. `message` says why."""

    at: datetime
    by: str
    message: str


@dataclass(frozen=True)
class JobProofs:
    """A job whose newest good backup is encrypted. `failed` of None: no try failed since the last proof."""

    job_id: uuid.UUID
    job_name: str
    datasource_id: uuid.UUID
    execution_id: uuid.UUID
    directory: str
    checksum: str
    keys: Sequence[KeyProof]
    failed: FailedProof | None = None


def proof_of(key: str, entry: Mapping[str, Any], now: datetime, days: int) -> KeyProof:
    """Returns how it is with one key; `days` of 0: a proof is never overdue."""
    since, proof = datetime.fromisoformat(entry["seen"][key]), entry["proofs"].get(key)
    proven_at = datetime.fromisoformat(proof["at"]) if proof else None
    overdue = days > 0 and now - (proven_at or since) > timedelta(days=days)
    return KeyProof(key, since, proven_at, proof["by"] if proof else None, overdue)


def entry_of(state: Mapping[str, Any], job_id: uuid.UUID) -> dict[str, Any]:
    entry: dict[str, Any] = state.get("jobs", {}).get(str(job_id), {})
    return {**entry, "proofs": dict(entry.get("proofs", {})), "seen": dict(entry.get("seen", {}))}


def seen(entry: dict[str, Any], keys: Sequence[str], now: datetime) -> dict[str, Any]:
    """Returns an entry that knows since when each of the keys is used, and no other keys."""
    since = {key: entry["seen"].get(key, to_iso(now)) for key in keys}
    return {**entry, "seen": since, "proofs": {key: proof for key, proof in entry["proofs"].items() if key in since}}


def is_due(entry: Mapping[str, Any], now: datetime) -> bool:
    """Tells whether the service's own keys are to be tried again: a week after it worked, a day after it did not."""
    own = [proof["at"] for proof in entry["proofs"].values() if proof["by"] == SERVICE]
    tried = entry.get("tried_at")
    return long_ago(max(own, default=None), now, WEEK) and long_ago(tried, now, TRY_AGAIN)


def is_services(entry: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Tells whether the service itself has proven one of these keys before: then it must still have it."""
    return any(entry["proofs"].get(key, {}).get("by") == SERVICE for key in keys)


def failed(entry: Mapping[str, Any], now: datetime, by: str, message: str) -> dict[str, Any]:
    """Returns an entry that knows of a try that opened nothing."""
    return {**entry, "failed": {"at": to_iso(now), "by": by, "message": message[:MOST_CHARACTERS]}}


def failed_of(entry: Mapping[str, Any]) -> FailedProof | None:
    told = entry.get("failed")
    return FailedProof(datetime.fromisoformat(told["at"]), told["by"], told["message"]) if told else None


def long_ago(text: str | None, now: datetime, age: timedelta) -> bool:
    """A time yet to come counts as long ago: the clock went back."""
    return text is None or not timedelta() <= now - datetime.fromisoformat(text) < age
