"""The simulated event loop: virtual time, repeatable order, and nothing that goes wrong unseen."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulation.loop import TEST, Deadlock, Livelock, Order, SimLoop
from tests.simulation.processes import current_process

T = TypeVar("T")

ROOT = Path(__file__).parent.parent.parent
seeds = st.integers(0, 2**32)
delays_s = st.lists(st.floats(0, 1e6), min_size=1, max_size=20)


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """A world that is thrown away after the test."""
    with contextlib.closing(SimLoop(0)) as loop:
        yield loop


def _run(main: Coroutine[Any, Any, T], seed: int = 0, order: Order = Order.UNIFORM) -> T:
    with contextlib.closing(SimLoop(seed, order=order)) as loop:
        return loop.run(main)


async def _order_of(count: int) -> list[int]:
    ran: list[int] = []
    for number in range(count):
        asyncio.get_running_loop().call_soon(ran.append, number)
    await asyncio.sleep(1)
    return ran


async def _busy_world(loop: SimLoop) -> None:
    """Servers, clients, a kill, a restart, and tasks that are cancelled in a set's order."""

    async def serve() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                while received := await reader.read(1000):
                    writer.write(received)

        await (await asyncio.start_server(echo, "server", 1)).serve_forever()

    async def chat(client: int) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("server", 1)
            except ConnectionError:
                await asyncio.sleep(0.01)
                continue
            with contextlib.closing(writer), contextlib.suppress(EOFError, ConnectionError):
                writer.write(bytes(client))
                await reader.readexactly(client)

    async def chat_until_cancelled() -> None:
        async with asyncio.timeout(0.1), asyncio.TaskGroup() as group:
            for client in range(1, 20):
                group.create_task(chat(client))

    futures = [loop.create_future() for _ in range(20)]
    loop.trace.record(str([futures.index(future) for future in set(futures)]))
    loop.spawn(loop.start_process("server"), serve())
    crowd = loop.spawn(loop.start_process("clients"), chat_until_cancelled())
    await asyncio.sleep(0.03)
    loop.kill("server")
    await asyncio.sleep(0.03)
    loop.spawn(loop.start_process("server"), serve())
    with pytest.raises(TimeoutError):
        await crowd


def _digest_of_a_busy_world(seed: int) -> str:
    with contextlib.closing(SimLoop(seed)) as loop:
        loop.run(_busy_world(loop))
        return loop.trace.digest()


# Time -----------------------------------------------------------------------------------------


@given(seeds, delays_s)
@settings(deadline=None)
def test_timers_fire_exactly_when_due_and_in_the_order_of_time(
    seed: int, delays: list[float]
) -> None:
    """Virtual time jumps from timer to timer: none early, none late, a million seconds at once."""
    fired: list[tuple[float, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fire(due_s: float) -> None:
            fired.append((due_s, loop.time()))

        for delay_s in delays:
            loop.call_later(delay_s, fire, delay_s)
        await asyncio.sleep(2e6)

    _run(main(), seed)

    assert [at_s for _, at_s in fired] == sorted(delays)
    assert all(due_s == at_s for due_s, at_s in fired)


def test_a_cancelled_timer_neither_fires_nor_moves_the_clock(loop: SimLoop) -> None:
    """Most timeouts are cancelled; were they to move the clock, hours would pass for nothing."""

    async def main() -> float:
        loop.call_later(1, pytest.fail).cancel()
        await asyncio.sleep(0.5)
        async with asyncio.timeout(3600):
            await asyncio.sleep(0.25)
        return loop.time()

    assert loop.run(main()) == 0.75


# Order ----------------------------------------------------------------------------------------


@given(seeds)
@settings(deadline=None, max_examples=5)
def test_the_same_seed_gives_the_same_digest(seed: int) -> None:
    """Within one interpreter, whatever ran in it before."""
    assert _digest_of_a_busy_world(seed) == _digest_of_a_busy_world(seed)


def test_different_seeds_give_different_digests() -> None:
    """Else the digest would see nothing of what the seed decides."""
    assert len({_digest_of_a_busy_world(seed) for seed in range(10)}) == 10


def test_the_digest_does_not_depend_on_hashes_or_addresses() -> None:
    """A failure must replay in another interpreter: other hashes of strings, other addresses."""
    program = f"from {__name__} import _digest_of_a_busy_world; print(_digest_of_a_busy_world(7))"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "2")
    }

    assert digests == {_digest_of_a_busy_world(7) + "\n"}


def test_uniform_order_reorders_what_is_ready_and_fifo_does_not() -> None:
    """The seed must reach the interleavings, and there must be a baseline without them."""
    assert len({tuple(_run(_order_of(5), seed)) for seed in range(200)}) > 60
    assert _run(_order_of(5), order=Order.FIFO) == [0, 1, 2, 3, 4]


def test_processes_take_turns_at_random_and_each_keeps_its_own_order() -> None:
    """What asyncio promises within one loop holds, and nothing between two of them."""

    def order(seed: int) -> list[tuple[str, int]]:
        ran: list[tuple[str, int]] = []
        with contextlib.closing(SimLoop(seed, order=Order.PROCESSES)) as loop:

            async def main() -> None:
                processes = [loop.start_process(name) for name in "abc"]
                for number in range(4):
                    for process in processes:
                        event = process.name, number
                        loop.call_soon(ran.append, event, context=process.context)
                await asyncio.sleep(1)

            loop.run(main())
        return ran

    runs = [order(seed) for seed in range(50)]
    assert len({tuple(run) for run in runs}) > 40
    for run in runs:
        for name in "abc":
            assert [number for owner, number in run if owner == name] == [0, 1, 2, 3]


