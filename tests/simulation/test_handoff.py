"""Hinted handoff: what a node missed reaches it, whatever happens on the way."""

import asyncio
from typing import Final

import pytest

from cluster.ids import DocumentId, NodeId, partition_of
from cluster.settings import HintSettings
from docservice.documents import DocumentDeleted
from kvnode.errors import WriteTimeout
from kvnode.hints import HELD_AT_BYTES
from kvnode.node import HAND_ON_S
from kvnode.services import background, handoff
from kvnode.services.budget import BURST_S
from kvnode.storage.keys import DEBT_PREFIX, debt_of, hint_key, record_key
from scripts.checker.evidence import Violation
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.convergence import hints, settle
from tests.simulation.machine import NodeMachine
from tests.simulation.run import seeds, simulate

WINDOW_S: Final = 5.0
ONE_HINT_BYTES: Final = 200


async def create_while_down(cluster: SimCluster, name: str, count: int = 1) -> list[DocumentId]:
    """Documents of which the killed node ``name`` knows nothing, and a1 holds its hints."""
    cluster.kill(name)
    await cluster.noticed(name)
    created = [await cluster.create("a1", f"missed {number}", write=2) for number in range(count)]
    return [answer.document_id for answer in created]


@seeds(2)
def test_what_a_node_missed_is_delivered_when_it_is_back(seed: int) -> None:
    """The hints are gone once it has them, and counted as delivered (scenario 1)."""

    async def scenario(cluster: SimCluster) -> None:
        missed = await create_while_down(cluster, "a3", count=3)
        book = cluster.nodes["a1"].serving.replica.hints
        assert book.held == len(missed)
        await cluster.restart("a3")
        await settle(cluster)
        for document_id in missed:
            assert cluster.nodes["a3"].stored(document_id) is not None
        assert (book.created, book.delivered, book.held) == (3, 3, 0)
        await asyncio.sleep(0.1)  # until it is durable that they are gone
        logged = cluster.nodes["a1"].events("hint.delivered")
        assert sum(line.fields["hints"] for line in logged) == len(missed)

    simulate(scenario, seed)


@seeds(2)
def test_a_hint_is_kept_until_its_target_has_it_on_disk(seed: int) -> None:
    """The target loses power after receiving and before its commit: what it held is lost."""

    async def scenario(cluster: SimCluster) -> None:
        (document_id,) = await create_while_down(cluster, "a3")
        target = cluster.nodes["a3"]
        target.commit_latency_s = (0.4, 0.4)
        target.start()
        await cluster.until(lambda: _has_received(target, document_id), 10.0, "nothing was sent")
        assert target.stored(document_id) is None
        cluster.power_off("a3")
        await asyncio.sleep(1.0)
        assert cluster.hints_of("a1", "a3", document_id)
        await cluster.restart("a3")
        await settle(cluster)
        assert target.stored(document_id) is not None

    simulate(scenario, seed)


@seeds(2)
def test_a_hint_that_grew_while_delivered_is_delivered_again(seed: int) -> None:
    """What the target acknowledges is what was sent, not what is held by now."""

    async def scenario(cluster: SimCluster) -> None:
        (document_id,) = await create_while_down(cluster, "a3")
        target = cluster.nodes["a3"]
        target.commit_latency_s = (0.5, 0.5)
        target.start()
        await cluster.until(lambda: _has_received(target, document_id), 10.0, "nothing was sent")
        # The target is too slow for this, so the holder adds the tombstone to its hint.
        with pytest.raises(WriteTimeout):
            await cluster.delete("a1", document_id, write=3, timeout_s=0.1)
        stored = target.stored(document_id)
        await cluster.until(lambda: target.stored(document_id) != stored, 2.0, "no commit")
        await asyncio.sleep(0.1)  # the first delivery has been acknowledged
        assert cluster.hints_of("a1", "a3", document_id)
        await settle(cluster)
        record = target.stored(document_id)
        assert record is not None
        assert record.tombstone is not None

    simulate(scenario, seed)


