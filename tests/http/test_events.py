"""Documents' lives in the log: told while they are few, counted when they are many, no content."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cluster.settings import LogSettings
from kvnode.sampling import Sampler
from tests.support.http import Served

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def lines(served: Served, event: str) -> list[Any]:
    """Of the log, without what every line has."""
    return [line for line in served.logged if line["event"] == event]


async def test_a_create_and_a_delete_are_told_with_the_ids_that_the_client_saw(
    served: Served,
) -> None:
    """So what a client reports can be found in the log, and the other way round."""
    body = b'{"content":"caf\\u00e9","ttl_seconds":60}'
    created = await served.call(
        "POST", "/documents", body, traceparent=TRACEPARENT, Idempotency_Key="secret-key"
    )
    document_id = created.json(dict)["id"]
    deleted = await served.call("DELETE", f"/documents/{document_id}")
    (create,), (delete,) = lines(served, "document.created"), lines(served, "document.deleted")
    assert create["document"] == delete["document"] == document_id
    assert create["request_id"] == created.headers["x-request-id"]
    assert delete["request_id"] == deleted.headers["x-request-id"]
    assert (create["trace_id"], "trace_id" in delete) == (TRACE, False)
    assert (create["size_bytes"], create["acks"], create["hints"]) == (5, 1, 0)
    assert create["expires_at_ms"] == served.clock.wall_ms() + 60_000
    assert "caf" not in str(served.logged)
    assert "secret-key" not in str(served.logged)


async def test_what_was_not_stored_now_is_no_event(served: Served) -> None:
    """A replay was told when it was new, and a refused create never happened."""
    for _ in range(2):
        await served.call("POST", "/documents", b'{"content":"one"}', Idempotency_Key="k")
        served.clock.now_ms += 1
    await served.call("POST", "/documents", b'{"content":"two"}', Idempotency_Key="k")
    await served.call("POST", "/documents", b'{"content":7}')
    assert len(lines(served, "document.created")) == 1


async def test_many_are_counted_and_not_written(served: Served) -> None:
    """A bulk load must not fill the disk with its log, nor push members' events out of sight."""
    operations = [{"op": "create", "content": f"text {number}"} for number in range(500)]
    bulk = await served.call(
        "POST", "/documents/_bulk", json.dumps({"operations": operations}).encode()
    )
    results = bulk.json(dict)["results"]
    operations = [{"op": "delete", "id": result["id"]} for result in results]
    await served.call("POST", "/documents/_bulk", json.dumps({"operations": operations}).encode())
    assert 1 <= len(lines(served, "document.created")) <= 3 * LogSettings().documents_per_s
    assert 1 <= len(lines(served, "document.deleted")) <= 3 * LogSettings().documents_per_s


@given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 5))
def test_each_is_let_through_or_counted_by_the_next_that_is(gaps: list[float], per_s: int) -> None:
    """Nothing is lost from the sum, and no second has more lines than it may."""
    sampler, now_s = Sampler(per_s), 0.0
    let_through: list[float] = []
    counted, waiting = 0, 0
    for gap_s in gaps:
        now_s += gap_s
        left_out = sampler.admit(now_s)
        if left_out is None:
            waiting += 1
        else:
            assert left_out == waiting
            counted, waiting = counted + left_out + 1, 0
            let_through.append(now_s)
    assert counted + waiting == len(gaps)
    # Windows begin with a line: any second meets two of them at most.
    for first_s in let_through:
        assert sum(first_s <= one < first_s + 1.0 for one in let_through) <= 2 * per_s
