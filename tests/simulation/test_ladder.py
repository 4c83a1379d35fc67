"""What is printed of a history that failed: who told whom what, so that it can be followed."""

import pytest

from cluster.ids import DocumentId
from scripts.checker.evidence import Violation
from tests.simulation.clients import id_of_key
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.run import seeds, simulate


def _ladder_of(seed: int, cut: tuple[str, str] | None = None) -> tuple[list[str], DocumentId]:
    """Create a document at level 3 via a1, call that wrong, and read what is printed."""
    document_id, write = id_of_key("a key"), 3 if cut is None else 2

    async def scenario(cluster: SimCluster) -> None:
        if cut is not None:
            cluster.loop.network.cut(*cut)
            cluster.note(f"cut {cut[0]}>{cut[1]}")
        await cluster.create("a1", "content", key="a key", write=write)
        raise Violation("I0", "planted", document_id, cluster.loop.time())

    with pytest.raises(Violation) as caught:
        simulate(scenario, seed, settings_of(3))
    (ladder,) = [note for note in caught.value.__notes__ if note.startswith("messages about")]
    return ladder.splitlines(), document_id


def _place(lines: list[str], name: str) -> int:
    return lines[1].index(name)


@seeds(3)
def test_a_ladder_shows_request_messages_commits_and_answer_in_their_order(seed: int) -> None:
    """Each in the column of its machine; what comes back is told with what was asked."""
    lines, document_id = _ladder_of(seed)
    assert document_id.hex() in lines[0]
    a1 = _place(lines, "a1")
    asked = next(at for at, line in enumerate(lines) if line[a1] == "?")
    heard = next(at for at, line in enumerate(lines) if line[a1] == "!")
    assert "create via a1 3 key='a key' 'content'" in lines[asked]
    assert "created, " in lines[heard]
    for peer in ("a2", "a3"):
        place = _place(lines, peer)
        sent = [line for line in lines if line[place - 1] == ">" and "MERGE, " in line]
        assert sent
        assert all(line[a1 + 1] == "-" for line in sent)
        assert any(line[place] == "*" and "b'content'" in line for line in lines)
    answers = [at for at, line in enumerate(lines) if "answer to MERGE" in line]
    assert asked < min(answers) <= heard
    times = [float(line.split()[0]) for line in lines[2:]]
    assert times == sorted(times)
    assert max(map(len, lines)) <= 120


@seeds(3)
def test_a_ladder_shows_what_never_came_and_the_fault_before_it(seed: int) -> None:
    """Silence is what most failures are about."""
    lines, _ = _ladder_of(seed, ("a1", "a2"))
    place = _place(lines, "a2")
    lost = [at for at, line in enumerate(lines) if line[place - 1] == "x"]
    fault = next(at for at, line in enumerate(lines) if "~ cut a1>a2" in line)
    assert lost
    assert all("never came" in lines[at] for at in lost)
    assert fault < min(lost)
