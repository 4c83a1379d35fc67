"""Engines for the contract: each with its own loop, restarts and crashes."""

import asyncio
import queue
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from kvnode.ports import Engine
from kvnode.storage.database import create_database
from kvnode.storage.leveldb import LevelDBEngine
from kvnode.storage.memory import MemoryDisk, MemoryEngine

#: Longest wait for what should come at once; only a failing test ever waits as long.
PATIENCE_S = 20.0


class Bench(ABC):
    """One engine at a time. A test calls it between steps of the engine's own loop."""

    engine: Engine

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.loop = asyncio.new_event_loop()
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Make ``engine`` from what is on the disk."""

    @abstractmethod
    def crash(self) -> None:
        """End without any goodbye, and start again from what was on the disk at that moment."""

    @abstractmethod
    def damage(self, key: bytes) -> None:
        """Make the durable value of a key unreadable; of its neighbours too, if they are small."""

    def reopen(self) -> None:
        """Close properly, and start again."""
        self.run(self.engine.close())
        self.loop.close()
        self.loop = asyncio.new_event_loop()
        self.open()

    def close(self) -> None:
        """Release everything."""
        self.run(self.engine.close())
        self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run one coroutine to its end."""
        self.loop.run_until_complete(asyncio.wait_for(coroutine, PATIENCE_S))

    def tick(self) -> None:
        """Let the loop run what is ready."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def settle(self) -> None:
        """Run until everything put so far is durable."""

        async def durable() -> None:
            done = asyncio.Event()
            self.engine.barrier(done.set)
            await done.wait()

        self.run(durable())


class MemoryBench(Bench):
    """The engine of the simulation."""

    def __init__(self, _: Path) -> None:
        self.disk = MemoryDisk()
        super().__init__()

    def open(self) -> None:
        """See ``Bench``."""
        self.engine = MemoryEngine(self.disk, self.loop, failed=self.failures.append)

    def damage(self, key: bytes) -> None:
        """See ``Bench``."""
        self.disk.damaged.add(key)

    def crash(self) -> None:
        """See ``Bench``. The timers of the old life never run."""
        self.loop.close()
        self.loop = asyncio.new_event_loop()
        self.open()


class LevelDBBench(Bench):
    """The real one, on real files."""

    engine: LevelDBEngine

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "database"
        create_database(self.directory, {b"i": b"identity"})
        super().__init__()

    def open(self) -> None:
        """See ``Bench``."""
        self.engine = LevelDBEngine(
            self.directory, self.loop, fsync="always", failed=self.failures.append
        )

    def damage(self, key: bytes) -> None:
        """See ``Bench``. A flipped bit, in each table that holds the newest value."""
        value = self.engine.get(key)
        assert value
        self.reopen()  # what the log held is in a table now
        self.run(self.engine.close())
        self.loop.close()
        for table in self.directory.glob("*.ldb"):
            table.write_bytes(table.read_bytes().replace(value, bytes((value[0] ^ 1,)) + value[1:]))
        self.loop = asyncio.new_event_loop()
        self.open()

    def crash(self) -> None:
        """See ``Bench``. A batch that waits for the writer is lost, and so is every callback.

        LevelDB writes nothing when it is closed, so its files are those of a killed process.
        """
        engine = self.engine
        with suppress(queue.Empty):
            engine._batches.get_nowait()
        engine._batches.put(None)
        engine._writer.join()
        engine._database.close()
        self.loop.close()
        self.loop = asyncio.new_event_loop()
        self.open()


BENCHES: dict[str, Callable[[Path], Bench]] = {"memory": MemoryBench, "leveldb": LevelDBBench}
