"""How a SQL Server is addressed."""

from __future__ import annotations

from typing import ClassVar, Literal

from dataguardian.engines.network import NetworkConfig

Method = Literal["auto", "sqlpackage", "tds"]


class SqlServerConfig(NetworkConfig):
    """A database, or every user database of the server when `database` is None.

    `method` is how it is dumped: by Microsoft's `sqlpackage`, by this program itself over TDS, or (auto) by
    `sqlpackage` where that is installed.
    """

    default_port: ClassVar[int] = 1433
    scheme: ClassVar[str] = "sqlserver"
    query_fields: ClassVar[dict[str, str]] = {**NetworkConfig.query_fields, "method": "method"}

    type: Literal["sqlserver"] = "sqlserver"
    method: Method | None = None
