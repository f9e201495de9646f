"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataguardian.domain.errors import UsageError
from dataguardian.domain.sizes import GIB, KIB, MAX_SIZE_BYTES, MIB, TIB, format_size, parse_size

SIZES = st.integers(1, MAX_SIZE_BYTES)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("1", 1),
        ("4096", 4096),
        ("512B", 512),
        ("16MiB", 16 * MIB),
        ("16M", 16 * MIB),
        ("16m", 16 * MIB),
        (" 16 MiB ", 16 * MIB),
        ("16MB", 16_000_000),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5KiB", 512),
        ("1.0001KiB", 1024),
        ("2TiB", 2 * TIB),
        ("1kb", 1000),
        ("9223372036854775807", MAX_SIZE_BYTES),
    ],
)
def test_a_size_is_read_with_its_unit(text: str, size_bytes: int) -> None:
    """Binary and decimal units, a fraction, any case and spaces around are all understood."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "MiB",
            "-1",
            "+1",
            "1 2",
            "1e6",
            "1,5MiB",
            "1XB",
            "1.MiB",
            ".5MiB",
            "inf",
            "nan",
            "0x10",
            "1\n2",
            "1MiB;",
        ),
        *("0", "0MiB", "0.0GiB", "0.9B", "9223372036854775808", "8388608TiB", "9" * 5000, "\u0661MiB", "1\u0130"),
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """Nothing, nonsense, zero and more than a file can have are wrong usage, told in a short text with an example."""
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "16MiB" in caught.value.hint
    assert len(str(caught.value)) < 300


@given(SIZES)
def test_bytes_are_read_exactly(size_bytes: int) -> None:
    """A number of bytes is read back to the last digit, however large."""
    assert parse_size(str(size_bytes)) == size_bytes


@given(st.integers(1, 2**60))
def test_what_is_shown_is_read_back_closely(size_bytes: int) -> None:
    """A size copied from our own output is understood, and is off by no more than its last shown digit."""
    shown = format_size(size_bytes)
    unit = parse_size("1" + shown.split()[1])
    assert abs(parse_size(shown) - size_bytes) <= 0.05 * unit + 1


@given(st.integers(-(2**53), 2**53))
def test_a_shown_size_never_reaches_its_next_unit(size_bytes: int) -> None:
    """Nobody reads `1024.0 KiB` where `1.0 MiB` is meant."""
    number, unit = format_size(size_bytes).split()
    assert unit == "TiB" or abs(float(number)) < KIB


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1023.7, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (MIB - 1, "1.0 MiB"),
        (1.4 * GIB, "1.4 GiB"),
        (5 * TIB, "5.0 TiB"),
        (-2 * KIB, "-2.0 KiB"),
    ],
)
def test_a_size_is_shown_for_people(size_bytes: float, text: str) -> None:
    """One decimal place and the unit that keeps the number short."""
    assert format_size(size_bytes) == text
