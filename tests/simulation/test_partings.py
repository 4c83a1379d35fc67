"""An operator says that a region is gone, rightly or not, and that it is back.

``DiskWatch`` checks at every commit that nothing is purged without a region before every other
node's disk has the word, and that a node which hears of its own region is fenced in the same batch.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

import pytest

from cluster.ids import DocumentId, NodeId
from cluster.settings import HintSettings
from docservice.documents import DocumentDeleted, DocumentNotFound, SessionUnreachable
from kvnode.errors import Refused, StoreError, Unavailable
from kvnode.metrics import NodeCollector
from kvnode.storage.identity import Identity
from kvnode.storage.keys import IDENTITY_KEY, standing_key
from tests.simulation.clients import SimSession
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import ended, level
from tests.simulation.run import seeds, simulate
from tests.simulation.test_regions import COMPARED, A, B, cut_off, logged, vetoes
from tests.simulation.words import say

THREE: Final = settings_of(
    regions="abc",
    between=COMPARED.regions,
    antientropy=COMPARED.antientropy,
    lifecycle=COMPARED.lifecycle,
    hints=HintSettings(window_s=2.0),
)
#: A purge that nothing holds up is over by then.
_PURGED_S: Final = 45.0


def word_on_disk(cluster: SimCluster, name: str, region: str) -> int:
    """What a disk knows of a region."""
    row = cluster.nodes[name].disk.values.get(standing_key(region), b"")
    return int.from_bytes(row, "big")


async def heard(cluster: SimCluster, names: Sequence[str], region: str, word: int) -> None:
    """Wait until these disks have a word."""

    def unaware() -> list[str]:
        return [name for name in names if word_on_disk(cluster, name, region) != word]

    await cluster.until(lambda: not unaware(), 15, unaware)


async def purged(cluster: SimCluster, names: Sequence[str], document_id: bytes) -> None:
    """Wait until a document has left these disks."""

    def left() -> list[object]:
        having = [name for name in names if cluster.nodes[name].stored(document_id)]
        return [*having, vetoes(cluster)] if having else []

    await cluster.until(lambda: not left(), _PURGED_S, left)


def heal(cluster: SimCluster) -> None:
    """The network is whole again; regions that are gone stay apart."""
    cluster.note("healed")
    cluster.loop.network.heal_all()


def lose_disks(cluster: SimCluster, *names: str) -> None:
    """What an operator finds who replaces the machines of a region."""
    for name in names:
        identity = Identity(cluster.settings.cluster_id, name, cluster.rings.partitions)
        cluster.replace_disk(name, {IDENTITY_KEY: identity.encode()})


async def returned(cluster: SimCluster, names: Sequence[str]) -> None:
    """Wait until a region that is back serves, and all regions hold the same."""

    def unready() -> dict[str, list[str]]:
        return {name: found for name in names if (found := _unready(cluster, name))}

    await cluster.until(lambda: not unready(), 60, unready)
    await level(cluster)


def _unready(cluster: SimCluster, name: str) -> list[str]:
    machine = cluster.nodes[name]
    return machine.serving.unready_reasons() if machine.node is not None else ["it starts"]


@seeds(2)
def test_a_region_that_is_gone_holds_up_nothing(seed: int) -> None:
    """Its disks are lost: once an operator has said so the others go on as if it had never been."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "to be deleted", write=3)
        await level(cluster)
        cluster.kill(*B)
        await cluster.delete("a1", created.document_id, write=3)
        young = (await cluster.create("a2", "young", write=3)).document_id
        await asyncio.sleep(25)
        assert all(cluster.nodes[name].stored(created.document_id) for name in A)
        assert logged(cluster)
        absent = DocumentId(young[:10] + bytes(6))
        with pytest.raises(Unavailable):
            await cluster.read("a1", absent)
        say(cluster, "a1", "b", gone=True)
        await purged(cluster, A, created.document_id)
        for via in A:
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, created.document_id, read=2)
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, absent)
        stored = await cluster.create("a3", "each", write=2, sloppy=False, each_region=True)
        assert stored.stored.required == 2
        await cluster.until(lambda: not logged(cluster), 5, "something is logged for nobody")
        assert not vetoes(cluster)
        for name in A:
            (gone,) = [
                family
                for family in NodeCollector(cluster.nodes[name].serving).collect()
                if family.name == "stele_region_gone"
            ]
            told = {sample.labels["region"]: sample.value for sample in gone.samples}
            assert told == {"a": 0, "b": 1}

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_a_lost_region_that_is_back_is_rebuilt_and_owed_everything(seed: int) -> None:
    """On empty disks; until an operator says that it is back it serves nothing."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("b1", f"document {n}", write=3) for n in range(6)]
        await level(cluster)
        cluster.kill(*B)
        lose_disks(cluster, *B)
        say(cluster, "a2", "b", gone=True)
        await cluster.delete("a1", created[0].document_id, write=3)
        await purged(cluster, A, created[0].document_id)
        for number in range(4):
            await cluster.create(A[number % 3], f"meanwhile {number}", write=2)
        for name in B:
            cluster.nodes[name].start()
        await heard(cluster, B, "b", 1)
        await asyncio.sleep(5)
        for name in B:
            assert any("gone" in reason for reason in _unready(cluster, name))
            with pytest.raises(StoreError):
                await cluster.read(name, created[1].document_id)
            with pytest.raises(Unavailable, match="region b is gone"):
                await cluster.create(name, "refused")
        told = cluster.nodes["b1"].serving.watermarks.of("a")
        say(cluster, "a3", "b", gone=False)
        owed = cluster.nodes["a3"].serving.replica.outbox.owed("b")
        assert len(owed) == cluster.rings.partitions
        await returned(cluster, B)
        assert cluster.nodes["b1"].serving.replica.records.count == 9
        await cluster.until(
            lambda: cluster.nodes["b1"].serving.watermarks.of("a") > told, 10, "it stands still"
        )
        await cluster.delete("b2", created[1].document_id, write=3)
        await ended(cluster)

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_a_wrong_word_brings_nothing_back_to_life(seed: int) -> None:
    """The region lives, was only cut off, and its clients read and write what the others purged."""

    async def scenario(cluster: SimCluster) -> None:
        documents = [await cluster.create("a1", f"document {n}", write=3) for n in range(3)]
        dead = documents[0].document_id
        await level(cluster)
        cut_off(cluster)
        await asyncio.sleep(6)
        await cluster.delete("a1", dead, write=3)
        say(cluster, A[seed % 3], "b", gone=True)
        await purged(cluster, A, dead)
        shown = await cluster.read("b1", dead)
        assert shown.create.content == b"document 0", "nobody there knows better"
        watch, misled_s = cluster.watch, cluster.loop.time()
        assert [name for name in cluster.machines if watch.is_misled(name, misled_s)] == [*B]
        assert watch.away_between(misled_s, misled_s) == ["b"]
        await asyncio.sleep(6)  # later than any clock says of what was purged
        beyond = await cluster.create("b2", "beyond", write=2)
        await cluster.delete("b3", documents[1].document_id, write=2)
        heal(cluster)
        await heard(cluster, B, "b", 1)
        assert not any(watch.is_misled(name, cluster.loop.time()) for name in B)
        await asyncio.sleep(10)
        for name in A:
            assert cluster.nodes[name].stored(dead) is None
            assert cluster.nodes[name].stored(beyond.document_id) is None, "nobody takes it"
        for name in B:
            with pytest.raises(StoreError):
                await cluster.read(name, dead)
        say(cluster, "a2", "b", gone=False)
        await returned(cluster, B)
        assert not watch.away_between(cluster.loop.time(), cluster.loop.time())
        for name in (*A, *B):
            with pytest.raises(DocumentNotFound):
                await cluster.read(name, dead, read=2)
            found = await cluster.read(name, beyond.document_id, read=2)
            assert found.create.content == b"beyond", "it is too young to have been purged"
            with pytest.raises((DocumentDeleted, DocumentNotFound)):
                await cluster.read(name, documents[1].document_id, read=2)

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_a_wrong_word_is_heard_by_all_and_its_region_fenced(seed: int) -> None:
    """Said in the middle of traffic, with no fault at all; and taken back."""

    async def scenario(cluster: SimCluster) -> None:
        chance = cluster.loop.stream("words")
        created = [await cluster.create("b1", f"document {n}", write=3) for n in range(5)]
        for number in range(5):
            await cluster.create(("a1", "b2")[number % 2], f"under way {number}")
        say(cluster, "a1", "b", gone=True)
        await asyncio.sleep(chance.uniform(0, 0.3))
        for one in created:
            await cluster.delete("a1", one.document_id, write=3)
        for one in created:
            await purged(cluster, A, one.document_id)
        await heard(cluster, (*A, *B), "b", 1)
        with pytest.raises(StoreError):
            await cluster.read("b1", created[0].document_id, read=2)
        say(cluster, "a3", "b", gone=False)
        await returned(cluster, B)
        await ended(cluster)

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_a_purge_waits_until_every_other_node_has_the_word(seed: int) -> None:
    """One that has not heard it talks with the region still, and takes what it sends."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "to be deleted", write=3)
        await level(cluster)
        cluster.loop.network.partition(["a1", "a2"], ["a3", *B])
        await asyncio.sleep(6)
        await cluster.delete("a1", created.document_id, write=2)
        say(cluster, "a1", "b", gone=True)
        await heard(cluster, ("a1", "a2"), "b", 1)
        await asyncio.sleep(25)
        assert cluster.nodes["a1"].stored(created.document_id), "a3 has not heard it"
        assert word_on_disk(cluster, "a3", "b") == 0
        assert cluster.nodes["a3"].serving.transport.connected(NodeId("b1"))
        heal(cluster)
        await heard(cluster, (*A, *B), "b", 1)
        await purged(cluster, A, created.document_id)
        say(cluster, "a1", "b", gone=False)
        await returned(cluster, B)
        for via in (*A, *B):
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, created.document_id, read=2)

    simulate(scenario, seed, COMPARED)


