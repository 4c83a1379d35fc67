"""The client for programs that don't use asyncio: the asynchronous one, on a thread of its own.

Any number of threads may use one client. A session belongs to the thread that opened it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import wraps
from threading import Thread
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, Unpack

from docservice.client.aio import AsyncClient, Options
from docservice.client.session import Session

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    @wraps(method)
    def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(method(self._client, *args, **kwargs))

    return call


class Client:
    """Creates, reads and deletes documents. ``with Client([...]) as client:``.

    Its methods are those of ``AsyncClient``, and return when that would have.
    """

    create = _blocking(AsyncClient.create)
    get = _blocking(AsyncClient.get)
    delete = _blocking(AsyncClient.delete)
    create_many = _blocking(AsyncClient.create_many)
    get_many = _blocking(AsyncClient.get_many)
    delete_many = _blocking(AsyncClient.delete_many)

    def __init__(
        self,
        endpoints: Sequence[str] | Mapping[str, Sequence[str]],
        **options: Unpack[Options],
    ) -> None:
        self._client = AsyncClient(endpoints, **options)
        self._loop: asyncio.AbstractEventLoop
        self._thread: Thread

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="stele-client", daemon=True)
        self._thread.start()
        self._run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._run(self._client.__aexit__(kind, error, at))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def session(self, token: str = "") -> AbstractContextManager[Session]:
        """Within this, no answer is older than what earlier ones have shown."""
        return self._client.session(token)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns, run on the client's thread in the caller's context."""
        answer: Future[T] = Future()
        context = copy_context()

        def start() -> None:
            task = self._loop.create_task(coroutine, context=context)
            task.add_done_callback(finish)

        def finish(task: "asyncio.Task[T]") -> None:
            error = task.exception()
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        self._loop.call_soon_threadsafe(start)
        return answer.result()
