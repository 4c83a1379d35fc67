"""The client's decisions: whom it asks, what it repeats, when it gives up, and what it remembers.

In virtual time, over servers that answer as they are told.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docservice.client import AsyncClient, How, NewDocument, NoAnswer, NotStele, Retrying
from docservice.client.endpoints import Endpoints
from docservice.client.errors import (
    PROBLEM_CLASSES,
    CorruptRecord,
    Deleted,
    Overloaded,
    ProblemError,
    SteleError,
    Unavailable,
    WriteTimeout,
)
from docservice.client.session import DOCUMENTS_MAX, HEADER_CHARS_MAX, TOKENS_MAX, Session
from docservice.client.wire import Answer, Request
from docservice.http.problems import CATALOGUE
from tests.simulation.loop import SimLoop

T = TypeVar("T")

A, B = "http://a", "http://b"
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
DOCUMENT = {
    "id": ID,
    "content": "text",
    "status": "ACTIVE",
    "created_at": "2026-01-01T00:00:00.000Z",
    "delete_at": None,
    "checksum": "00" * 32,
}


def problem(code: str, **headers: str) -> Answer:
    """A server's refusal."""
    kind = CATALOGUE[code]
    fields = {"code", "status", "title", "retryable", "outcome"}
    body = {name: getattr(kind, name) for name in fields}
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    head = {"content-type": "application/problem+json", **more}
    return Answer(kind.status, head, msgspec.json.encode(body))


def found(**headers: str) -> Answer:
    """A document, as a read or a create gives it."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(200, more, msgspec.json.encode(DOCUMENT))


Say = Callable[[Request], Answer | SteleError]


class Servers:
    """A ``Transport`` to servers that answer after a hundredth of a second, as each is told."""

    def __init__(self, **say: Say) -> None:
        self._say = {f"http://{name}": one for name, one in say.items()}
        #: Each try: when, whom, what, with which headers.
        self.tries: list[tuple[float, str, Request, dict[str, str]]] = []

    async def send(
        self, url: str, request: Request, headers: Mapping[str, str], timeout_s: float
    ) -> Answer:
        """See ``Transport``."""
        loop = asyncio.get_running_loop()
        self.tries.append((loop.time(), url, request, dict(headers)))
        assert 0 < int(headers["Stele-Timeout-Ms"]) <= timeout_s * 1000
        said = self._say[url](request)
        hangs = isinstance(said, NoAnswer) and said.outcome == "unknown"
        await asyncio.sleep(timeout_s if hangs else 0.01)
        if isinstance(said, SteleError):
            raise said
        return said

    async def close(self) -> None:
        """See ``Transport``."""

    @property
    def asked(self) -> list[str]:
        """Whom, one after the other."""
        return [url for _, url, _, _ in self.tries]


def always(answer: Answer | Callable[[], SteleError]) -> Say:
    """A server that says one thing."""
    return lambda _: answer if isinstance(answer, Answer) else answer()


def in_turn(*answers: Answer | SteleError) -> Say:
    """A server that says one thing after the other, and then repeats the last."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def silent() -> SteleError:
    """It took the request, and nothing came."""
    return NoAnswer("it hangs", "unknown")


def refusing() -> SteleError:
    """Nobody listens."""
    return NoAnswer("refused", "not_applied")


def play(
    servers: Servers,
    call: Callable[[AsyncClient], Coroutine[Any, Any, T]],
    client: AsyncClient | None = None,
    seed: int = 0,
) -> T:
    """What a call gives, in virtual time."""
    client = client or AsyncClient([f"http://{url[7:]}" for url in servers._say])
    client._transport = servers
    with contextlib.closing(SimLoop(seed)) as loop:
        return loop.run(call(client))


# What is repeated.


def test_every_problem_has_its_class() -> None:
    """By the server's own table: a code that is new there is missing here until it is added."""
    assert list(PROBLEM_CLASSES) == list(CATALOGUE)
    assert len({kind.__name__ for kind in PROBLEM_CLASSES.values()}) == len(CATALOGUE)


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_problem_is_raised_as_its_class_and_repeated_if_that_may_help(code: str) -> None:
    """Which is so if the server says so, or does not know what it has done."""
    kind = CATALOGUE[code]
    servers = Servers(a=always(problem(code)))
    with pytest.raises(PROBLEM_CLASSES[code]) as caught:
        play(servers, lambda client: client.get(ID))
    assert caught.value.problem.code == code
    repeats = kind.retryable or kind.outcome == "unknown"
    assert (len(servers.tries) > 1) == repeats


