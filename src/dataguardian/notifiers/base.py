"""What a notifier owes to the service.

A notifier carries one notification to one place: a mail server, a web server, the services behind Apprise.

Obligations, held by the suite in tests/notifiers:

* `send` returns when the other side **took** the message, and raises otherwise. It is synchronous and safe for several
  threads at once.
* It is **bounded**: it ends within `timeout_seconds` whatever the other side does (hangs, answers a byte a second,
  never ends its answer, cannot be resolved).
* It tries once. Only the queue retries, and only NotifierTransientError; a retry sends the same notification with the
  same id. So delivery is **at least once**: a message whose confirmation was lost comes twice, recognisable by its id.
* Errors: NotifierTransientError (no answer, connection refused or lost, 5xx and 429 over HTTP, 4xx over SMTP);
  NotifierRejectedError (the same message will be refused again: bad credentials, an unknown recipient, 4xx over HTTP,
  a certificate that is not trusted).
* TLS is verified unless the configuration says otherwise.
* Nothing secret in an error, its causes, or a log: no password, no token, no address of a web hook, which often is
  one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from dataguardian.domain.notifications import Notification
from dataguardian.registry import Adapter, AdapterConfig

TIMEOUT_SECONDS = 15.0


class NotifierConfig(AdapterConfig):
    """Base of every notifier's configuration."""

    timeout_seconds: Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)] = TIMEOUT_SECONDS
    """How long one message may take, from first to last."""


class Notifier(ABC):
    @abstractmethod
    def send(self, notification: Notification) -> None:
        """Delivers once; raises NotifierTransientError or NotifierRejectedError."""


@dataclass(frozen=True, kw_only=True)
class NotifierAdapter(Adapter[Notifier]):
    """What a file in `notifiers/` exports as `ADAPTER`."""
