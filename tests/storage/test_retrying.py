"""Retries: only what may work next time, bounded in tries and in time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dataguardian.domain import errors
from dataguardian.domain.errors import (
    CancelledError,
    DataGuardianError,
    StorageConnectionError,
    StorageTransientError,
)
from dataguardian.storage.base import Storage
from dataguardian.storage.local import LocalConfig, LocalStorage
from dataguardian.storage.retrying import RetryingStorage, wrap
from tests.storage.conformance import listed
from tests.storage.faulty import Fault, FaultyStorage, Op


class FakeTime:
    """A clock that only moves while somebody sleeps."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.pauses: list[float] = []

    def now(self) -> datetime:
        return datetime(2026, 11, 23, 4, tzinfo=UTC)

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.passed += seconds


def test_an_adapter_that_knows_no_hashes(tmp_path: Path) -> None:
    """One that only has `put`, as other packages may bring, gets its bytes all the same, limited and retried."""
    faulty = FaultyStorage(
        LocalStorage(LocalConfig(path=str(tmp_path))), Fault(op="put", error=StorageTransientError("x"))
    )
    assert type(faulty).put_hashed is Storage.put_hashed
    storage = wrap(faulty, sleep=FakeTime().sleep, limit_mbps=1000)
    storage.put_hashed("a", b"x", "00" * 32)
    assert storage.get("a", 1) == b"x"
    assert faulty.calls.count(("put", "a")) == 2
    faulty.assert_all_fired()


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    storage = LocalStorage(LocalConfig(path=str(tmp_path)))
    storage.put("a/b", b"content")
    storage.put("a/c", b"c")
    return storage


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def transient() -> StorageTransientError:
    return StorageTransientError("connection lost", path="a/b")


def retrying(storage: Storage, time: FakeTime, **bounds: float) -> RetryingStorage:
    return RetryingStorage(storage, sleep=time.sleep, clock=time, **bounds)  # type: ignore[arg-type]


CALLS: dict[Op, Callable[[Storage], object]] = {
    "put": lambda storage: storage.put("a/b", b"content"),
    "get": lambda storage: storage.get("a/b", 10),
    "stat": lambda storage: storage.stat("a/b"),
    "list": lambda storage: sorted(entry.path for entry in storage.list("a")),
    "folders": lambda storage: list(storage.folders()),
    "delete": lambda storage: storage.delete("a/b"),
    "free_space": lambda storage: (storage.free_space() or 0) > 0,
}


@pytest.mark.parametrize("op", CALLS)
def test_a_transient_error_is_tried_again(local: Storage, time: FakeTime, op: Op) -> None:
    """Every call answers after two failures as if nothing had happened."""
    faulty = FaultyStorage(local, Fault(op=op, times=2, error=transient()))
    expected = CALLS[op](local)
    assert CALLS[op](retrying(faulty, time)) == expected
    assert len(time.pauses) == 2
    faulty.assert_all_fired()


@pytest.mark.parametrize("op", ["put", "delete"])
def test_a_lost_answer_is_harmless(local: Storage, time: FakeTime, op: Op) -> None:
    """A put or delete that was carried out before the error may be carried out again."""
    faulty = FaultyStorage(local, Fault(op=op, error=transient(), late=True))
    CALLS[op](retrying(faulty, time))
    assert listed(local) == ({"a/b": 7, "a/c": 1} if op == "put" else {"a/c": 1})
    faulty.assert_all_fired()


PERMANENT = sorted(
    {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DataGuardianError)}
    - {StorageTransientError, StorageConnectionError},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", [*PERMANENT, OSError, ValueError, TimeoutError], ids=lambda kind: kind.__name__)
def test_no_other_error_is_tried_again(local: Storage, time: FakeTime, kind: type[Exception]) -> None:
    """What is missing, denied, full, damaged or wrong stays so, and comes through unchanged and at once."""
    error = kind("no")
    faulty = FaultyStorage(local, Fault(op="get", error=error))
    with pytest.raises(kind) as caught:
        retrying(faulty, time).get("a/b", 10)
    assert caught.value is error
    assert time.pauses == []
    faulty.assert_all_fired()


def test_tries_are_bounded(local: Storage, time: FakeTime) -> None:
    """After the last try the error tells how often and how long, and keeps what it said before."""
    faulty = FaultyStorage(local, Fault(op="get", times=4, error=transient()))
    with pytest.raises(StorageTransientError, match=r"connection lost \(tried 4 times in \d+ s\)") as caught:
        retrying(faulty, time, max_tries=4).get("a/b", 10)
    assert (len(time.pauses), caught.value.details) == (3, {"path": "a/b"})
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, StorageTransientError)
    faulty.assert_all_fired()


def test_time_is_bounded(local: Storage, time: FakeTime) -> None:
    """No try begins after the limit, and nobody sleeps towards a try that is not made."""
    faulty = FaultyStorage(local, Fault(op="get", times=10_000, error=transient()))
    with pytest.raises(StorageTransientError):
        retrying(faulty, time, max_tries=10_000, max_seconds=60).get("a/b", 10)
    assert 30 < time.passed <= 60


