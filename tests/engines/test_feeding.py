"""One child's output read here and by another child at once: what checks a dump while it passes."""

from __future__ import annotations

import hashlib

import pytest

from dataguardian.engines import processes
from dataguardian.engines.processes import ChildProcess
from tests.conftest import require_tool

LINES = "400000"


def read_all(source: ChildProcess, other: ChildProcess, step: int) -> bytes:
    buffer, data = memoryview(bytearray(step)), bytearray()
    while count := source.read_and_feed(buffer, other):
        data += buffer[:count]
    return bytes(data)


@pytest.mark.parametrize("step", [1000, 65536, 16 << 20])
@pytest.mark.parametrize("can_tee", [True, False])
def test_both_get_every_byte(monkeypatch: pytest.MonkeyPatch, step: int, can_tee: bool) -> None:
    """Whatever the size of the buffer, and with or without the kernel's help, both readers see the same bytes."""
    if not can_tee:
        monkeypatch.setattr(processes, "_tee", lambda: None)
    with (
        ChildProcess([require_tool("seq"), LINES], stdout=True, stdbuf=True) as source,
        ChildProcess([require_tool("sha256sum")], stdin=True, stdout=True) as other,
    ):
        data = read_all(source, other, step)
        other.close_stdin()
        answer = memoryview(bytearray(100))
        digest = bytes(answer[: other.readinto(answer)]).split()[0].decode()
        assert (source.wait(), other.wait()) == (0, 0)
    assert data.endswith(f"{LINES}\n".encode())
    assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.parametrize("can_tee", [True, False])
def test_a_reader_that_leaves_early_is_noticed(monkeypatch: pytest.MonkeyPatch, can_tee: bool) -> None:
    """Bytes that the other one did not take are an error, never silently lost."""
    if not can_tee:
        monkeypatch.setattr(processes, "_tee", lambda: None)
    with (
        ChildProcess([require_tool("seq"), LINES], stdout=True) as source,
        ChildProcess([require_tool("true")], stdin=True) as other,
    ):
        other.wait()
        with pytest.raises(BrokenPipeError):
            read_all(source, other, 65536)


def test_a_reader_that_leaves_after_the_last_byte_is_no_error() -> None:
    """pg_restore goes as soon as it has seen what it needs."""
    with (
        ChildProcess([require_tool("printf"), "hello"], stdout=True) as source,
        ChildProcess([require_tool("head"), "-c", "5"], stdin=True) as other,
    ):
        buffer = memoryview(bytearray(100))
        assert source.read_and_feed(buffer, other) == 5
        other.wait()
        source.wait()
        assert source.read_and_feed(buffer, other) == 0
