"""An event loop in virtual time that a seed makes repeatable.

It is asyncio's own loop with one method replaced: instead of waiting for the operating system,
an iteration picks one ready callback, and when there is none the clock jumps to the next timer.

Rules
-----
1. Nothing waits. Time passes only when nothing is ready, and then exactly to the next timer.
2. One callback an iteration, so a fault can land between any two (``at_step``).
3. UNIFORM picks among the ready callbacks at random: every order of a real cluster and more, for
   it breaks asyncio's promise that callbacks of one loop run in the order of their registration.
   PROCESSES keeps that promise within each process and takes turns between them at random, as
   a real cluster does. FIFO keeps one order for all, for comparison.
4. All chance comes from named streams of the one seed, so another draw in one part does not
   reshuffle the others. Nothing that decides depends on addresses, hashes or the real clock.
5. The digest covers every callback that ran: time, owner, name. Equal seeds, equal digests.
6. Nothing ready and no timer is a deadlock, and ends the run. So does a run without end.
7. The garbage collector is off during a run, for it would finalise a dead process's coroutines.
8. Exceptions that nobody caught, in callbacks and in tasks, fail the run at its end. Those of a
   dead process don't: it took them with it.
9. A run ends with its main coroutine. What is pending then stands still, so that a test can look
   at it, until ``close`` throws it away; only then do ``finally`` blocks run, and reach nothing.
"""

import asyncio
import contextlib
import gc
import heapq
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextvars import Context
from enum import Enum, auto
from itertools import count
from random import Random
from threading import get_ident
from typing import Any, Final, NoReturn, TypeVar, cast

from tests.simulation.futures import SimFuture, SimHandle, SimTask
from tests.simulation.network import SimNetwork
from tests.simulation.processes import Process, ProcessState, current_process, owner_in
from tests.simulation.server import ProtocolFactory, SimServer
from tests.simulation.trace import Trace, name_of

T = TypeVar("T")

#: The process in which ``run`` runs its argument: the test itself, on a machine of its own.
TEST: Final = "test"
_TASKS_BEFORE_PRUNING: Final = 1024
#: The collector, left to itself, lets gigabytes of old worlds pile up; each time costs a tenth.
_RUNS_PER_COLLECTION: Final = 16
_runs: Final = count(1)


class Order(Enum):
    """Which of the ready callbacks runs next."""

    #: Any of them.
    UNIFORM = auto()
    #: The oldest of any process; the world (the wire, the faults) counts as one.
    PROCESSES = auto()
    #: The oldest.
    FIFO = auto()


class Deadlock(Exception):
    """Nothing is ready and no timer is set: a wake-up was lost."""


class Livelock(Exception):
    """The run took more steps than it was allowed."""