def test_a_create_that_is_repeated_is_the_same_create() -> None:
    """The same key and body to another server: nothing is made twice."""
    say = in_turn(silent(), found())
    servers = Servers(a=say, b=say)
    play(servers, lambda client: client.create("text", ttl_seconds=5))
    (_, one, first, headers), (_, other, second, again) = servers.tries
    assert {one, other} == {A, B}
    assert first == second
    assert headers["Idempotency-Key"] == again["Idempotency-Key"] != ""
    assert msgspec.json.decode(first.body or b"") == {"content": "text", "ttl_seconds": 5}


def test_each_create_without_a_key_makes_a_document_of_its_own() -> None:
    """Equal contents are no reason to be one document."""
    servers = Servers(a=always(found()))

    async def twice(client: AsyncClient) -> None:
        await client.create("text")
        await client.create("text")
        await client.create("text", key='a "key" \\')

    play(servers, twice)
    keys = [headers["Idempotency-Key"] for _, _, _, headers in servers.tries]
    assert len(set(keys)) == 3
    assert keys[2] == '"a \\"key\\" \\\\"'


def test_what_may_have_been_done_is_never_called_undone() -> None:
    """A server took the request and fell silent, then nobody listens: the outcome is unknown."""
    servers = Servers(a=in_turn(silent(), refusing()))
    with pytest.raises(NoAnswer) as caught:
        play(servers, lambda client: client.delete(ID))
    assert caught.value.outcome == "unknown"
    servers = Servers(a=always(refusing))
    with pytest.raises(NoAnswer) as caught:
        play(servers, lambda client: client.delete(ID))
    assert caught.value.outcome == "not_applied"


def test_a_try_that_the_deadline_cuts_short_hides_no_reason() -> None:
    """What a server refused before is raised; that the last try may have been applied stays."""
    servers = Servers(a=in_turn(problem("unavailable"), silent()))
    client = AsyncClient([A], deadline_s=0.2)
    with pytest.raises(Unavailable) as caught:
        play(servers, lambda client: client.delete(ID), client)
    assert caught.value.outcome == "unknown"
    assert len(servers.tries) == 2


@given(st.floats(0.05, 30), st.lists(st.sampled_from("src"), min_size=1, max_size=3))
def test_a_request_ends_by_its_deadline(deadline_s: float, how: list[str]) -> None:
    """Whatever servers do: hang, refuse, or say that they have too much to do."""
    says: dict[str, Answer | Callable[[], SteleError]] = {
        "s": silent,
        "r": refusing,
        "c": problem("overloaded", retry_after="1"),
    }
    servers = Servers(**{f"s{i}": always(says[one]) for i, one in enumerate(how)})
    client = AsyncClient([*servers._say], deadline_s=deadline_s)

    async def timed(client: AsyncClient) -> float:
        with pytest.raises(SteleError):
            await client.get(ID)
        return asyncio.get_running_loop().time()

    assert play(servers, timed, client) <= deadline_s + 0.011


def test_a_server_that_asks_for_rest_gets_it() -> None:
    """Alone, it is waited for; with another one beside it, that one is asked."""
    rests = problem("overloaded", retry_after="3")
    servers = Servers(a=in_turn(rests, found()))
    play(servers, lambda client: client.get(ID))
    (first_s, *_), (second_s, *_) = servers.tries
    assert second_s - first_s >= 3.0

    servers = Servers(a=always(rests), b=always(rests), c=always(found()))
    play(servers, lambda client: client.get(ID), seed=3)
    assert len(set(servers.asked)) == len(servers.asked)
    assert servers.tries[-1][0] < 1.0

    patient = AsyncClient([A], deadline_s=2.0)
    servers = Servers(a=always(rests))
    with pytest.raises(Overloaded):
        play(servers, lambda client: client.get(ID), patient)
    assert len(servers.tries) == 1


def test_a_cluster_in_trouble_gets_few_retries() -> None:
    """However many requests fail: a tenth more, and not several times as many."""
    retrying = Retrying(budget_max=5)
    client = AsyncClient([A], retrying=retrying)
    servers = Servers(a=always(problem("unavailable")))

    async def many(client: AsyncClient) -> None:
        for _ in range(100):
            with pytest.raises(Unavailable):
                await client.get(ID)

    play(servers, many, client)
    assert 100 < len(servers.tries) <= 100 + 5 + 10
    assert client.retry_count == len(servers.tries) - 100


@given(st.integers(0, 2000), st.floats(0, 1))
def test_waits_grow_to_a_bound_and_are_drawn(retry: int, drawn: float) -> None:
    """From nothing to all of the interval, so that clients part."""
    retrying = Retrying()
    wait_s = retrying.backoff_s(retry, drawn)
    assert (
        0 <= wait_s <= min(retrying.backoff_s_max, retrying.backoff_s_min * 2.0 ** min(retry, 99))
    )
    assert retrying.backoff_s(2000, 1.0) == retrying.backoff_s_max


