"""The service's API as the command line calls it: one object per session, and its errors are ours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, cast
from urllib.parse import urlsplit

import typer

from dataguardian.cli import output, tls
from dataguardian.cli.credentials import Credentials, credentials, is_loopback
from dataguardian.domain import errors
from dataguardian.domain.errors import DataGuardianError, JsonValue, UnreachableError, UsageError

if TYPE_CHECKING:
    import httpx

    from dataguardian.settings import Settings

URL_VARIABLE = "DATAGUARDIAN_URL"
CONNECT_SECONDS = 3.0
READ_SECONDS = 60.0
"""Longer than a test of a datasource may take."""
PATIENT_SECONDS = 3600.0
PAGE = 100
DEFAULT_URL = "http://127.0.0.1:8484"

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what such a service is asked at

Document = dict[str, Any]

ServiceUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help=f"Where the service answers: ${URL_VARIABLE}, or {DEFAULT_URL}."),
]

_BY_STATUS: Mapping[int, type[DataGuardianError]] = {
    401: errors.NotAllowedError,
    403: errors.NotAllowedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    413: errors.UsageError,
    415: errors.UsageError,
    422: errors.UsageError,
}


class ServiceError(DataGuardianError):
    """What the service answered, with its own word for it and the exit code that the word has here."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        details = {key: value for key, value in body.get("details", {}).items() if key != "hint"}
        super().__init__(
            str(body.get("message") or f"the service answered {status}"),
            hint=str(body.get("details", {}).get("hint", "")),
            **cast("dict[str, JsonValue]", details),
        )
        self.word = str(body.get("error", "failed"))
        self.status = status
        self.exit_code = _exit_code(self.word, status)

    def as_json(self) -> dict[str, object]:
        return super().as_json() | {"error": self.word}


