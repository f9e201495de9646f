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
        _refuse_unencoded(rest)
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


def bad_url() -> UsageError:
    """Its cause is never chained: that would show the password."""
    return UsageError(
        "DATABASE_URL is not a valid address", hint="percent-encode special characters of user and password"
    )


def _refuse_unencoded(rest: str) -> None:
    """What of a password is not encoded becomes part of the host's name or port, and so of error texts."""
    authority, _, path = rest.partition("?")[0].partition("/")
    hosts = authority.rpartition("@")[2].split(",")
    ports = [host.rpartition("]")[2].partition(":")[2] for host in hosts]
    if "@" in path or authority.count("@") > 1 or not all(port.isdigit() or not port for port in ports):
        raise bad_url()
