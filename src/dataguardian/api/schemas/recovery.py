"""Bodies of the recovery kit's status and of proofs of keys. Neither ever holds a key or a word of a kit."""

from __future__ import annotations

import uuid
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from dataguardian.api.schemas.common import Input, Moment, Output, example, shown
from dataguardian.core.proofrecords import MOST_CHARACTERS, FailedProof, JobProofs, KeyProof
from dataguardian.service.recovery import KitStatus, Reason

Key = Annotated[str, StringConstraints(min_length=1, max_length=16 * 1024)]


class ReasonOut(Output):
    what: Literal["secret key", "storage location", "backup job", "encryption", "private key"]
    name: str
    since: Annotated[Moment | None, Field(description="null: not known, because something was changed")]

    @classmethod
    def of(cls, reason: Reason) -> Self:
        return shown(cls, reason)


class RecoveryKitOut(Output):
    """When the last recovery kit was taken on the machine that holds the home, and what has changed since then."""

    taken_at: Annotated[Moment | None, Field(description="null: never")]
    taken_by: str | None
    key_id: Annotated[str | None, Field(description="Of the secret key that the kit has")]
    version: Annotated[str | None, Field(description="Of DataGuardian")]
    protection: Annotated[
        Literal["passphrase", "recipients", "none"] | None, Field(description="How the kit itself is encrypted")
    ]
    storages: Annotated[int, Field(ge=0, description="Storage locations in it")]
    jobs: Annotated[int, Field(ge=0, description="Backup jobs in it")]
    outdated: bool
    outdated_since: Moment | None
    reasons: Annotated[list[ReasonOut], Field(description="What is new or another one since then")]
    due: Annotated[bool, Field(description="Somebody should take one now, and is reminded of it")]

    @classmethod
    def of(cls, status: KitStatus) -> Self:
        return shown(cls, status, reasons=[ReasonOut.of(reason) for reason in status.reasons])


class KeyProofOut(Output):
    key: Annotated[str, Field(description="The public key, or the word `passphrase`")]
    since: Annotated[Moment, Field(description="When it was first seen")]
    proven_at: Annotated[Moment | None, Field(description="When it last opened a backup of the job; null: never")]
    proven_by: str | None
    overdue: Annotated[bool, Field(description="Longer ago than the setting `recovery` allows")]

    @classmethod
    def of(cls, proof: KeyProof) -> Self:
        return shown(cls, proof)


class FailedProofOut(Output):
    """A try since the last proof that opened nothing."""

    at: Moment
    by: str
    message: str

    @classmethod
    def of(cls, failed: FailedProof) -> Self:
        return shown(cls, failed)


class JobProofsOut(Output):
    """A backup job whose newest good backup is encrypted."""

    job_id: uuid.UUID
    job_name: str
    execution_id: Annotated[uuid.UUID, Field(description="Of its newest good backup")]
    directory: str
    checksum: str
    keys: list[KeyProofOut]
    failed: Annotated[
        FailedProofOut | None,
        Field(description="The last try, when it opened nothing"),
    ]

    @classmethod
    def of(cls, proofs: JobProofs) -> Self:
        failed = FailedProofOut.of(proofs.failed) if proofs.failed else None
        return shown(cls, proofs, keys=[KeyProofOut.of(key) for key in proofs.keys], failed=failed)


class KeyProofIn(Input):
    model_config = example(
        {
            "execution_id": "0199e0a2-0000-7000-8000-000000000000",
            "keys": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],
        }
    )

    execution_id: uuid.UUID
    keys: Annotated[list[Key], Field(max_length=50, description="Those that opened it; none when a try failed")]
    failure: Annotated[
        str | None, Field(max_length=MOST_CHARACTERS, description="Why none did, in place of `keys`")
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.keys) == (self.failure is not None):
            raise ValueError("either keys or failure is needed")
        return self
