"""Whether a job may name streams: databases of a datasource that is a whole server."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.db.repositories.definitions import DatasourceRepository
from dataguardian.domain.errors import MissingToolError, SecretUnreadableError, UnknownSchemeError
from dataguardian.engines.base import refuse_streams
from dataguardian.engines.registry import build_engine, engine_document
from dataguardian.service.safekeeping import opened_config
from dataguardian.service.vault import Vault


async def check_streams(session: AsyncSession, datasource_id: uuid.UUID, streams: Sequence[str], vault: Vault) -> None:
    """Raises UsageError when the datasource is one database, or a folder. No server is asked whether they are there.

    Of a datasource that cannot be opened here (no adapter, no key) a run tells it.
    """
    if not streams:
        return
    row = await DatasourceRepository(session).get(datasource_id)
    try:
        engine = build_engine(engine_document(opened_config(row, vault)))
    except (MissingToolError, SecretUnreadableError, UnknownSchemeError):
        return
    refuse_streams(engine, streams, f"the datasource {row.name}")
