"""The judge over a history, with what a run of real processes knows besides (``Witness``).

A perfect store's history is never blamed; each sort of fault that is planted in one is found.
"""

from collections.abc import Sequence
from math import inf
from random import Random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import DocumentId
from docservice.documents import Created, DocumentDeleted, DocumentNotFound, Found, Quorums
from kvnode.errors import Unavailable, WriteTimeout
from kvnode.record import NEVER_MS, Create, Record, Tombstone
from kvnode.results import Fetched, Stored
from scripts.chaos.disks import DiskContents
from scripts.chaos.evidence import Destroyed, Witness
from scripts.chaos.verdict import SORTS, Verdict, pronounce
from scripts.checker.checks import judge, judge_converged
from scripts.checker.evidence import Bounds, Violation
from scripts.checker.history import Kind, NoAnswer, Operation

NODES = ("a1", "a2", "a3")
START_MS = 1_000_000
RETENTION_S = 30.0
BOUNDS = Bounds(copies=3, clock_error_s=0.1, late_s=0.5, start_ms=START_MS, life_s=RETENTION_S)
seeds = st.integers(0, 2**32)


class PerfectStore:
    """Every copy has everything at once; each call is one operation of the history."""

    def __init__(self) -> None:
        self.history: list[Operation] = []
        self.records: dict[DocumentId, Record] = {}
        self.now_s = 1.0

    def create(self, *, write: int = 2, key: str | None = None) -> Operation:
        """A document of its own, acknowledged by ``write`` replicas."""
        number = len(self.history)
        document_id = DocumentId(number.to_bytes(16, "big"))
        create = Create(b"document %d" % number, self._wall_ms(), NEVER_MS, bytes(32))
        self.records[document_id] = Record(create)
        stored = Stored(self.records[document_id], write, write, 3, 0)
        op = self._asked(Kind.CREATE, document_id, Created(document_id, create, stored, False))
        op.quorums = Quorums(1, write, sloppy=False)
        op.content, op.key = create.content.decode(), key
        return op

    def read(self, document_id: DocumentId, *, read: int = 2) -> Operation:
        """What every replica says."""
        record = self.records.get(document_id)
        op = self._asked(Kind.READ, document_id, None)
        op.quorums = Quorums(read, 1, sloppy=False)
        if record is None:
            op.answer = DocumentNotFound(acked=3, required=read)
        elif record.tombstone is not None or record.create is None:
            op.answer = DocumentDeleted(acked=read, required=read)
        else:
            op.answer = Found(record.create, Fetched(record, read, read, 3))
        return op

    def delete(self, document_id: DocumentId, *, write: int = 2) -> Operation:
        """Also what was never there."""
        create = self.records.get(document_id, Record()).create
        retention_ms = int(RETENTION_S * 1000)
        tombstone = Tombstone(self._wall_ms(), self._wall_ms() + retention_ms)
        self.records[document_id] = Record(create, tombstone)
        stored = Stored(self.records[document_id], write, write, 3, 0)
        op = self._asked(Kind.DELETE, document_id, stored)
        op.quorums = Quorums(1, write, sloppy=False)
        return op

    def _asked(self, kind: Kind, document_id: DocumentId, answer: object) -> Operation:
        self.now_s += 0.1
        op = Operation(
            len(self.history) + 1, kind, "a1", Quorums(1, 1, True), self.now_s, self.now_s + 2.0
        )
        op.document_id, op.answered_s = document_id, self.now_s + 0.05
        op.answer = answer  # type: ignore[assignment]
        self.history.append(op)
        return op

    def _wall_ms(self) -> int:
        return START_MS + int(self.now_s * 1000)


def busy(seed: int, count: int = 60) -> PerfectStore:
    """A store that was asked for all sorts of things."""
    chance, store = Random(seed), PerfectStore()
    for _ in range(count):
        known = list(store.records) or [DocumentId(bytes(16))]
        match chance.choice(["create", "create", "read", "read", "delete"]):
            case "create":
                store.create(write=chance.randint(1, 3))
            case "read":
                store.read(chance.choice(known), read=chance.randint(1, 3))
            case "delete":
                store.delete(chance.choice(known), write=chance.randint(1, 3))
    return store


