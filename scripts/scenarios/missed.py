"""Writes that a node missed reach it."""

import signal

from scripts.scenarios.stage import EVERY_NODE, NEVER_S, Stage, fast


def hints_delivered(stage: Stage) -> None:
    """A node is down while documents are created and others deleted; hints bring it both.

    Must be seen: the nodes that took the writes hold a hint for each, none is lost, all are
    delivered when the node is back; then it answers alone, from its own disk, with every content
    and with 410 for what was deleted. Anti-entropy is off, so nothing else can have done it.
    """
    stage.up(fast(antientropy_s=NEVER_S, retention_s=NEVER_S))
    kept = stage.create("a1", 20, "to be kept")
    doomed = stage.create("a2", 20, "to be deleted")
    stage.kill("a3")
    kept |= stage.create("a1", 30, "a3 misses them", copies=2)
    stage.delete("a2", doomed, "the 20 are deleted, a3 misses that", copies=2)
    stage.wait(
        "a1 holds 30 hints for a3, a2 holds 20",
        lambda: (stage.hints("a1", "a3"), stage.hints("a2", "a3")) == (30, 20),
    )
    stage.start("a3")
    stage.wait(
        "every hint is delivered",
        lambda: not any(stage.hints(holder, "a3") for holder in ("a1", "a2")),
    )
    lost = [stage.cluster.view(node, "hints")["dropped"] for node in EVERY_NODE]
    stage.check(not any(count for one in lost for count in one.values()), "no hint was lost")
    stage.kill("a1", "a2", because="a3 has only its own disk to answer from")
    stage.expect(["a3"], kept, 200, "all 50 documents, byte for byte")
    stage.expect(["a3"], doomed, 410, "the 20 are deleted")


def hints_over_cap(stage: Stage) -> None:
    """A node misses more than hints may hold; what no hint was kept for, anti-entropy heals.

    Must be seen: hints stay within their cap and the rest is counted as lost by overflow; for these
    the holder owes comparisons, and pays them when the node is back, though no round of
    anti-entropy is due; then the node answers alone, with every content.
    """
    cap_bytes = 20_000
    stage.up(fast(antientropy_s=NEVER_S, retention_s=NEVER_S, hint_bytes_max=cap_bytes))
    stage.kill("a3")
    documents = stage.create("a1", 60, "a3 misses them", copies=2, size=1500)
    hints = stage.cluster.view("a1", "hints")
    held, lost = hints["targets"]["a3"], hints["dropped"]["overflow"]
    stage.check(
        held["bytes"] <= cap_bytes and held["count"] + lost == 60 and held["count"] and lost,
        f"a1 holds {held['count']} hints of {held['bytes']} bytes, {lost} were over the cap",
    )
    owed = hints["comparisons_owed"].get("a3")
    stage.check(owed, f"a1 owes a3 a comparison of {owed} partitions")
    stage.start("a3")
    stage.wait(
        "every hint is delivered, every comparison made",
        lambda: (
            not stage.hints("a1", "a3")
            and not stage.cluster.view("a1", "hints")["comparisons_owed"]
        ),
    )
    stage.kill("a1", "a2", because="a3 has only its own disk to answer from")
    stage.expect(["a3"], documents, 200, "all 60 documents, byte for byte")


def delete_before_create(stage: Stage) -> None:
    """A delete reaches a node before the create of the same document, and after it.

    A node misses both; the hint of the one is at a node that answers, the hint of the other at a
    node that hangs, and wakes up only later. Must be seen: where the delete came first, 410 at once
    and for good, the late create changes nothing; where the create came first, 410 once the delete
    is there.
    """
    stage.up(fast(antientropy_s=NEVER_S, retention_s=NEVER_S))
    stage.kill("a3")
    delete_first = stage.create("a1", 10, "a3 gets the deletes first", copies=2)
    create_first = stage.create("a2", 10, "a3 gets the creates first", copies=2)
    stage.delete("a2", delete_first, "the first 10 are deleted", copies=2)
    stage.delete("a1", create_first, "the other 10 are deleted", copies=2)
    stage.cluster.send_signal("a1", signal.SIGSTOP)
    stage.say("a1 hangs: it holds hints of creates of the first and of deletes of the others")
    stage.start("a3")
    stage.wait("a2 has delivered its hints", lambda: not stage.hints("a2", "a3"))
    stage.expect(["a3"], delete_first, 410, "the first 10 are deleted, their creates never came")
    stage.expect(["a3"], create_first, 200, "the others are there, their deletes never came")
    stage.cluster.send_signal("a1", signal.SIGCONT)
    stage.say("a1 goes on")
    stage.wait("a1 has delivered its hints", lambda: not stage.hints("a1", "a3"))
    stage.kill("a1", "a2", because="a3 has only its own disk to answer from")
    stage.expect(["a3"], delete_first, 410, "the first 10 stay deleted")
    stage.expect(["a3"], create_first, 410, "the others are deleted too")