def test_pauses_grow_and_are_spread(local: Storage, time: FakeTime) -> None:
    """Each pause lies between half and all of a doubling length with a ceiling, and no two clients pause alike."""
    faulty = FaultyStorage(local, Fault(op="get", times=8, error=transient()))
    retrying(faulty, time, max_tries=9, max_seconds=1000, first_pause_seconds=1, max_pause_seconds=10).get("a/b", 10)
    longest = [1, 2, 4, 8, 10, 10, 10, 10]
    assert all(most / 2 <= pause <= most for pause, most in zip(time.pauses, longest, strict=True))
    assert len(set(time.pauses[4:])) == 4
    faulty.assert_all_fired()


def test_a_listing_that_breaks_off_goes_on(local: Storage, time: FakeTime) -> None:
    """What came before the break does not come twice, and nothing is left out."""
    for number in range(20):
        local.put(f"many/{number}", b"x")
    faulty = FaultyStorage(local, *(Fault(op="list", nth=nth, error=transient(), late=True, keep=7) for nth in (1, 2)))
    paths = [entry.path for entry in retrying(faulty, time).list("many")]
    assert sorted(paths) == sorted(f"many/{number}" for number in range(20))
    assert len(time.pauses) >= 1
    faulty.assert_all_fired()


def test_a_listing_that_breaks_off_for_ever_is_given_up(local: Storage, time: FakeTime) -> None:
    """Breaks are bounded like tries."""
    faulty = FaultyStorage(local, Fault(op="list", times=1000, error=transient(), late=True, keep=1))
    with pytest.raises(StorageTransientError):
        list(retrying(faulty, time, max_tries=4).list())
    assert len(time.pauses) < 20


def test_an_empty_listing_stays_empty(local: Storage, time: FakeTime) -> None:
    """Asking for the first item ahead invents none and loses none."""
    assert list(retrying(local, time).list("nope")) == []
    assert len(list(retrying(local, time).list())) == 2


def test_a_check_is_tried_again_as_a_whole(local: Storage, time: FakeTime) -> None:
    """A probe that meets a hiccup passes in the end, and leaves nothing."""
    faulty = FaultyStorage(local, Fault(op="put", error=transient()), Fault(op="list", error=transient()))
    retrying(faulty, time).check()
    assert listed(local) == {"a/b": 7, "a/c": 1}
    faulty.assert_all_fired()


def test_a_pause_can_be_cancelled(local: Storage) -> None:
    """Stopping a backup does not wait for the end of a long pause."""

    def stop(seconds: float) -> None:
        raise CancelledError(signum=15)

    faulty = FaultyStorage(local, Fault(op="get", error=transient()))
    with pytest.raises(CancelledError):
        wrap(faulty, sleep=stop).get("a/b", 10)
    faulty.assert_all_fired()


def test_wrapping_retries(local: Storage, time: FakeTime) -> None:
    """The stack that the pipeline uses survives a hiccup."""
    faulty = FaultyStorage(local, Fault(op="put", nth=2, error=transient()))
    storage = wrap(faulty, sleep=time.sleep)
    storage.put("x", b"1")
    storage.put("x", b"2")
    assert (storage.get("x", 1), len(time.pauses)) == (b"2", 1)
    faulty.assert_all_fired()


def test_scripted_faults_do_what_they_say(local: Storage) -> None:
    """Cut puts and gets, forgotten puts and deletes and wrong answers happen where scripted, and only there."""
    faulty = FaultyStorage(
        local,
        Fault(op="put", path="cut/*", keep=2),
        Fault(op="put", path="forgotten", forget=True),
        Fault(op="get", nth=2, path="a/b", keep=3),
        Fault(op="stat", keep=99),
        Fault(op="delete", forget=True),
        Fault(op="free_space", keep=0),
    )
    faulty.put("cut/1", b"1234")
    faulty.put("cut/2", b"1234")
    faulty.put("forgotten", b"x")
    assert [faulty.get("a/b", 10) for _ in range(3)] == [b"content", b"con", b"content"]
    assert (faulty.stat("a/b").size_bytes, faulty.stat("a/b").size_bytes) == (99, 7)
    faulty.delete("a/c")
    assert (faulty.free_space(), listed(faulty)) == (0, {"a/b": 7, "a/c": 1, "cut/1": 2, "cut/2": 4})
    faulty.assert_all_fired()


def test_a_fault_that_never_fired_fails_its_test(local: Storage) -> None:
    """A test whose fault did not happen would prove nothing."""
    faulty = FaultyStorage(local, Fault(op="put", nth=2, error=transient()))
    faulty.put("x", b"1")
    with pytest.raises(AssertionError, match="never fired"):
        faulty.assert_all_fired()
