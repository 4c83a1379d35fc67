"""Batches on their way to another region: what comes out is what went in, and no more than that."""

import zlib
from random import Random

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.batching import PLAIN, UNPACKED_BYTES_MAX, ZLIB, Packer, pairs_of, unpack

pairs = st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=300)))


@given(st.lists(pairs, min_size=1, max_size=4))
def test_every_batch_comes_out_as_it_went_in(batches: list[list[tuple[bytes, bytes]]]) -> None:
    """Compressed or not, whatever the batches before it were."""
    packer = Packer()
    for batch in batches:
        assert pairs_of(unpack(*packer.pack(batch)), 1024) == batch


def test_only_what_shrinks_is_compressed() -> None:
    """Noise is tried once, and then passed over for a while; texts are tried again."""
    packer, noise = Packer(), Random(1).randbytes(5000)
    texts = [(bytes(16), b"a text like all others " * 100)]

    assert packer.pack(texts)[0] == ZLIB
    assert packer.pack([(bytes(16), noise)])[0] == PLAIN
    assert packer.pack(texts)[0] == PLAIN
    assert [packer.pack(texts)[0] for _ in range(80)][-1] == ZLIB


@given(codec=st.integers(-1, 3) | st.none(), batch=st.binary(max_size=60) | st.none())
def test_what_is_no_batch_is_refused_as_such(codec: int | None, batch: bytes | None) -> None:
    """By the error that ends a connection, never by another one."""
    try:
        pairs_of(unpack(codec, batch), 1024)
    except (ValueError, TypeError):
        return


@pytest.mark.parametrize(
    "batch",
    [
        zlib.compress(msgpack.packb([b"\0" * (UNPACKED_BYTES_MAX + 1)])),
        zlib.compress(msgpack.packb([]))[:-1],
        zlib.compress(msgpack.packb({})),
        b"",
    ],
    ids=["a bomb", "cut short", "no list", "nothing"],
)
def test_a_compressed_batch_is_bounded_and_whole(batch: bytes) -> None:
    """Some bytes must not become gigabytes, nor half a batch a whole one."""
    with pytest.raises(ValueError, match="batch"):
        unpack(ZLIB, batch)


def test_more_records_than_allowed_are_refused() -> None:
    """Each costs an operation, of which a node has a bounded number."""
    with pytest.raises(TypeError, match="too many"):
        pairs_of([bytes(16), b""] * 3, 2)