@seeds(3)
def test_a_word_is_heard_by_all_or_by_none_though_nodes_lose_power(seed: int) -> None:
    """Between hearing and its commit: of the one that was told, and of one that is to be fenced."""

    async def scenario(cluster: SimCluster) -> None:
        chance = cluster.loop.stream("power")
        created = await cluster.create("a1", "content", write=3)
        await level(cluster)
        victims = ("a1", "b1")
        for name in victims:
            cluster.nodes[name].commit_latency_s = (0.02, 0.1)
        say(cluster, "a1", "b", gone=True)
        if seed:  # else nobody can have heard it
            await asyncio.sleep(chance.uniform(0, 0.15))
        cluster.power_off(*victims)
        await asyncio.sleep(chance.uniform(0, 8))
        for name in victims:
            cluster.nodes[name].start()
        everyone = (*A, *B)

        def told_apart() -> dict[str, int]:
            words = {name: word_on_disk(cluster, name, "b") for name in everyone}
            return words if len(set(words.values())) > 1 else {}

        await asyncio.sleep(12)
        assert not told_apart()
        if word_on_disk(cluster, "a2", "b"):
            say(cluster, "a2", "b", gone=False)
        await returned(cluster, B)
        await cluster.read("b1", created.document_id, read=3)

    simulate(scenario, seed, COMPARED)


