"""Sessions over replicas that know different things: what a token promises, and what it costs."""

from collections import Counter
from itertools import islice
from typing import Any, Final

import pytest

from cluster.settings import HintSettings
from docservice.documents import Created, DocumentDeleted, DocumentNotFound, SessionUnreachable
from kvnode.errors import Unavailable
from kvnode.replica import Replica
from tests.simulation.clients import SimSession, id_of_key
from tests.simulation.cluster import DOCS, SimCluster, settings_of
from tests.simulation.histories import random_sessions
from tests.simulation.run import seeds, simulate
from tests.simulation.sometimes import met_in_sessions

NODES: Final = ("a1", "a2", "a3")
#: So that nothing but reads heals a replica.
NO_HINTS: Final = HintSettings(total_bytes_max=0)
CONTENT: Final = "some content"
SLOW_S: Final = (0.05, 0.06)


def cut_off(cluster: SimCluster, name: str) -> None:
    """Let a node reach no other node, nor be reached."""
    for other in cluster.nodes:
        if other != name:
            cluster.loop.network.cut(name, other)
            cluster.loop.network.cut(other, name)


async def create_on(
    cluster: SimCluster, name: str, session: SimSession, number: int = 0
) -> Created:
    """A document that the other owners have missed; its owner is there again, and slow."""
    key = next(islice(cluster.keys_of(*NODES), number, None))
    cut_off(cluster, name)
    created = await cluster.create(name, CONTENT, key=key, session=session)
    cluster.loop.network.heal_all()
    await cluster.ready()
    for other in cluster.machines:
        cluster.loop.network.latency_s[name, other] = SLOW_S
    return created


def replica_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts from now on what replicas are asked for."""
    reads: Counter[str] = Counter()
    for name in ("get", "fetch"):
        original = getattr(Replica, name)

        def counted(
            self: Replica, *arguments: Any, name: str = name, original: Any = original
        ) -> Any:
            reads[name] += 1
            return original(self, *arguments)

        monkeypatch.setattr(Replica, name, counted)
    return reads


@seeds(2)
def test_one_replica_is_read_when_it_has_what_was_seen(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token costs no read: on an owner its own, elsewhere that of one owner; 0 when deleted."""
    reads = replica_reads(monkeypatch)

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        ids = []
        for number in range(10):
            via = list(cluster.machines)[number % 6]
            created = await cluster.create(via, f"{number}", write=3, session=session)
            ids.append(created.document_id)
        for carried in (session, None):
            reads.clear()
            asked, hedged = 0, hedges(cluster)
            for document_id in ids:
                for via in cluster.machines:
                    await cluster.read(via, document_id, session=carried)
                    asked += 1
            assert reads.total() == asked + hedges(cluster) - hedged
        for document_id in ids:
            await cluster.delete("a1", document_id, session=session)
        reads.clear()
        for document_id in ids:
            with pytest.raises(DocumentDeleted):
                await cluster.read("a2", document_id, session=session)
        assert reads.total() == 0

    simulate(scenario, seed, settings_of(5))


def hedges(cluster: SimCluster) -> int:
    """Reads that were sent because another one was slow."""
    counts = [machine.serving.coordinator.counts for machine in cluster.nodes.values()]
    return sum(one.hedged_reads for one in counts)


async def _not_found_without_a_token(cluster: SimCluster, via: str) -> None:
    """Of some such documents one at least is a 404: the others answer before a3 does."""
    for number in range(1, 20):
        other = await create_on(cluster, "a3", SimSession(), number)
        try:
            await cluster.read(via, other.document_id)
        except DocumentNotFound:
            return
    pytest.fail("all were found: there is nothing that a token could help with")


