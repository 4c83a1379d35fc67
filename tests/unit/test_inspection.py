"""What a node shows of a document to operators: all that its disk has, and never the content."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import NodeId
from kvnode.codec import encode
from kvnode.inspection import Held, Inspection, from_wire, inspect, to_wire
from kvnode.record import NEVER_MS, Create, Record, Tombstone
from kvnode.replica import Replica
from kvnode.storage.keys import record_key
from kvnode.storage.memory import MemoryDisk, MemoryEngine
from tests.support.http import NOW_MS, StoppedWallClock
from tests.support.replicas import new_replica

ID = bytes(16)
CHECKSUM = b"c" * 32
LIVE = Record(Create(b"secret", NOW_MS, NOW_MS + 9, CHECKSUM))
LASTING = Record(Create(b"secret", NOW_MS, NEVER_MS, CHECKSUM))
DELETED = Record(LIVE.create, Tombstone(NOW_MS + 1, NOW_MS + 2))
NOTHING = Inspection(
    owner=True, doubt=None, record=None, damaged=False, hints_for=(), quarantined=None
)


async def replica_with(record: Record | None, *, owner: bool = True) -> tuple[Replica, MemoryDisk]:
    """A replica whose disk has a record, and that disk."""
    disk = MemoryDisk()
    engine = MemoryEngine(disk, asyncio.get_running_loop(), failed=_fail)
    replica = new_replica(engine, StoppedWallClock(), owned=lambda _: owner)
    if record is not None:
        replica.join(ID, encode(ID, record))
    await replica.durable()
    return replica, disk


def _fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("record", "held"),
    [
        (LIVE, Held(NOW_MS, NOW_MS + 9, CHECKSUM, 6, None, NOW_MS + 9)),
        (LASTING, Held(NOW_MS, None, CHECKSUM, 6, None, None)),
        (DELETED, Held(NOW_MS, NOW_MS + 9, CHECKSUM, 6, NOW_MS + 1, NOW_MS + 2)),
        (
            Record(tombstone=DELETED.tombstone),
            Held(None, None, None, None, NOW_MS + 1, NOW_MS + 2),
        ),
    ],
)
async def test_a_record_is_shown_without_its_content(record: Record, held: Held) -> None:
    """Times, size and checksum are enough to see which replica differs."""
    replica, _ = await replica_with(record)
    inspection = inspect(replica, ID, 0)
    assert inspection.record == held
    assert "secret" not in repr(inspection)


async def test_a_node_says_for_whom_it_keeps_a_copy() -> None:
    """Also one that is no owner: a stand-in."""
    replica, _ = await replica_with(None, owner=False)
    replica.hint_store.hold(NodeId("a3"), ID, encode(ID, LIVE), lambda _: None)
    replica.hint_store.hold(NodeId("a2"), bytes(15) + b"\x01", encode(ID, LIVE), lambda _: None)
    await replica.durable()
    seen = inspect(replica, ID, 0)
    assert (seen.owner, seen.record, seen.hints_for) == (False, None, ("a3",))


async def test_what_is_not_believed_is_shown_with_the_reason() -> None:
    """An operator asks because something is wrong."""
    replica, disk = await replica_with(LIVE)
    replica.leased_until_s[0] = float("-inf")
    assert inspect(replica, ID, 0).doubt == "joining"
    replica.set_fenced(0, True)
    seen = inspect(replica, ID, 0)
    assert (seen.doubt, seen.record is not None) == ("fenced", True)
    disk.values[record_key(ID)] = disk.values[record_key(ID)][:-1] + b"?"
    seen = inspect(replica, ID, 0)
    assert (seen.record, seen.damaged) == (None, True)


async def test_a_copy_that_was_set_aside_is_shown() -> None:
    """With what is known of it."""
    replica, _ = await replica_with(None)
    replica.quarantine.hold(ID, encode(ID, LIVE))
    await replica.durable()
    assert inspect(replica, ID, 0).quarantined == "asked"
    (suspect,) = replica.quarantine.suspects(b"", 1)
    replica.quarantine.condemn(suspect)
    await replica.durable()
    assert inspect(replica, ID, 0).quarantined == "orphan"
    assert inspect(replica, bytes(15) + b"\x01", 0) == NOTHING


_times = st.none() | st.integers(0, 1 << 47)
_held = st.builds(Held, _times, _times, st.none() | st.binary(), _times, _times, _times)
_inspections = st.builds(
    Inspection,
    owner=st.booleans(),
    doubt=st.sampled_from(["fenced", "joining", None]),
    record=st.none() | _held,
    damaged=st.booleans(),
    hints_for=st.lists(st.text().map(NodeId)).map(tuple),
    quarantined=st.sampled_from(["asked", "orphan", None]),
)


@given(_inspections)
def test_an_inspection_comes_back_from_the_wire_as_it_was(inspection: Inspection) -> None:
    """Nothing is lost between two nodes."""
    wire = to_wire(inspection)
    assert from_wire(wire) == inspection


@pytest.mark.parametrize("raw", [None, [], [1], [True, "doubt", None, False, [], None], {}])
def test_what_no_node_says_is_refused(raw: object) -> None:
    """By ValueError, which its caller expects."""
    with pytest.raises(ValueError, match=r"Expected|Invalid"):
        from_wire(raw)
