"""Every error that a user can meet, as one tree.

    DataGuardianError                 exit  what it means
    ├── UsageError                    2     wrong usage or configuration
    │   ├── UnknownSchemeError        2     no adapter for that URL
    │   └── TargetNotEmptyError       2     the target holds data and --drop-existing was not given
    ├── IntegrityError                3     stored bytes are not the bytes that were written
    │   ├── ManifestError             3     manifest, parts.jsonl or SHA256SUMS missing, damaged or edited
    │   ├── UnsupportedFormatError    3     written by a newer release
    │   └── DamagedPartError          3     a part is missing, truncated, flipped, swapped or grown
    ├── MissingToolError              4     a client program or an optional package is not installed
    ├── AccessError                   5     cannot connect, not allowed, or no such thing
    │   ├── UnreachableError          5     nothing answers there
    │   ├── AuthenticationError       5     the server refused the credentials
    │   ├── NotAllowedError           5     signed in or opened, but not permitted
    │   ├── UnauthenticatedError      5     DataGuardian does not know who asks
    │   ├── ForbiddenError            5     DataGuardian knows who asks, and does not let them
    │   ├── TooManyAttemptsError      5     too many sign-ins failed, or too many are under way
    │   ├── TargetInUseError          5     somebody works with the target right now
    │   ├── KeyNeededError            5     a backup is encrypted, and no key for it was given
    │   │   └── WrongKeyError         5     none of the keys that were given opens it
    │   ├── SecretUnreadableError     5     a stored secret was sealed with a key that is not here
    │   └── NotFoundError             5     no such database, file, folder, bucket or backup
    ├── EngineError                   1     a dump or restore went wrong
    │   ├── DumpFailedError           1
    │   └── RestoreFailedError        1
    ├── StorageError                  1     a storage did not do what it was asked
    │   ├── StorageFullError          1     permanent
    │   ├── StorageTransientError     1     may work when tried again; the only kind that is retried
    │   │   └── StorageConnectionError 5    (also a StorageUnreachableError) nothing answers there, or not any more
    │   ├── StorageUnreachableError   5     (also an AccessError)
    │   ├── StorageDeniedError        5     (also an AccessError) permanent
    │   └── ObjectMissingError        5     (also an AccessError) permanent
    ├── NotifierError                 1     a notification did not reach its channel
    │   ├── NotifierTransientError    1     may work when tried again; the only kind that is retried
    │   └── NotifierRejectedError     1     refused for good: credentials, recipient, address, certificate
    ├── CatalogUnavailableError       1     the service's own database does not answer
    ├── QueueUnavailableError         1     the queue server does not answer
    ├── ConflictError                 1     not possible in the state that the thing is in
    ├── DiskFullError                 1     no room on a local disk (staging folder, restore target)
    └── CancelledError                1     stopped on request; 130 and 143 for SIGINT and SIGTERM

A message says what happened and where; `hint` says what to do next. Neither ever holds a secret. Vendor
exceptions are translated where the vendor is called and chained with `from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

JsonValue = str | int | float | bool | None


class DataGuardianError(Exception):
    """Root of the tree. `code` is stable and meant for programs, `exit_code` is what the command line returns."""

    code: ClassVar[str] = "failed"
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "", **details: JsonValue) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: Mapping[str, JsonValue] = details

    def as_json(self) -> dict[str, object]:
        """Returns `{"error", "message", "details"}`, the shape of every error answer."""
        details = dict(self.details)
        if self.hint:
            details["hint"] = self.hint
        return {"error": self.code, "message": self.message, "details": details}


class UsageError(DataGuardianError):
    code = "wrong_usage"
    exit_code = 2


class UnknownSchemeError(UsageError):
    code = "unknown_scheme"


class TargetNotEmptyError(UsageError):
    code = "target_not_empty"


class IntegrityError(DataGuardianError):
    code = "integrity"
    exit_code = 3


class ManifestError(IntegrityError):
    code = "manifest"


class UnsupportedFormatError(IntegrityError):
    code = "unsupported_format"


class DamagedPartError(IntegrityError):
    code = "damaged_part"


class MissingToolError(DataGuardianError):
    code = "missing_tool"
    exit_code = 4


class AccessError(DataGuardianError):
    code = "access"
    exit_code = 5


class UnreachableError(AccessError):
    code = "unreachable"


class AuthenticationError(AccessError):
    code = "auth_failed"


class NotAllowedError(AccessError):
    code = "not_allowed"


class UnauthenticatedError(AccessError):
    code = "unauthenticated"


class ForbiddenError(AccessError):
    code = "forbidden"


class TooManyAttemptsError(AccessError):
    """`retry_after` is whole seconds until another attempt is looked at."""

    code = "too_many_attempts"

    def __init__(self, message: str, *, hint: str = "", retry_after: int = 60) -> None:
        super().__init__(message, hint=hint, retry_after_seconds=retry_after)
        self.retry_after = retry_after


class TargetInUseError(AccessError):
    code = "target_in_use"


class SecretUnreadableError(AccessError):
    code = "secret_unreadable"


class KeyNeededError(AccessError):
    code = "key_needed"


class WrongKeyError(KeyNeededError):
    code = "wrong_key"


class NotFoundError(AccessError):
    code = "not_found"


class EngineError(DataGuardianError):
    code = "engine"


class DumpFailedError(EngineError):
    code = "dump_failed"


class RestoreFailedError(EngineError):
    code = "restore_failed"


class StorageError(DataGuardianError):
    code = "storage"


class StorageFullError(StorageError):
    code = "storage_full"


class StorageTransientError(StorageError):
    code = "storage_transient"


class StorageUnreachableError(StorageError, AccessError):
    code = "storage_unreachable"
    exit_code = 5


class StorageConnectionError(StorageTransientError, StorageUnreachableError):
    code = "storage_connection"
    exit_code = 5


class StorageDeniedError(StorageError, AccessError):
    code = "storage_denied"
    exit_code = 5


class ObjectMissingError(StorageError, AccessError):
    code = "object_missing"
    exit_code = 5


class NotifierError(DataGuardianError):
    code = "notifier"


class NotifierTransientError(NotifierError):
    code = "notifier_transient"


class NotifierRejectedError(NotifierError):
    code = "notifier_rejected"


class CatalogUnavailableError(DataGuardianError):
    code = "catalog_unavailable"


class QueueUnavailableError(DataGuardianError):
    code = "queue_unavailable"


class ConflictError(DataGuardianError):
    code = "conflict"


class DiskFullError(DataGuardianError):
    code = "disk_full"


class CancelledError(DataGuardianError):
    """Stopped on request. `signum` is the signal that asked for it, None when it was not a signal."""

    code = "cancelled"

    def __init__(self, message: str = "stopped on request", *, signum: int | None = None) -> None:
        super().__init__(message)
        self.exit_code = 1 if signum is None else 128 + signum


_WORTH_ANOTHER_TRY = (
    UnreachableError,
    DumpFailedError,
    StorageTransientError,
    StorageUnreachableError,
    CatalogUnavailableError,
    QueueUnavailableError,
)


def is_transient(error: BaseException) -> bool:
    """Tells whether the same work may succeed a little later without anybody changing anything."""
    return isinstance(error, _WORTH_ANOTHER_TRY)