def judged(
    store: PerfectStore,
    *,
    disks: Sequence[dict[DocumentId, Record]] | None = None,
    atlas: Destroyed | None = None,
    healed_s: float = inf,
    witness_of: type[Witness] = Witness,
    bounds: Bounds = BOUNDS,
) -> list[Violation]:
    """What is wrong with a history, and with the disks that it ended with."""
    held = disks or [dict(store.records) for _ in NODES]
    witness = witness_of(
        store.history,
        bounds=bounds,
        atlas=atlas or Destroyed(),
        expires_ms={},
        disks={node: DiskContents(one, {}, {}) for node, one in zip(NODES, held, strict=True)},
        healed_s=healed_s,
        ended_s=store.now_s,
        retention_s=RETENTION_S,
    )

    def stored(document_id: DocumentId) -> list[Record | None]:
        return [one.get(document_id) for one in held]

    return [
        *witness.violations,
        *judge(store.history, witness),
        *judge_converged(store.history, stored, witness, store.now_s),
    ]


class WithoutB(Witness):
    """Region b was given up all the time, and its machines did not know."""

    def is_misled(self, machine: str, at_s: float) -> bool:
        """Any of region b, whenever."""
        del at_s
        return machine.startswith("b")

    def away_between(self, start_s: float, end_s: float) -> list[str]:
        """Region b, whenever."""
        del start_s, end_s
        return ["b"]


def verdict_of(store: PerfectStore, violations: Sequence[Violation]) -> Verdict:
    """Counted."""
    return pronounce(store.history, violations, 0)


@given(seeds)
def test_a_perfect_store_is_never_blamed(seed: int) -> None:
    """A judge that cries wolf is soon ignored."""
    store = busy(seed)
    assert judged(store) == []
    assert verdict_of(store, []).passed


@given(seeds, st.booleans())
def test_a_lost_document_is_found_on_the_disks(seed: int, everywhere: bool) -> None:
    """On one owner's disk as on all: once healed, each has everything."""
    store = busy(seed)
    lost = store.create(write=1)
    disks = [dict(store.records) for _ in NODES]
    for disk in disks if everywhere else disks[1:2]:
        del disk[lost.document_id or DocumentId(b"")]
    violations = judged(store, disks=disks)
    assert [(one.invariant, one.document_id) for one in violations] == [("I1", lost.document_id)]
    assert verdict_of(store, violations).wrong == dict(zip(SORTS, [1, 0, 0, 0, 0], strict=True))


@given(seeds)
def test_a_document_that_a_strict_read_misses_is_lost(seed: int) -> None:
    """W + R > N: two of three have it, and two of three say that they don't."""
    store = busy(seed)
    document_id = store.create(write=2).document_id or DocumentId(b"")
    read = store.read(document_id)
    read.answer = DocumentNotFound(acked=2, required=2)
    assert [one.invariant for one in judged(store)] == ["I1"]


@given(seeds)
def test_after_healing_any_read_that_misses_is_a_loss(seed: int) -> None:
    """Then what one replica acknowledged is on all of them, whoever says that it is absent."""
    store = busy(seed)
    document_id = store.create(write=1).document_id or DocumentId(b"")
    healed_s = store.now_s = store.now_s + 1.0
    read = store.read(document_id, read=1)
    read.answer = DocumentNotFound(acked=2, required=1)
    assert judged(store) == []
    assert [one.invariant for one in judged(store, healed_s=healed_s)] == ["I1"]


@given(seeds)
def test_a_document_that_a_strike_destroyed_is_not_promised(seed: int) -> None:
    """Else every wipe would be a loss of what only that disk had acknowledged."""
    store = busy(seed)
    lost = store.create(write=1)
    disks = [dict(store.records) for _ in NODES]
    for disk in disks:
        del disk[lost.document_id or DocumentId(b"")]
    atlas = Destroyed()
    atlas.lost[lost.document_id or b""] = None
    assert judged(store, disks=disks, atlas=atlas) == []


@given(seeds)
def test_what_a_node_lost_by_itself_counts_among_the_destroyed(seed: int) -> None:
    """A write on two nodes of which one fell out is still promised; one on that node alone not."""
    store = busy(seed)
    once, twice = store.create(write=1), store.create(write=2)
    store.now_s += 1.0
    atlas = Destroyed()
    atlas.sets_back(lambda _: True, 0.0, store.now_s, store.history)
    assert once.document_id in atlas.lost
    assert twice.document_id not in atlas.lost
    assert atlas.destroyed_since(twice.document_id or b"", twice.invoked_s) == 1
    assert atlas.destroyed_since(twice.document_id or b"", store.now_s + 1.0) == 0


