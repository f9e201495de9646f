"""Users, roles and what they are granted: written as statements, and given to another server with care.

What exists there already stays as it is, so that the connecting user never changes its own password. What is new can
be taken back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dataguardian.domain.errors import IntegrityError
from dataguardian.engines.mysql.server import Session, error_of, text_of
from dataguardian.engines.mysql.statements import Splitter

MAX_SCRIPT_BYTES = 256 * 1024 * 1024

# Accounts that every server brings.
_SYSTEM_USERS = frozenset({"mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema", ""})
_ACCOUNT = r"(?:'(?:[^'\\]|\\.|'')*'|`(?:[^`]|``)*`)(?:@(?:'(?:[^'\\]|\\.|'')*'|`(?:[^`]|``)*`))?"
_CREATE = re.compile(rf"CREATE (USER|ROLE) (?:IF NOT EXISTS )?({_ACCOUNT})")
_CONCERNS = re.compile(rf"(?:GRANT .* TO|SET DEFAULT ROLE .* (?:FOR|TO)) ({_ACCOUNT})", re.DOTALL)
_ON_TABLE = re.compile(
    r"GRANT .+? ON (?:(?:PROCEDURE|FUNCTION|PACKAGE(?: BODY)?) |(?:TABLE )?`(?:[^`]|``)*`\.`)", re.DOTALL
)
_WORDS = frozenset((b"SET", b"CREATE", b"GRANT", b"REVOKE", b"ALTER"))
_TRAILER = "-- Dump completed\n"


@dataclass(frozen=True)
class Account:
    """A user at a host, or a role, which has no host on MariaDB."""

    user: str
    host: str
    is_role: bool

    def __str__(self) -> str:
        name = _literal(self.user)
        return name if self.is_role and not self.host else f"{name}@{_literal(self.host)}"


def script_of(session: Session) -> tuple[bytes, list[str]]:
    """Returns the statements that make every account and grant, and warnings about what could not be read."""
    import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

    lines, grants, warnings = ["SET NAMES utf8mb4"], [], []
    session.tell("print_identified_with_as_hex = ON", "show_create_table_verbosity = OFF")
    try:
        accounts = _accounts(session)
    except pymysql.err.MySQLError as error:
        accounts = []
        warnings.append(f"users and grants are not in the backup: {error_of(error)[1]} (SELECT on mysql.* is needed)")
    for account in accounts:
        try:
            creation, granted = _creation(session, account), _grants(session, account)
        except pymysql.err.MySQLError as error:  # such as one for a host name, where names are not resolved
            warnings.append(f"account {_unified(str(account))} is not in the backup: {error_of(error)[1]}")
            continue
        lines.append(creation)
        grants += granted
    script = "".join(f"{line};\n" for line in [*lines, *grants])
    return (script + _TRAILER).encode("utf-8", "surrogateescape"), warnings


def _accounts(session: Session) -> list[Account]:
    if session.flavour == "MariaDB":
        rows = session.rows("SELECT User, Host, is_role = 'Y' FROM mysql.user ORDER BY is_role = 'Y' DESC, User, Host")
    else:
        rows = session.rows("SELECT User, Host, 0 FROM mysql.user ORDER BY User, Host")
    found = [Account(text_of(user), text_of(host), bool(is_role)) for user, host, is_role in rows]
    return [account for account in found if account.user not in _SYSTEM_USERS and account.user != "PUBLIC"]


def _creation(session: Session, account: Account) -> str:
    if account.is_role:
        return f"CREATE ROLE IF NOT EXISTS {account}"
    text = text_of(session.scalar(f"SHOW CREATE USER {account}"))
    # MySQL's own form names default roles, which may not exist yet; SHOW GRANTS does not.
    return re.sub(r"^CREATE USER (?!IF NOT)", "CREATE USER IF NOT EXISTS ", text)


def _grants(session: Session, account: Account) -> list[str]:
    return [text_of(row[0]) for row in session.rows(f"SHOW GRANTS FOR {account}")]


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass
class Users:
    """Gives one script to a server: `create` before the databases, `grant` after; `undo` drops what was made."""

    statements: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _made: list[tuple[str, str]] = field(default_factory=list)
    _new: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, chunks: Iterable[bytes]) -> Users:
        """Raises IntegrityError when the script is not complete."""
        splitter, users, size_bytes = Splitter(_WORDS), cls(), 0
        for chunk in chunks:
            size_bytes += len(chunk)
            if size_bytes > MAX_SCRIPT_BYTES:
                raise IntegrityError(f"the script of users is larger than {MAX_SCRIPT_BYTES} bytes")
            users.statements += [
                statement.text.decode("utf-8", "surrogateescape") for statement in splitter.feed(chunk)
            ]
        splitter.finish()
        return users

    def create(self, session: Session) -> None:
        """Makes the accounts that are new, and warns of those that are there."""
        known = self._known(session)
        for statement in self.statements:
            match = _CREATE.match(statement)
            if match is None:
                continue
            account = _unified(match[2])
            if account in known:
                self.warnings.append(f"{match[1].lower()} {account} exists on the target and was left as it is")
                continue
            self._made.append((match[1], match[2]))  # noted first: a statement that is stopped may have come through
            self._new.add(account)
            session.run(statement.encode("utf-8", "surrogateescape"))

    def grant(self, session: Session, *, on_tables: bool) -> None:
        """Gives the new accounts their grants: those on everything before the swap, those on tables after it."""
        import pymysql  # noqa: PLC0415 -- an optional package, loaded when it is needed

        for statement in self.statements:
            match = _CONCERNS.match(statement)
            if match is None or _unified(match[1]) not in self._new:
                continue
            if bool(_ON_TABLE.match(statement)) != on_tables:
                continue
            try:
                session.run(statement.encode("utf-8", "surrogateescape"))
            except pymysql.err.MySQLError as error:
                self.warnings.append(f"a grant to {_unified(match[1])} could not be given: {error_of(error)[1]}")

    def undo(self, session: Session) -> None:
        for kind, account in reversed(self._made):
            session.run(f"DROP {kind} IF EXISTS {account}")
        self._made.clear()

    @staticmethod
    def _known(session: Session) -> set[str]:
        rows: list[tuple[Any, ...]] = session.rows("SELECT User, Host FROM mysql.user")
        return {_unified(str(Account(text_of(user), text_of(host), not text_of(host)))) for user, host in rows}


def _unified(account: str) -> str:
    """Returns `user@host` in one spelling; roles have no host."""
    parts = re.findall(r"'((?:[^'\\]|\\.|'')*)'|`((?:[^`]|``)*)`", account)
    names = [
        re.sub(r"\\(.)", r"\1", single.replace("''", "'")) if single else back.replace("``", "`")
        for single, back in parts
    ]
    return "@".join(names) if len(names) < 2 or names[1] else names[0]  # noqa: PLR2004 -- a user and a host
