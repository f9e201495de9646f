"""Much data through one SSH connection: packets of AES-GCM built and opened with few copies.

asyncssh copies each byte some fifteen times on its way out and, of what comes in faster than it is worked through, the
rest once per packet. Here the common case, data of an open channel under AES-GCM, goes a shorter way; all else (and
everything, where asyncssh or cryptography are not built as expected) is left to asyncssh, packet by packet.
"""

# ruff: noqa: SLF001 -- asyncssh has no public way to what is inside its packets; what is missing there is found out first

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import asyncssh
from asyncssh.constants import MSG_CHANNEL_DATA
from asyncssh.encryption import GCMEncryption
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_TAG_BYTES = 16
_BLOCK_BYTES = 16
_LEAST_PADDING = 4
_HEAD_BYTES = 9
"""Of a channel's data: the kind of message, the channel, the length."""
_FASTER_FROM_BYTES = 16 * 1024
_CONNECTION_PARTS = (
    *("_recv_pkthdr", "_recv_encryption", "_recv_seq", "_inpbuf", "_max_recv_pktlen", "_decompressor", "_channels"),
    *("_send_encryption", "_send_seq", "_compressor", "_transport", "_kex_complete", "_auth_complete"),
    *("_rekey_bytes", "_rekey_bytes_sent"),
)
_CHANNEL_PARTS = (
    *("_send_state", "_send_buf", "_send_window", "_send_pktsize", "_send_chan"),
    *("_recv_state", "_recv_window", "_accept_data"),
)