@given(seeds)
def test_a_resurrected_document_is_found_on_the_disks(seed: int) -> None:
    """One owner that has it alive is enough: it would bring it back to the others."""
    store = busy(seed)
    create = store.create()
    document_id = create.document_id or DocumentId(b"")
    alive = store.records[document_id]
    store.delete(document_id, write=1)
    disks = [dict(store.records) for _ in NODES]
    disks[2][document_id] = alive
    violations = judged(store, disks=disks)
    assert {one.invariant for one in violations} == {"I4"}
    assert verdict_of(store, violations).wrong["resurrected"] == 1


@given(seeds)
def test_a_deleted_document_may_leave_the_disks_only_after_its_retention(seed: int) -> None:
    """Before, its tombstone is what keeps a late copy from coming back."""
    store = busy(seed)
    document_id = store.create().document_id or DocumentId(b"")
    store.delete(document_id)
    disks = [
        {one: record for one, record in store.records.items() if one != document_id} for _ in NODES
    ]
    assert {one.invariant for one in judged(store, disks=disks)} == {"I4"}
    store.now_s += RETENTION_S + 1.0
    assert judged(store, disks=disks) == []


@given(seeds)
def test_a_read_after_an_acknowledged_delete_is_a_resurrection(seed: int) -> None:
    """Strictly during the run, at any level once the cluster has healed."""
    store = busy(seed)
    document_id = store.create().document_id or DocumentId(b"")
    create = store.records[document_id].create
    assert create is not None
    store.delete(document_id, write=2)
    healed_s = store.now_s = store.now_s + 1.0
    read = store.read(document_id)
    read.answer = Found(create, Fetched(Record(create), 2, 2, 3))
    assert {one.invariant for one in judged(store)} == {"I3"}
    read.answer = Found(create, Fetched(Record(create), 1, 1, 3))
    assert judged(store) == []
    assert {one.invariant for one in judged(store, healed_s=healed_s)} >= {"I4"}


@given(seeds)
def test_what_a_stuck_create_begins_after_the_purge_is_another_life_of_its_key(seed: int) -> None:
    """Its client has given it up, and the key is free again."""
    store = busy(seed)
    document_id = store.create().document_id or DocumentId(b"")
    create = store.records[document_id].create
    assert create is not None
    store.delete(document_id, write=2)
    store.now_s += RETENTION_S + 1.0
    later_ms = create.created_at_ms + int((RETENTION_S + BOUNDS.clock_error_s + 1.0) * 1000)
    again = msgspec.structs.replace(create, created_at_ms=later_ms)
    store.read(document_id).answer = Found(again, Fetched(Record(again), 2, 2, 3))
    assert judged(store) == []


@given(seeds, st.integers(1, 60_000))
def test_a_session_may_take_only_what_is_much_later_for_another_life(
    seed: int, later_ms: int
) -> None:
    """Within the retention no purge can have come between: the later create is the older state."""
    store = busy(seed)
    created = store.create(key="key")
    document_id = created.document_id or DocumentId(b"")
    first = store.read(document_id)
    assert isinstance(first.answer, Found)
    again = msgspec.structs.replace(
        first.answer.create, created_at_ms=first.answer.create.created_at_ms + later_ms
    )
    second = store.read(document_id)
    second.answer, second.heard_before = Found(again, first.answer.fetched), (first,)
    broken = {one.invariant for one in judged(store)}
    assert ("I13" in broken) == (later_ms <= BOUNDS.life_s * 1000)


@given(seeds)
def test_one_content_under_two_ids_is_a_duplicate(seed: int) -> None:
    """No client sent it twice, so the cluster did."""
    store = busy(seed)
    create = store.create()
    twin = DocumentId(b"twin".ljust(16))
    store.records[twin] = store.records[create.document_id or DocumentId(b"")]
    violations = judged(store)
    assert {one.invariant for one in violations} == {"I9"}
    assert verdict_of(store, violations).wrong["duplicated"] == 1


