"""A damaged database is recognised and put aside; whatever is not damage is refused as it is."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import plyvel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.errors import CannotStart, DamagedBlock
from kvnode.storage import database, recovery
from kvnode.storage.database import create_database, is_damage, is_full, open_database
from kvnode.storage.disk import BALLAST_NAME
from kvnode.storage.identity import Identity, decode_identity, decode_replaced
from kvnode.storage.keys import IDENTITY_KEY, REPLACED_KEY
from kvnode.storage.leveldb import LevelDBEngine
from kvnode.storage.recovery import mark_damaged, replace_if_damaged

OWN = Identity("00" * 16, "a1", 256)
#: 2026-01-01T00:00:00Z
NOW_MS = 1_767_225_600_000
#: LevelDB's diary and its lock hold nothing of the database.
NO_DATA = ("LOG", "LOG.old", "LOCK")


def build(directory: Path, rounds: list[int], seed: int) -> dict[bytes, bytes]:
    """A node's database; each round but the last is in a table. Returns its records."""
    create_database(directory, {IDENTITY_KEY: OWN.encode()})
    random = Random(seed)
    held = {}
    for count in rounds:
        with plyvel.DB(str(directory), compression=None) as opened:
            for _ in range(count):
                key = b"r%03d" % random.randrange(300)
                held[key] = random.randbytes(random.randrange(400))
                opened.put(key, held[key])
    return held


def content_of(directory: Path) -> dict[str, bytes]:
    """The files that hold the database."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and path.name not in NO_DATA
    }


def tables_of(directory: Path) -> dict[str, bytes]:
    """Those that LevelDB leaves alone when it opens a database, to find it damaged only then."""
    return {name: found for name, found in content_of(directory).items() if name.endswith(".ldb")}


def check_replaced(directory: Path, before: dict[str, bytes]) -> None:
    """The new database says what it is, and of the old one no byte is lost."""
    with open_database(directory) as opened:
        replaced = decode_replaced(opened.get(REPLACED_KEY))
        assert decode_identity(opened.get(IDENTITY_KEY)) == OWN
        assert len(list(opened.iterator())) == 2
    assert replaced.at_ms == NOW_MS
    assert replaced.reason
    aside = content_of(directory / replaced.aside)
    assert {name: aside.get(name) for name in before} == before
    assert not (directory / recovery.MARK_NAME).exists()
    assert replace_if_damaged(directory, OWN, NOW_MS) is None, "once is enough"


@given(
    rounds=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
    number=st.integers(0, 20),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
@settings(max_examples=40, deadline=None)
def test_a_flipped_bit_anywhere_is_harmless_or_an_error_or_puts_the_database_aside(
    rounds: list[int], seed: int, number: int, place: float, bit: int
) -> None:
    """Never a wrong byte, and never a document that is missing as if it had not been there."""
    with tempfile.TemporaryDirectory() as path:
        directory = Path(path) / "a1"
        held = build(directory, rounds, seed)
        files = sorted(
            file for file in directory.iterdir() if file.name not in NO_DATA and file.stat().st_size
        )
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        file.write_bytes(content)
        before = {file.name: bytes(content)}  # others may have been compacted by then
        if replace_if_damaged(directory, OWN, NOW_MS) is not None:
            check_replaced(directory, before)
            return
        loop = asyncio.new_event_loop()
        engine = LevelDBEngine(directory, loop, fsync="os", failed=lambda error: None)
        for key, value in held.items():
            try:
                assert engine.get(key) == value
            except DamagedBlock:
                continue
        pairs, _ = engine.salvage(b"r", b"s", 999)
        assert dict(pairs).items() <= held.items()
        loop.run_until_complete(engine.close())
        loop.close()


def _largest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _unlink_all_but_tables(directory: Path) -> None:
    for path in directory.iterdir():
        if path.suffix != ".ldb":
            path.unlink()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "CURRENT is missing": lambda path: (path / "CURRENT").unlink(),
    "CURRENT is empty": lambda path: (path / "CURRENT").write_bytes(b""),
    "CURRENT is cut off": lambda path: _cut(path / "CURRENT"),
    "CURRENT names nothing": lambda path: (path / "CURRENT").write_text("MANIFEST-999999\n"),
    "the manifest is missing": lambda path: _largest(path, "MANIFEST-*").unlink(),
    "the manifest is empty": lambda path: _largest(path, "MANIFEST-*").write_bytes(b""),
    "the manifest is cut off": lambda path: _cut(_largest(path, "MANIFEST-*")),
    "a table is missing": lambda path: _largest(path, "*.ldb").unlink(),
    "the log is missing": lambda path: _largest(path, "*.log").unlink(),
    "only tables are left": _unlink_all_but_tables,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_missing_or_cut_file_puts_the_database_aside(tmp_path: Path, name: str) -> None:
    """The node is then rebuilt without anybody's help, and nothing is lost to whoever looks why."""
    build(tmp_path, [200, 200], 1)
    DAMAGES[name](tmp_path)
    before = content_of(tmp_path)
    (tmp_path / BALLAST_NAME).write_bytes(b"ballast")
    replaced = replace_if_damaged(tmp_path, OWN, NOW_MS)
    assert replaced is not None
    assert replaced.aside == "damaged-20260101T000000Z"
    check_replaced(tmp_path, before)
    assert (tmp_path / BALLAST_NAME).read_bytes() == b"ballast"