class Bulk:
    """The short way of one connection. It must carry nothing but SFTP: what its channels receive are memoryviews."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection: Any = connection
        self._sending, self._receiving = _Cipher(), _Cipher()
        self._is_usable = hasattr(AESGCM, "encrypt_into") and _has(connection, _CONNECTION_PARTS)
        if self._is_usable:
            self._read_header = self._connection._recv_pkthdr
            self._connection._recv_pkthdr = self._receive  # type: ignore[method-assign]

    def add(self, client: asyncssh.SFTPClient) -> None:
        """Lets the writes of an SFTP session go the short way."""
        handler = getattr(client, "_handler", None)
        channel = getattr(getattr(handler, "_writer", None), "channel", None)
        if not self._is_usable or handler is None or not _has(channel, _CHANNEL_PARTS):
            return
        otherwise = handler.send_packet

        def send_packet(kind: int, number: int | None, *parts: bytes) -> None:
            size_bytes = 1 + sum(map(len, parts))
            if size_bytes < _FASTER_FROM_BYTES or not self._may_send(channel, 4 + size_bytes):
                otherwise(kind, number, *parts)
                return
            *small, large = parts
            self._send(channel, b"".join([size_bytes.to_bytes(4, "big"), bytes([kind]), *small]), memoryview(large))

        handler.send_packet = send_packet

    def _may_send(self, channel: Any, size_bytes: int) -> bool:  # noqa: ANN401 -- asyncssh's own
        connection = self._connection
        return (
            connection._transport is not None
            and connection._auth_complete
            and connection._kex_complete
            and connection._rekey_bytes_sent < connection._rekey_bytes
            and connection._compressor is None
            and isinstance(connection._send_encryption, GCMEncryption)
            and channel._send_state == "open"
            and not channel._send_buf
            and channel._send_window >= size_bytes
        )

    def _send(self, channel: Any, head: bytes, body: memoryview) -> None:  # noqa: ANN401 -- asyncssh's own
        """Sends `head` and `body` at once, in as many packets as the channel wants."""
        connection, most_bytes = self._connection, channel._send_pktsize
        cipher, aes = connection._send_encryption._cipher, self._sending.of(connection._send_encryption)
        room = most_bytes - len(head)
        bounds = [0, *range(room, len(body), most_bytes), len(body)]
        pieces = [body[begin:end] for begin, end in pairwise(bounds)]
        plain = [_packet(channel._send_chan, b"" if at else head, piece) for at, piece in enumerate(pieces)]
        sealed = bytearray(sum(4 + len(packet) + _TAG_BYTES for packet in plain))
        view, end = memoryview(sealed), 0
        for packet in plain:
            begin, end = end, end + 4 + len(packet) + _TAG_BYTES
            view[begin : begin + 4] = length = len(packet).to_bytes(4, "big")
            aes.encrypt_into(cipher._iv, packet, length, view[begin + 4 : end])
            cipher._update_iv()
        channel._send_window -= len(head) + len(body)
        connection._send_seq = (connection._send_seq + len(plain)) & 0xFFFFFFFF
        connection._rekey_bytes_sent += len(sealed)
        connection._send(sealed)

    def _receive(self) -> bool:
        """Takes the place of `_recv_pkthdr`: opens what data there is, and leaves the first other packet to it."""
        connection = self._connection
        view, offset = memoryview(connection._inpbuf), 0
        while (length := self._receive_one(view, offset)) > 0:
            offset += length
        if offset:
            connection._inpbuf = connection._inpbuf[offset:]
        return not length and bool(self._read_header())

    def _receive_one(self, view: memoryview, offset: int) -> int:
        """Returns the length of the packet of data at `offset`, which it delivered; 0 for one that asyncssh shall take,
        -1 for one that is not complete yet.
        """
        connection = self._connection
        encryption = connection._recv_encryption
        if not isinstance(encryption, GCMEncryption) or connection._decompressor or len(view) < offset + _BLOCK_BYTES:
            return 0
        length = int.from_bytes(view[offset : offset + 4], "big")
        end = offset + 4 + length + _TAG_BYTES
        if len(view) < end <= offset + connection._max_recv_pktlen:
            return -1
        return end - offset if self._is_delivered(encryption, view[offset:end]) else 0

    def _is_delivered(self, encryption: Any, sealed: memoryview) -> bool:  # noqa: ANN401 -- asyncssh's own
        """Tells whether a packet was data, for a channel that may have it."""
        connection = self._connection
        try:
            plain = self._receiving.of(encryption).decrypt(encryption._cipher._iv, sealed[4:], sealed[:4])
        except (InvalidTag, ValueError):  # asyncssh opens it once more, and knows what to do
            return False
        channel = connection._channels.get(int.from_bytes(plain[2:6], "big"))
        size_bytes = int.from_bytes(plain[6:10], "big")
        if not _is_plain_data(plain, size_bytes, channel):
            return False
        encryption._cipher._update_iv()
        connection._recv_seq = (connection._recv_seq + 1) & 0xFFFFFFFF
        channel._accept_data(memoryview(plain)[10 : 10 + size_bytes])
        return True


class _Cipher:
    """Keeps what a key was made into: asyncssh makes it anew for each packet."""

    def __init__(self) -> None:
        self._encryption: GCMEncryption | None = None
        self._aes: AESGCM | None = None

    def of(self, encryption: GCMEncryption) -> AESGCM:
        if self._aes is None or self._encryption is not encryption:
            self._encryption, self._aes = encryption, AESGCM(encryption._cipher._key)
        return self._aes


def _packet(channel: int, head: bytes, body: memoryview) -> bytes:
    """Returns an SSH packet of a channel's data, without its length: padding's length, message, padding."""
    size_bytes = len(head) + len(body)
    padding_bytes = -(1 + _HEAD_BYTES + size_bytes) % _BLOCK_BYTES
    if padding_bytes < _LEAST_PADDING:
        padding_bytes += _BLOCK_BYTES
    start = bytes([padding_bytes, MSG_CHANNEL_DATA]) + channel.to_bytes(4, "big") + size_bytes.to_bytes(4, "big")
    return b"".join([start, head, body, os.urandom(padding_bytes)])


def _is_plain_data(plain: bytes, size_bytes: int, channel: Any) -> bool:  # noqa: ANN401 -- asyncssh's own
    """Tells whether a packet is nothing but data that its channel may receive."""
    return (
        len(plain) > 1 + _HEAD_BYTES
        and plain[1] == MSG_CHANNEL_DATA
        and channel is not None
        and channel._recv_state == "open"
        and 0 < size_bytes <= channel._recv_window
        and len(plain) == 1 + _HEAD_BYTES + size_bytes + plain[0]
    )


def _has(thing: object, names: tuple[str, ...]) -> bool:
    return all(hasattr(thing, name) for name in names)
