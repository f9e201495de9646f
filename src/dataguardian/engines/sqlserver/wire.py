"""The lowest layer of SQL Server's protocol: packets, their encryption, and the signing in.

MS-TDS 7.4 (https://learn.microsoft.com/openspecs/windows_protocols/ms-tds). Our own client and no driver, because a
backup wants what drivers hide: the bytes of a row as the server keeps them, which lose nothing and cost nothing.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from dataclasses import dataclass

HEADER = struct.Struct(">BBHHBB")
BATCH, REPLY, BULK, LOGIN, PRELOGIN = 0x01, 0x04, 0x07, 0x10, 0x12
END_OF_MESSAGE = 0x01
FIRST_PACKET_BYTES = 4096
WANTED_PACKET_BYTES = 16000
"""A packet must fit into one record of TLS, of 16 KiB: SQL Server ends a connection whose packets do not."""
VERSION_7_4 = 0x74000004
MAX_LOGIN_CHARACTERS = 128

ENCRYPT_OFF, ENCRYPT_ON, ENCRYPT_NOT_SUPPORTED, ENCRYPT_REQUIRED = range(4)
_NO_MORE_OPTIONS = 0xFF
_RECEIVE_BYTES = 256 * 1024
_FIXED_LOGIN_BYTES = 94
# Errors in the database's name end the login; the session says what it speaks; unknown collations are fine, features
# follow.
_OPTIONS_1, _OPTIONS_2, _OPTIONS_3 = 0xE0, 0x03, 0x18
# Without the first, texts with a UTF-8 collation come converted, and cannot go back as the bytes that they are.
_FEATURES = struct.pack("<BIB", 0x0A, 0, 0xFF)
_PASSWORD, _SERVER = 2, 4
_LCID_US_ENGLISH = 0x409


class ProtocolError(Exception):
    """What came is not what the protocol says, or not what was asked for; the connection is of no further use."""


class EncryptionError(ProtocolError):
    """The server's wish to encrypt and ours do not fit, or its certificate is refused."""


class Wire:
    """A connection as a sequence of messages. `timeout` (seconds) bounds each wait for the server."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._tls: _Tls | None = None
        self._raw = bytearray()
        self.packet_bytes = FIRST_PACKET_BYTES

    def close(self) -> None:
        self._socket.close()

    def send(self, kind: int, message: bytes) -> None:
        """Sends a whole message in as many packets as it needs."""
        room = self.packet_bytes - HEADER.size
        for offset in range(0, max(1, len(message)), room):
            self.send_packet(kind, message[offset : offset + room], last=offset + room >= len(message))

    def send_packet(self, kind: int, payload: bytes, *, last: bool) -> None:
        header = HEADER.pack(kind, END_OF_MESSAGE if last else 0, HEADER.size + len(payload), 0, 1, 0)
        self._send(header + payload)

    def receive_packet(self, into: bytearray) -> bool:
        """Appends one packet's payload; tells whether the message ends with it."""
        self._fill(HEADER.size)
        _, status, size_bytes, _, _, _ = HEADER.unpack_from(self._raw)
        if size_bytes < HEADER.size:
            raise ProtocolError("the server sent a packet of no length: this is not a SQL Server")
        self._fill(size_bytes)
        with memoryview(self._raw) as raw:
            into += raw[HEADER.size : size_bytes]
        del self._raw[:size_bytes]
        return bool(status & END_OF_MESSAGE)

    def has_news(self) -> bool:
        """Tells, without waiting, whether the server has said something that nobody has read."""
        return bool(self._raw) or bool(select.select([self._socket], [], [], 0)[0])

    def negotiate(self, context: ssl.SSLContext | None, server_name: str, *, required: bool) -> None:
        """Exchanges PRELOGIN and starts TLS as agreed. Raises EncryptionError."""
        wish = ENCRYPT_NOT_SUPPORTED if context is None else ENCRYPT_ON
        self.send(PRELOGIN, _prelogin(wish))
        answer = bytearray()
        while not self.receive_packet(answer):
            pass
        given = _encryption_of(bytes(answer))
        if context is None and given == ENCRYPT_REQUIRED:
            raise EncryptionError("the server insists on TLS, and ssl_mode is disable")
        if context is not None and given == ENCRYPT_NOT_SUPPORTED and required:
            raise EncryptionError("the server has no TLS, and ssl_mode asks for it")
        if context is not None and given != ENCRYPT_NOT_SUPPORTED:
            self._start_tls(context, server_name)

    def _start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """The handshake travels inside PRELOGIN packets; what follows it does not."""
        # With 1.3 the end of the handshake, and so of these packets, is not the same for both sides.
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        tls = _Tls(context, server_name)
        while not tls.shake():
            if request := tls.outgoing.read():
                self.send(PRELOGIN, request)
            answer = bytearray()
            self.receive_packet(answer)
            tls.incoming.write(bytes(answer))
        if request := tls.outgoing.read():
            self.send(PRELOGIN, request)
        self._tls = tls

    def _send(self, data: bytes) -> None:
        if self._tls is None:
            self._socket.sendall(data)
            return
        self._tls.stream.write(data)
        self._socket.sendall(self._tls.outgoing.read())

    def _fill(self, size_bytes: int) -> None:
        while len(self._raw) < size_bytes:
            self._raw += self._receive()

    def _receive(self) -> bytes:
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            if self._tls is None:
                return data
            if clear := self._tls.decrypted(data):
                return clear


