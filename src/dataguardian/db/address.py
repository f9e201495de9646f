"""The catalogue's address, as people write it and as each library wants it. Light: it imports no library."""

from __future__ import annotations

from pathlib import Path

from dataguardian.domain.errors import UsageError

_SQLITE = "sqlite:///"
_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")


def sqlite_path(url: str) -> Path | None:
    """Returns the file of `sqlite:////absolute/path.db`, None for PostgreSQL; raises UsageError for anything else.

    No message shows the address: it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme in _POSTGRES:
        return None
    if url.startswith(_SQLITE) and rest.strip("/") and ":memory:" not in rest:
        return Path(url.removeprefix(_SQLITE))
    raise UsageError(
        "DATABASE_URL is neither an SQLite file nor a PostgreSQL database",
        hint="sqlite:////var/lib/dataguardian/catalogue.db or postgresql://user:password@host:5432/database",
    )


def postgres_url(url: str) -> str:
    """Returns the address in the form of libpq."""
    return f"postgresql://{url.partition('://')[2]}"
