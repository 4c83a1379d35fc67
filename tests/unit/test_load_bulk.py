"""The bulk client against nodes that fail in every way, in virtual time."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bulk import BulkClient, BulkError, NoAnswer, Operation, Result
from tests.simulation.loop import SimLoop

URLS = ["http://one", "http://two", "http://three"]
PATIENCE_S = 60.0

#: What a node does with a request: before it carries it out, or after.
FAULTS = (
    "refuse connection",
    "hang up after",
    "503",
    "429",
    "500",
    "timeout of some",
    "none of it",
)


class Nodes:
    """Nodes that share their documents, and fail as a script says; then they work."""

    def __init__(self, script: Iterator[str]) -> None:
        self.script = script
        #: By idempotency key, how often it was created.
        self.created: dict[str, int] = {}
        self.asked: list[str] = []

    async def post(self, url: str, body: bytes) -> tuple[int, bytes]:
        """The transport that a client is given."""
        self.asked.append(url.removesuffix("/documents/_bulk"))
        operations = msgspec.json.decode(body)["operations"]
        match next(self.script, "works"):
            case "refuse connection":
                raise NoAnswer("connection refused")
            case "hang up after":
                self._create_all(operations)
                raise NoAnswer("connection reset")
            case "503" | "429" as status:
                return int(status), _encoded(_problem(retryable=True))
            case "500":
                self._create_all(operations)
                return 500, _encoded(_problem(outcome="unknown"))
            case "timeout of some":
                done = self._create_all(operations)
                late = {"status": 504, "problem": _problem(retryable=True, outcome="unknown")}
                return 200, _encoded({"results": [late, *done[1:]]})
            case "none of it":
                failed = {"status": 503, "problem": _problem(retryable=True)}
                return 200, _encoded({"results": [failed for _ in operations]})
            case _:
                return 200, _encoded({"results": self._create_all(operations)})

    def _create_all(self, operations: list[dict[str, str]]) -> list[dict[str, object]]:
        return [self._create(operation["idempotency_key"]) for operation in operations]

    def _create(self, key: str) -> dict[str, object]:
        if key == "deleted":
            return {"status": 410, "problem": _problem()}
        replayed = key in self.created
        self.created.setdefault(key, 1)
        return {"status": 201, "id": f"id of {key}", "replayed": replayed}


def _problem(*, retryable: bool = False, outcome: str = "not_applied") -> dict[str, object]:
    return {"detail": "as scripted", "retryable": retryable, "outcome": outcome}


def _encoded(answer: object) -> bytes:
    return msgspec.json.encode(answer)


def _creates(keys: list[str]) -> list[Operation]:
    return [{"op": "create", "content": "x", "idempotency_key": key} for key in keys]


def _run(
    post: Any, operations: list[Operation], again: Callable[[Result], bool] | None = None
) -> list[Result]:
    async def main() -> list[Result]:
        client = BulkClient(post, URLS, patience_s=PATIENCE_S)
        return await (client.run(operations, again=again) if again else client.run(operations))

    with contextlib.closing(SimLoop(0)) as loop:
        return loop.run(main())


@given(st.lists(st.sampled_from(FAULTS), max_size=12), st.integers(1, 4))
def test_every_operation_ends_once_however_the_nodes_fail(faults: list[str], count: int) -> None:
    """Same keys on every try: what was done behind a lost answer is met again, not made again."""
    nodes = Nodes(iter(faults))
    keys = [f"k{number}" for number in range(count)]

    results = _run(nodes.post, _creates([*keys, "deleted"]))

    assert [result.id for result in results] == [*(f"id of {key}" for key in keys), ""]
    assert results[-1].status == 410
    assert nodes.created == dict.fromkeys(keys, 1)


def test_only_what_is_left_is_sent_again() -> None:
    """A batch of which one write was late costs one more operation, not the batch."""
    sent: list[int] = []
    nodes = Nodes(iter(["timeout of some"]))

    async def post(url: str, body: bytes) -> tuple[int, bytes]:
        sent.append(len(msgspec.json.decode(body)["operations"]))
        return await nodes.post(url, body)

    results = _run(post, _creates(["a", "b", "c"]))

    assert sent == [3, 1]
    assert [result.id for result in results] == ["id of a", "id of b", "id of c"]
    assert [result.replayed for result in results] == [True, False, False]


def test_a_node_that_does_not_answer_is_left_alone_for_a_while() -> None:
    """Otherwise every third batch would wait for a hung node's timeout."""
    nodes = Nodes(iter([]))

    async def post(url: str, body: bytes) -> tuple[int, bytes]:
        if url.startswith(URLS[2]):
            nodes.asked.append(URLS[2])
            raise NoAnswer("timed out")
        return await nodes.post(url, body)

    async def main() -> None:
        client = BulkClient(post, URLS, patience_s=PATIENCE_S)
        for number in range(9):
            await client.run(_creates([str(number)]))

    with contextlib.closing(SimLoop(0)) as loop:
        loop.run(main())

    assert nodes.asked.count(URLS[2]) == 1
    assert nodes.asked.count(URLS[0]) >= 4
    assert nodes.asked.count(URLS[1]) >= 4


def test_without_any_progress_the_work_ends_with_the_reason() -> None:
    """A cluster that is down must not hang the command for ever."""

    async def post(url: str, body: bytes) -> tuple[int, bytes]:
        raise NoAnswer("connection refused")

    with pytest.raises(BulkError, match=r"no progress for 60 s: http://\w+ does not answer"):
        _run(post, _creates(["a"]))


def test_an_operation_that_spoils_its_request_is_found_and_the_others_are_done() -> None:
    """The envelope is refused as a whole, and nobody says for which operation."""
    nodes = Nodes(iter([]))

    async def post(url: str, body: bytes) -> tuple[int, bytes]:
        return (422, _encoded(_problem())) if b"bad" in body else await nodes.post(url, body)

    results = _run(post, _creates(["a", "b", "bad", "c", "d"]))

    assert [result.status for result in results] == [201, 201, 422, 201, 201]
    assert list(nodes.created) == ["a", "b", "c", "d"]


def test_a_miss_is_asked_again_where_the_caller_says_so_and_given_in_the_end() -> None:
    """While a node restarts, a document may be out of sight; for good is another matter."""
    tries = 0

    async def post(url: str, body: bytes) -> tuple[int, bytes]:
        nonlocal tries
        tries += 1
        missing = {"status": 404, "problem": _problem()}
        found = {"status": 200, "document": {"content": "x"}}
        seen = msgspec.json.decode(body)["operations"]
        late = found if tries > 3 else missing
        return 200, _encoded(
            {"results": [late if one["id"] == "late" else missing for one in seen]}
        )

    gets: list[Operation] = [{"op": "get", "id": "late"}, {"op": "get", "id": "lost"}]
    late, lost = _run(post, gets, lambda result: result.status == 404)

    assert (late.status, lost.status) == (200, 404)


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (302, b""), (200, b"<html>"), (200, b'{"results": []}')]
)
def test_what_is_not_a_stele_node_ends_the_work_at_once(status: int, body: bytes) -> None:
    """A mistyped URL must not be retried for a minute, nor its answers listed as refusals."""
    asked = 0

    async def post(url: str, _body: bytes) -> tuple[int, bytes]:
        nonlocal asked
        asked += 1
        return status, body

    with pytest.raises(BulkError, match="http://"):
        _run(post, _creates(["a", "b"]))
    assert asked == 1