def test_a_damaged_identity_puts_the_database_aside(tmp_path: Path) -> None:
    """Whose it is can't be told any more; a stack trace would tell nobody."""
    build(tmp_path, [50], 1)
    for table in tmp_path.glob("*.ldb"):
        table.write_bytes(table.read_bytes().replace(b"a1", b"b1"))
    before = tables_of(tmp_path)
    assert replace_if_damaged(tmp_path, OWN, NOW_MS) is not None
    check_replaced(tmp_path, before)


def test_no_flipped_bit_in_the_table_with_the_identity_keeps_a_node_from_starting(
    tmp_path: Path,
) -> None:
    """A place in it may then lead behind the end of the file, which LevelDB calls otherwise."""
    create_database(tmp_path / "whole", {IDENTITY_KEY: OWN.encode()})
    (table,) = (tmp_path / "whole").glob("*.ldb")
    for place in range(table.stat().st_size):
        directory = tmp_path / str(place)
        shutil.copytree(tmp_path / "whole", directory)
        content = bytearray(table.read_bytes())
        content[place] ^= 0x40
        (directory / table.name).write_bytes(content)
        replaced = replace_if_damaged(directory, OWN, NOW_MS)
        with open_database(directory) as opened:
            assert decode_identity(opened.get(IDENTITY_KEY)) == OWN
            assert (opened.get(REPLACED_KEY) is None) == (replaced is None)


def test_a_young_database_whose_log_lost_everything_still_knows_whose_it_is(
    tmp_path: Path,
) -> None:
    """A log may be torn anywhere; without an identity the node would be refused for ever."""
    build(tmp_path, [20], 1)
    _largest(tmp_path, "*.log").write_bytes(b"")
    assert replace_if_damaged(tmp_path, OWN, NOW_MS) is None
    with open_database(tmp_path) as opened:
        assert decode_identity(opened.get(IDENTITY_KEY)) == OWN


def test_a_second_damage_in_the_same_second_has_a_directory_of_its_own(tmp_path: Path) -> None:
    """Nothing is ever written over."""
    build(tmp_path, [50], 1)
    for name in ("damaged-20260101T000000Z", "damaged-20260101T000000Z-2"):
        (tmp_path / "CURRENT").unlink()
        replaced = replace_if_damaged(tmp_path, OWN, NOW_MS)
        assert replaced is not None
        assert replaced.aside == name


