"""Frames: length, CRC, and a msgpack array of messages.

Rules
-----
1. The length is checked against the cap before anything is allocated for it, and no array may
   claim more elements than its frame has bytes.
2. The CRC is checked before msgpack sees a byte.
3. Everything that one side sends in one tick travels in one frame, so the costs of a frame (CRC,
   packing, a write) are shared by its messages. A frame with no messages is a sign of life.
4. Whatever breaks these rules ends the connection; there is no resynchronisation.

Grammar and an example: PROTOCOL.md.
"""

import struct
from typing import Any, Final

import crc32c
import msgpack

#: A frame's payload, once both sides have proved who they are.
FRAME_BYTES_MAX: Final = 1024 * 1024
#: Before that.
HELLO_BYTES_MAX: Final = 1024
MESSAGES_MAX: Final = 65_536

_HEADER: Final = struct.Struct(">II")

Message = list[Any]


class ProtocolError(Exception):
    """The other side broke the protocol; the connection must be closed."""


def _refuse_extension(code: int, _: bytes) -> None:
    msg = f"msgpack extension type {code}"
    raise ProtocolError(msg)


def encode_frame(messages: list[Any]) -> bytes:
    """One frame. The caller keeps it below FRAME_BYTES_MAX."""
    payload: bytes = msgpack.packb(messages)
    assert len(payload) <= FRAME_BYTES_MAX, "frame above its cap"
    return _HEADER.pack(len(payload), crc32c.crc32c(payload)) + payload


class FrameDecoder:
    """Turns a stream of bytes into frames' messages."""

    __slots__ = ("_at", "_buffer", "payload_bytes_max")

    def __init__(self, payload_bytes_max: int = HELLO_BYTES_MAX) -> None:
        #: May be raised between two frames.
        self.payload_bytes_max = payload_bytes_max
        self._buffer = b""
        self._at = 0

    @property
    def in_frame(self) -> bool:
        """Whether a part of a frame has come, and not all of it."""
        return self._at < len(self._buffer)

    def feed(self, received: bytes) -> None:
        """Append what came from the wire."""
        left = self._buffer[self._at :]
        self._buffer = left + received if left else received
        self._at = 0

    def next_frame(self) -> list[Message] | None:
        """The messages of the next complete frame, or None when more bytes are needed.

        Raises:
            ProtocolError: length above the cap, wrong CRC, or a payload that is not an array of
                arrays that each start with an integer.
        """
        start = self._at + _HEADER.size
        if len(self._buffer) < start:
            return None
        size, crc = _HEADER.unpack_from(self._buffer, self._at)
        if size > self.payload_bytes_max:
            msg = f"frame of {size} bytes, allowed are {self.payload_bytes_max}"
            raise ProtocolError(msg)
        stop = start + size
        if len(self._buffer) < stop:
            return None
        self._at = stop
        return _decode_payload(self._buffer[start:stop], crc)


def _decode_payload(payload: bytes, crc: int) -> list[Message]:
    if crc32c.crc32c(payload) != crc:
        msg = "frame's CRC does not match its bytes"
        raise ProtocolError(msg)
    try:
        messages = msgpack.unpackb(
            payload,
            ext_hook=_refuse_extension,
            max_array_len=min(MESSAGES_MAX, len(payload)),
            max_map_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        msg = f"frame is not msgpack: {type(error).__name__}"
        raise ProtocolError(msg) from error
    if not isinstance(messages, list):
        msg = "frame is not an array of messages"
        raise ProtocolError(msg)
    for message in messages:
        if not (isinstance(message, list) and message and isinstance(message[0], int)):
            msg = "message is not an array that starts with an operation"
            raise ProtocolError(msg)
    return messages