@seeds(2)
def test_a_holder_that_is_restarted_still_has_its_hints(seed: int) -> None:
    """They are in its database, and counted anew at start."""

    async def scenario(cluster: SimCluster) -> None:
        missed = await create_while_down(cluster, "a3", count=2)
        cluster.kill("a1")
        await cluster.restart("a1")
        assert cluster.nodes["a1"].serving.replica.hints.held == len(missed)
        await cluster.restart("a3")
        await settle(cluster)
        for document_id in missed:
            assert cluster.nodes["a3"].stored(document_id) is not None

    simulate(scenario, seed)


@seeds(2)
@pytest.mark.parametrize("first", ["create", "delete"])
def test_a_create_and_a_delete_hint_may_be_delivered_in_either_order(seed: int, first: str) -> None:
    """They are held by different nodes; the document stays deleted (scenario 7)."""

    async def scenario(cluster: SimCluster) -> None:
        (document_id,) = await create_while_down(cluster, "a3")
        await cluster.delete("a2", document_id, write=2)
        assert cluster.hints_of("a1", "a3", document_id)
        assert cluster.hints_of("a2", "a3", document_id)
        holder, late = ("a1", "a2") if first == "create" else ("a2", "a1")
        cluster.loop.network.partition([late], ["a3"])
        cluster.machines["a3"].start()
        await cluster.until(
            lambda: not cluster.hints_of(holder, "a3", document_id), 30.0, "not delivered"
        )
        record = cluster.nodes["a3"].stored(document_id)
        assert record is not None
        assert (record.tombstone is None) == (first == "create")
        cluster.loop.network.heal_all()
        await settle(cluster)
        record = cluster.nodes["a3"].stored(document_id)
        assert record is not None
        assert record.tombstone is not None
        assert record.create is not None
        with pytest.raises(DocumentDeleted):
            await cluster.read("a3", document_id)

    simulate(scenario, seed)


@seeds(2)
def test_hints_over_the_cap_are_counted_owed_and_paid_by_a_comparison(seed: int) -> None:
    """The cap costs no write its success: these were stored by two replicas."""

    async def scenario(cluster: SimCluster) -> None:
        missed = await create_while_down(cluster, "a3", count=4)
        book = cluster.nodes["a1"].serving.replica.hints
        assert (book.created, book.held, book.dropped["overflow"]) == (4, 1, 3)
        assert book.held_bytes <= ONE_HINT_BYTES
        kept = [name for name in missed if cluster.hints_of("a1", "a3", name)]
        lost = [name for name in missed if name not in kept]
        assert debts(cluster, "a1") == partitions_of(cluster, lost)
        await cluster.restart("a3")
        await cluster.until(lambda: not hints(cluster), 60.0, lambda: hints(cluster))
        await settle(cluster)
        await cluster.until(lambda: not debts(cluster, "a1"), 10.0, lambda: debts(cluster, "a1"))
        assert all(cluster.nodes["a3"].stored(name) is not None for name in missed)

    simulate(scenario, seed, settings_of(hints=HintSettings(target_bytes_max=ONE_HINT_BYTES)))


@seeds(2)
def test_hints_older_than_the_window_are_dropped_and_counted(seed: int) -> None:
    """They are given up also while their target is down (scenario 4, without anti-entropy)."""

    async def scenario(cluster: SimCluster) -> None:
        (document_id,) = await create_while_down(cluster, "a3")
        book = cluster.nodes["a1"].serving.replica.hints
        await asyncio.sleep(WINDOW_S - 1)
        assert book.held == 1
        await asyncio.sleep(2.5)
        assert (book.held, book.dropped["expired"], book.delivered) == (0, 1, 0)
        assert not cluster.hints_of("a1", "a3", document_id)
        assert cluster.nodes["a1"].events("hint.dropped")
        assert debts(cluster, "a1") == partitions_of(cluster, [document_id])
        await cluster.restart("a3")
        await cluster.read("a1", document_id, read=3)
        await settle(cluster)

    simulate(scenario, seed, settings_of(hints=HintSettings(window_s=WINDOW_S)))


