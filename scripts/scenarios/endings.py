"""Documents that end leave every disk."""

import time

from scripts.scenarios.stage import EVERY_NODE, MANY_BYTES, Stage, fast


def ttl_while_down(stage: Stage) -> None:
    """A document's time to live passes while a node with a copy of it is down.

    Must be seen: 200 before that time at the others, 410 after it, 404 when their copies are off
    the disks; the node that comes back with copies, and to which hints bring more, serves none of
    them; in the end every disk is rid of them.
    """
    ttl_s = 3
    # What has ended stays on disk for as long as clocks may differ: long enough to be seen here.
    stage.up(fast(clock_skew_s=2.0))
    lasting = stage.create("a1", 10, "for good")
    began_s = stage.elapsed_s
    short = stage.create("a2", 10, f"for {ttl_s} s", ttl_s=ttl_s)
    stage.kill("a3")
    missed = stage.create("a1", 10, f"for {ttl_s} s, a3 misses them", copies=2, ttl_s=ttl_s)
    created_s = stage.elapsed_s
    ended = {**short, **missed}
    stage.expect(["a1", "a2"], ended, 200, "they are there")
    stage.check(stage.elapsed_s < began_s + ttl_s, "their time has not passed yet")
    time.sleep(max(0.0, created_s + ttl_s - stage.elapsed_s))
    stage.expect(["a1", "a2"], ended, 410, "their time has passed, and they are gone at once")
    stage.wait("they are off the disks of a1 and a2", lambda: stage.counts() == [10] * 2)
    stage.expect(["a1", "a2"], short, 404, "nobody knows the first 10 any more")
    stage.start_watched("a3", alive=lasting, gone=ended)
    stage.wait(
        "no hint is left, and each disk has the 10 others only",
        lambda: (
            not any(stage.hints(holder, "a3") for holder in ("a1", "a2"))
            and stage.counts() == [10] * 3
        ),
    )
    stage.expect(EVERY_NODE, ended, 404, "nobody has them")
    stage.expect(EVERY_NODE, lasting, 200, "the others are there, byte for byte")


def purge_verified(stage: Stage) -> None:
    """Documents are deleted, and after their retention purged from every disk.

    Must be seen: 410 at every node while deletions are remembered, 404 afterwards; each node has
    purged every one of them and has proved with its peers that they are gone, without a
    contradiction; nothing deleted is left waiting, and nothing else is touched.
    """
    stage.up(fast())
    kept = stage.create("a1", 10, "to be kept")
    doomed = stage.create("a2", 30, "to be deleted")
    stage.delete("a3", doomed, "the 30 are deleted")
    stage.expect(EVERY_NODE, doomed, 410, "they are deleted")
    stage.check(stage.counts() == [40] * 3, "each disk has 40 records still")
    stage.wait("each disk has 10 records", lambda: stage.counts() == [10] * 3)
    stage.expect(EVERY_NODE, doomed, 404, "nobody has them")
    stage.expect(EVERY_NODE, kept, 200, "the others are there, byte for byte")
    stage.wait("each node has purged 30", lambda: stage.lifecycle("purged") == [30] * 3)
    stage.wait(
        "each node has verified with its peers that all 30 are gone, and nothing contradicts it",
        lambda: (
            stage.lifecycle("verified") == [30] * 3 and stage.lifecycle("contradicted") == [0] * 3
        ),
    )
    stage.wait(
        "nothing deleted is left, and nothing waits",
        lambda: (
            stage.lifecycle("partitions_with_deleted") == [0] * 3
            and not any(stage.lifecycle("vetoes"))
        ),
    )


def space_given_back(stage: Stage) -> None:
    """Many documents are deleted or expire, and the disks get their space back.

    Must be seen: the directories of all nodes grow by what is created, and once everything but a
    tenth of it has ended and been purged, they shrink to less than a third, without a restart.
    """
    # Deletions are still remembered when the first half is full size: it is measured before.
    stage.up(fast(retention_s=6.0))
    kept = stage.create_many(500, "to be kept")
    stage.create_many(2_250, "for 6 s", ttl_s=6)
    doomed = stage.create_many(2_250, "to be deleted")
    stage.delete_many(doomed, "2,250 are deleted")
    stage.check(sum(stage.counts()) == 3 * 5_000, "all 5,000 records are on each disk")
    full_bytes = [stage.directory_bytes(node) for node in EVERY_NODE]
    sizes = ", ".join(f"{size / 1e6:.1f} MB" for size in full_bytes)
    stage.check(min(full_bytes) > 5_000 * MANY_BYTES, f"the directories hold {sizes}")
    stage.wait("each disk has 500 records", lambda: stage.counts() == [500] * 3, 60.0)

    def reclaimed() -> bool:
        now_bytes = [stage.directory_bytes(node) for node in EVERY_NODE]
        return all(now < full / 3 for now, full in zip(now_bytes, full_bytes, strict=True))

    stage.wait("each directory is less than a third of what it was", reclaimed, 60.0)
    sizes = ", ".join(f"{stage.directory_bytes(node) / 1e6:.1f} MB" for node in EVERY_NODE)
    stage.say(f"the directories hold {sizes}")
    sample = dict(list(kept.items())[:20])
    stage.expect(EVERY_NODE, sample, 200, "what was kept is there, byte for byte")
