"""Ends the servers that storages were tested against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.storage.peers import end_shared


@pytest.fixture(scope="session", autouse=True)
def _peers_end_with_the_session() -> Iterator[None]:
    yield
    end_shared()
