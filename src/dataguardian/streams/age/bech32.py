"""Bech32 (BIP 173) without its limit of length: how age spells X25519 keys."""

from __future__ import annotations

from collections.abc import Iterable

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH = 6
_FIVE, _EIGHT = 5, 8


def encode(prefix: str, data: bytes) -> str:
    """Returns lower case text."""
    values = _regrouped(data, _EIGHT, _FIVE, pad=True)
    total = _polymod([*_expanded(prefix), *values, *[0] * _CHECKSUM_LENGTH]) ^ 1
    values += [(total >> _FIVE * (5 - place)) & 31 for place in range(_CHECKSUM_LENGTH)]
    return f"{prefix}1{''.join(_ALPHABET[value] for value in values)}"


def decode(text: str) -> tuple[str, bytes]:
    """Returns (lower case prefix, data); raises ValueError for anything that `encode` would not give."""
    if text not in (text.lower(), text.upper()):
        raise ValueError("upper and lower case mixed")
    prefix, one, rest = text.lower().rpartition("1")
    if not one or not prefix or len(rest) < _CHECKSUM_LENGTH or not all(char in _ALPHABET for char in rest):
        raise ValueError("not bech32")
    values = [_ALPHABET.index(char) for char in rest]
    if _polymod([*_expanded(prefix), *values]) != 1:
        raise ValueError("its checksum is wrong")
    return prefix, bytes(_regrouped(values[:-_CHECKSUM_LENGTH], _FIVE, _EIGHT, pad=False))


def _expanded(prefix: str) -> list[int]:
    return [*(ord(char) >> 5 for char in prefix), 0, *(ord(char) & 31 for char in prefix)]


def _polymod(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, term in enumerate(_GENERATOR):
            check ^= term if (top >> place) & 1 else 0
    return check


def _regrouped(values: Iterable[int], from_bits: int, to_bits: int, *, pad: bool) -> list[int]:
    held, bits, result = 0, 0, []
    for value in values:
        held, bits = (held << from_bits) | value, bits + from_bits
        while bits >= to_bits:
            bits -= to_bits
            result.append((held >> bits) & ((1 << to_bits) - 1))
        held &= (1 << bits) - 1
    if pad and bits:
        result.append((held << (to_bits - bits)) & ((1 << to_bits) - 1))
    elif not pad and (bits >= from_bits or held):
        raise ValueError("bits are left over")
    return result
