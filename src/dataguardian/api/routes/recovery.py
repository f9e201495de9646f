"""What is needed on the worst day: whether the recovery kit is up to date, and whether keys still open backups.

The kit itself is no answer of the API: it is made on the machine that holds the home.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from dataguardian.api.access import requires
from dataguardian.api.dependencies import Given, Id
from dataguardian.api.errors import documented
from dataguardian.api.patience import PatientRoute
from dataguardian.api.schemas.common import Listing, whole
from dataguardian.api.schemas.recovery import JobProofsOut, KeyProofIn, RecoveryKitOut
from dataguardian.domain.access import Permission

router = APIRouter(prefix="/api/system", tags=["system"], route_class=PatientRoute)
objects = APIRouter(prefix="/api/executions", tags=["executions"], route_class=PatientRoute)

ObjectName = Annotated[
    str,
    Query(
        max_length=200,
        pattern=r"^(manifest\.json|parts\.jsonl|sealed\.json\.age|key\.age|"
        r"[0-9]{2,6}-[A-Za-z0-9._-]+/[0-9]{6}(\.[a-z0-9]+)*\.age)$",
        description="Within the backup's directory: a record, or an encrypted part",
    ),
]
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The object as it is stored: encrypted, or one of the records in clear",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/recovery-kit", dependencies=[requires(Permission.VIEW, everywhere=True)], responses=documented())
async def get_recovery_kit(services: Given) -> RecoveryKitOut:
    """Whether a recovery kit was taken, and what has changed since then; never what is in it."""
    return RecoveryKitOut.of(await services.recovery.status())


@router.get("/key-proofs", dependencies=[requires(Permission.VIEW)], responses=documented())
async def list_key_proofs(services: Given) -> Listing[JobProofsOut]:
    """Encrypted jobs, and when each of their keys last opened a backup."""
    return whole(await services.proofs.all(), JobProofsOut.of)


@router.post(
    "/key-proofs",
    status_code=204,
    dependencies=[requires(Permission.RESTORE)],
    responses=documented(404, 413, 415, 422),
)
async def record_key_proof(services: Given, body: KeyProofIn) -> Response:
    """Takes note that keys opened a backup, wherever they are kept, or that they did not: `dataguardian key prove`."""
    if body.failure is not None:
        await services.proofs.record_failure(body.execution_id, body.failure)
    else:
        await services.proofs.record(body.execution_id, body.keys)
    return Response(status_code=204)


@objects.get(
    "/{execution_id}/object",
    dependencies=[requires(Permission.RESTORE)],
    response_class=Response,
    responses=documented(404, 422) | _BYTES,
)
async def get_object(services: Given, execution_id: Id, name: ObjectName) -> Response:
    """An object of an encrypted backup, for whoever proves a key where it is kept: nothing of it is decrypted here."""
    data = await services.proofs.object(execution_id, name)
    return Response(data, media_type="application/octet-stream")