@pytest.mark.parametrize("step", range(9))
def test_putting_aside_that_was_interrupted_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The power goes after any step: the files are in one of two places, and the mark says so."""
    build(tmp_path, [200, 200], 1)
    _largest(tmp_path, "*.ldb").unlink()
    before = content_of(tmp_path)
    steps = 0

    class PowerCut(Exception):
        pass

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def cut(*arguments: object) -> object:
            nonlocal steps
            if steps == step:
                raise PowerCut
            steps += 1
            return call(*arguments)

        return cut

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", counted(Path.rename))
        patched.setattr(recovery, "_sync", counted(recovery._sync))
        patched.setattr(recovery, "create_database", counted(create_database))
        with pytest.raises(PowerCut):
            replace_if_damaged(tmp_path, OWN, NOW_MS)
    assert replace_if_damaged(tmp_path, OWN, NOW_MS) is not None or step == 0
    aside: dict[str, bytes] = {}
    for directory in sorted(tmp_path.glob("damaged-*")):
        aside = content_of(directory) | aside
    assert {name: aside.get(name) for name in before} == before
    with open_database(tmp_path) as opened:
        assert opened.get(REPLACED_KEY) is not None


@pytest.mark.parametrize("name", ["missing", "empty", "strangers"])
def test_a_directory_that_never_held_a_database_is_refused_and_left_alone(
    tmp_path: Path, name: str
) -> None:
    """A wrong path or a disk that is not mounted is no damage."""
    directory = tmp_path / name
    if name != "missing":
        directory.mkdir()
    if name == "strangers":
        (directory / BALLAST_NAME).write_bytes(b"")
        (directory / "notes.txt").write_bytes(b"")
    with pytest.raises(CannotStart, match=r"'python -m kvnode\.storage'"):
        replace_if_damaged(directory, OWN, NOW_MS)
    assert not (directory / recovery.MARK_NAME).exists()
    assert list(tmp_path.rglob("damaged-*")) == []


@pytest.mark.parametrize(
    "identity",
    [Identity("11" * 16, "a1", 256).encode(), Identity("00" * 16, "a2", 256).encode(), b"\x91\x63"],
)
def test_a_strangers_database_and_one_of_another_version_are_left_as_they_are(
    tmp_path: Path, identity: bytes
) -> None:
    """They are whole: ``kvnode.storage.identity`` refuses them."""
    create_database(tmp_path, {IDENTITY_KEY: identity})
    assert replace_if_damaged(tmp_path, OWN, NOW_MS) is None


def test_a_database_that_another_process_has_is_left_alone_even_when_it_looks_damaged(
    tmp_path: Path,
) -> None:
    """A log that is being written looks torn, and a node may be started twice."""
    build(tmp_path, [50], 1)
    program = (
        "import plyvel, sys\n"
        "opened = plyvel.DB(sys.argv[1])\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(CannotStart, match="another process"):
            replace_if_damaged(tmp_path, OWN, NOW_MS)
        mark_damaged(tmp_path, "marked by hand")
        with pytest.raises(CannotStart, match="another process"):
            replace_if_damaged(tmp_path, OWN, NOW_MS)
        other.communicate()
    assert list(tmp_path.glob("damaged-*")) == []


@pytest.mark.parametrize(
    "said",
    [
        b"IO error: /d/000012.log: No space left on device",
        b"IO error: /d/CURRENT: Permission denied",
        b"IO error: /d/000005.ldb: Input/output error",
        b"IO error: /d/000005.ldb: Too many open files",
    ],
)
def test_what_may_pass_is_refused_and_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """The files may be whole: a full disk, wrong rights, a disk that fails."""
    build(tmp_path, [50], 1)

    def refuse(*_: object, **__: object) -> None:
        raise plyvel.IOError(said)

    with monkeypatch.context() as patched:
        patched.setattr(database, "_open", refuse)
        with pytest.raises(CannotStart, match=said.decode().rpartition(": ")[2]):
            replace_if_damaged(tmp_path, OWN, NOW_MS)
    assert replace_if_damaged(tmp_path, OWN, NOW_MS) is None
    assert is_full(plyvel.IOError(said)) == (b"space" in said)
    assert not is_damage(plyvel.IOError(said))


def _damage_tables(directory: Path) -> None:
    for table in directory.glob("*.ldb"):
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)


async def test_damage_that_a_compaction_meets_ends_the_node_and_the_next_start_replaces(
    tmp_path: Path,
) -> None:
    """LevelDB takes no write any more then; opened again, it would run into it again."""
    build(tmp_path, [200, 200, 200], 1)
    _damage_tables(tmp_path)
    failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    engine = LevelDBEngine(
        tmp_path, asyncio.get_running_loop(), fsync="os", failed=failed.set_result
    )
    await asyncio.to_thread(engine._database.compact_range, start=b"", stop=b"z")
    engine.put(b"k", b"v")
    error = await asyncio.wait_for(failed, 20)
    assert is_damage(error)
    await engine.close()
    mark_damaged(tmp_path, str(error))
    before = content_of(tmp_path)
    del before[recovery.MARK_NAME]
    assert replace_if_damaged(tmp_path, OWN, NOW_MS) is not None
    check_replaced(tmp_path, before)