@seeds(2)
def test_every_expired_hint_is_found_however_many_there_are(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A down target's hints are looked through in rounds: the old ones may be behind young ones."""
    monkeypatch.setattr(handoff, "BATCH_HINTS", 2)

    async def scenario(cluster: SimCluster) -> None:
        old = await create_while_down(cluster, "a3", count=9)
        await asyncio.sleep(WINDOW_S - 1.0)
        young = [await cluster.create("a1", f"young {n}", write=2) for n in range(9)]
        book = cluster.nodes["a1"].serving.replica.hints
        await asyncio.sleep(2.0)
        assert (book.dropped["expired"], book.held) == (len(old), len(young))
        assert not any(cluster.hints_of("a1", "a3", document_id) for document_id in old)
        assert debts(cluster, "a1") == partitions_of(cluster, old)
        await cluster.restart("a3")
        await cluster.until(lambda: not hints(cluster), 10.0, lambda: hints(cluster))
        assert book.delivered == len(young)

    settings = settings_of(hints=HintSettings(window_s=WINDOW_S))
    simulate(scenario, seed, settings)


@seeds(2)
def test_what_is_owed_for_lost_hints_outlasts_the_holders_restart(seed: int) -> None:
    """It is all that is left of them."""

    async def scenario(cluster: SimCluster) -> None:
        missed = await create_while_down(cluster, "a3", count=4)
        owed = cluster.nodes["a1"].serving.replica.hints.owed()
        assert owed
        cluster.kill("a1")
        await cluster.restart("a1")
        found = cluster.nodes["a1"].serving.replica.hints.owed()
        places = [(debt.target, debt.partition) for debt in found]
        assert sorted(places) == sorted((debt.target, debt.partition) for debt in owed)
        assert {partition for _, partition in places} <= set(partitions_of(cluster, missed))

    simulate(scenario, seed, settings_of(hints=HintSettings(target_bytes_max=ONE_HINT_BYTES)))


@seeds(2)
def test_a_document_that_only_hints_hold_outlasts_the_window(seed: int) -> None:
    """Every owner was down longer than that: what was acknowledged is nowhere else (I1).

    When they are back, its hints go to owners, and are dropped.
    """

    async def scenario(cluster: SimCluster) -> None:
        owners = ("a1", "a2", "a3")
        cluster.kill(*owners)
        await cluster.noticed(*owners)
        created = await cluster.create("a4", "on hints alone", key=cluster.key_of(*owners))
        await asyncio.sleep(2 * WINDOW_S)
        await cluster.restart(*owners)
        await cluster.until(
            lambda: not cluster.nodes["a4"].serving.replica.hints.held, 2 * WINDOW_S, "held still"
        )
        found = await cluster.read("a1", created.document_id, read=3)
        assert found.create.content == b"on hints alone"

    simulate(scenario, seed, settings_of(5, hints=HintSettings(window_s=WINDOW_S)))


@seeds(2)
def test_no_hint_is_ever_unaccounted_for(seed: int) -> None:
    """Hints created = delivered + superseded + dropped + held, at every step of every node (I15).

    Tight caps and a short window make hints of every fate.
    """
    settings = settings_of(5, hints=HintSettings(window_s=WINDOW_S, target_bytes_max=300))
    fates: dict[str, int] = {}

    async def scenario(cluster: SimCluster) -> None:
        cluster.loop.after_step = lambda: _balance(cluster)
        for down, for_s in ("a3", 0.1), ("a4", WINDOW_S + 1), ("a5", 1.0):
            cluster.kill(down)
            await cluster.noticed(down)
            for number in range(20):
                via = ("a1", "a2")[number % 2]
                created = await cluster.create(via, f"{down} {number}", write=1)
                await cluster.delete("a1", created.document_id)
            await asyncio.sleep(for_s)
            await cluster.restart(down)
            await cluster.until(lambda: not hints(cluster), 60.0, lambda: hints(cluster))
        for machine in cluster.nodes.values():
            book = machine.serving.replica.hints
            met = [("delivered", book.delivered), ("superseded", book.superseded)]
            for fate, count in [*met, *book.dropped.items()]:
                fates[fate] = fates.get(fate, 0) + count

    simulate(scenario, seed, settings)
    assert min(fates[fate] for fate in ("delivered", "superseded", "overflow", "expired")) > 0


def _balance(cluster: SimCluster) -> None:
    for machine in cluster.nodes.values():
        if machine.node is None or machine.process.dead:
            continue
        book = machine.node.replica.hints
        accounted = book.delivered + book.superseded + sum(book.dropped.values()) + book.held
        if book.created != accounted:
            raise Violation("I15", f"{machine.name} created {book.created}, knows of {accounted}")


@seeds(2)
def test_a_hint_outlasts_the_damage_of_its_targets_copy(seed: int) -> None:
    """The target says that its record is damaged: that is no reason to drop what could heal it."""

    async def scenario(cluster: SimCluster) -> None:
        created = await cluster.create("a1", "soon damaged", write=3)
        cluster.kill("a3")
        await cluster.noticed("a3")
        await cluster.delete("a1", created.document_id, write=2)
        cluster.nodes["a3"].damage(created.document_id)
        await cluster.restart("a3")
        holder = cluster.nodes["a1"]
        await cluster.until(lambda: holder.events("handoff.postponed") != [], 10.0, "not tried")
        assert cluster.hints_of("a1", "a3", created.document_id)
        cluster.nodes["a3"].damage(created.document_id)  # healed
        await settle(cluster)

    simulate(scenario, seed)


@seeds(2)
def test_a_damaged_hint_is_dropped_and_counted_and_holds_up_no_other(seed: int) -> None:
    """It can't ever be delivered; its document is healed by the other replicas."""

    async def scenario(cluster: SimCluster) -> None:
        damaged, sound = await create_while_down(cluster, "a3", count=2)
        cluster.nodes["a1"].disk.flip(hint_key(NodeId("a3"), damaged), HELD_AT_BYTES)
        await cluster.restart("a3")
        await cluster.until(lambda: not hints(cluster), 10.0, lambda: hints(cluster))
        book = cluster.nodes["a1"].serving.replica.hints
        assert (book.delivered, book.dropped["corrupt"]) == (1, 1)
        assert debts(cluster, "a1") == partitions_of(cluster, [damaged])
        assert cluster.nodes["a3"].stored(sound) is not None
        assert cluster.nodes["a3"].stored(damaged) is None
        await cluster.read("a3", damaged)
        await settle(cluster)

    simulate(scenario, seed)


# Targets that refuse, hang, or cost too much --------------------------------------------------


@seeds(2)
def test_hints_that_their_target_refuses_hold_up_no_others(seed: int) -> None:
    """A whole batch of them is passed over, and tried again in the next round."""

    async def scenario(cluster: SimCluster) -> None:
        created = [await cluster.create("a1", f"document {n}", write=3) for n in range(6)]
        cluster.kill("a3")
        await cluster.noticed("a3")
        for answer in created:
            await cluster.delete("a1", answer.document_id, write=2)
        in_turn = sorted((answer.document_id for answer in created), key=record_key)
        refused, accepted = in_turn[:2], in_turn[2:]
        for document_id in refused:
            cluster.nodes["a3"].damage(document_id)
        await cluster.restart("a3")
        book = cluster.nodes["a1"].serving.replica.hints
        await cluster.until(lambda: book.held == 2, 5.0, lambda: f"{book.held} are held")
        assert book.delivered == len(accepted)
        assert all(cluster.hints_of("a1", "a3", document_id) for document_id in refused)
        for document_id in refused:
            cluster.nodes["a3"].damage(document_id)  # healed
        await cluster.until(lambda: not hints(cluster), 60.0, lambda: hints(cluster))
        await settle(cluster)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handoff, "BATCH_HINTS", 2)
        simulate(scenario, seed)


