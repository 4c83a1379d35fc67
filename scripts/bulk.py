"""A client of the bulk API that goes on while nodes come and go.

Rules
-----
1. An operation is repeated, unchanged, while its problem says ``retryable`` or its outcome is
   unknown. Creates carry idempotency keys, so a repetition can't make a second document.
2. Each repetition goes to the next node. One that did not answer is left alone for a while, so a
   hung node costs one timeout and not one for each batch.
3. No progress for ``patience_s`` ends the work with an error; nothing waits for ever.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import aiohttp
import msgspec

#: Operations in one request. Contents of 2,048 bytes, escaped to six times that in the worst case,
#: stay below the 4 MiB that a request may have.
BATCH_OPERATIONS: Final = 200
#: What a node is given to answer, and what it is waited for: between them lies its own refusal.
_DEADLINE_MS: Final = 5_000
_REQUEST_TIMEOUT_S: Final = 8.0
_AVOID_S: Final = 30.0
_BACKOFF_S_MIN: Final = 0.1
_BACKOFF_S_MAX: Final = 2.0
#: Statuses that say that the request as a whole is at fault: in one part of it or in its size.
_REQUEST_AT_FAULT: Final = (400, 413, 422)

Operation = dict[str, object]
#: Sends a body to a URL and gives status and body of the answer, or raises NoAnswer.
Post = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]
_Shape = TypeVar("_Shape")


class NoAnswer(Exception):
    """A node can't be reached, hung up or took too long: what became of the request is unknown."""


class BulkError(Exception):
    """The work can't go on. The message is one whole sentence."""


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, as far as it decides what to do (RFC 9457)."""

    detail: str = ""
    retryable: bool = False
    outcome: str = "not_applied"


class ReadDocument(msgspec.Struct, frozen=True):
    """What a get gives, as far as it is used here."""

    content: str


class Result(msgspec.Struct, frozen=True):
    """The answer to one operation."""

    status: int
    #: Of a create.
    id: str = ""
    replayed: bool = False
    #: Of a get.
    document: ReadDocument | None = None
    problem: Problem | None = None


class _Answer(msgspec.Struct, frozen=True):
    results: list[Result]


def is_transient(result: Result) -> bool:
    """Whether the same operation may end better if it is sent again."""
    problem = result.problem
    return problem is not None and (problem.retryable or problem.outcome == "unknown")


class BulkClient:
    """Sends operations to whichever of several nodes answers."""

    def __init__(self, post: Post, urls: Sequence[str], *, patience_s: float) -> None:
        assert urls
        self._post = post
        self._urls = list(urls)
        self._patience_s = patience_s
        self._turn = 0
        #: Loop time until which a node is not asked while there is another.
        self._avoided_until_s = dict.fromkeys(self._urls, 0.0)

    async def run(
        self,
        operations: Sequence[Operation],
        *,
        again: Callable[[Result], bool] = is_transient,
        query: str = "",
    ) -> list[Result]:
        """The last result of each operation, in order.

        Args:
            operations: At most ``BATCH_OPERATIONS``, in the API's form.
            again: Which results are worth another try. One that is not transient is returned
                when patience ends.
            query: Of the request, such as ``?consistency=quorum``.

        Raises:
            BulkError: no progress for ``patience_s``, or what answers is not this API.
        """
        loop = asyncio.get_running_loop()
        results: dict[int, Result] = {}
        pending = list(range(len(operations)))
        progress_s, attempts = loop.time(), 0
        while pending:
            if attempts >= len(self._urls):
                await asyncio.sleep(_backoff_s(attempts - len(self._urls)))
            attempts += 1
            answers = await self._send([operations[index] for index in pending], query)
            results.update(zip(pending, answers, strict=True))
            left = [index for index in pending if again(results[index])]
            if len(left) < len(pending):
                progress_s = loop.time()
            elif loop.time() - progress_s > self._patience_s:
                self._refuse_transient([results[index] for index in left])
                break
            pending = left
        return [results[index] for index in range(len(operations))]

    async def _send(self, operations: Sequence[Operation], query: str) -> list[Result]:
        """One request. When there is no answer, each operation gets a transient result."""
        url = self._next_url()
        try:
            status, body = await self._post(
                f"{url}/documents/_bulk{query}", msgspec.json.encode({"operations": operations})
            )
        except NoAnswer as error:
            self._avoided_until_s[url] = asyncio.get_running_loop().time() + _AVOID_S
            silent = Problem(f"{url} does not answer ({error})", True, "unknown")
            return [Result(0, problem=silent)] * len(operations)
        if status == 200:
            results = _decoded(body, _Answer, url).results
            if len(results) != len(operations):
                raise BulkError(f"{url} gave {len(results)} results for {len(operations)}.")
            return results
        if status in _REQUEST_AT_FAULT and len(operations) > 1:
            # Find the operation at fault by halving, so that the others are not refused with it.
            half = len(operations) // 2
            return [
                *await self._send(operations[:half], query),
                *await self._send(operations[half:], query),
            ]
        if status < 500 and status not in (*_REQUEST_AT_FAULT, 408, 429):
            raise BulkError(f"{url}/documents/_bulk answers {status}, so it is not a Stele node.")
        return [Result(status, problem=_decoded(body, Problem, url))] * len(operations)

    def _next_url(self) -> str:
        """The next in turn that is not avoided, else the one whose time is up first."""
        self._turn += 1
        now_s = asyncio.get_running_loop().time()
        order = [self._urls[(self._turn + i) % len(self._urls)] for i in range(len(self._urls))]
        return min(order, key=lambda url: max(now_s, self._avoided_until_s[url]))

    def _refuse_transient(self, results: Sequence[Result]) -> None:
        for result in results:
            if result.problem and is_transient(result):
                raise BulkError(f"no progress for {self._patience_s:g} s: {result.problem.detail}.")


def post_with(session: aiohttp.ClientSession) -> Post:
    """The real way to send."""
    headers = {"Content-Type": "application/json", "Stele-Timeout-Ms": str(_DEADLINE_MS)}

    async def post(url: str, body: bytes) -> tuple[int, bytes]:
        try:
            async with session.post(
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                return response.status, await response.read()
        except TimeoutError as error:
            raise NoAnswer("timed out") from error
        except aiohttp.ClientError as error:
            number = error.errno if isinstance(error, OSError) else None
            raise NoAnswer(os.strerror(number) if number else str(error)) from error

    return post


def _backoff_s(attempt: int) -> float:
    """Doubles up to a maximum; jittered, so that waiting batches do not return together."""
    return min(_BACKOFF_S_MIN * 2.0**attempt, _BACKOFF_S_MAX) * random.uniform(0.5, 1.0)


def _decoded(body: bytes, shape: type[_Shape], url: str) -> _Shape:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BulkError(f"{url} gave an answer that is not the bulk API's: {error}.") from error
