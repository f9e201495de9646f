"""The service's own keys for encrypted backups: the setting `decryption`, and the passphrase of a backup's job."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from dataguardian.core.backupkeys import NO_KEYS, BackupKeys
from dataguardian.db.models import BackupExecution
from dataguardian.db.repositories.executions import JobRepository
from dataguardian.db.repositories.notifications import SettingRepository
from dataguardian.service.context import Context
from dataguardian.service.safekeeping import opened, opened_options, setting_owner

SETTING = "decryption"
ENCRYPTION = "encryption"
"""In an execution's `metadata`: for whom it is encrypted."""


async def keys_for(context: Context, execution: BackupExecution) -> BackupKeys:
    """Returns what may open a backup; nothing for one in clear, and nothing when the keys are kept elsewhere.

    Raises SecretUnreadableError for a key that is there and cannot be opened.
    """
    if not execution.details.get(ENCRYPTION):
        return NO_KEYS
    async with context.db.read() as session:
        stored = await SettingRepository(session).value(SETTING)
        keys = BackupKeys.model_validate(opened(stored or {}, context.vault, setting_owner(SETTING)))
        return await _with_job_passphrase(context, session, execution, keys)


async def _with_job_passphrase(
    context: Context, session: AsyncSession, execution: BackupExecution, keys: BackupKeys
) -> BackupKeys:
    job = await JobRepository(session).find(execution.job_id) if execution.job_id else None
    if job is None or not job.backup_options.get(ENCRYPTION):
        return keys
    encryption = opened_options(job, context.vault).encryption
    if encryption is None or encryption.passphrase is None:
        return keys
    return keys.model_copy(update={"passphrases": (encryption.passphrase, *keys.passphrases)})