class _Tls:
    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.stream = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_name)

    def shake(self) -> bool:
        try:
            self.stream.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise EncryptionError(f"TLS failed: {error.reason or error}") from error
        return True

    def decrypted(self, data: bytes) -> bytes:
        self.incoming.write(data)
        clear = bytearray()
        while True:
            try:
                piece = self.stream.read(_RECEIVE_BYTES)
            except ssl.SSLWantReadError:
                return bytes(clear)
            except ssl.SSLError as error:
                raise ProtocolError(f"TLS failed: {error.reason or error}") from error
            if not piece:
                return bytes(clear)
            clear += piece


def _prelogin(encryption: int) -> bytes:
    values = [(0, bytes(6)), (1, bytes([encryption])), (2, b"\0"), (3, struct.pack(">I", os.getpid())), (4, b"\0")]
    offset = 5 * len(values) + 1
    table, data = b"", b""
    for option, value in values:
        table += struct.pack(">BHH", option, offset + len(data), len(value))
        data += value
    return table + bytes([_NO_MORE_OPTIONS]) + data


def _encryption_of(answer: bytes) -> int:
    position = 0
    while position < len(answer) and answer[position] != _NO_MORE_OPTIONS:
        option: int
        offset: int
        size_bytes: int
        option, offset, size_bytes = struct.unpack_from(">BHH", answer, position)
        if option == 1 and size_bytes and offset < len(answer):
            return int(answer[offset])
        position += 5
    raise ProtocolError("the answer to the first packet is none of a SQL Server")


@dataclass(frozen=True)
class Credentials:
    """What LOGIN7 says. Texts longer than 128 characters are refused by the protocol."""

    username: str
    password: str
    database: str
    server_name: str
    application: str = "dataguardian"


def login_message(who: Credentials) -> bytes:
    """Returns LOGIN7. The password in it is only mangled, as the protocol wants it: TLS is what protects it."""
    program = "dataguardian"
    given = (program, who.username, who.password, who.application, who.server_name, program, "", who.database)
    texts = [_utf16(text) for text in given]
    if any(len(text) > 2 * MAX_LOGIN_CHARACTERS for text in texts):
        raise ProtocolError("a user, password or database name is longer than the 128 characters that SQL Server takes")
    end = _FIXED_LOGIN_BYTES + 4 + sum(map(len, texts))
    table, data = b"", b""
    # Some servers read the parts one after the other, so they are in the order of the table.
    for number, text in enumerate(texts):
        table += struct.pack("<HH", _FIXED_LOGIN_BYTES + len(data), len(text) // 2)
        data += _mangled(text) if number == _PASSWORD else text
        if number == _SERVER:
            table += struct.pack("<HH", _FIXED_LOGIN_BYTES + len(data), 4)
            data += struct.pack("<I", end)  # where the features are
    data += _FEATURES
    table += bytes(6)  # the client's address
    table += struct.pack("<HH", end, 0) * 3 + bytes(4)  # no SSPI, no file to attach, no new password
    head = struct.pack("<IIIII", VERSION_7_4, WANTED_PACKET_BYTES, 7, os.getpid() & 0x7FFFFFFF, 0)
    head += bytes([_OPTIONS_1, _OPTIONS_2, 0, _OPTIONS_3]) + struct.pack("<iI", 0, _LCID_US_ENGLISH)
    return struct.pack("<I", _FIXED_LOGIN_BYTES + len(data)) + head + table + data


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")


def _mangled(password: bytes) -> bytes:
    return bytes(((byte << 4 | byte >> 4) & 0xFF) ^ 0xA5 for byte in password)
