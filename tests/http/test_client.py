"""The client against the real API: what it sends is understood, what comes back too."""

import asyncio
import contextlib
import io
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from docservice.client import AsyncClient, Client, NewDocument, NoAnswer, SteleError
from docservice.client.errors import (
    ContentTooLarge,
    Deleted,
    InvalidId,
    InvalidSession,
    KeyReused,
    NotFound,
    SessionUnreachable,
    Unavailable,
)
from docservice.client.model import How
from docservice.client.transport import HttpTransport
from docservice.client.wire import document_request
from kvnode.errors import Unavailable as StoreUnavailable
from tests.support.http import Served, one_loop

pytestmark = one_loop

ROOT = Path(__file__).parents[2]
ABSENT = "01890a5d-ac96-774b-bcce-b302099a8057"


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncClient]:
    """A client of the listener."""
    async with AsyncClient([url(served)], deadline_s=2.0) as made:
        yield made


def url(served: Served) -> str:
    """Where the listener is."""
    return f"http://127.0.0.1:{served.port}"


async def test_a_document_is_created_read_and_deleted(client: AsyncClient) -> None:
    """With times as times, and problems as exceptions."""
    created = await client.create("text ☃", ttl_seconds=60, how=How("all"))
    found = await client.get(created.id, how=How(sloppy=False))
    assert (found.content, found.checksum) == ("text ☃", created.checksum)
    assert found.delete_at is not None
    assert (found.delete_at - found.created_at).total_seconds() == 60
    await client.delete(created.id)
    with pytest.raises(Deleted) as gone:
        await client.get(created.id)
    assert gone.value.outcome == "not_applied"
    with pytest.raises(NotFound):
        await client.get(ABSENT)
    with pytest.raises(InvalidId):
        await client.get("../secret?x=1#")


async def test_a_key_names_its_document(client: AsyncClient) -> None:
    """Over calls; its body belongs to it."""
    first = await client.create("text", key='any "key" \\ at all')
    again = await client.create("text", key='any "key" \\ at all')
    assert (first.id, first.replayed) == (again.id, False)
    assert again.created_at == first.created_at
    with pytest.raises(KeyReused):
        await client.create("other", key='any "key" \\ at all')


async def test_many_documents_are_created_read_and_deleted(client: AsyncClient) -> None:
    """In requests of two hundred; each fails alone."""
    texts = [f"text {number}" for number in range(450)]
    done: list[int] = []
    created = await client.create_many([*texts, "x" * 3000, NewDocument("k", key="k")],
                                       progress=done.append)  # fmt: skip
    assert sum(done) == 452
    assert isinstance(created[450], ContentTooLarge)
    ids = [one.id for one in created if not isinstance(one, SteleError)]
    found = await client.get_many([*ids, ABSENT])
    assert [getattr(one, "content", None) for one in found] == [*texts, "k", None]
    assert isinstance(found[-1], NotFound)
    assert await client.delete_many(ids) == [None] * 451
    assert all(isinstance(one, Deleted) for one in await client.get_many(ids[:3]))


async def test_a_session_reads_its_own_writes(client: AsyncClient, served: Served) -> None:
    """Or is told to come again: from a store that has lost them, one by one and in bulk."""
    with client.session() as session:
        created = await client.create("text")
        many = await client.create_many([f"{number}" for number in range(50)])
        served.store.records.clear()
        ids = [one.id for one in many if not isinstance(one, SteleError)]
        lost = await client.get_many([created.id, *ids])
        assert [type(one) for one in lost] == [SessionUnreachable] * 51
        token = session.token
    with pytest.raises(NotFound):
        await client.get(created.id)
    with client.session(token), pytest.raises(SessionUnreachable):
        await client.get(ids[-1])
    with client.session("someone else's"), pytest.raises(InvalidSession):
        await client.get(ids[-1])


async def test_a_server_that_recovers_is_waited_for(client: AsyncClient, served: Served) -> None:
    """What it refuses for the moment is asked again; it says after how long."""
    served.store.failure = StoreUnavailable("nobody is there")
    asyncio.get_running_loop().call_later(0.1, setattr, served.store, "failure", None)
    await client.create("text")
    assert len(served.store.writes) == 2
    assert len({document_id for _, document_id, _ in served.store.writes}) == 1


async def test_nobody_there_is_an_error_that_says_so(served: Served) -> None:
    """And that nothing was done."""
    async with AsyncClient(["http://127.0.0.1:1"], deadline_s=0.1) as client:
        with pytest.raises(NoAnswer, match="can't be reached") as caught:
            await client.create("text")
    assert caught.value.outcome == "not_applied"
    assert not served.store.writes


async def test_what_never_got_a_connection_was_not_done(served: Served) -> None:
    """However long it was tried; what went out on a connection may have been done."""
    took = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        took.set()
        await reader.read()
        writer.close()

    request = document_request("DELETE", ABSENT, How())
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(await asyncio.start_server(hang, "127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = HttpTransport(1)
        stack.push_async_callback(transport.close)
        holding = asyncio.create_task(transport.send(address, request, {}, 600.0))
        stack.callback(holding.cancel)
        await took.wait()
        with pytest.raises(NoAnswer, match="can't be reached: no connection within 0") as caught:
            await transport.send(address, request, {}, 0.01)  # the only connection is taken
        assert caught.value.outcome == "not_applied"
        holding.cancel()
        outcome, timeout_s = "", 0.02
        while outcome != "unknown":  # until there is time enough to connect
            timeout_s *= 2
            with pytest.raises(NoAnswer, match=f"within {timeout_s:.3g} s") as caught:
                await transport.send(address, request, {}, timeout_s)
            outcome = caught.value.outcome


async def test_a_program_without_asyncio_gets_the_same(served: Served) -> None:
    """From any of its threads; a session belongs to the one that opened it."""

    def program() -> None:
        with Client([url(served)], deadline_s=0.5) as client:
            created = client.create("text")
            assert client.get(created.id).content == "text"
            with client.session() as session:
                mine = client.create("mine")
                served.store.records.clear()
                with pytest.raises(SessionUnreachable):
                    client.get(mine.id)
                assert session.token
            with pytest.raises(NotFound):
                client.get(mine.id)
            with pytest.raises(NotFound):
                client.get(created.id)
            served.store.failure = StoreUnavailable("nobody is there")
            with pytest.raises(Unavailable):
                client.delete(created.id)

    await asyncio.to_thread(program)


async def test_the_example_of_the_readme_works_as_printed(served: Served) -> None:
    """Only the ports are others; what it prints is what the page says it prints."""
    page = (ROOT / "README.md").read_text()
    shown = re.search(r"```python\n(.*?)```\n+```\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    program = re.sub(r"http://127\.0\.0\.1:8\d\d\d", url(served), shown[1])
    printed = io.StringIO()

    def run() -> None:
        with contextlib.redirect_stdout(printed):
            exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})

    await asyncio.to_thread(run)
    assert printed.getvalue() == shown[2]