def test_what_is_no_document_api_is_told_apart_from_a_balancer() -> None:
    """A page of something else is final; a balancer that has lost its servers is not."""
    page = Answer(200, {"content-type": "text/html"}, b"<html>")
    with pytest.raises(NotStele):
        play(Servers(a=always(page)), lambda client: client.get(ID))
    with pytest.raises(NotStele):
        play(Servers(a=always(Answer(404, {}, b""))), lambda client: client.get(ID))
    between = Answer(503, {"content-type": "text/plain"}, b"no healthy upstream")
    servers = Servers(a=in_turn(between, found()))
    play(servers, lambda client: client.get(ID))
    assert len(servers.tries) == 2


# Whom it asks.


def test_the_preferred_region_is_asked_while_it_answers() -> None:
    """Then the next one; and the first again once it is well."""
    client = AsyncClient({"x": [A], "y": [B]}, region="y")
    here: list[Answer | SteleError] = [*[found()] * 9, refusing(), refusing(), found()]
    servers = Servers(a=always(found()), b=in_turn(*here))

    async def reads(client: AsyncClient) -> list[str]:
        for _ in range(12):
            await client.get(ID)
        await asyncio.sleep(5)
        await client.get(ID)
        await asyncio.sleep(5)
        await client.get(ID)
        return servers.asked

    assert play(servers, reads, client) == [B] * 9 + [B, A, A, A, B, A, B]
    told = {(url, headers["Stele-Region"]) for _, url, _, headers in servers.tries}
    assert told == {(A, "x"), (B, "y")}, "a balancer would send it back"


def test_what_a_region_can_not_show_to_a_session_is_asked_for_in_the_next() -> None:
    """With the token: no other server of that region has it either. Then all once more."""
    near = {f"n{number}": always(problem("session-unreachable")) for number in range(3)}
    servers = Servers(**near, far=in_turn(problem("unavailable"), found()))
    client = AsyncClient({"n": [f"http://{name}" for name in near], "f": ["http://far"]})

    async def read(client: AsyncClient) -> None:
        with client.session("the token"):
            await client.get(ID)

    play(servers, read, client)
    assert ["far" in url for url in servers.asked] == [False, True, False, True]
    assert {headers["Stele-Session"] for *_, headers in servers.tries} == {"the token"}


def test_a_server_that_is_not_well_is_no_reason_to_leave_its_region() -> None:
    """Its neighbours are asked first, whatever it refused."""
    servers = Servers(a=always(problem("unavailable")), b=always(found()), c=always(found()))
    client = AsyncClient({"n": [A, B], "f": ["http://c"]})
    play(servers, lambda client: client.get(ID), client, seed=1)
    assert "http://c" not in servers.asked


@given(st.integers(0, 1000))
def test_of_two_servers_the_slow_one_gets_little(seed: int) -> None:
    """Both are drawn every time, and the faster one is taken once each has answered."""
    endpoints = Endpoints({"x": [A, B]}, None, Random(seed))
    for now_s in range(20):
        endpoint, _ = endpoints.choose(now_s)
        endpoints.answered(endpoint, 0.5 if endpoint.url == A else 0.01)
    assert endpoints.choose(20)[0].url == B


def test_an_unknown_region_is_refused() -> None:
    """A typing error must not send everything far away."""
    with pytest.raises(ValueError, match="there is no region 'z': x"):
        AsyncClient({"x": [A]}, region="z")
    with pytest.raises(ValueError, match="no endpoint"):
        AsyncClient([])


# What it passes on, and remembers.


