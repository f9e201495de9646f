"""How a MongoDB server is addressed: the fields of every network engine, and usual parameters of mongodb:// URIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import quote

from pydantic import AfterValidator, model_validator

from dataguardian.domain.errors import UsageError
from dataguardian.domain.urls import Url
from dataguardian.engines.network import Endpoint, NetworkConfig, Text, fields_of, password_of

DEFAULT_PORT = 27017
MAX_NAME_BYTES = 63
_IN_NO_NAME = frozenset('/\\. "$\0')
_TLS_WORDS = {"true": "verify-full", "false": "disable"}
_IDLE = frozenset({"retryWrites", "retryReads", "w", "appName", "compressors", "journal"})

Mechanism = Literal["SCRAM-SHA-1", "SCRAM-SHA-256", "MONGODB-X509", "PLAIN", "GSSAPI"]
ReadPreference = Literal["primary", "primaryPreferred", "secondary", "secondaryPreferred", "nearest"]
ReadConcern = Literal["local", "majority", "snapshot"]
DumpWith = Literal["mongodump", "driver"]


def _name(name: str) -> str:
    if len(name.encode()) > MAX_NAME_BYTES or set(name) & _IN_NO_NAME:
        raise ValueError(f'no MongoDB database can have this name: at most {MAX_NAME_BYTES} bytes, none of / \\ . " $')
    if name in ("local", "config"):
        raise ValueError("this database is the server's own, and is neither dumped nor restored")
    return name


DatabaseName = Annotated[Text, AfterValidator(_name)]


class MongoConfig(NetworkConfig):
    """Address of a database, or of all of a server's when `database` is None.

    `host` may be a list, `a:27017,b:27017`; with `srv` it is the name whose DNS records list the servers. `dump_with`
    chooses how a dump is made where both ways are open. Without `ssl_mode` a server is spoken to as MongoDB's own
    clients do: in clear text, and with TLS after mongodb+srv.
    """

    default_port: ClassVar[int] = DEFAULT_PORT
    scheme: ClassVar[str] = "mongodb"
    query_fields: ClassVar[Mapping[str, str]] = {
        **NetworkConfig.query_fields,
        "authSource": "auth_source",
        "authMechanism": "auth_mechanism",
        "replicaSet": "replica_set",
        "readPreference": "read_preference",
        "readConcernLevel": "read_concern",
        "directConnection": "direct",
        "dump_with": "dump_with",
        "tls": "ssl_mode",
        "ssl": "ssl_mode",
        "tlsCAFile": "ssl_ca",
        "tlsCertificateKeyFile": "ssl_cert",
    }

    type: Literal["mongodb"] = "mongodb"
    database: DatabaseName | None = None
    srv: bool = False
    auth_source: Text | None = None
    auth_mechanism: Mechanism | None = None
    replica_set: Text | None = None
    read_preference: ReadPreference | None = None
    read_concern: ReadConcern | None = None
    direct: bool | None = None
    dump_with: DumpWith | None = None

    @model_validator(mode="after")
    def _srv_is_a_name(self) -> Self:
        if self.srv and (self.port or self.socket or self.ssh_tunnel or not self.host or "," in self.host):
            raise ValueError("mongodb+srv takes one host name, without a port, a socket or a tunnel")
        if self.host and "," in self.host and (self.port or self.ssh_tunnel):
            raise ValueError("several hosts have their ports in the list, and take no tunnel")
        return self

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes what MongoDB's own clients take: `mongodb://user:password@host,host/database?authSource=admin&…`."""
        fields = fields_of(_without_defaults(url), cls.query_fields)
        if fields["host"] and "," in fields["host"] and fields["port"]:  # the port of the last one of several
            fields |= {"host": f"{fields['host']}:{fields['port']}", "port": None}
        if fields.get("ssl_mode") in _TLS_WORDS:
            fields["ssl_mode"] = _TLS_WORDS[fields["ssl_mode"]]
        if str(fields.get("host") or "").startswith("/"):
            raise UsageError(
                "a socket must not stand in the host's place, where letters lose their case",
                hint="write mongodb:///database?socket=/tmp/mongodb-27017.sock",
            )
        return cls.from_fields(fields | {"srv": url.scheme == "mongodb+srv"})

    def describe(self) -> str:
        text = super().describe()
        return text.replace("mongodb://", "mongodb+srv://", 1) if self.srv else text

    def default_name(self) -> str:
        return super().default_name() if self.database or "," not in (self.host or "") else "mongodb"


def place_of(config: MongoConfig) -> str:
    """Returns where the server is, for people."""
    if config.socket:
        return config.socket
    host = config.host or "localhost"
    return host if config.srv or "," in host else f"{host}:{config.port or DEFAULT_PORT}"


def uri_of(config: MongoConfig, endpoint: Endpoint, auth_source: str | None, options: Mapping[str, str]) -> str:
    """Returns the URI, with the password, that both the driver and mongodump take; `options` are added to it."""
    given = {
        "authSource": auth_source,
        "authMechanism": config.auth_mechanism,
        "replicaSet": None if endpoint.tunnelled else config.replica_set,
        "readPreference": config.read_preference,
        "readConcernLevel": None if config.read_concern == "snapshot" else config.read_concern,
        "directConnection": _is_direct(config, endpoint),
        "appName": "dataguardian",
    }
    query = {key: value for key, value in given.items() if value is not None} | dict(options)
    text = "&".join(f"{key}={quote(value, safe='')}" for key, value in query.items())
    scheme = "mongodb+srv" if config.srv else "mongodb"
    return f"{scheme}://{_credentials(config)}{_hosts(config, endpoint)}/?{text}"


def auth_sources(config: MongoConfig) -> list[str | None]:
    """Returns the databases to look for the user in, in order.

    MongoDB's rule is the address's database, else admin; but most users live in admin, whatever they may read.
    """
    if config.auth_source:
        return [config.auth_source]
    if not config.username and config.auth_mechanism is None:
        return [None]
    if config.auth_mechanism in ("MONGODB-X509", "PLAIN", "GSSAPI"):
        return ["$external"]
    return [config.database, "admin"] if config.database not in (None, "admin") else ["admin"]


def _is_direct(config: MongoConfig, endpoint: Endpoint) -> str | None:
    """Behind a tunnel or a socket the other members of a replica set cannot be reached by the names they know."""
    if config.direct is not None:
        return str(config.direct).lower()
    return "true" if endpoint.tunnelled or endpoint.socket else None


def _credentials(config: MongoConfig) -> str:
    if not config.username:
        return ""
    password = None if config.auth_mechanism == "MONGODB-X509" else password_of(config)
    secret = "" if password is None else f":{quote(password, safe='')}"
    return f"{quote(config.username, safe='')}{secret}@"


def _hosts(config: MongoConfig, endpoint: Endpoint) -> str:
    if endpoint.socket:
        return quote(endpoint.socket, safe="")
    if config.srv or "," in endpoint.host:
        return endpoint.host
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def _without_defaults(url: Url) -> Url:
    """Drops what people copy along from other programs' URIs and what has no say in a backup."""
    query = {key: value for key, value in url.query.items() if key not in _IDLE}
    return Url(url.scheme, url.username, url.password, url.host, url.port, url.path, query)