@seeds(2)
def test_a_target_that_hangs_holds_up_no_other(seed: int) -> None:
    """Each target has its own batch under way."""

    async def scenario(cluster: SimCluster) -> None:
        cluster.kill("a2", "a3")
        await cluster.noticed("a2", "a3")
        created = await cluster.create("a1", "missed by both")
        hanging, sound = cluster.nodes["a2"], cluster.nodes["a3"]
        hanging.commit_latency_s = (4.0, 4.0)
        hanging.start()
        await cluster.until(
            lambda: _has_received(hanging, created.document_id), 30.0, "nothing was sent"
        )
        sound.start()
        await cluster.until(
            lambda: sound.stored(created.document_id) is not None, 3.5, lambda: hints(cluster)
        )
        assert hanging.stored(created.document_id) is None
        await cluster.ready()
        await settle(cluster)

    simulate(scenario, seed)


@seeds(2)
def test_delivery_stays_below_its_rate(seed: int) -> None:
    """A node that comes back to a long backlog must have room for clients."""
    rate = 1024

    async def scenario(cluster: SimCluster) -> None:
        await create_while_down(cluster, "a3", count=40)
        book = cluster.nodes["a1"].serving.replica.hints
        began_s, held_bytes = cluster.loop.time(), book.held_bytes
        await cluster.restart("a3")
        await cluster.until(lambda: not hints(cluster), 60.0, lambda: hints(cluster))
        took_s = cluster.loop.time() - began_s
        assert held_bytes <= rate * (took_s + BURST_S) + ONE_HINT_BYTES
        assert held_bytes >= rate * took_s / 2
        await settle(cluster)

    simulate(scenario, seed, settings_of(hints=HintSettings(rate_bytes_per_s=rate)))


