"""Whether what a kit says is still so, told without keeping what it says."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dataguardian.db.models import BackupJob, StorageLocation
from dataguardian.domain.errors import SecretUnreadableError
from dataguardian.service.decryption import SETTING as DECRYPTION
from dataguardian.service.kit.document import Covered
from dataguardian.service.safekeeping import document_of, opened, owner_of, setting_owner
from dataguardian.service.vault import Vault

if TYPE_CHECKING:
    from dataguardian.service.kit.gather import Rows

UNREADABLE = ""
_NO_MATTER = frozenset({"bandwidth_limit_mbps", "timeout_seconds", "max_size_gb"})


class Fingerprints:
    """Of rows as they are now, by a key that is made of the one that sealed at `key_id`.

    A plain hash would let whoever reads the catalogue try passwords on it.
    """

    def __init__(self, vault: Vault, key_id: str | None = None) -> None:
        self._vault = vault
        key = next((key for key in vault.keys if key.id == (key_id or vault.key_id)), None)
        self._key = hashlib.sha256(b"recovery kit\0" + key.data).digest() if key else None

    @property
    def possible(self) -> bool:
        """False when the key is not here any more: then only ids can be compared."""
        return self._key is not None

    def covered(self, rows: Rows) -> Covered:
        return Covered(
            key_id=self._vault.key_id,
            storages={row.id: self.storage(row) for row in rows.storages},
            jobs={row.id: self.job(row) for row in rows.jobs},
            identities=sorted(self.identities(rows.decryption)),
        )

    def differs(self, before: str | None, now: str) -> bool:
        """Tells whether a row is new, or another than it was; what cannot be read or compared is taken for the same."""
        return before is None or (self.possible and UNREADABLE not in (before, now) and before != now)

    def storage(self, row: StorageLocation) -> str:
        try:
            config = opened(document_of(row), self._vault, owner_of(row))
        except SecretUnreadableError:
            return UNREADABLE
        return self._of([row.name, row.type, {key: value for key, value in config.items() if key not in _NO_MATTER}])

    def job(self, row: BackupJob) -> str:
        try:
            options = opened(document_of(row), self._vault, owner_of(row))
        except SecretUnreadableError:
            return UNREADABLE
        kept = {key: options.get(key) for key in ("encryption", "storage_targets")}
        return self._of([row.name, str(row.datasource_id), str(row.storage_location_id), kept])

    def identities(self, stored: Mapping[str, Any]) -> list[str]:
        """Returns one for each private key and passphrase of the service."""
        try:
            document = opened(stored, self._vault, setting_owner(DECRYPTION))
        except SecretUnreadableError:
            return []
        return [self._of([text]) for kind in ("identities", "passphrases") for text in document.get(kind) or ()]

    def _of(self, value: Any) -> str:  # noqa: ANN401 -- plain JSON
        text = json.dumps(value, sort_keys=True, default=str)
        return hmac.new(self._key or b"", text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()
