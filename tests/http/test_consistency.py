"""What a request asks of the store, and what it is told when the store can't give it."""

import asyncio

import pytest

from cluster.settings import HttpSettings, ReplicationSettings
from kvnode.errors import (
    CorruptRecord,
    DiskLow,
    KeyDeleted,
    KeyReused,
    Overloaded,
    ReadTimeout,
    StoreError,
    Unavailable,
    WriteTimeout,
)
from tests.support.http import Served, one_loop, serving

TARGET = "/documents/01890a5d-ac96-774b-bcce-b302099a8057"
BODY = b'{"content":"x"}'


@one_loop
@pytest.mark.parametrize(
    ("query", "read", "write", "sloppy"),
    [
        ("", 1, 1, True),
        ("?", 1, 1, True),
        ("?consistency=one", 1, 1, True),
        ("?consistency=two", 2, 2, True),
        ("?consistency=quorum", 3, 3, True),
        ("?consistency=all", 5, 5, True),
        ("?consistency=local_quorum", 3, 3, True),
        ("?consistency=each_quorum", 3, 3, False),
        ("?r=2", 2, 1, True),
        ("?w=4", 1, 4, True),
        ("?r=quorum&w=all", 3, 5, True),
        ("?w=one&r=5&sloppy=false", 5, 1, False),
        ("?consistency=all&sloppy=true", 5, 5, True),
    ],
)
async def test_a_request_asks_for_the_replicas_it_names(
    query: str, read: int, write: int, sloppy: bool
) -> None:
    """Names resolve to counts of the cluster's own number of copies; the rest are its defaults."""
    async with serving(replication=ReplicationSettings(copies=5)) as served:
        await served.call("POST", "/documents" + query, BODY)
        assert served.store.asked == (write, sloppy)
        assert served.store.each_region == ("each_quorum" in query)
        await served.call("GET", TARGET + query)
        assert served.store.asked == (read, sloppy)
        await served.call("DELETE", TARGET + query)
        assert served.store.asked == (write, sloppy)
        await served.call("POST", "/documents/_bulk" + query, b'{"operations":[]}')


@one_loop
@pytest.mark.parametrize(
    "query",
    [
        "r=0", "r=4", "w=0", "w=4", "w=99999999999999999999", "r=-1", "r=+1", "r=1.0", "r=01",
        "r=all;", "r=ALL", "r=", "r", "=", "&", "r=1&", "r=1&r=1", "w=1&w=2", "R=1", "r=%31",
        "consistency=", "consistency=most", "consistency=one&consistency=one",
        "consistency=one&r=1", "consistency=one&w=all", "sloppy=1", "sloppy=True", "sloppy",
        "limit=MARKER", "MARKER", "r=1;w=1", "r=1?w=1", "%00", "r=\t1".replace("\t", "%09"),
    ],
)  # fmt: skip
async def test_a_query_that_is_not_understood_is_refused(served: Served, query: str) -> None:
    """Row 62. A client that asked for w=all and was misread must not think that it got it."""
    for method, target, body in (
        ("POST", "/documents", BODY),
        ("POST", "/documents/_bulk", b'{"operations":[{"op":"create","content":"x"}]}'),
        ("GET", TARGET, None),
        ("DELETE", TARGET, None),
    ):
        response = await served.call(method, f"{target}?{query}", body)

        assert response.problem.code in ("invalid-query", "invalid-consistency")
        assert response.status == 400
        assert b"MARKER" not in response.raw
    assert served.store.writes == []


@pytest.mark.parametrize(
    ("sent", "expected_ms"), [(None, 800), ("1", 1), ("799", 799), ("5000", 800)]
)
async def test_the_store_gets_the_deadline_that_the_client_named(
    sent: str | None, expected_ms: int
) -> None:
    """In milliseconds from now, capped; the cap is also the default."""
    async with serving(http=HttpSettings(request_timeout_ms=800)) as served:
        headers: dict[str, str] = {} if sent is None else {"Stele_Timeout_Ms": sent}
        before_s = asyncio.get_running_loop().time()
        await served.call("POST", "/documents", BODY, **headers)
        await served.call("DELETE", TARGET, None, **headers)
        after_s = asyncio.get_running_loop().time()

    for _, _, deadline_s in served.store.writes:
        assert before_s <= deadline_s - expected_ms / 1000 <= after_s


@pytest.mark.parametrize("sent", ["0", "-1", "+1", "1.5", "1e3", "MARKER", "", "9" * 13, "0x10"])
async def test_a_deadline_that_is_not_understood_is_refused(served: Served, sent: str) -> None:
    """It decides how an uncertain write ends, so it is not guessed at."""
    response = await served.call("DELETE", TARGET, Stele_Timeout_Ms=sent)

    assert response.problem.code == "invalid-header"
    assert b"MARKER" not in response.raw
    assert served.store.writes == []


@pytest.mark.parametrize(
    ("error", "status", "acks"),
    [
        (Unavailable("1 of 3 replicas can be reached", acked=1, required=2), 503, (1, 2)),
        (WriteTimeout("1 of 2 acknowledged in time", acked=1, required=2), 504, (1, 2)),
        (ReadTimeout("0 of 2 answered in time", acked=0, required=2), 504, (0, 2)),
        (Overloaded("the write queue is full"), 429, (None, None)),
        (DiskLow("12 MiB are free"), 507, (None, None)),
        (KeyReused("another body"), 422, (None, None)),
        (KeyDeleted("deleted"), 410, (None, None)),
        (CorruptRecord("checksum"), 503, (None, None)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, StoreError) else "",
)
async def test_an_error_of_the_store_is_told_as_it_is(
    served: Served, error: StoreError, status: int, acks: tuple[int | None, int | None]
) -> None:
    """Rows 63 and 76. Status, what became of it, and whether to try again come from the error."""
    served.store.failure = error
    response = await served.call("POST", "/documents", BODY, Idempotency_Key="k")

    assert response.status == status
    assert response.problem.code == error.code
    assert response.problem.outcome == error.outcome
    assert response.problem.retryable == error.retryable
    assert (response.problem.acks, response.problem.required) == acks
    assert response.problem.detail == str(error)
    assert "location" not in response.headers


async def test_a_fault_of_our_own_is_logged_and_answered_without_its_text(served: Served) -> None:
    """The log has the exception under the trace id of the answer; the client gets no internals."""
    served.store.failure = ZeroDivisionError("secret detail")
    response = await served.call("GET", TARGET)

    assert response.status == 500
    assert (response.problem.code, response.problem.outcome) == ("internal", "unknown")
    assert b"secret" not in response.raw
    assert served.logged == [
        {
            "event": "request.failed",
            "log_level": "error",
            "trace_id": response.problem.trace_id,
            "exc_info": served.store.failure,
        }
    ]
    served.store.failure = None
    assert (await served.call("GET", TARGET)).status == 404
