"""Reading past damage: no old version, no wrong byte, and each missing key is in a gap."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import plyvel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.errors import CorruptRecord
from kvnode.ports import Salvage
from kvnode.storage.database import create_database
from kvnode.storage.leveldb import LevelDBEngine
from tests.contract.engines import BENCHES, Bench

#: A block of a LevelDB table is 4 KiB: each of these has one of its own.
LARGE = {b"k%d" % number: Random(number).randbytes(5000) for number in range(6)}
KEYS = [b"k%03d" % number for number in range(80)]
#: Pages of a sweep through the whole range.
PAGES_MAX = 1000


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """One of the engines, with large values."""
    bench = BENCHES[request.param](tmp_path)
    for key, value in LARGE.items():
        bench.engine.put(key, value)
    bench.settle()
    yield bench
    bench.close()
    assert bench.failures == []


def test_without_damage_a_salvage_is_a_scan(bench: Bench) -> None:
    """Callers need not know beforehand which of the two they need."""
    for limit in range(8):
        found = bench.engine.scan(b"k1", b"k5", limit)
        assert bench.engine.salvage(b"k1", b"k5", limit) == Salvage(found, [])
    assert bench.engine.salvage(b"k5", b"k1", 9) == Salvage([], [])


def test_what_is_damaged_is_an_error_and_what_lies_behind_it_can_be_read(bench: Bench) -> None:
    """A scrub has to see the rest, a node has to serve it."""
    bench.damage(b"k2")
    with pytest.raises(CorruptRecord):
        bench.engine.get(b"k2")
    with pytest.raises(CorruptRecord):
        bench.engine.latest(b"k2")
    with pytest.raises(CorruptRecord):
        bench.engine.scan(b"k", b"l", 9)
    assert bench.engine.scan(b"k3", b"l", 9) == list(LARGE.items())[3:]
    pairs, gaps = bench.engine.salvage(b"k", b"l", 9)
    assert pairs == [pair for pair in LARGE.items() if pair[0] != b"k2"]
    assert len(gaps) == 1
    assert gaps[0][0] <= b"k2" < gaps[0][1]
    assert gaps[0][1] <= b"k3"


def test_what_is_damaged_can_be_written_again(bench: Bench) -> None:
    """The copy of a peer heals it."""
    bench.damage(b"k2")
    bench.engine.put(b"k2", b"healed")
    bench.settle()
    assert bench.engine.get(b"k2") == b"healed"


@pytest.mark.parametrize("damaged", [b"k0", b"k5"])
def test_damage_at_either_end_is_within_a_gap(bench: Bench, damaged: bytes) -> None:
    """The first block of a range, and the last one, which a plain iterator takes for the end."""
    bench.damage(damaged)
    pairs, gaps = bench.engine.salvage(b"k", b"l", 9)
    assert pairs == [pair for pair in LARGE.items() if pair[0] != damaged]
    assert [start <= damaged < stop for start, stop in gaps] == [True]


def _built(directory: Path, rounds: list[dict[bytes, bytes | None]]) -> dict[bytes, bytes]:
    """A database in which each round of changes is a table of its own; what it holds."""
    create_database(directory, {})
    held: dict[bytes, bytes] = {}
    for changes in rounds:
        database = plyvel.DB(str(directory), compression=None)  # the log before goes to a table
        for key, value in changes.items():
            if value is None:
                database.delete(key)
                held.pop(key, None)
            else:
                database.put(key, value)
                held[key] = value
        database.close()
    plyvel.DB(str(directory), compression=None).close()
    return held


def _paged(engine: LevelDBEngine, limit: int) -> Salvage:
    """The whole range, page by page, as every caller reads it."""
    whole = Salvage([], [])
    start = b""
    for _ in range(PAGES_MAX):
        page = engine.salvage(start, b"\xff", limit)
        whole.pairs.extend(page.pairs)
        whole.gaps.extend(page.gaps)
        if len(page.pairs) < limit:
            return whole
        start = page.pairs[-1][0] + b"\x00"
    raise AssertionError("no end")


rounds = st.lists(
    st.dictionaries(
        st.sampled_from(KEYS),
        st.none() | st.integers(0, 2**16).map(lambda seed: Random(seed).randbytes(300)),
        min_size=20,
    ),
    min_size=1,
    max_size=4,
)


@given(
    rounds=rounds,
    bits=st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1, exclude_max=True)), max_size=3),
    limit=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_behind_damage_no_older_version_comes_to_light(
    rounds: list[dict[bytes, bytes | None]], bits: list[tuple[int, float]], limit: int
) -> None:
    """The tables below still hold what was overwritten or deleted in the damaged one."""
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path)
        held = _built(directory, rounds)
        tables = sorted(directory.glob("*.ldb"))
        for number, place in bits if tables else []:
            table = tables[number % len(tables)]
            content = bytearray(table.read_bytes())
            content[int(place * len(content))] ^= 1 << number % 8
            table.write_bytes(content)
        loop = asyncio.new_event_loop()
        engine = LevelDBEngine(directory, loop, fsync="os", failed=lambda error: None)
        for key in KEYS:
            with suppress(CorruptRecord):
                assert engine.get(key) == held.get(key)
        with suppress(CorruptRecord):
            assert dict(engine.scan(b"", b"\xff", 999)) == held
        pairs, gaps = _paged(engine, limit)
        assert pairs == sorted(pairs)
        assert pairs == [(key, held.get(key)) for key, _ in pairs]
        for key in held.keys() - dict(pairs).keys():
            assert any(start <= key < stop for start, stop in gaps)
        loop.run_until_complete(engine.close())
        loop.close()
