"""Worker processes, and handing them one case after the other.

Rules
-----
1. Cases are handed out one by one, so no worker waits for another's long one.
2. Every worker has a hash seed of its own: an order that comes from hashing would show as a seed
   that fails in the sweep and not when it is replayed.
3. Workers hear no Ctrl-C: the runner does, and kills them. However it leaves, none is left.
4. A worker that dies or hangs fails the case that it had, and another takes its place.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import msgspec

from scripts.simulate.case import REPLAY, Case, Failure, Outcome

ROOT: Final = Path(__file__).parents[2]
WORKER: Final = (sys.executable, "-m", "scripts.simulate.worker")
#: The longest histories take some seconds; virtual time without an end is noticed by the loop.
HUNG_S: Final = 300.0
_OUTCOME_BYTES_MAX: Final = 64 << 20

Play = Callable[[Case], Awaitable[Outcome]]


class Worker:
    """One process at a time, started when it is needed.

    Args:
        command: What to run; see ``scripts.simulate.worker`` for what is expected of it.
        hash_seed: Its PYTHONHASHSEED.
    """

    def __init__(self, command: Sequence[str], hash_seed: int, hung_s: float = HUNG_S) -> None:
        self._command = command
        self._environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
        self._hung_s = hung_s
        self._process: asyncio.subprocess.Process | None = None

    async def play(self, case: Case) -> Outcome:
        """Play a case in the process."""
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{case}\n".encode())
            async with asyncio.timeout(self._hung_s):
                line = await process.stdout.readline()
        except TimeoutError:
            what = f"nothing was heard of it for {self._hung_s:g} s"
        else:
            if line:
                return msgspec.json.decode(line, type=Outcome)
            what = f"its process ended with {await process.wait()}"
        await self.stop()
        report = f"{case} FAILED: {what}\nreplay: {REPLAY} {case}"
        return Outcome(case, failure=Failure(what, (), report))

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """The same, and close its pipes."""
        self.kill()
        process, self._process = self._process, None
        if process is not None:
            await process.communicate()

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_OUTCOME_BYTES_MAX,
            cwd=ROOT,
            env=self._environment,
            start_new_session=True,
        )
        return self._process


@contextlib.asynccontextmanager
async def workers(
    number: int, command: Sequence[str] = WORKER, hung_s: float = HUNG_S
) -> AsyncIterator[list[Worker]]:
    """Several workers, none of which is left at the end."""
    crew = [Worker(command, hash_seed, hung_s) for hash_seed in range(1, number + 1)]
    try:
        yield crew
    finally:
        for worker in crew:
            worker.kill()
        for worker in crew:
            await worker.stop()


async def sweep(
    crew: Sequence[Worker], cases: Iterable[Case], done: Callable[[Outcome], None]
) -> None:
    """Play all cases, as many at once as there are workers; ``done`` hears each outcome."""
    waiting = iter(cases)

    async def work(worker: Worker) -> None:
        for case in waiting:
            done(await worker.play(case))

    async with asyncio.TaskGroup() as tasks:
        for worker in crew:
            tasks.create_task(work(worker))


def cases(kinds: Sequence[str], first: int, number: int) -> Iterator[Case]:
    """So many cases from a seed on: its number says which kind a seed is."""
    for seed in count(first):
        if seed == first + number:
            return
        yield Case(kinds[seed % len(kinds)], seed)
