"""A disk in the wrong place is noticed before anything is served from it."""

from collections.abc import Callable
from typing import cast

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.errors import CannotStart
from kvnode.ports import Engine
from kvnode.storage.identity import (
    FORMAT_VERSION,
    Identity,
    Replaced,
    boot,
    decode_identity,
    decode_replaced,
)
from kvnode.storage.keys import IDENTITY_KEY, own_boot_key

IDENTITY = Identity("0" * 32, "a1", 256, boot_counter=4)
BOOT_ID = b"an id..."

identities = st.builds(
    Identity, st.text(max_size=8), st.text(max_size=8), st.integers(1, 1 << 16), st.integers(0, 99)
)


class NotYetDurable:
    """An engine of an identity whose commits a test carries out."""

    def __init__(self, stored: bytes | None) -> None:
        self.stored = stored
        self.gathered: dict[bytes, bytes] = {}
        self.barriers: list[Callable[[], None]] = []

    def get(self, key: bytes) -> bytes | None:
        """See ``kvnode.ports.Engine``."""
        assert key == IDENTITY_KEY
        return self.stored

    def put(self, key: bytes, value: bytes) -> None:
        """See ``kvnode.ports.Engine``."""
        self.gathered[key] = value

    def barrier(self, done: Callable[[], None]) -> None:
        """See ``kvnode.ports.Engine``."""
        self.barriers.append(done)


def booted(engine: NotYetDurable, expected: Identity, done: Callable[[], None]) -> Identity:
    """``boot`` on an engine that has only what a boot uses."""
    return boot(cast("Engine", engine), expected, BOOT_ID, done)


@given(identities)
def test_an_identity_comes_back_as_it_went(identity: Identity) -> None:
    """Every field."""
    assert decode_identity(identity.encode()) == identity


_fields = st.lists(st.none() | st.integers(0, 3) | st.text(max_size=3) | st.binary(max_size=3))


@given(
    st.binary(max_size=40)
    | _fields.map(msgpack.packb)
    | _fields.map(lambda f: msgpack.packb([FORMAT_VERSION, *f]))
)
def test_whatever_is_stored_is_an_identity_or_refused(stored: bytes) -> None:
    """In one sentence that an operator reads, never by a traceback."""
    try:
        identity = decode_identity(stored)
    except CannotStart:
        return
    assert msgspec.convert(msgspec.to_builtins(identity), Identity) == identity


def test_a_database_without_an_identity_is_refused() -> None:
    """Somebody else's LevelDB, or a half-made one."""
    with pytest.raises(CannotStart, match=r"not made by 'python -m kvnode\.storage'"):
        decode_identity(None)


def test_a_later_format_is_refused_by_name_whatever_its_fields_are() -> None:
    """An old build on a new disk must say so, not fail on the first unknown field."""
    stored = msgpack.packb([FORMAT_VERSION + 1, {"more": True}])
    with pytest.raises(
        CannotStart, match=f"version {FORMAT_VERSION + 1}, this build reads {FORMAT_VERSION}"
    ):
        decode_identity(stored)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cluster_id", "f" * 32, "the database has cluster id '0000"),
        ("node", "a2", "the database has node 'a1', the cluster file says 'a2'"),
        ("partitions", 512, "the database has partitions 256, the cluster file says 512"),
    ],
)
def test_a_disk_of_another_cluster_node_or_layout_is_refused(
    field: str, value: object, message: str
) -> None:
    """Serving another node's records would count copies that do not exist."""
    engine = NotYetDurable(IDENTITY.encode())
    expected = msgspec.structs.replace(IDENTITY, **{field: value})
    with pytest.raises(CannotStart, match=message):
        booted(engine, expected, lambda: None)
    assert not engine.gathered, "a refused boot is not counted on a stranger's disk"


def test_each_boot_is_counted_durably_before_it_is_announced() -> None:
    """Two lives with one incarnation would be one to their peers."""
    engine = NotYetDurable(IDENTITY.encode())
    announced = []
    expected = msgspec.structs.replace(IDENTITY, boot_counter=0)
    identity = booted(engine, expected, lambda: announced.append(True))
    assert identity.boot_counter == 5
    assert engine.gathered == {IDENTITY_KEY: identity.encode(), own_boot_key(5, BOOT_ID): b""}
    assert announced == []
    for done in engine.barriers:
        done()
    assert announced == [True]


@given(st.builds(Replaced, st.integers(0, 1 << 63), st.text(), st.text()))
def test_why_a_database_was_replaced_survives_encoding(replaced: Replaced) -> None:
    """The node that finds it must not vouch for what it lacks."""
    assert decode_replaced(replaced.encode()) == replaced
