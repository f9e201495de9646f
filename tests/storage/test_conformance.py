"""Every storage on every peer that its fixture names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.conformance import Harness, StorageConformance
from tests.storage.peers import all_peers

PEERS = all_peers()


class TestConformance(StorageConformance):
    @pytest.fixture(params=PEERS)
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
        with PEERS[request.param](tmp_path) as harness:
            yield harness
