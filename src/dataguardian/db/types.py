"""Column types that mean the same on SQLite and PostgreSQL.

SQLite has neither times nor UUIDs. It gets them as integers and as 16 bytes, which halves its indexes: the middle page
of a million executions then takes a quarter of the time. To read such a file by hand: `hex(id)` and
`datetime(created_at / 1000000, 'unixepoch')`.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Enum, LargeBinary, TypeDecorator, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

Json = JSON().with_variant(JSONB(), "postgresql")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in, aware UTC out: `timestamptz`, or microseconds since 1970. A naive time is refused (ValueError)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(BigInteger() if dialect.name == "sqlite" else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401 -- by dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone must not reach the catalogue")
        return (value - _EPOCH) // _MICROSECOND if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ANN401 -- by dialect
        if value is None:
            return None
        moment: datetime = _EPOCH + value * _MICROSECOND if dialect.name == "sqlite" else value.astimezone(UTC)
        return moment


class Identifier(TypeDecorator[uuid.UUID]):
    """A UUID: `uuid`, or its 16 bytes, which sort alike."""

    impl = Uuid()
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(LargeBinary(16) if dialect.name == "sqlite" else Uuid())

    def process_bind_param(self, value: uuid.UUID | None, dialect: Dialect) -> Any:  # noqa: ANN401 -- by dialect
        return value.bytes if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> uuid.UUID | None:  # noqa: ANN401 -- by dialect
        return uuid.UUID(bytes=value) if value is not None and dialect.name == "sqlite" else value


def word(values: type[StrEnum]) -> Enum:
    """A column of one of the words of `domain/states.py`: text with a CHECK, so that adding a word is a migration."""
    return Enum(
        values,
        name=re.sub(r"(?<!^)(?=[A-Z])", "_", values.__name__).lower(),
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda kind: [member.value for member in kind],
    )