@seeds(1)
def test_of_two_operators_the_one_who_spoke_last_is_heard(seed: int) -> None:
    """Twice the same is once; and "gone", said by one who has not heard "back", undoes nothing."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill(*B)
        cluster.loop.network.partition(["a1"], ["a2", "a3"])
        say(cluster, "a1", "b", gone=True)
        say(cluster, "a2", "b", gone=True)
        await heard(cluster, A, "b", 1)
        say(cluster, "a1", "b", gone=False)
        say(cluster, "a3", "b", gone=True)
        assert word_on_disk(cluster, "a3", "b") == 1
        heal(cluster)
        await heard(cluster, A, "b", 2)
        for name in B:
            cluster.nodes[name].start()
        await returned(cluster, B)

    simulate(scenario, seed, COMPARED)


@seeds(1)
def test_two_regions_that_gave_each_other_up_need_an_operator_to_trust_a_disk(seed: int) -> None:
    """Each may have purged without the other: none is to be believed by itself, and nothing is."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "content", write=3)
        await level(cluster)
        cut_off(cluster)
        await asyncio.sleep(6)
        say(cluster, "a1", "b", gone=True)
        say(cluster, "b1", "a", gone=True)
        await heard(cluster, A, "b", 1)
        await heard(cluster, B, "a", 1)
        assert (await cluster.read("a2", created.document_id)).create.content == b"content"
        assert (await cluster.read("b2", created.document_id)).create.content == b"content"
        heal(cluster)
        for region in "ab":
            await heard(cluster, (*A, *B), region, 1)
        assert all(_unready(cluster, name) for name in (*A, *B))
        trusted = cluster.nodes["a1"].serving
        with pytest.raises(Refused, match="region a is gone"):
            trusted.background.rebuild.trust(trusted.jobs)
        say(cluster, "a1", "a", gone=False)
        say(cluster, "a1", "b", gone=False)
        for region in "ab":
            await heard(cluster, (*A, *B), region, 2)
        await asyncio.sleep(8)
        assert all(_unready(cluster, name) for name in (*A, *B))
        trusted.background.rebuild.trust(trusted.jobs)
        await returned(cluster, (*A, *B))
        await cluster.read("b2", created.document_id, read=3)

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_of_three_regions_two_go_on_without_the_third(seed: int) -> None:
    """What they write reaches each other, is purged, and is owed to the third when it is back."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("c1", "to be deleted", write=3)
        await level(cluster)
        cluster.kill(*B, "c3")  # which is absent, in the end, and holds nothing up either
        await cluster.delete("a1", created.document_id, write=3)
        say(cluster, "c2", "b", gone=True)
        both = (*A, "c1", "c2")
        await heard(cluster, both, "b", 1)
        for number in range(6):
            await cluster.create(both[number % 5], f"document {number}", write=2)
        await purged(cluster, both, created.document_id)
        stored = await cluster.create("a3", "each", write=2, sloppy=False, each_region=True)
        assert stored.stored.required == 4
        await cluster.until(lambda: not logged(cluster), 10, "something is logged for nobody")
        for name in (*B, "c3"):
            cluster.nodes[name].start()
        say(cluster, "a1", "b", gone=False)
        await returned(cluster, (*B, "c3"))
        with pytest.raises(DocumentNotFound):
            await cluster.read("b1", created.document_id, read=2)

    simulate(scenario, seed, THREE)


@seeds(1)
def test_a_session_that_saw_what_is_lost_is_refused_it(seed: int) -> None:
    """Less than it has seen is no answer, and who has seen nothing gets a 404."""

    async def scenario(cluster: SimCluster) -> None:
        cut_off(cluster)
        session = SimSession()
        lost = await cluster.create("b1", "only b has it", write=3, session=session)
        kept = await cluster.create("a1", "kept", write=3, session=session)
        cluster.kill(*B)
        say(cluster, "a1", "b", gone=True)
        await heard(cluster, A, "b", 1)
        for via in A:
            with pytest.raises(SessionUnreachable):
                await cluster.read(via, lost.document_id, session=session)
            with pytest.raises(DocumentNotFound):
                await cluster.read(via, lost.document_id)
            found = await cluster.read(via, kept.document_id, session=session)
            assert found.create.content == b"kept"

    simulate(scenario, seed, COMPARED)


@seeds(1)
def test_a_node_refuses_words_that_it_is_not_the_one_to_be_told(seed: int) -> None:
    """Of a region that does not exist, and of its own."""

    async def scenario(cluster: SimCluster) -> None:
        with pytest.raises(Refused, match="there is no region d"):
            say(cluster, "a1", "d", gone=True)
        with pytest.raises(Refused, match="a1 is in region a itself"):
            say(cluster, "a1", "a", gone=True)
        say(cluster, "a1", "b", gone=False)
        assert word_on_disk(cluster, "a1", "b") == 0
        await level(cluster)

    simulate(scenario, seed, COMPARED)


@seeds(2)
def test_whatever_befalls_a_region_that_is_given_up_nothing_comes_to_life(
    seed: int,
) -> None:
    """Words at any time, cuts, deaths, pauses and lost disks between them, under writes."""

    async def scenario(cluster: SimCluster) -> None:
        await _Whims(cluster).act()
        cluster.note("every fault is over")
        cluster.loop.network.heal_all()
        for name in (*A, *B):
            process = cluster.nodes[name].process
            if process.dead:
                cluster.nodes[name].start()
            elif not process.running:
                cluster.resume(name)
        await asyncio.sleep(15)
        if max(word_on_disk(cluster, name, "b") for name in A) % 2:
            say(cluster, "a1", "b", gone=False)
        await returned(cluster, (*A, *B))
        await ended(cluster)

    simulate(scenario, seed, COMPARED)


class _Whims:
    """What happens to a cluster of two regions, drawn from its seed."""

    def __init__(self, cluster: SimCluster) -> None:
        self._cluster = cluster
        self._chance = cluster.loop.stream("whims")
        self._known: list[DocumentId] = []
        self._steps = [self._write] * 6 + [self._delete] * 4 + [self._speak] * 3
        self._steps += [self._cut] * 2 + [self._heal, self._die, self._die, self._rise, self._pause]
        self._steps += [self._lose_region]

    async def act(self) -> None:
        """Some time of it."""
        for _ in range(40):
            step = self._chance.choice(self._steps)
            with contextlib.suppress(StoreError, DocumentDeleted):
                await step()
            await asyncio.sleep(self._chance.choice((0.0, 0.01, 0.3, 2.0)))

    def _up(self, names: Sequence[str]) -> list[str]:
        machines = [self._cluster.nodes[name] for name in names]
        return [one.name for one in machines if one.process.running and one.documents is not None]

    async def _write(self) -> None:
        if up := self._up((*A, *B)):
            content = f"document {len(self._known)} of {self._cluster.loop.time()}"
            write = self._chance.choice((1, 2, 2))
            created = await self._cluster.create(self._chance.choice(up), content, write=write)
            self._known.append(created.document_id)

    async def _delete(self) -> None:
        if (up := self._up((*A, *B))) and self._known:
            document_id = self._chance.choice(self._known)
            await self._cluster.delete(self._chance.choice(up), document_id, write=2)

    async def _speak(self) -> None:
        if up := self._up(A):
            say(self._cluster, self._chance.choice(up), "b", gone=self._chance.random() < 0.6)

    async def _cut(self) -> None:
        if self._chance.random() < 0.5:
            cut_off(self._cluster)
        else:
            one = self._chance.choice((*A, *B))
            others = [name for name in (*A, *B) if name != one]
            self._cluster.note(f"{one} is cut off")
            self._cluster.loop.network.partition([one], self._chance.sample(others, 3))

    async def _heal(self) -> None:
        heal(self._cluster)

    async def _die(self) -> None:
        one = self._chance.choice((*A, *B))
        if self._cluster.nodes[one].process.running:
            self._chance.choice((self._cluster.kill, self._cluster.power_off))(one)

    async def _rise(self) -> None:
        for name in (*A, *B):
            process = self._cluster.nodes[name].process
            if process.dead:
                self._cluster.nodes[name].start()
            elif not process.running:
                self._cluster.resume(name)

    async def _pause(self) -> None:
        one = self._chance.choice((*A, *B))
        if self._cluster.nodes[one].process.running:
            self._cluster.pause(one)

    async def _lose_region(self) -> None:
        """With all its disks, after an operator has given it up."""
        if word_on_disk(self._cluster, "a1", "b") % 2 == 0:
            return
        dead = [name for name in B if self._cluster.nodes[name].process.dead]
        self._cluster.kill(*(name for name in B if name not in dead))
        lose_disks(self._cluster, *B)
