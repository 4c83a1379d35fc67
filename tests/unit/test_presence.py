"""Only what is surely absent may be called so: the engine is not asked then."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.ids import uuid7, uuid8_of_key
from kvnode.presence import Presence

_times_ms = st.integers(0, 40)
_minted = st.builds(
    lambda wall_ms, salt: uuid7(wall_ms, bytes([salt]) * 10), _times_ms, st.integers(0, 3)
)
_keyed = st.integers(0, 40).map(lambda number: uuid8_of_key(bytes(16), "", str(number)))


def small(newest_ms: int) -> Presence:
    """With generations and filters of four ids."""
    return Presence(newest_ms, generation_ids=4, filter_ids=4)


class Remembering(RuleBasedStateMachine):
    """Against the set of everything that was stored, with generations of four ids."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: set[bytes] = set()
        self.unindexed: list[bytes] = []
        self.presence = Presence(0)

    @initialize(before=st.sets(_minted | _keyed))
    def start(self, before: set[bytes]) -> None:
        """On a database that holds something."""
        self.stored = set(before)
        newest = max((one for one in before if one[6] & 0xF0 == 0x70), default=bytes(16))
        self.presence = small(int.from_bytes(newest[:6], "big"))
        self.unindexed = sorted(self.stored)

    @rule(one=_minted | _keyed)
    def store(self, one: bytes) -> None:
        """As a replica does: looked up first, added when it was not there."""
        if one not in self.stored:
            self.stored.add(one)
            self.presence.add(one)

    @rule()
    def restart(self) -> None:
        """Only ``newest_ms`` is kept."""
        self.presence = small(self.presence.newest_ms)
        self.unindexed = sorted(self.stored)

    @rule(count=st.integers(1, 5))
    def index(self, count: int) -> None:
        """In the background; what is stored meanwhile is added as it comes."""
        for one in self.unindexed[:count]:
            self.presence.add_stored(one)
        self.unindexed = self.unindexed[count:]
        self.presence.complete = not self.unindexed

    @invariant()
    def nothing_stored_is_called_absent(self) -> None:
        """Or a create would overwrite a tombstone."""
        assert not [one for one in self.stored if self.presence.surely_absent(one)]

    @invariant()
    def the_newest_is_known(self) -> None:
        """What is persisted with each batch."""
        minted = [one[:6] for one in self.stored if one[6] & 0xF0 == 0x70]
        assert self.presence.newest_ms == int.from_bytes(max(minted, default=bytes(6)), "big")


test_what_is_stored_is_never_called_absent = Remembering.TestCase


@given(times_ms=st.lists(_times_ms, min_size=1))
def test_an_id_minted_later_than_all_is_absent_without_a_look(times_ms: list[int]) -> None:
    """Or every create would pay for a look-up on every replica."""
    presence = Presence(0, generation_ids=8)
    for number, time_ms in enumerate(times_ms):
        presence.add(uuid7(time_ms, number.to_bytes(10, "big")))
    assert presence.surely_absent(uuid7(max(times_ms) + 1, bytes(10)))


def test_it_remembers_two_generations_at_most() -> None:
    """A bound on memory, however many are stored in one millisecond."""
    presence = Presence(0, generation_ids=8)
    ids = [uuid7(number, bytes(10)) for number in range(1, 200)]
    for one in ids:
        presence.add(one)
    assert len(presence._young) + len(presence._old) <= 16
    assert not any(presence.surely_absent(one) for one in ids)


@given(numbers=st.sets(st.integers(0, 2000), min_size=1, max_size=300))
def test_few_keys_that_were_never_used_are_looked_up(numbers: set[int]) -> None:
    """A filter that says "maybe" to everything would be right, and of no use."""
    presence = Presence(0, filter_ids=64)
    presence.complete = True
    for number in numbers:
        presence.add(uuid8_of_key(bytes(16), "", str(number)))
    others = [uuid8_of_key(bytes(16), "other", str(number)) for number in range(500)]
    assert sum(not presence.surely_absent(one) for one in others) <= 20


def test_a_key_is_looked_up_until_all_stored_ones_are_known() -> None:
    """What was stored before the start may be among those not seen yet."""
    presence = Presence(0)
    assert not presence.surely_absent(uuid8_of_key(bytes(16), "", "key"))
    presence.complete = True
    assert presence.surely_absent(uuid8_of_key(bytes(16), "", "key"))