@seeds(2)
@pytest.mark.parametrize("via", [*NODES, "a4", DOCS])
def test_a_read_goes_on_until_it_finds_what_was_seen(seed: int, via: str) -> None:
    """Two of three owners have nothing: that is a 404 to others, and not to who was shown it."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        if via in ("a1", "a2"):  # the others may ask the slow one first, and wait for it
            await _not_found_without_a_token(cluster, via)
        created = await create_on(cluster, "a3", session)
        try:
            found = await cluster.read(via, created.document_id, session=session)
        except Unavailable as error:
            pytest.fail(f"not found, though it can be reached: {error}")
        assert found.create == created.create

    simulate(scenario, seed, settings_of(4, zones=4, hints=NO_HINTS))


@seeds(2)
def test_what_was_seen_and_cannot_be_reached_is_not_absent(seed: int) -> None:
    """The only owner that has it is down: 503 while it is, and then the document."""

    async def scenario(cluster: SimCluster) -> None:
        session = SimSession()
        created = await create_on(cluster, "a3", session)
        cluster.kill("a3")
        for _ in range(2):  # before the others know, and after
            for via in ("a1", "a2", DOCS):
                with pytest.raises(DocumentNotFound):
                    await cluster.read(via, created.document_id)
                with pytest.raises(Unavailable) as refused:
                    await cluster.read(via, created.document_id, session=session)
                assert refused.value.retryable
            await cluster.noticed("a3")
        await cluster.restart("a3")
        await cluster.read("a1", created.document_id, session=session)

    simulate(scenario, seed, settings_of(hints=NO_HINTS))


@seeds(2)
def test_what_only_a_hint_holds_is_not_absent(seed: int) -> None:
    """All owners say so, and are right; but it was acknowledged, and is on its way to them."""

    async def scenario(cluster: SimCluster) -> None:
        owners, session = ("a1", "a2", "a3"), SimSession()
        key = cluster.key_of(*owners)
        cluster.kill(*owners)
        await cluster.noticed(*owners)
        created = await cluster.create("a4", CONTENT, key=key, session=session)
        assert created.stored.hints == 1
        cluster.kill("a4")
        await cluster.restart(*owners)
        for via in (*owners, DOCS):
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, created.document_id)
            with pytest.raises(SessionUnreachable):
                await cluster.read(via, created.document_id, session=session)
        await cluster.restart("a4")
        await cluster.until(
            lambda: all(cluster.nodes[name].stored(created.document_id) for name in owners),
            30.0,
            "not delivered",
        )
        await cluster.read("a1", created.document_id, session=session)

    simulate(scenario, seed, settings_of(4))


@seeds(2)
def test_a_session_that_has_deleted_a_document_never_meets_it_again(seed: int) -> None:
    """Nor does one that was told of it; at nodes that have missed the deletion, and at once."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", CONTENT, write=3)
        session, told = SimSession(), SimSession()
        cut_off(cluster, "a3")
        await cluster.delete("a3", created.document_id, session=session)
        with pytest.raises(DocumentDeleted):
            await cluster.read("a3", created.document_id, session=told)
        for via in ("a1", "a2"):
            await cluster.read(via, created.document_id)
            for carried in (session, told):
                with pytest.raises(DocumentDeleted):
                    await cluster.read(via, created.document_id, session=carried)

    simulate(scenario, seed, settings_of(hints=NO_HINTS))


@seeds(2)
def test_of_two_bodies_under_one_key_a_session_is_not_shown_the_older_one(seed: int) -> None:
    """In the weak mode both are stored; who was shown the one that lasts is shown it again."""

    async def scenario(cluster: SimCluster) -> None:
        key, session = "a key", SimSession()
        cut_off(cluster, "a1")
        first = await cluster.create("a1", "first", key=key, session=session)
        await cluster.until(
            lambda: cluster.nodes["a2"].clock.wall_ms() > first.create.created_at_ms,
            10.0,
            "its clock is behind",
        )
        await cluster.create("a2", "second", key=key)
        document_id = id_of_key(key)
        other = await cluster.read("a2", document_id)
        assert other.create.content == b"second"
        with pytest.raises(Unavailable):
            await cluster.read("a2", document_id, session=session)
        cluster.loop.network.heal_all()
        await cluster.ready()
        found = await cluster.read("a2", document_id, session=session)
        assert found.create.content == b"first"

    simulate(scenario, seed, settings_of(hints=NO_HINTS))


@seeds(5)
def test_whatever_befalls_a_cluster_a_session_sees_nothing_older(seed: int) -> None:
    """I13 and I14: with tokens that clients carry from node to node, at R=1 and W=1."""
    random_sessions(seed)


def test_the_sessions_meet_what_they_are_for() -> None:
    """A checker sees only what happens: each of these must, now and then."""
    met: Counter[str] = Counter()
    for seed in (0, 2, 4):
        met.update(met_in_sessions(random_sessions(seed)))
    assert [what for what, count in met.items() if what.startswith("session") and not count] == []