def test_how_and_trace_are_passed_on() -> None:
    """With every try, as they are when the request is made."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    client = AsyncClient([A], traceparent=lambda: trace, how=How("quorum", sloppy=False))
    servers = Servers(a=in_turn(problem("unavailable"), found()))
    play(servers, lambda client: client.get(ID), client)
    assert [headers["traceparent"] for *_, headers in servers.tries] == [trace, trace]
    assert servers.tries[0][2].target == f"/documents/{ID}?consistency=quorum&sloppy=false"


def test_a_session_brings_back_what_came_with_its_answers() -> None:
    """The token of the last answer that said what a document is, also that it is deleted."""
    servers = Servers(
        a=in_turn(
            found(stele_session="one"), found(stele_session="two"),
            problem("deleted", stele_session="three"),
            problem("corrupt-record", stele_session="shows nothing"),
            found(stele_session="four"),
        )
    )  # fmt: skip

    async def calls(client: AsyncClient) -> None:
        with client.session() as session:
            await client.create("text")
            await client.get(ID)
            with pytest.raises(Deleted):
                await client.get(ID)
            with pytest.raises(CorruptRecord):
                await client.get(ID)
            await client.get(ID)
            assert session.token == "four"
        await client.get(ID)

    play(servers, calls)
    sent = [headers.get("Stele-Session") for *_, headers in servers.tries]
    assert sent == [None, "one", "two", "three", "three", None]


def test_requests_at_the_same_time_do_not_forget_each_others_answers() -> None:
    """A read that began before a deletion and ends after it does not undo what that has shown."""
    session = Session()
    session.note([ID], "created", brought="")
    session.note([ID], "deleted", brought="created")
    session.note([ID], "read", brought="created")
    assert session.header([ID]) == "deleted,read"
    session.note([ID], "all", brought="deleted,read")
    assert session.header([ID]) == "all"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 1900)), max_size=80))
def test_a_request_never_brings_more_than_a_server_takes(notes: list[tuple[int, int]]) -> None:
    """By count and by length; the token to hand over neither."""
    session = Session("a, b")
    for number, (document, length) in enumerate(notes):
        session.note([f"{document}"], f"{number:04}".rjust(length, "x"), brought="")
    ids = [f"{number}" for number in range(51)]
    for header in (session.header(ids), session.token):
        assert len(header.split(",")) <= TOKENS_MAX
        assert len(header) <= HEADER_CHARS_MAX
    if session.has_room_for(ids):
        known = {document for document, _ in notes}
        assert len(session.header(ids).split(",")) >= len(known)


def test_a_session_remembers_a_bounded_number_of_documents() -> None:
    """The last ones."""
    session = Session()
    for number in range(DOCUMENTS_MAX + 1):
        session.note([f"{number}"], f"t{number}", brought="")
    assert session.header(["0"]) == ""
    assert session.header(["1"]) == "t1"


# Many at once.


def bulk(request: Request) -> Answer:
    """A server that carries out all operations of a bulk request."""
    results = []
    for operation in msgspec.json.decode(request.body or b"")["operations"]:
        if operation["op"] == "create":
            results.append({**DOCUMENT, "status": 201, "checksum": operation["content"]})
        elif operation["op"] == "get":
            results.append({"status": 200, "document": {**DOCUMENT, "id": operation["id"]}})
        else:
            results.append({"status": 204})
    body = msgspec.json.encode({"errors": False, "results": results})
    return Answer(200, {"stele-session": f"token {len(results)}"}, body)


@given(st.lists(st.text("ab", max_size=3), max_size=900), st.integers(1, 5))
def test_many_results_are_in_the_order_of_what_was_asked(texts: list[str], at_once: int) -> None:
    """However they are shared out; and progress adds up to all of them."""
    told: list[int] = []
    servers = Servers(a=bulk)
    news = (NewDocument(text) for text in texts)
    results = play(
        servers, lambda client: client.create_many(news, progress=told.append, concurrency=at_once)
    )
    assert [one.checksum for one in results if not isinstance(one, SteleError)] == texts
    assert sum(told) == len(texts)
    assert len(servers.tries) == -(-len(texts) // 200)


def test_of_many_only_what_failed_for_now_is_repeated() -> None:
    """With the same keys; what is refused for good stays refused."""
    tries = 0

    def server(request: Request) -> Answer:
        nonlocal tries
        tries += 1
        answer = msgspec.json.decode(bulk(request).body)
        for index, code in {0: "write-timeout", 1: "content-too-large"}.items():
            if tries == 1:
                refusal = msgspec.json.decode(problem(code).body)
                answer["results"][index] = {"status": 500, "problem": refusal}
        return Answer(200, {}, msgspec.json.encode(answer))

    servers = Servers(a=server)
    results = play(servers, lambda client: client.create_many(["x", "y", "z"]))
    first, second = (
        msgspec.json.decode(one.body or b"")["operations"] for _, _, one, _ in servers.tries
    )
    assert second == first[:1]
    assert isinstance(results[1], ProblemError)
    assert [getattr(one, "checksum", None) for one in results] == ["x", None, "z"]

    servers = Servers(a=always(problem("write-timeout")))
    refused = play(servers, lambda client: client.delete_many([ID, ID]))
    assert [type(one) for one in refused] == [WriteTimeout, WriteTimeout]


def test_in_a_session_a_request_holds_as_much_as_a_token_can_know() -> None:
    """So what was created by the hundred is read back by the hundred."""
    servers = Servers(a=bulk)

    async def calls(client: AsyncClient) -> None:
        with client.session():
            await client.create_many(["text"] * 70)
            await client.get_many([ID] * 3)

    play(servers, calls)
    sizes = [
        len(msgspec.json.decode(one.body or b"")["operations"]) for _, _, one, _ in servers.tries
    ]
    assert sorted(sizes) == [3, 6, 32, 32]
    assert servers.tries[-1][3]["Stele-Session"].startswith("token ")


def test_what_a_callers_own_code_raises_reaches_the_caller() -> None:
    """Not wrapped, and not swallowed."""

    def stop(_: int) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        play(Servers(a=bulk), lambda client: client.get_many([ID], progress=stop))
