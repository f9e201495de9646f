"""Which code page the non-Unicode texts of a collation are in (five bytes, MS-TDS 2.2.5.1.2)."""

from __future__ import annotations

_UTF8 = 1 << 26
_BY_LOCALE = {
    0x411: "cp932", 0x804: "gbk", 0x1004: "gbk", 0x412: "cp949", 0x404: "cp950", 0xC04: "cp950", 0x1404: "cp950",
    **dict.fromkeys(
        (0x402, 0x419, 0x422, 0x423, 0x42F, 0x43F, 0x444, 0x450, 0x46D, 0x485, 0x82C, 0xC1A, 0x201A), "cp1251"
    ),
    **dict.fromkeys((0x405, 0x40E, 0x415, 0x418, 0x41A, 0x41B, 0x41C, 0x424, 0x442, 0x81A, 0x141A), "cp1250"),
    0x408: "cp1253", 0x41F: "cp1254", 0x42C: "cp1254", 0x443: "cp1254", 0x40D: "cp1255",
    **dict.fromkeys((0x401, 0x420, 0x429, 0x480, 0x48C), "cp1256"),
    0x425: "cp1257", 0x426: "cp1257", 0x427: "cp1257", 0x42A: "cp1258", 0x41E: "cp874",
}  # fmt: skip
_BY_SORT_ORDER = (
    (30, 34, "cp437"), (40, 49, "cp850"), (55, 61, "cp850"), (80, 96, "cp1250"), (104, 108, "cp1251"),
    (112, 124, "cp1253"), (128, 130, "cp1254"), (136, 138, "cp1255"), (144, 146, "cp1256"), (152, 160, "cp1257"),
    (192, 193, "cp932"), (194, 195, "cp949"), (196, 197, "cp950"), (198, 199, "gbk"), (200, 200, "cp932"),
    (201, 201, "cp949"), (202, 202, "cp950"), (203, 203, "gbk"), (204, 206, "cp874"),
)  # fmt: skip


def encoding_of(collation: bytes) -> str:
    """Returns Python's name of the code page; cp1252, the commonest, where nothing else is known."""
    bits, sort_order = int.from_bytes(collation[:4], "little"), collation[4] if len(collation) > 4 else 0  # noqa: PLR2004 -- a byte
    if bits & _UTF8:
        return "utf-8"
    if sort_order:
        return next((name for low, high, name in _BY_SORT_ORDER if low <= sort_order <= high), "cp1252")
    return _BY_LOCALE.get(bits & 0xFFFF, "cp1252")
