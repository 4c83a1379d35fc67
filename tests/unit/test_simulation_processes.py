"""Simulated processes: kill, power loss, pause and restart, as an operating system does them."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator

import pytest

from tests.simulation.loop import Deadlock, SimLoop
from tests.simulation.processes import current_process


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(0)) as loop:
        yield loop


class _Diary:
    """What a process wrote down, with the time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self.entries: list[tuple[float, str]] = []

    def write(self, entry: str) -> None:
        self.entries.append((self._loop.time(), entry))

    async def keep(self) -> None:
        """Write once a second, and at the end if there is one."""
        try:
            while True:
                await asyncio.sleep(1)
                self.write("tick")
        finally:
            self.write("finally")


@pytest.mark.parametrize("end", [SimLoop.kill, SimLoop.power_off])
def test_nothing_of_a_dead_process_runs_again(
    loop: SimLoop, end: Callable[[SimLoop, str], None]
) -> None:
    """No timer, no ``finally``; not even when the garbage collector looks for work to finish."""
    diary = _Diary(loop)

    async def main() -> None:
        process = loop.start_process("n1")
        loop.spawn(process, diary.keep())
        loop.call_later(5, diary.write, "timer", context=process.context)
        await asyncio.sleep(2.5)
        loop.call_soon(diary.write, "callback", context=process.context)
        end(loop, "n1")
        gc.collect()
        await asyncio.sleep(100)
        gc.collect()

    loop.run(main())

    assert diary.entries == [(1, "tick"), (2, "tick")]


def test_the_clock_does_not_jump_to_the_timers_of_the_dead(loop: SimLoop) -> None:
    """Else a deadlock would look like a wait."""

    async def main() -> None:
        loop.spawn(loop.start_process("n1"), asyncio.sleep(3600))
        await asyncio.sleep(1)
        loop.kill("n1")
        loop.call_at(2, loop.processes["test"].pause)
        await asyncio.sleep(10)

    with pytest.raises(Deadlock):
        loop.run(main())

    assert loop.time() == 11


def test_every_step_of_a_process_is_a_point_where_it_can_be_killed() -> None:
    """Killed at each step in turn, it has done every prefix of its work, and nothing else."""

    async def work(done: list[int]) -> None:
        for number in range(5):
            done.append(number)
            await asyncio.sleep(0.1)

    async def main(loop: SimLoop, kill_after: int, done: list[int]) -> None:
        loop.spawn(loop.start_process("n1"), work(done))
        loop.at_step(loop.steps + kill_after, lambda: loop.kill("n1"))
        await asyncio.sleep(1)

    def work_done(kill_after: int) -> list[int]:
        done: list[int] = []
        with contextlib.closing(SimLoop(7)) as loop:
            loop.run(main(loop, kill_after, done))
        return done

    outcomes = [work_done(kill_after) for kill_after in range(12)]

    assert all(done == list(range(len(done))) for done in outcomes)
    assert {len(done) for done in outcomes} == {0, 1, 2, 3, 4, 5}


def test_a_paused_process_stands_still_and_then_catches_up(loop: SimLoop) -> None:
    """SIGSTOP: its timers fire late, none is lost."""
    diary = _Diary(loop)

    async def main() -> None:
        loop.spawn(loop.start_process("n1"), diary.keep())
        await asyncio.sleep(1.5)
        loop.pause("n1")
        await asyncio.sleep(10)
        loop.resume("n1")
        await asyncio.sleep(1.2)

    loop.run(main())

    assert diary.entries == [(1, "tick"), (11.5, "tick"), (12.5, "tick")]


def test_a_paused_process_can_be_killed(loop: SimLoop) -> None:
    """Kill -9 needs no cooperation."""
    diary = _Diary(loop)

    async def main() -> None:
        loop.spawn(loop.start_process("n1"), diary.keep())
        loop.pause("n1")
        await asyncio.sleep(5)
        loop.kill("n1")
        await asyncio.sleep(5)

    loop.run(main())

    assert diary.entries == []


def test_a_restart_is_a_new_process_with_the_next_epoch(loop: SimLoop) -> None:
    """What the dead one left must not run in the name of the new one."""
    diary = _Diary(loop)

    async def who() -> str:
        return str(current_process())

    async def main() -> list[str]:
        first = await loop.spawn(loop.start_process("n1"), who())
        loop.spawn(loop.processes["n1"], diary.keep())
        await asyncio.sleep(1.5)
        loop.kill("n1")
        second = await loop.spawn(loop.start_process("n1"), who())
        await asyncio.sleep(10)
        return [first, second]

    assert loop.run(main()) == ["n1.1", "n1.2"]
    assert diary.entries == [(1, "tick")]


def test_the_owner_travels_with_tasks_and_callbacks(loop: SimLoop) -> None:
    """Else a kill would miss what a process started indirectly."""
    owners: list[str] = []

    async def child() -> None:
        loop.call_later(1, lambda: owners.append(str(current_process())))

    async def parent() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())

    async def main() -> None:
        await loop.spawn(loop.start_process("n1"), parent())
        await asyncio.sleep(2)
        owners.append(str(current_process()))

    loop.run(main())

    assert owners == ["n1.1", "test.1"]


def test_a_failure_that_died_with_its_process_does_not_fail_the_run(loop: SimLoop) -> None:
    """The process could still have handled it; now nobody can."""

    async def fails() -> None:
        raise ZeroDivisionError

    async def main() -> None:
        task = loop.spawn(loop.start_process("n1"), fails())
        await asyncio.sleep(1)
        loop.kill("n1")
        del task

    loop.run(main())
