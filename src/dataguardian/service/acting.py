"""Who acts now: set for each request and for each command, read by what keeps the audit log and by what is limited."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dataguardian.domain.access import SYSTEM, Actor

_actor: ContextVar[Actor] = ContextVar("actor", default=SYSTEM)


def current_actor() -> Actor:
    """Returns who acts; DataGuardian itself where nobody has said otherwise, as in loops and workers."""
    return _actor.get()


def current_limit() -> frozenset[uuid.UUID] | None:
    """Returns the datasources that whoever acts is limited to; None when there is no limit."""
    return _actor.get().datasources


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Everything within the block is done by `actor`, tasks that it starts included."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)