def test_a_named_stream_is_repeatable_and_apart_from_the_others() -> None:
    """One more draw in one part must not reshuffle the rest of the world."""

    def draw(seed: int, *names: str) -> float:
        with contextlib.closing(SimLoop(seed)) as loop:
            return [loop.stream(name).random() for name in names][-1]

    assert draw(1, "a") == draw(1, "b", "a")
    assert len({draw(1, "a"), draw(1, "b"), draw(2, "a")}) == 3


def test_a_fault_can_land_between_any_two_steps(loop: SimLoop) -> None:
    """``at_step`` acts right after its step and before the next, outside every process."""
    acted: list[tuple[int, int, object]] = []

    async def main() -> None:
        def act(step: int) -> None:
            acted.append((step, loop.steps, current_process()))

        for step in range(loop.steps + 1, loop.steps + 6):
            loop.at_step(step, partial(act, step))
        for _ in range(10):
            await asyncio.sleep(0)

    loop.run(main())

    assert acted == [(step, step, None) for step in range(2, 7)]


def test_the_world_can_be_looked_at_after_each_step(loop: SimLoop) -> None:
    """For what must hold at every moment: what raises there ends the run."""
    seen: list[int] = []

    async def main() -> None:
        loop.after_step = lambda: seen.append(loop.steps)
        for _ in range(10):
            await asyncio.sleep(0)

    loop.run(main())

    assert seen == list(range(1, loop.steps + 1))


# What goes wrong ------------------------------------------------------------------------------


def test_a_lost_wake_up_is_a_deadlock_that_names_who_waits() -> None:
    """A real cluster would hang until some timeout hides the bug."""

    async def waits_for_ever() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"test\.1:.*waits_for_ever") as caught:
        _run(waits_for_ever(), seed=42)

    assert any("seed 42" in note for note in caught.value.__notes__)


def test_a_run_without_end_is_stopped() -> None:
    """Virtual time stands still while something is ready, so no timeout would end this."""

    async def main() -> None:
        def spin() -> None:
            asyncio.get_running_loop().call_soon(spin)

        spin()
        await asyncio.sleep(1)

    with contextlib.closing(SimLoop(0, steps_max=1000)) as loop, pytest.raises(Livelock):
        loop.run(main())


def test_an_exception_in_a_callback_fails_the_run() -> None:
    """A real loop logs it and goes on, which in a test means that nobody sees it."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup, match="background") as caught:
        _run(main())

    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("in_a_cycle", [False, True])
def test_a_task_whose_exception_nobody_can_retrieve_fails_the_run(in_a_cycle: bool) -> None:
    """Also when only the garbage collector could find it, which is off during a run."""

    async def main() -> None:
        async def fails() -> None:
            cycle = [asyncio.current_task()] if in_a_cycle else []
            assert len(cycle) == 2

        task = asyncio.create_task(fails())
        await asyncio.sleep(1)
        del task

    with pytest.raises(ExceptionGroup) as caught:
        _run(main())

    assert caught.group_contains(AssertionError)


def test_a_failure_that_somebody_may_yet_retrieve_is_none() -> None:
    """The run ended first; until then the exception was in good hands."""

    async def main() -> asyncio.Task[None]:
        async def fails() -> None:
            raise ZeroDivisionError

        task = asyncio.create_task(fails())
        await asyncio.sleep(1)
        return task

    task = _run(main())

    assert isinstance(task.exception(), ZeroDivisionError)


def test_a_failing_run_also_tells_what_failed_in_the_background() -> None:
    """The second is usually the cause of the first."""

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)
        raise KeyError

    with pytest.raises(KeyError) as caught:
        _run(main())

    assert any("ZeroDivisionError" in note for note in caught.value.__notes__)


def test_threads_are_refused() -> None:
    """Their timing has no seed."""
    refused: list[BaseException] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="thread"):
            await asyncio.to_thread(print)

        def call() -> None:
            try:
                loop.call_soon_threadsafe(print)
            except AssertionError as error:
                refused.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    _run(main())

    assert len(refused) == 1


# The end --------------------------------------------------------------------------------------


def test_what_is_pending_at_the_end_stands_still_until_the_loop_is_closed() -> None:
    """No cancellation: a ``finally`` could undo, or flush, what the test is about to look at."""
    heard: list[str] = []

    async def pending() -> None:
        never = asyncio.get_running_loop().create_future()
        try:
            await never
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise
        finally:
            heard.append("finally")
            try:
                await never
            finally:
                await never
            heard.append("after the end")

    async def main(loop: SimLoop) -> str:
        loop.spawn(loop.start_process("other"), pending())
        loop.spawn(loop.processes[TEST], pending())
        await asyncio.sleep(1)
        return "result"

    with contextlib.closing(SimLoop(0)) as loop:
        assert loop.run(main(loop)) == "result"
        gc.collect()
        assert heard == []
    assert heard == ["finally", "finally"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_off_during_a_run_and_as_before_after_it(enabled: bool) -> None:
    """It would finalise a dead process's coroutines at a moment that no seed decides."""

    async def main() -> bool:
        return gc.isenabled()

    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert _run(main()) is False
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()