@given(seeds)
def test_two_bodies_under_one_key_in_the_strong_mode_are_a_duplicate(seed: int) -> None:
    """Both were acknowledged, and one of the clients holds what is not stored."""
    store = busy(seed)
    first, second = store.create(key="key"), store.create(key="key")
    second.document_id = first.document_id
    store.records.popitem()
    assert "I9" in {one.invariant for one in judged(store)}


@given(seeds, seeds)
def test_wrong_bytes_are_found(seed: int, place: int) -> None:
    """Any bit of a content that a read returns."""
    store = busy(seed)
    document_id = store.create().document_id or DocumentId(b"")
    read = store.read(document_id)
    assert isinstance(read.answer, Found)
    content = bytearray(read.answer.create.content)
    content[place % len(content)] ^= 1
    wrong = msgspec.structs.replace(read.answer.create, content=bytes(content))
    read.answer = Found(wrong, read.answer.fetched)
    violations = judged(store)
    assert "I11" in {one.invariant for one in violations}
    assert verdict_of(store, violations).wrong["wrong bytes"] == 1


@given(seeds)
def test_a_refusal_that_took_effect_is_found(seed: int) -> None:
    """A client that was told "nothing was written" writes again, and has two."""
    store = busy(seed)
    create = store.create()
    create.answer = Unavailable("too few")
    assert [one.invariant for one in judged(store)] == ["I12"]
    create.answer = WriteTimeout("who knows")
    assert judged(store) == []


def test_silence_of_a_node_that_nobody_disturbed_is_found() -> None:
    """Whatever befalls the others, an answer comes by the deadline."""
    store = PerfectStore()
    create = store.create()
    create.answer = NoAnswer("nothing")
    assert [one.invariant for one in judged(store)] == ["I27"]
    create.disturbed = True
    assert judged(store) == []


def test_a_verdict_counts_what_clients_had() -> None:
    """Unknown outcomes are of writes; a second without any definite answer is unavailable."""
    store = PerfectStore()
    store.create()
    store.now_s = 10.0
    store.create().answer = WriteTimeout("who knows")
    store.create().answer = NoAnswer("nothing")
    store.read(DocumentId(bytes(16))).answer = NoAnswer("nothing")
    verdict = verdict_of(store, [])
    assert (verdict.operations, verdict.acknowledged) == (4, 1)
    assert (verdict.unknown, verdict.unavailable_s) == (2, 1)
    assert str(verdict).startswith("PASSED: 4 operations, 1 acknowledged: 0 lost, 0 resurrected")


IN_TWO_REGIONS = msgspec.structs.replace(BOUNDS, region_of={"a1": "a", "b1": "b"})


@given(seeds, st.sampled_from(["a1", "b1"]))
def test_what_is_purged_is_shown_only_where_nobody_knows_that_the_region_was_given_up(
    seed: int, via: str
) -> None:
    """An operator's word can't be checked; who has not heard it serves what it has."""
    store = busy(seed)
    document_id = store.create().document_id or DocumentId(b"")
    create = store.records[document_id].create
    assert create is not None
    store.delete(document_id, write=2)
    healed_s = store.now_s = store.now_s + 1.0
    read = store.read(document_id, read=1)
    read.answer, read.via = Found(create, Fetched(Record(create), 1, 1, 3)), via
    told = judged(store, healed_s=healed_s, bounds=IN_TWO_REGIONS)
    assert "I4" in {one.invariant for one in told}
    untold = judged(store, healed_s=healed_s, bounds=IN_TWO_REGIONS, witness_of=WithoutB)
    assert ("I4" in {one.invariant for one in untold}) == (via == "a1")


@given(seeds, st.sampled_from(["a1", "b1"]))
def test_a_quorum_in_each_region_is_none_in_one_that_was_given_up(seed: int, via: str) -> None:
    """It is one of the others; of those nothing less is promised."""
    store = busy(seed)
    create = store.create(write=2)
    create.quorums = Quorums(1, 2, sloppy=False, each_region=True)
    read = store.read(create.document_id or DocumentId(b""))
    read.answer, read.via = DocumentNotFound(acked=2, required=2), via
    assert [one.invariant for one in judged(store, bounds=IN_TWO_REGIONS)] == ["I1"]
    without = judged(store, bounds=IN_TWO_REGIONS, witness_of=WithoutB)
    assert [one.invariant for one in without] == (["I1"] if via == "a1" else [])