# A holder that leaves ---------------------------------------------------------------------------


async def stop(cluster: SimCluster, name: str) -> float:
    """Stop a node as an operator does; how long it took."""
    began_s = cluster.loop.time()
    machine = cluster.nodes[name]
    cluster.disturb(name)
    stopping = cluster.loop.spawn(machine.process, machine.serving.stop())
    await cluster.until(stopping.done, 30.0, f"{name} does not stop")
    stopping.result()
    cluster.kill(name)
    return cluster.loop.time() - began_s


@seeds(2)
def test_a_holder_that_is_stopped_hands_its_hints_on_before(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be away for long, and nobody else may have them."""
    monkeypatch.setattr(background, "HANDOFF_INTERVAL_S", 1000.0)

    async def scenario(cluster: SimCluster) -> None:
        missed = await create_while_down(cluster, "a3", count=3)
        await cluster.restart("a3")
        assert cluster.nodes["a1"].serving.replica.hints.held == len(missed)
        await stop(cluster, "a1")
        for document_id in missed:
            assert cluster.nodes["a3"].stored(document_id) is not None
            assert not cluster.hints_of("a1", "a3", document_id)

    simulate(scenario, seed)


@seeds(2)
@pytest.mark.parametrize("target", ["down", "hangs"])
def test_a_holder_that_can_not_hand_on_stops_in_time_and_keeps_its_hints(
    seed: int, target: str
) -> None:
    """An operator's restart must not wait for a third node."""

    async def scenario(cluster: SimCluster) -> None:
        (document_id,) = await create_while_down(cluster, "a3")
        if target == "hangs":
            cluster.nodes["a3"].commit_latency_s = (20.0, 20.0)
            cluster.machines["a3"].start()
            await cluster.until(
                lambda: _has_received(cluster.nodes["a3"], document_id), 30.0, "nothing was sent"
            )
        took_s = await stop(cluster, "a1")
        assert took_s < (HAND_ON_S + 1.0 if target == "hangs" else 1.0)
        assert cluster.hints_of("a1", "a3", document_id)
        cluster.kill(*(["a3"] if target == "hangs" else []))
        cluster.nodes["a3"].commit_latency_s = (0.001, 0.001)
        await cluster.restart("a1", "a3")
        await settle(cluster)
        assert cluster.nodes["a3"].stored(document_id) is not None

    simulate(scenario, seed)


def debts(cluster: SimCluster, holder: str) -> list[int]:
    """The partitions of a3 that a node's disk says are owed a comparison."""
    rows = [key for key in cluster.nodes[holder].disk.sorted_keys if key.startswith(DEBT_PREFIX)]
    assert all(target == "a3" for target, _ in map(debt_of, rows))
    return [partition for _, partition in map(debt_of, rows)]


def partitions_of(cluster: SimCluster, documents: list[DocumentId]) -> list[int]:
    """In ascending order."""
    partitions = cluster.ring.partitions
    return sorted({partition_of(document_id, partitions) for document_id in documents})


def _has_received(target: NodeMachine, document_id: DocumentId) -> bool:
    return target.engine is not None and target.engine.latest(record_key(document_id)) is not None
