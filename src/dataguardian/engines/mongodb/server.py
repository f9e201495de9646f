"""Questions to a MongoDB server, by pymongo, whose errors become ours here and nowhere else."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from dataguardian.domain.errors import (
    AuthenticationError,
    DataGuardianError,
    DiskFullError,
    DumpFailedError,
    EngineError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from dataguardian.engines.mongodb.archive import Namespace, version_tuple
from dataguardian.engines.mongodb.batches import Moment, raw_batches
from dataguardian.engines.mongodb.config import MongoConfig, auth_sources, place_of, uri_of
from dataguardian.engines.mongodb.knock import knock
from dataguardian.engines.mongodb.tlsfiles import driver_options, key_file
from dataguardian.engines.network import Endpoint, check_tls_files, password_of, reached

if TYPE_CHECKING:
    from pymongo import MongoClient
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

    Client = MongoClient[dict[str, Any]]

CONNECT_SECONDS = 10.0
_SELECTION_SECONDS = 5.0
_GOODBYE_SECONDS = 1.0
NOT_ALLOWED, AUTH_FAILED, COMMAND_NOT_FOUND = 13, 18, 59
NAMESPACE_NOT_FOUND = 26
SNAPSHOT_TOO_OLD = 239
_INTERNAL = ("config", "local")

_BY_CODE: dict[int, type[DataGuardianError]] = {
    11: AuthenticationError,  # UserNotFound
    AUTH_FAILED: AuthenticationError,
    8000: AuthenticationError,  # Atlas
    NOT_ALLOWED: NotAllowedError,
    NAMESPACE_NOT_FOUND: NotFoundError,
    73: UsageError,  # InvalidNamespace
    14031: DiskFullError,
} | dict.fromkeys((6, 7, 89, 91, 189, 9001, 10107, 11600, 11602, 13435, 13436), UnreachableError)
_HINTS: dict[type[DataGuardianError], str] = {
    AuthenticationError: "check user and password (--password-file or DATAGUARDIAN_PASSWORD), and authSource: the"
    " database that the user was created in",
    NotAllowedError: "docs/engines.md lists the privileges; the roles backup and restore have them",
    NotFoundError: "check the database's name; a mongodb:// address without one means all databases",
    UnreachableError: "check host and port, that the server runs, and whether it wants TLS (ssl_mode=verify-full)",
    DiskFullError: "make room where the server keeps its data",
}
_SNAPSHOT_HINT = (
    "raise the server's minSnapshotHistoryWindowInSeconds above the time that a dump takes, or give"
    " readConcernLevel=majority, whose collections are not of one moment"
)
# What a server says may repeat values of the documents that it refused.
_DATA = re.compile(r"(dup key:|failing document|offending document|Document:|, found:).*", re.DOTALL | re.IGNORECASE)


_TIMEOUTS = re.compile(r" \(configured timeouts:[^)]*\)")


@dataclass(frozen=True)
class Link:
    """An open connection; `auth_source` is the database that the user was found in."""

    client: Client = field(repr=False)
    endpoint: Endpoint
    auth_source: str | None
    has_tls: bool
    place: str
    config: MongoConfig

    @cached_property
    def hello(self) -> dict[str, Any]:
        return self.command("admin", {"hello": 1})

    @cached_property
    def version(self) -> str:
        return str(self.command("admin", {"buildInfo": 1}).get("version", ""))

    @property
    def is_mongos(self) -> bool:
        return self.hello.get("msg") == "isdbgrid"

    @property
    def one_server(self) -> bool:
        """Tells whether all commands go to one server: the only one of the address, or a replica set's primary."""
        several = self.config.srv or "," in (self.config.host or "")
        return self.config.read_preference in (None, "primary") and not (several and self.is_mongos)

    @property
    def has_snapshots(self) -> bool:
        """Tells whether reads of one moment are to be had: a replica set or a sharded cluster, 5.0 or newer."""
        return ("setName" in self.hello or self.is_mongos) and version_tuple(self.version) >= (5, 0, 0)

    def database(self, name: str) -> Database[dict[str, Any]]:
        from bson.codec_options import CodecOptions, DatetimeConversion  # noqa: PLC0415 -- an optional package

        # Dates that Python cannot hold are dates too.
        options: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
        return self.client.get_database(name, codec_options=options)

    def command(self, database: str, command: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.database(database).command(dict(command)))

    def collections(self, database: str) -> list[dict[str, Any]]:
        """Returns what listCollections says, in the order of names."""
        return sorted(self.listed(database, {"listCollections": 1}), key=lambda info: str(info["name"]))

    def indexes(self, place: Namespace) -> list[dict[str, Any]]:
        """Returns what listIndexes says; nothing where there is no such collection."""
        from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package

        try:
            return list(self.listed(place.database, {"listIndexes": place.collection}))
        except OperationFailure as error:
            if error.code != NAMESPACE_NOT_FOUND:
                raise
            return []

    def listed(self, database: str, command: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields what a command's cursor gives. The driver's own lists of collections and indexes read dates in their
        options as Python's, which has no year 10000.
        """
        place = self.database(database)
        yield from place.cursor_command(
            dict(command), codec_options=place.codec_options, read_preference=place.read_preference
        )

    def raw_batches(
        self, place: Namespace, query: Mapping[str, Any] | None = None, moment: Moment | None = None
    ) -> Iterator[bytes]:
        """Yields documents as the server sends them, some 16 MiB at a time, in natural order.

        Every batch must come from the server that the first one came from. Where commands may go to any of several, the
        driver's own cursor sees to that, which is slower.
        """
        if not self.one_server:
            yield from self._driver_batches(place, query, moment)
            return
        yield from raw_batches(self.database(place.database), place.collection, query, moment)

    def _driver_batches(
        self, place: Namespace, query: Mapping[str, Any] | None, moment: Moment | None
    ) -> Iterator[bytes]:
        collection = self.database(place.database)[place.collection]
        natural = None if query else [("$natural", 1)]
        session = None if moment is None else self.snapshot_session
        cursor = collection.find_raw_batches(query, hint=natural, no_cursor_timeout=True, session=session)
        try:
            for batch in cursor:
                yield cast("bytes", batch)
        finally:
            with brief():
                cursor.close()

    @cached_property
    def snapshot_session(self) -> ClientSession:
        return self.client.start_session(snapshot=True)

    def databases(self) -> list[str]:
        """Returns the names of all databases that may be dumped, in order."""
        reply = self.command("admin", {"listDatabases": 1, "nameOnly": True})
        names = [str(one["name"]) for one in reply.get("databases", [])]
        return sorted(name for name in names if name not in _INTERNAL and not name.startswith("__mdb_internal_"))


@dataclass(frozen=True)
class Server:
    """The server that a configuration names."""

    config: MongoConfig

    @property
    def place(self) -> str:
        return place_of(self.config)

    @contextmanager
    def connect(
        self, *, seconds: float = CONNECT_SECONDS, error: type[EngineError] = EngineError, what: str = ""
    ) -> Iterator[Link]:
        """Yields a connection that is signed in. pymongo's errors leave as AccessError where they say so, as
        DiskFullError or as `error`; `what` is what they are about.
        """
        check_tls_files(self.config)
        self._check_password()
        with ExitStack() as stack, self.translated(error, what):
            endpoint = stack.enter_context(reached(self.config))
            has_tls = knock(self.config, endpoint, seconds)
            files = stack.enter_context(key_file(self.config))
            options = driver_options(self.config, files, has_tls=has_tls)
            yield self._signed_in(stack, endpoint, options, seconds)

    @contextmanager
    def translated(self, error: type[EngineError], what: str = "") -> Iterator[None]:
        from bson.errors import BSONError  # noqa: PLC0415 -- an optional package, loaded when it is needed
        from pymongo.errors import PyMongoError  # noqa: PLC0415 -- see above

        place = f"{what} at {self.place}" if what else self.place
        try:
            yield
        except (PyMongoError, BSONError) as failure:
            raise _translated(failure, place, error, anonymous=self.config.username is None) from failure

    def _check_password(self) -> None:
        needs_one = self.config.auth_mechanism in (None, "SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN")
        if self.config.username and needs_one and password_of(self.config) is None:
            raise AuthenticationError(
                f"{self.place}: no password was given for user {self.config.username!r}",
                hint=_HINTS[AuthenticationError],
            )

    def _signed_in(self, stack: ExitStack, endpoint: Endpoint, options: dict[str, Any], seconds: float) -> Link:
        """Tries the databases that the user may live in; the last refusal is the one that counts."""
        from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package

        sources = auth_sources(self.config)
        for number, source in enumerate(sources, start=1):
            uri = uri_of(self.config, endpoint, source, {})
            client = stack.enter_context(_client(uri, endpoint, options, seconds))
            try:
                client.admin.command("ping")
            except ValueError as refusal:  # what SASLprep has to say about an account's characters
                raise AuthenticationError(
                    f"{self.place}: the user name or the password has characters that no MongoDB login may have",
                    hint="characters newer than Unicode 3.2, such as emoji, are among them",
                ) from refusal
            except OperationFailure as refusal:
                if refusal.code != AUTH_FAILED or number == len(sources):
                    raise
                client.close()
            else:
                return Link(client, endpoint, source, bool(options["tls"]), self.place, self.config)
        raise AssertionError("there is always a source to try")


@contextmanager
def _client(uri: str, endpoint: Endpoint, options: dict[str, Any], seconds: float) -> Iterator[Client]:
    from pymongo import MongoClient  # noqa: PLC0415 -- an optional package, loaded when it is needed

    settings: dict[str, Any] = {
        "connectTimeoutMS": int(seconds * 1000),
        "serverSelectionTimeoutMS": int(min(seconds, _SELECTION_SECONDS) * 1000),
        # Retries wait for a lost server, while the cursor is gone for good; the queue tries a backup again.
        "retryReads": False,
        "retryWrites": False,
    }
    client = MongoClient[dict[str, Any]](uri, connect=False, **settings | options)
    if endpoint.tunnelled and options.get("tls"):
        _expect_name(client, endpoint.tls_name)
    try:
        yield client
    finally:
        with brief():
            client.close()


@contextmanager
def brief() -> Iterator[None]:
    """For good-byes: they are polite, and not waited for when the server has gone."""
    import pymongo  # noqa: PLC0415 -- an optional package, loaded when it is needed

    with suppress(pymongo.errors.PyMongoError), pymongo.timeout(_GOODBYE_SECONDS):
        yield


class _NamedContext:
    """A TLS context that expects one certain name, whatever address the connection goes to."""

    def __init__(self, context: Any, name: str) -> None:  # noqa: ANN401 -- ssl's or pyOpenSSL's
        self._context, self._name = context, name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 -- the context's own
        return getattr(self._context, attribute)

    def wrap_socket(self, plain: socket.socket, **given: Any) -> Any:  # noqa: ANN401 -- the context's own
        return self._context.wrap_socket(plain, **given | {"server_hostname": self._name})


def _expect_name(client: Client, name: str) -> None:
    """Pymongo verifies the name that it connects to, which behind a tunnel is this machine's. It has no option for
    another one, so its pool gets a context that knows better; nothing has connected yet.
    """
    pool = client.options.pool_options
    setattr(pool, "_PoolOptions__ssl_context", _NamedContext(pool._ssl_context, name))  # noqa: SLF001, B010 -- see above


def _translated(failure: Exception, place: str, fallback: type[EngineError], *, anonymous: bool) -> DataGuardianError:
    from pymongo.errors import OperationFailure  # noqa: PLC0415 -- an optional package

    code = failure.code if isinstance(failure, OperationFailure) else None
    kind = _kind_of(failure, code, fallback)
    text = failure.details.get("errmsg") if isinstance(failure, OperationFailure) and failure.details else None
    message = _without_address(without_data(str(text or failure)), place)
    if code == NOT_ALLOWED and anonymous and "authentication" in message:
        kind = AuthenticationError
    hint = _SNAPSHOT_HINT if code == SNAPSHOT_TOO_OLD else _HINTS.get(kind, "")
    return kind(f"{place}: {message}", hint=hint, server_code=code)


def _without_address(message: str, place: str) -> str:
    """Drops the address that the driver begins with, where the place that comes before it ends with it."""
    address, _, rest = message.partition(": ")
    return rest if rest and place.rsplit(" ", 1)[-1] == address else message


def _kind_of(failure: Exception, code: int | None, fallback: type[EngineError]) -> type[DataGuardianError]:
    from pymongo import errors  # noqa: PLC0415 -- an optional package

    if code == SNAPSHOT_TOO_OLD:
        return DumpFailedError
    if code is not None:
        return _BY_CODE.get(code, fallback)
    if isinstance(failure, errors.ConnectionFailure):
        refused = re.search(r"certificate|CERTIFICATE|tlsv1 alert|handshake failure", str(failure))
        return AuthenticationError if refused else UnreachableError
    if isinstance(failure, errors.ConfigurationError):
        return UnreachableError if "DNS" in str(failure) or "resolution" in str(failure) else UsageError
    return UsageError if isinstance(failure, errors.InvalidName) else fallback


def without_data(text: str) -> str:
    """Returns a server's message without values of documents, and short."""
    text = text.replace("No servers found yet", "timed out: the server takes connections, but does not answer")
    first = _TIMEOUTS.sub("", text).split(", Timeout:")[0].split(", full error:")[0].replace("\n", " ")
    return _DATA.sub(r"\1 …", first)[:500]
