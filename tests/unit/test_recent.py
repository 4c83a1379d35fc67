"""Only what is surely absent may be called so: the engine is not asked then."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cluster.ids import uuid7
from kvnode.recent import RecentIds

_times_ms = st.integers(0, 40)
_minted = st.builds(
    lambda wall_ms, salt: uuid7(wall_ms, bytes([salt]) * 10), _times_ms, st.integers(0, 3)
)
_keyed = st.binary(min_size=6, max_size=6).map(lambda head: head + b"\x80" + bytes(9))


class Remembering(RuleBasedStateMachine):
    """Against the set of everything that was stored, with generations of four ids."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: set[bytes] = set()
        self.recent = RecentIds(0)

    @initialize(before=st.sets(_minted | _keyed))
    def start(self, before: set[bytes]) -> None:
        """On a database that holds something."""
        self.stored = set(before)
        newest = max((one for one in before if one[6] & 0xF0 == 0x70), default=bytes(16))
        self.recent = RecentIds(int.from_bytes(newest[:6], "big"), generation_ids=4)

    @rule(one=_minted | _keyed)
    def store(self, one: bytes) -> None:
        """As a replica does: looked up first, added when it was not there."""
        if one not in self.stored:
            self.stored.add(one)
            self.recent.add(one)

    @rule()
    def restart(self) -> None:
        """Only ``newest_ms`` is kept."""
        self.recent = RecentIds(self.recent.newest_ms, generation_ids=4)

    @invariant()
    def nothing_stored_is_called_absent(self) -> None:
        """Or a create would overwrite a tombstone."""
        assert not [one for one in self.stored if self.recent.surely_absent(one)]

    @invariant()
    def the_newest_is_known(self) -> None:
        """What is persisted with each batch."""
        minted = [one[:6] for one in self.stored if one[6] & 0xF0 == 0x70]
        assert self.recent.newest_ms == int.from_bytes(max(minted, default=bytes(6)), "big")


test_what_is_stored_is_never_called_absent = Remembering.TestCase


@given(times_ms=st.lists(_times_ms, min_size=1))
def test_an_id_minted_later_than_all_is_absent_without_a_look(times_ms: list[int]) -> None:
    """Or every create would pay for a look-up on every replica."""
    recent = RecentIds(0, generation_ids=8)
    for number, time_ms in enumerate(times_ms):
        recent.add(uuid7(time_ms, number.to_bytes(10, "big")))
    assert recent.surely_absent(uuid7(max(times_ms) + 1, bytes(10)))


def test_it_remembers_two_generations_at_most() -> None:
    """A bound on memory, however many are stored in one millisecond."""
    recent = RecentIds(0, generation_ids=8)
    ids = [uuid7(number, bytes(10)) for number in range(1, 200)]
    for one in ids:
        recent.add(one)
    assert len(recent._young) + len(recent._old) <= 16
    assert not any(recent.surely_absent(one) for one in ids)
