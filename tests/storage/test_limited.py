"""The bandwidth limit of a storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataguardian.domain.errors import CancelledError
from dataguardian.domain.sizes import MIB
from dataguardian.domain.urls import parse_url
from dataguardian.storage.limited import LimitedStorage
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.registry import build_storage, storage_config
from dataguardian.storage.retrying import wrap
from tests.storage.test_retrying import FakeTime


def limited(folder: Path, time: FakeTime, mbps: float) -> LimitedStorage:
    return LimitedStorage(LocalStorage(LocalConfig(path=str(folder))), mbps, sleep=time.sleep, clock=time)


def test_the_average_is_kept_up_and_down(tmp_path: Path) -> None:
    """Ten megabytes at 8 megabit per second take ten seconds, whichever way they go."""
    time = FakeTime()
    storage = limited(tmp_path, time, 8)
    for number in range(5):
        storage.put(f"a/{number}", bytes(10**6))
    for number in range(5):
        assert len(storage.get(f"a/{number}", MIB)) == 10**6
    storage.put("a/last", b"")
    assert time.passed == pytest.approx(10, abs=0.01)


def test_small_calls_do_not_wait(tmp_path: Path) -> None:
    """A listing, a stat and a delete answer at once, however much has been moved."""
    time = FakeTime()
    storage = limited(tmp_path, time, 0.001)
    storage.put("a", bytes(10**6))
    assert storage.stat("a").size_bytes == 10**6
    assert [entry.path for entry in storage.list()] == ["a"]
    assert list(storage.folders()) == []
    assert (storage.free_space() or 0) > 0
    storage.delete("a")
    assert storage.local_path == str(tmp_path)
    assert time.passed == 0


def test_the_limit_of_a_configuration_is_kept_where_storages_are_wrapped(tmp_path: Path) -> None:
    """The pause can be cancelled, so that stopping a slow backup does not take minutes."""

    def stop(seconds: float) -> None:
        raise CancelledError(signum=15)

    config = LocalConfig(path=str(tmp_path), bandwidth_limit_mbps=0.001)
    storage = wrap(build_storage(config), sleep=stop)
    storage.put("a", bytes(1000))
    with pytest.raises(CancelledError):
        storage.put("b", b"x")


@pytest.mark.parametrize(("own", "further"), [(0.001, None), (0.001, 5000), (5000, 0.001), (None, 0.001)])
def test_of_two_limits_the_lower_one_counts(tmp_path: Path, own: float | None, further: float | None) -> None:
    """A job's limit comes on top of the storage's own: neither lifts the other."""
    pauses: list[float] = []
    storage = wrap(
        build_storage(LocalConfig(path=str(tmp_path), bandwidth_limit_mbps=own)),
        sleep=pauses.append,
        limit_mbps=further,
    )
    storage.put("a", bytes(1000))
    storage.put("b", b"x")
    assert pauses == [pytest.approx(8, abs=1)]  # 8000 bits at 1000 a second


def test_an_address_can_give_the_limit() -> None:
    """The option has the same name everywhere."""
    assert storage_config(parse_url("file:///x?bandwidth_limit_mbps=50")).bandwidth_limit_mbps == 50
