"""Many operations in one request: each on its own, the results in order."""

import asyncio
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.settings import HttpSettings
from docservice.http.bulk import CONCURRENT_MAX
from docservice.http.problems import CATALOGUE, Problem
from docservice.http.representation import BulkResponse, BulkResult, Document
from kvnode.errors import WriteTimeout
from tests.support.http import NOW_MS, Response, Served, serving

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


async def bulk(served: Served, *operations: Any, query: str = "", **headers: str) -> Response:
    """Send operations."""
    body = json.dumps({"operations": operations}).encode()
    return await served.call("POST", "/documents/_bulk" + query, body, **headers)


def results_of(response: Response) -> list[BulkResult]:
    """The results, which must agree with what the answer says of them."""
    assert response.status == 200
    answer = response.json(BulkResponse)
    assert answer.errors == any(result.status >= 400 for result in answer.results)
    for result in answer.results:
        assert isinstance(result.problem, Problem) == (result.status >= 400)
        if isinstance(result.problem, Problem):
            assert result.problem.status == result.status == CATALOGUE[result.problem.code].status
    return answer.results


def create(content: str, **more: object) -> dict[str, object]:
    """A create."""
    return {"op": "create", "content": content, **more}


def get(document_id: object) -> dict[str, object]:
    """A get."""
    return {"op": "get", "id": document_id}


def delete(document_id: object) -> dict[str, object]:
    """A delete."""
    return {"op": "delete", "id": document_id}


async def test_each_operation_answers_as_its_call_alone_would(served: Served) -> None:
    """A create its id and times, a get the document, a delete that it is done."""
    made = results_of(await bulk(served, create("a"), create("b", ttl_seconds=60)))
    first, second = made
    read, gone, absent = results_of(
        await bulk(served, get(first.id), delete(second.id), get(UNKNOWN))
    )
    (deleted,) = results_of(await bulk(served, get(second.id)))

    assert [result.status for result in (*made, read, gone)] == [201, 201, 200, 204]
    assert first.created_at == "2026-01-01T00:00:00.000Z"
    assert (first.delete_at, second.delete_at) == (None, "2026-01-01T00:01:00.000Z")
    assert isinstance(read.document, Document)
    assert (read.document.id, read.document.content) == (first.id, "a")
    assert read.document.checksum == first.checksum
    assert isinstance(absent.problem, Problem)
    assert absent.problem.code == "not-found"
    assert isinstance(deleted.problem, Problem)
    assert deleted.problem.code == "deleted"


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kinds=st.lists(st.sampled_from("cgdx"), max_size=3 * CONCURRENT_MAX))
async def test_results_are_in_the_order_of_the_operations(served: Served, kinds: list[str]) -> None:
    """However many there are at once, and whichever finishes first."""
    operations = {"c": create("x"), "g": get(UNKNOWN), "d": delete(UNKNOWN), "x": {"op": "x"}}
    statuses = {"c": [201], "g": [404, 410], "d": [204], "x": [422]}

    results = results_of(await bulk(served, *[operations[kind] for kind in kinds]))

    assert len(results) == len(kinds)
    for kind, result in zip(kinds, results, strict=True):
        assert result.status in statuses[kind]


async def test_a_repeated_key_says_that_it_is_a_replay(served: Served) -> None:
    """So that a load that is run again can tell what was there from what is new."""
    operation = create("once", idempotency_key="line 1")
    (first,) = results_of(await bulk(served, operation))
    served.clock.now_ms = NOW_MS + 1000
    again, other = results_of(
        await bulk(served, operation, create("twice", idempotency_key="line 1"))
    )

    assert first.replayed is not True
    assert again.replayed is True
    assert (again.id, again.created_at) == (first.id, first.created_at)
    assert isinstance(other.problem, Problem)
    assert other.problem.code == "key-reused"


async def test_a_key_is_the_same_key_in_a_header(served: Served) -> None:
    """A client may retry alone what it first sent in a batch."""
    (first,) = results_of(await bulk(served, create("once", idempotency_key='say "hi"')))
    served.clock.now_ms = NOW_MS + 1000
    body = b'{"content":"once"}'
    quoted = await served.call("POST", "/documents", body, Idempotency_Key=r'"say \"hi\""')

    assert quoted.headers["idempotency-replayed"] == "true"
    assert quoted.headers["location"] == f"/documents/{first.id}"


