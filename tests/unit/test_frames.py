"""Frames: any split of the bytes gives the same messages, and nothing broken gets through."""

import struct
import tracemalloc
from contextlib import suppress

import crc32c
import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvnode.rpc.frames import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    MESSAGES_MAX,
    FrameDecoder,
    Message,
    ProtocolError,
    encode_frame,
)

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=40)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
)
messages = st.builds(
    lambda op, fields: [op, *fields],
    st.integers(0, 127),
    st.lists(_scalars | st.lists(_scalars, max_size=3), max_size=5),
)
batches = st.lists(messages, max_size=6)


def frame_of(payload: bytes) -> bytes:
    """Any payload under a header that fits it."""
    return struct.pack(">II", len(payload), crc32c.crc32c(payload)) + payload


def decoded(stream: bytes, *, cap_bytes: int = FRAME_BYTES_MAX) -> list[list[Message]]:
    """The batches of all complete frames."""
    decoder = FrameDecoder(cap_bytes)
    decoder.feed(stream)
    return list(iter(decoder.next_frame, None))


def refused(payload: bytes) -> bool:
    """Whether a frame with this payload, correct in every other way, ends a connection."""
    try:
        decoded(frame_of(payload))
    except ProtocolError:
        return True
    return False


@given(st.lists(batches, max_size=4), st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(
    sent: list[list[Message]], data: st.DataObject
) -> None:
    """The network cuts where it likes, also within the length."""
    stream = b"".join(map(encode_frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = FrameDecoder(FRAME_BYTES_MAX)
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        decoder.feed(stream[start:stop])
        received += list(iter(decoder.next_frame, None))
    assert received == sent


@given(batches)
@settings(max_examples=25, deadline=None)
def test_a_flipped_bit_never_yields_other_messages(sent: list[Message]) -> None:
    """It is refused, or, where it made the length greater, more bytes are waited for."""
    frame = bytearray(encode_frame(sent))
    for bit in range(8 * len(frame)):
        frame[bit >> 3] ^= 1 << (bit & 7)
        with suppress(ProtocolError):
            assert decoded(bytes(frame)) == []
        frame[bit >> 3] ^= 1 << (bit & 7)


@given(batches, st.integers(min_value=1))
def test_a_cut_frame_waits_for_the_rest(sent: list[Message], missing: int) -> None:
    """Half a frame is no message, and no error either."""
    frame = encode_frame(sent)
    assert decoded(frame[: -(1 + missing % len(frame))]) == []


@given(st.integers(0, (1 << 32) - 1))
@example(HELLO_BYTES_MAX)
@example(HELLO_BYTES_MAX + 1)
def test_a_length_above_the_cap_is_refused_from_the_header_alone(size: int) -> None:
    """Not one byte of the payload has come, so nothing can have been allocated for it."""
    decoder = FrameDecoder()
    decoder.feed(struct.pack(">II", size, 0))
    if size > HELLO_BYTES_MAX:
        with pytest.raises(ProtocolError, match=f"{size} bytes, allowed are {HELLO_BYTES_MAX}"):
            decoder.next_frame()
    elif size > 0:
        assert decoder.next_frame() is None


def test_the_cap_may_be_raised_between_two_frames() -> None:
    """What follows the handshake may stand in the same bytes as its end."""
    small, large = encode_frame([[3]]), encode_frame([[16, b"x" * (2 * HELLO_BYTES_MAX)]])
    decoder = FrameDecoder()
    decoder.feed(small + large)
    assert decoder.next_frame() == [[3]]
    decoder.payload_bytes_max = FRAME_BYTES_MAX
    assert decoder.next_frame() == [[16, b"x" * (2 * HELLO_BYTES_MAX)]]


@given(st.binary(max_size=60))
def test_arbitrary_payloads_raise_nothing_but_protocol_errors(payload: bytes) -> None:
    """Whatever comes through is a list of messages that each start with an operation."""
    try:
        (batch,) = decoded(frame_of(payload))
    except ProtocolError:
        return
    assert all(isinstance(message, list) and isinstance(message[0], int) for message in batch)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        msgpack.packb(None),
        msgpack.packb(7),
        msgpack.packb("text"),
        msgpack.packb(b"bytes"),
        msgpack.packb({}),
        msgpack.packb([7]),
        msgpack.packb([[]]),
        msgpack.packb([["text"]]),
        msgpack.packb([[None]]),
        msgpack.packb([{}]),
    ],
)
def test_what_is_no_array_of_messages_is_refused(payload: bytes) -> None:
    """An operation is looked up by a number: nothing else may arrive there."""
    assert refused(payload)


@given(batches, st.binary(min_size=1, max_size=5))
def test_trailing_bytes_are_refused(sent: list[Message], more: bytes) -> None:
    """Two readings of one frame would be one too many."""
    assert refused(msgpack.packb(sent) + more)


@given(st.integers(0, 127), st.binary(max_size=20))
def test_extension_types_are_refused(code: int, content: bytes) -> None:
    """None is used, and each is code that runs on a stranger's bytes."""
    assert refused(msgpack.packb([[16, msgpack.ExtType(code, content)]]))


def test_maps_are_refused() -> None:
    """Keys of equal hash would make one frame cost as much as a thousand."""
    assert refused(msgpack.packb([[16, {"key": "value"}]]))
    assert refused(b"\x91\x92\x10\xdf\xff\xff\xff\xff")


def test_text_that_is_not_utf8_is_refused() -> None:
    """Else it would raise far from here, where a name is encoded again."""
    assert refused(b"\x91\x92\x10\xa2\xff\xfe")


@pytest.mark.parametrize("depth", [1100, 5000, 500_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    """A recursion without end would end the process."""
    assert refused(b"\x91\x92\x10" + b"\x91" * depth + b"\x00")


def test_a_frame_of_many_messages_is_bounded_in_their_number() -> None:
    """One frame is one stretch of the event loop."""
    assert refused(b"\xdd" + struct.pack(">I", MESSAGES_MAX + 1) + b"\x91\x05" * (MESSAGES_MAX + 1))


@pytest.mark.parametrize(
    "bomb", [b"\xdc\xff\xff" * 341, b"\xdd\x00\x00\xff\xff" * 204, b"\xdd\xff\xff\xff\xff"]
)
def test_an_array_that_claims_more_elements_than_it_has_bytes_allocates_nothing(
    bomb: bytes,
) -> None:
    """Regression: a hello of 1 KiB made a stranger's claims cost tens of megabytes."""
    assert len(bomb) <= HELLO_BYTES_MAX
    tracemalloc.start()
    try:
        assert refused(bomb)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 200_000
