"""The services that Apprise knows (chat, push, paging …), by their Apprise URLs.

Apprise runs in a child process for as long as one message takes: its plug-ins bound single reads at most, write
addresses and tokens into their logs, and stay in memory. A child can be ended in time, and its output goes nowhere.

All services get the message at once. When some fail the others have it, and a retry reaches them again: services that
must not hear twice go into channels of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError

import dataguardian
from dataguardian.domain.errors import NotifierRejectedError, NotifierTransientError, UsageError
from dataguardian.domain.notifications import Notification
from dataguardian.domain.states import Severity
from dataguardian.domain.urls import Url
from dataguardian.notifiers._targets import forbidden
from dataguardian.notifiers.base import Notifier, NotifierAdapter, NotifierConfig
from dataguardian.settings import without_secrets

_TYPES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}
_SERVICE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30})://[^\x00-\x20\x7f]{0,4000}")
_CHILD = "dataguardian.notifiers.apprise_child"


def _service(value: SecretStr) -> SecretStr:
    if not _SERVICE.fullmatch(value.get_secret_value()):
        raise ValueError("must be an Apprise URL such as ntfy://host/topic, without blanks")
    return value


class AppriseConfig(NotifierConfig):
    """A list of Apprise URLs, each of which is a secret."""

    type: Literal["apprise"] = "apprise"
    urls: Annotated[tuple[Annotated[SecretStr, AfterValidator(_service)], ...], Field(min_length=1, max_length=50)]

    @classmethod
    def from_url(cls, url: Url) -> Self:
        try:
            return cls.model_validate({"urls": url.query.get("urls", "").split()})
        except ValidationError as error:
            raise UsageError(
                "apprise:// needs Apprise URLs in its option urls, percent-encoded and separated by blanks",
                hint=f"write it like {_EXAMPLE}",
            ) from error

    def describe(self) -> str:
        return f"apprise ({', '.join(self.services)})"

    @property
    def services(self) -> list[str]:
        """The scheme of each URL, which names the service and nothing else."""
        return [url.get_secret_value().partition("://")[0].lower() for url in self.urls]


class Outcome(BaseModel):
    """What the child found: positions in `urls` of those that Apprise did not understand, that failed, and that lead
    to where messages may not go.
    """

    unknown: list[int]
    failed: list[int]
    refused: list[int]


class AppriseNotifier(Notifier):
    def __init__(self, config: AppriseConfig) -> None:
        self._config = config

    def send(self, notification: Notification) -> None:
        outcome = self._run(self._order(notification))
        if outcome.failed:
            raise NotifierTransientError(
                f"{self._named(outcome.failed)} did not take the message",
                hint="check address and token of the service: python -m apprise -vv -b test <URL> tells more",
            )
        if outcome.refused:
            raise forbidden(self._named(outcome.refused))
        if outcome.unknown:
            raise NotifierRejectedError(
                f"Apprise does not understand {self._named(outcome.unknown)}",
                hint="compare the URL with the service's page in Apprise's documentation",
            )

    def _order(self, notification: Notification) -> bytes:
        order = {
            "urls": [url.get_secret_value() for url in self._config.urls],
            "title": notification.title,
            "body": notification.message or notification.title,
            "type": _TYPES[notification.severity],
            "timeout_seconds": self._config.timeout_seconds,
        }
        return json.dumps(order).encode()

    def _run(self, order: bytes) -> Outcome:
        try:
            child = subprocess.run(  # noqa: S603 -- our own module; the secrets go through a pipe
                [sys.executable, "-P", "-m", _CHILD],
                input=order,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=self._config.timeout_seconds,
                env=_environment(),
                check=False,
            )
            return Outcome.model_validate_json(child.stdout)
        except subprocess.TimeoutExpired:
            raise NotifierTransientError(
                f"{self._config.describe()} did not finish in time", hint="check that the services answer"
            ) from None
        except (OSError, ValidationError) as error:
            raise NotifierTransientError(
                f"{self._config.describe()}: Apprise could not be run", hint="run: python -c 'import apprise'"
            ) from error

    def _named(self, positions: Iterable[int]) -> str:
        return ", ".join(f"service {at + 1} ({self._config.services[at]})" for at in positions)


def _environment() -> dict[str, str]:
    """Lets the child find this package wherever it was imported from; -P keeps the working directory out."""
    source = str(Path(dataguardian.__file__).parents[1])
    paths = [source, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**without_secrets(os.environ), "PYTHONPATH": os.pathsep.join(paths)}


_EXAMPLE = "apprise://?urls=ntfy%3A%2F%2Fntfy.example.com%2Fbackups"

ADAPTER = NotifierAdapter(
    type="apprise",
    schemes=("apprise",),
    example=_EXAMPLE,
    config=AppriseConfig,
    build=AppriseNotifier,
    package="apprise",
)