async def test_one_that_fails_leaves_the_others_alone(served: Served) -> None:
    """Not atomic, and says so by status, one by one."""
    results = results_of(
        await bulk(
            served,
            create("a"),
            create("x" * 2049),
            {"op": "create", "content": "a", "MARKER": 1},
            get("MARKER"),
            delete("%00MARKER"),
            create("b"),
        )
    )

    codes = [result.problem.code for result in results if isinstance(result.problem, Problem)]
    assert [result.status for result in results] == [201, 413, 422, 400, 400, 201]
    assert codes == ["content-too-large", "invalid-document", "invalid-id", "invalid-id"]
    assert len(served.store.records) == 2


async def test_no_result_repeats_what_was_sent(served: Served) -> None:
    """Neither a field's name nor an id that is none."""
    response = await bulk(served, {"op": "MARKER"}, {"op": "get", "MARKER": 1}, get("MARKER"))

    assert b"MARKER" not in response.raw


async def test_an_error_of_the_store_is_told_of_each_operation(served: Served) -> None:
    """Which outcome is unknown matters as much here as alone."""
    served.store.failure = WriteTimeout("1 of 2 in time", acked=1, required=2)
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    response = await bulk(
        served, create("a"), delete(UNKNOWN), traceparent=f"00-{trace}-00f067aa0ba902b7-01"
    )

    problems = [result.problem for result in results_of(response)]
    for problem in problems:
        assert isinstance(problem, Problem)
        assert (problem.code, problem.outcome, problem.acks) == ("write-timeout", "unknown", 1)
        assert problem.trace_id == trace
    assert len({problem.instance for problem in problems if isinstance(problem, Problem)}) == 2


async def test_operations_are_under_way_together_up_to_a_bound(served: Served) -> None:
    """Together, so that they share a group commit; bounded, so that one request can't take all."""
    served.store.gate = asyncio.Event()
    calling = asyncio.create_task(bulk(served, *[create("x")] * (CONCURRENT_MAX + 10)))
    async with asyncio.timeout(10):
        while served.store.arrived < CONCURRENT_MAX:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    assert served.store.arrived == CONCURRENT_MAX
    served.store.gate.set()

    assert len(results_of(await calling)) == CONCURRENT_MAX + 10


async def test_one_deadline_and_one_consistency_hold_for_all(served: Served) -> None:
    """The thousandth operation has what the first left over."""
    before_s = asyncio.get_running_loop().time()
    await bulk(served, *[create("x")] * 3, query="?w=2&sloppy=false", Stele_Timeout_Ms="700")
    after_s = asyncio.get_running_loop().time()

    deadlines = {deadline_s for _, _, deadline_s in served.store.writes}
    assert len(deadlines) == 1
    assert before_s <= deadlines.pop() - 0.7 <= after_s
    assert served.store.asked == (2, False)


async def test_the_largest_bulk_is_taken_and_answered_whole(served: Served) -> None:
    """A thousand creates of the largest documents, then all of them in one answer."""
    contents = [f"{number:04d}" + "\1" * 300 + "x" * 1744 for number in range(1000)]
    made = results_of(await bulk(served, *map(create, contents)))
    read = results_of(await bulk(served, *[get(result.id) for result in made]))

    assert [
        result.document.content for result in read if isinstance(result.document, Document)
    ] == contents


async def test_a_bulk_over_the_bounds_is_refused_whole(served: Served) -> None:
    """By its length before it is read, or by its count before anything is done."""
    too_many = await bulk(served, *[create("x")] * 1001)
    head = b"POST /documents/_bulk HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    too_long = await served.ask(head + b"Content-Length: 4194305\r\n\r\n")

    assert (too_many.status, too_many.problem.code) == (413, "body-too-large")
    assert (too_long.status, too_long.problem.code) == (413, "body-too-large")
    assert served.store.writes == []


async def test_a_key_for_a_whole_bulk_is_refused(served: Served) -> None:
    """It would promise what is not kept: a repeated bulk would create again."""
    response = await bulk(served, create("x"), Idempotency_Key="k")

    assert response.problem.code == "invalid-header"
    assert served.store.writes == []


async def test_a_bulk_is_one_request() -> None:
    """Its operations are bounded on their own, not each by the bound on requests."""
    async with serving(http=HttpSettings(requests_max=1)) as served:
        assert len(results_of(await bulk(served, *[create("x")] * 50))) == 50