class Client:
    """Talks to one service. Every method raises UnreachableError when nothing answers, ServiceError for a refusal."""

    def __init__(self, url: str, shown: Credentials | None = None) -> None:
        import httpx

        self.url = url
        self._shown = shown or Credentials("", None)
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        # No proxy of the environment: the service listens on this machine.
        verify = tls.context_for(url) if url.startswith("https:") else False
        self._http = httpx.Client(base_url=url, timeout=timeout, trust_env=False, verify=verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Document:
        given = {key.rstrip("_"): value for key, value in query.items() if value is not None}
        return cast("Document", self._call("GET", path, params=given))

    def get_patiently(self, path: str, **query: object) -> Document:
        """Waits as long as it takes, for what reads everything that there is."""
        given = {key: value for key, value in query.items() if value is not None}
        return cast("Document", self._call("GET", path, params=given, timeout=PATIENT_SECONDS))

    @contextmanager
    def stream(self, path: str, **query: str | int) -> Iterator[httpx.Response]:
        """Yields an answer whose body is read piece by piece."""
        request = self._http.build_request("GET", path, params=query, headers=self._shown.header())
        with _translated(self.url):
            answer = self._http.send(request, stream=True)
            if answer.status_code == HTTPStatus.UNAUTHORIZED and self._shown.renew():
                answer.close()
                request.headers.update(self._shown.header())
                answer = self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    answer.read()
                    self._body_of(answer)
                yield answer
            finally:
                answer.close()

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Document:
        return cast("Document", self._call("POST", path, json=body))

    def put(self, path: str, body: Mapping[str, Any]) -> Document:
        return cast("Document", self._call("PUT", path, json=body))

    def delete(self, path: str, **query: object) -> None:
        self._call("DELETE", path, params={key: value for key, value in query.items() if value is not None})

    def every(self, path: str, **query: object) -> Iterator[Document]:
        """Yields every row of a list, page by page."""
        page = 1
        while True:
            found = self.get(path, page=page, limit=PAGE, **query)
            yield from found["data"]
            if page >= found["pagination"]["total_pages"]:
                return
            page += 1

    def whole(self, path: str, **query: object) -> Document:
        """Returns a list with every row of it, in the shape of one page."""
        rows = list(self.every(path, **query))
        pagination = {"total": len(rows), "page": 1, "limit": max(len(rows), 1), "total_pages": 1 if rows else 0}
        return {"data": rows, "pagination": pagination}

    def rows(self, path: str, **query: object) -> list[Document]:
        """Returns a list that is one page long."""
        return cast("list[Document]", self.get(path, **query)["data"])

    def _call(self, method: str, path: str, **given: Any) -> Any:  # noqa: ANN401 -- any JSON
        answer = self._sent(method, path, **given)
        return {} if answer.status_code == HTTPStatus.NO_CONTENT else self._body_of(answer)

    def _body_of(self, answer: httpx.Response) -> Any:  # noqa: ANN401 -- any JSON
        """Returns an answer's body; raises ServiceError for a refusal, UnreachableError for what is none of ours."""
        try:
            body = answer.json()
        except ValueError as error:
            raise _stranger(self.url) from error
        if answer.is_success:
            return body
        if not isinstance(body, dict) or not {"error", "message"} <= body.keys():
            raise _stranger(self.url)
        raise self._refusal(answer.status_code, body)

    def _sent(self, method: str, path: str, **given: Any) -> httpx.Response:  # noqa: ANN401 -- any JSON
        """Sends a request; once more when the token was not taken and its file has another one by now."""
        with _translated(self.url):
            answer = self._http.request(method, path, headers=self._shown.header(), **given)
            if answer.status_code == HTTPStatus.UNAUTHORIZED and self._shown.renew():
                answer = self._http.request(method, path, headers=self._shown.header(), **given)
        return answer

    def _refusal(self, status: int, body: Mapping[str, Any]) -> ServiceError:
        """Returns the error of an answer. What to do about a token that is not taken is known here, not there."""
        error = ServiceError(status, body)
        if status == HTTPStatus.UNAUTHORIZED:
            error.message = self._shown.told(error.message)
            error.hint = self._shown.hint
        return error


def connect(url: str | None, token_file: Path | None) -> Client:
    """Returns the client for `--url`, the environment or the default; opens nothing yet. Raises UsageError."""
    given = (url or os.environ.get(URL_VARIABLE) or _local_url()).rstrip("/")
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{given!r} is not the address of a service", hint=f"write it like {DEFAULT_URL}")
    shown = credentials(given, token_file)
    if shown.token is not None and parts.scheme == "http" and not is_loopback(parts.hostname):
        output.warn(f"the token goes to {parts.hostname} unencrypted; use https, or an SSH tunnel")
    return Client(given, shown)


def _local_url() -> str:
    """Returns where a service with this environment listens."""
    from dataguardian.settings import Settings

    return service_url(Settings.from_environment())


def service_url(settings: Settings) -> str:
    """Returns where a service with these settings is reached from its own machine."""
    name = _EVERYWHERE.get(settings.host, settings.host)
    scheme = "http" if settings.tls_cert is None else "https"
    return f"{scheme}://[{name}]:{settings.port}" if ":" in name else f"{scheme}://{name}:{settings.port}"


@contextmanager
def _translated(url: str) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.TimeoutException as error:
        raise UnreachableError(
            f"the service at {url} did not answer in time", hint="look at its log; `dataguardian status` asks again"
        ) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        reason = tls.reason_of(error)
        if reason is not None:
            raise UnreachableError(f"the certificate of {url} is not trusted: {reason}", hint=tls.HINT) from error
        raise UnreachableError(
            f"no service answers at {url}",
            hint=f"start one with `dataguardian up`, or say where it is with --url or {URL_VARIABLE}",
        ) from error


def _stranger(url: str) -> UnreachableError:
    return UnreachableError(f"what answers at {url} is not DataGuardian", hint=f"check --url and {URL_VARIABLE}")


def exit_code_of(word: str | None) -> int:
    """Returns the exit code of a kind of error, as the command line alone would give it; else 1."""
    return (_kind_of(word or "") or DataGuardianError).exit_code


def _exit_code(word: str, status: int) -> int:
    return (_kind_of(word) or _BY_STATUS.get(status, DataGuardianError)).exit_code


def _kind_of(word: str) -> type[DataGuardianError] | None:
    return {kind.code: kind for kind in _tree(DataGuardianError)}.get(word)


def _tree(kind: type[DataGuardianError]) -> Iterator[type[DataGuardianError]]:
    yield kind
    for child in kind.__subclasses__():
        if child is not ServiceError:
            yield from _tree(child)