class SimLoop(asyncio.BaseEventLoop):
    """The world: virtual time, processes, and the network between them.

    Args:
        seed: Determines everything, together with the code.
        order: How callbacks that are ready at once are ordered.
        steps_max: Steps after which the run is taken for endless.
    """

    # asyncio's own, which its published types leave out.
    _stopping: bool

    def __init__(
        self, seed: int, *, order: Order = Order.UNIFORM, steps_max: int = 5_000_000
    ) -> None:
        super().__init__()
        self.seed = seed
        self.steps = 0
        self.trace = Trace()
        self.failures: list[BaseException] = []
        #: The newest incarnation of each process, by name.
        self.processes: dict[str, Process] = {}
        self.network = SimNetwork(self, self.processes, self.stream("network"), self.trace.record)
        self._now_s = 0.0
        self._now = "0.0"
        self.order = order
        self._schedule = self.stream("schedule")
        self._steps_max = steps_max
        self._at_step: dict[int, Callable[[], None]] = {}
        #: Called after every step: for what must hold at each.
        self.after_step: Callable[[], None] | None = None
        # The base class's queue, with a type; popping from anywhere needs a list.
        self._ready: list[SimHandle] = []
        # Instead of the base class's heap of handles, which Python code compares. Of those that
        # are due at once, the older one comes first.
        self._timers: list[tuple[float, int, SimHandle]] = []
        self._timers_made = 0
        # asyncio refers to tasks weakly; the coroutines of the dead must outlast the run.
        self._tasks: dict[SimTask, None] = {}
        self._prune_at = _TASKS_BEFORE_PRUNING
        self._serial = 0

    # Running ------------------------------------------------------------------------------

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` to its end, in a process named TEST. Once; close the loop after it.

        Raises:
            Deadlock, Livelock: ``main`` can't or does not end.
            ExceptionGroup: ``main`` ended well but something in the background did not.
        """
        with _without_garbage_collection():
            try:
                result = self.run_until_complete(self.spawn(self.start_process(TEST), main))
                self._raise_failures()
            except BaseException as error:
                error.add_note(f"seed {self.seed}, step {self.steps}, {self._now_s:.6f} s")
                for failure in self.failures:
                    error.add_note(f"also failed, in the background: {failure!r}")
                raise
            return result

    def _raise_failures(self) -> None:
        self._prune_tasks()
        # Only now is it known which exceptions nobody can ever look at: asyncio reports a failed
        # task when it is finalised, and those in reference cycles have not been yet. To collect
        # costs a tenth of a run, so it is asked first whether there is any.
        if any(map(_is_unheard, gc.get_objects())):
            gc.collect()
        failures, self.failures = self.failures, []
        if failures:
            raise BaseExceptionGroup("failed in the background", failures)

    def close(self) -> None:
        """Throw the world away: connections vanish, and pending coroutines are closed."""
        self.network.close()
        while self._tasks:  # what is closed here can start more
            task, _ = self._tasks.popitem()
            task.discard()
        super().close()

    def at_step(self, step: int, action: Callable[[], None]) -> None:
        """Call ``action`` right after step ``step`` (from 1; the current one at the earliest)."""
        assert step >= self.steps
        assert step not in self._at_step
        self._at_step[step] = action

    def stream(self, name: str) -> Random:
        """A new stream of chance that only the seed and the name determine."""
        return Random(f"{self.seed}/{name}")

    # Processes ----------------------------------------------------------------------------

    def start_process(self, name: str) -> Process:
        """Start a process on the machine ``name``, switching that on if need be."""
        last = self.processes.get(name)
        assert last is None or last.dead, f"{last} still runs"
        process = self.processes[name] = Process(name, 1 if last is None else last.epoch + 1)
        self.network.release()
        return process

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of ``process``; any process may await its result.

        If the process dies, the task never ends.
        """
        assert not process.dead, f"{process} is dead"
        return self.create_task(coroutine, context=process.context.copy())

    def kill(self, name: str) -> None:
        """SIGKILL. Peers get a reset, and new connections are refused."""
        self.processes[name].end(ProcessState.KILLED)
        self.network.process_killed(self.processes[name])

    def power_off(self, name: str) -> None:
        """Cut the machine's power. Peers hear nothing until it is started again."""
        self.processes[name].end(ProcessState.POWERED_OFF)
        self.network.process_lost(self.processes[name])

    def pause(self, name: str) -> None:
        """SIGSTOP. The machine goes on acknowledging what arrives, until its buffers are full."""
        self.processes[name].pause()

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._ready += cast("list[SimHandle]", self.processes[name].resume())

    # Scheduling ---------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the start; every process reads the same, unlike its Clock."""
        return self._now_s

    def call_at(  # type: ignore[override]  # whose arguments are what the callback takes
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> SimHandle:
        """Call back at a virtual time."""
        self._check_closed()  # type: ignore[attr-defined]  # the base class's
        timer = SimHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def call_soon(  # type: ignore[override]  # as above
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        """Call back at this virtual time."""
        self._check_closed()  # type: ignore[attr-defined]  # the base class's
        handle = SimHandle(self._now_s, callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> SimHandle:
        """What the base class has left of its own ways to ``call_soon``."""
        return self.call_soon(callback, *args, context=context)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        # Once the run is over, as for coroutines: see rule 9.
        if self.is_running():
            super()._asyncgen_finalizer_hook(agen)  # type: ignore[misc]  # the base class's

    def _run_once(self) -> None:
        """Run one callback after the other until ``stop``: as one call, for there are many."""
        ready, timers, at_step, record = self._ready, self._timers, self._at_step, self.trace.record
        while not self._stopping:
            if not ready:
                self._pass_time()
            while timers and timers[0][0] <= self._now_s:
                timer = heapq.heappop(timers)[2]
                if not self._is_void(timer):
                    ready.append(timer)
            handle = ready.pop(self._place_of_next() if len(ready) > 1 else 0)
            owner, callback = handle.owner, handle._callback
            if callback is None or (owner is not None and owner.withholds(handle)):
                continue
            self.steps += 1
            if self.steps > self._steps_max:
                raise Livelock(f"more than {self._steps_max} steps")
            who = "-" if owner is None else owner.shown
            record(f"{self._now} {who} {name_of(callback)}")
            try:
                handle._context.run(callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 as asyncio does
                message = f"exception in {name_of(callback)}"
                self.call_exception_handler(
                    {"message": message, "exception": error, "handle": handle}
                )
            if at_step and self.steps in at_step:
                at_step.pop(self.steps)()
            if self.after_step is not None:
                self.after_step()

    def _pass_time(self) -> None:
        """Go on to the next timer: of those that nobody waits for, the clock must not hear."""
        timers = self._timers
        while timers and self._is_void(timers[0][2]):
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(f"nothing can ever happen again; pending: {self._pending()}")
        if timers[0][0] > self._now_s:
            self._now_s = timers[0][0]
            self._now = repr(self._now_s)

    def _place_of_next(self) -> int:
        if self.order is Order.FIFO:
            return 0
        if self.order is Order.UNIFORM:
            return self._schedule.randrange(len(self._ready))
        oldest: dict[Process | None, int] = {}
        for place, handle in enumerate(self._ready):
            if handle.owner not in oldest:
                oldest[handle.owner] = place
        return self._schedule.choice(list(oldest.values()))

    def _is_void(self, timer: SimHandle) -> bool:
        """Whether nobody will ever hear of it."""
        if timer.cancelled():
            return True
        owner = timer.owner
        return owner is not None and owner.dead and owner.withholds(timer)

    def _pending(self) -> str:
        self._prune_tasks()
        return ", ".join(
            f"{task.owner}:{task.label}"
            for task in self._tasks
            if task.owner is None or not task.owner.dead
        )

    # Tasks and futures --------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future that belongs to the running process."""
        future = SimFuture(loop=self)
        future.serial, future.owner = self._next_serial(), current_process()
        return future

    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """Start a task of the running process, or of the context's."""
        self._check_closed()  # type: ignore[attr-defined]  # the base class's
        owner = current_process() if context is None else owner_in(context)
        label = None if name is None else str(name)
        task = SimTask(coro, self, label, context, self._next_serial(), owner)
        self._tasks[task] = None
        if len(self._tasks) >= self._prune_at:
            self._prune_tasks()
            self._prune_at = max(_TASKS_BEFORE_PRUNING, 2 * len(self._tasks))
        return task

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _prune_tasks(self) -> None:
        self._tasks = {task: None for task in self._tasks if not task.done()}

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody caught; a handler that a process sets is not asked."""
        if "handle" in context:
            owner = context["handle"].owner
        else:
            owner = getattr(context.get("task", context.get("future")), "owner", None)
        if owner is not None and owner.dead:
            return
        failure = context.get("exception") or RuntimeError(context["message"])
        failure.add_note(f"{context['message']} (of {owner})")
        self.failures.append(failure)

    # The outside world --------------------------------------------------------------------

    async def create_server(  # type: ignore[override]  # asyncio's own class wraps real sockets
        self,
        protocol_factory: ProtocolFactory,
        host: str | None = None,
        port: int = 0,
        **options: object,
    ) -> SimServer:
        """Listen on the running process's machine, which is ``host``."""
        return self.network.listen(protocol_factory, host, port, options)

    async def create_connection(  # type: ignore[override]  # fewer options than asyncio's own
        self,
        protocol_factory: ProtocolFactory,
        host: str,
        port: int,
        **options: object,
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect to a port of the machine ``host``."""
        return await self.network.connect(protocol_factory, host, port, options)

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        """Refuse: threads have no seed."""
        raise RuntimeError(f"{func} wants a thread, and a simulation has none")

    def _write_to_self(self) -> None:
        # A real loop is woken here by ``call_soon_threadsafe``; this one never sleeps.
        assert get_ident() == self._thread_id, "a thread escaped the simulation"  # type: ignore[attr-defined]


def _is_unheard(found: object) -> bool:
    """Whether this is a future or a task that failed, and nobody has looked at it yet."""
    return isinstance(found, asyncio.Future) and found._log_traceback


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    if next(_runs) % _RUNS_PER_COLLECTION == 0:
        gc.collect()
    gc.freeze()  # what is older than the run need not be looked at when the run ends
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
