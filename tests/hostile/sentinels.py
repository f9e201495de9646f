"""Documents with a sentinel in every secret field, made from the types alone, and where sentinels came to light."""

from __future__ import annotations

import base64
import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args, get_origin

import zstandard
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import BaseModel, ValidationError

from dataguardian.domain.errors import UsageError
from dataguardian.domain.secretfields import leaves
from dataguardian.domain.urls import parse_url
from dataguardian.registry import Adapter
from dataguardian.service.secrets import revealed
from tests.faults.service import Service

Document = dict[str, Any]


def _word() -> str:
    return f"Sentinel{secrets.token_hex(10)}"


def _private_key() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    return key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def _age_identity() -> str:
    from dataguardian.streams.age.x25519 import X25519Identity  # noqa: PLC0415 -- only where one is asked for

    return X25519Identity.generate().secret_text()


SHAPES: tuple[Callable[[], str], ...] = (
    _word,
    lambda: f"http://127.0.0.1:9/{_word()}",
    lambda: f"json://user:{_word()}@127.0.0.1:9/",
    lambda: base64.b64encode(secrets.token_bytes(32)).decode(),
    _private_key,
    _age_identity,
)
"""What secrets may have to look like. A field that takes none of these fails the test: add its shape."""


@dataclass
class Sentinels:
    """Every secret that was made, with the field that it was made for."""

    made: dict[str, str] = field(default_factory=dict)

    def note(self, secret: str, where: str) -> None:
        self.made[_telling(secret)] = where

    def found_in(self, data: bytes) -> set[str]:
        return {where for secret, where in list(self.made.items()) if secret.encode() in data}


def _telling(secret: str) -> str:
    """Returns the part of a secret that is nowhere else: the word in it, or a line of a key."""
    word = re.search(r"Sentinel[0-9a-f]{20}", secret)
    return word[0] if word else secret.strip().splitlines()[len(secret.strip().splitlines()) // 2]


def filled(model: type[BaseModel], base: Document, sentinels: Sentinels, name: str) -> list[Document]:
    """Returns valid documents that have a sentinel in each secret field of a model at least once between them.

    As many as possible go into one document; what does not suit the others gets one of its own.
    """
    left = sorted({leaf.path for leaf in leaves(model) if leaf.secret}, key=len)
    for path in [path for path in left if model.model_fields[path[0]].is_required()]:
        base = _with_any(model, base, path, sentinels, f"{name} {'.'.join(path)}") or base
        left.remove(path)
    documents: list[Document] = []
    while left:
        document, refused = base, []
        for path in left:
            longer = _with_any(model, document, path, sentinels, f"{name} {'.'.join(path)}")
            if longer is None:
                refused.append(path)
            else:
                document = longer
        assert len(refused) < len(left), f"{name}: nothing that is known suits {refused}; see SHAPES"
        documents.append(document)
        left = refused
    return documents or [base]


def _with_any(
    model: type[BaseModel], document: Document, path: tuple[str, ...], made: Sentinels, where: str
) -> Document | None:
    """Tries the shapes, also together with a user name or an id that a secret may need beside it."""
    names = [name for name, given in model.model_fields.items() if "str" in str(given.annotation)]
    for besides in ({}, *({name: "someone"} for name in names if name not in document)):
        for shape in (_private_key, *SHAPES) if path[-1] == "private_key" else SHAPES:
            secret = shape()
            longer = _put(model, {**document, **besides}, path, secret)
            with contextlib.suppress(ValidationError, UsageError, ValueError):
                if secret in _texts(revealed(model.model_validate(longer))):
                    made.note(secret, where)
                    return longer
    return None


def _put(model: Any, document: Any, path: tuple[str, ...], secret: str) -> Any:
    """Returns a document with the secret at a path; what an object needs besides is made up."""
    if not path:
        return secret
    step, *rest = path
    inner = _inner(model, step)
    if step == "*":
        if _is_list(model):
            return [_put(inner, {}, tuple(rest), secret)]
        return {**(document or {}), f"Key{len(document or {})}": _put(inner, {}, tuple(rest), secret)}
    needed = {**_needed(model), **(document or {})}
    return {**needed, step: _put(inner, needed.get(step), tuple(rest), secret)}


def _models(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from _models(argument)


def _inner(annotation: Any, step: str) -> Any:
    if step == "*":
        return annotation
    for model in _models(annotation):
        if step in model.model_fields:
            return model.model_fields[step].annotation
    return None


def _is_list(annotation: Any) -> bool:
    origins = [get_origin(annotation), *(get_origin(argument) for argument in get_args(annotation))]
    return any(origin in (list, tuple) for origin in origins)


def _needed(annotation: Any) -> Document:
    made: Document = {}
    for model in list(_models(annotation))[:1]:
        for name, given in model.model_fields.items():
            if given.is_required():
                made[name] = 1 if given.annotation is int else "127.0.0.1"
    return made


def _texts(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {text for item in value.values() for text in _texts(item)}
    if isinstance(value, list | tuple):
        return {text for item in value for text in _texts(item)}
    return {value} if isinstance(value, str) else set()


def documents_of(adapter: Adapter[Any], sentinels: Sentinels) -> list[Document]:
    """Returns configurations of an adapter, which lead nowhere: this machine's port 9."""
    base = revealed(adapter.config.from_url(parse_url(adapter.example)))
    if "host" in base:
        base |= {"host": "127.0.0.1", "port": 9}
    for endpoint in ("http://127.0.0.1:9", "127.0.0.1:9"):
        with contextlib.suppress(ValidationError):
            adapter.config.model_validate(base | {"endpoint": endpoint})
            base |= {"endpoint": endpoint}
    clear = {leaf.path[0] for leaf in leaves(adapter.config) if leaf.secret}
    base = {key: value for key, value in base.items() if key not in clear}
    return filled(adapter.config, base, sentinels, adapter.type)


class Started(Protocol):
    """A service whose processes are known, itself among them."""

    def processes(self) -> Iterator[tuple[int, str]]:
        """Yields ids and command lines."""
        ...


class Watch:
    """Looks all the time at the command lines and environments of everything that a service started."""

    def __init__(self, service: Started, sentinels: Sentinels, *, pause_seconds: float = 0.02) -> None:
        self._service, self._sentinels, self._pause_seconds = service, sentinels, pause_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.in_argv: set[tuple[str, str]] = set()
        self.in_environment: set[tuple[str, str, str]] = set()
        """Program, variable, and the field whose sentinel it held."""
        self.programs: set[str] = set()
        self.arguments: set[str] = set()
        """Whole command lines."""
        self.holders: set[tuple[str, str]] = set()
        """Command lines of those whose environment held a sentinel, and the variable."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            for pid, command in list(self._service.processes()):
                with contextlib.suppress(OSError):
                    self._take(pid, command)
            time.sleep(self._pause_seconds)

    def _take(self, pid: int, command: str) -> None:
        program = Path(command.split(" ", 1)[0]).name
        self.programs.add(program)
        self.arguments.add(command)
        self.in_argv |= {(program, where) for where in self._sentinels.found_in(command.encode())}
        place = Path("/proc") / str(pid)
        environment = (place / "environ").read_bytes()
        if (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") != command:
            return  # it has become another program meanwhile, which is looked at the next time
        for line in environment.split(b"\0"):
            variable = line.split(b"=", 1)[0].decode(errors="replace")
            if found := self._sentinels.found_in(line):
                self.in_environment |= {(program, variable, where) for where in found}
                self.holders.add((command, variable))


def found_in_files(folder: Path, sentinels: Sentinels, *, but: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """Returns the files below a folder that hold sentinels, what zstd compressed included."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.name in but:
            continue
        data = path.read_bytes()
        if path.suffix == ".zst":
            data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
        if where := sentinels.found_in(data):
            found[str(path.relative_to(folder))] = where
    return found


def every_answer(service: Service) -> Iterator[tuple[str, bytes]]:
    """Yields what each GET route of the API says, for every id that its lists have."""
    paths = service.get("/api/openapi.json")
    known = _ids(service)
    for path, methods in paths["paths"].items():
        if "get" not in methods or path.endswith(("/stream", "/events")):
            continue
        for address in _addresses(path, known):
            answer = service.call("GET", address)
            yield address, answer.content + str(answer.headers).encode()


def _ids(service: Service) -> dict[str, list[str]]:
    lists = ("datasources", "storage-locations", "backup-jobs", "executions", "notifications", "users", "tokens")
    known = {}
    for name in lists:
        answer = service.call("GET", f"/api/{name}", params={"limit": 100})
        if answer.status_code == 200:
            known[name] = [row["id"] for row in answer.json()["data"]]
    known["settings"] = [row["key"] for row in service.get("/api/system/settings")["data"]]
    known["queues"] = [row["name"] for row in service.get("/api/system/queues")["data"]]
    return known


def _addresses(path: str, known: dict[str, list[str]]) -> Iterator[str]:
    if path.endswith("/queues/{queue}/jobs"):
        states = ("waiting", "active", "completed", "failed", "delayed")
        yield from (f"{path.replace('{queue}', queue)}?state={state}" for queue in known["queues"] for state in states)
        return
    place = re.search(r"/([a-z-]+)/\{[a-z_]+\}", path)
    if place is None:
        yield path
        return
    for value in known.get(place[1], []):
        address = re.sub(r"\{[a-z_]+\}", value, path, count=1)
        if "{" not in address:
            yield address
