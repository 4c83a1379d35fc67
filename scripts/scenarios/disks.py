"""Disks that are not what their node left behind: empty, old, or away for too long."""

import shutil

from scripts.scenarios.stage import EVERY_NODE, NEVER_S, Documents, Stage, fast


def directory_deleted(stage: Stage) -> None:
    """A node's directory is deleted, and the node is rebuilt from its peers.

    Must be seen: without its directory the node refuses to start; on a new one it never denies a
    document while it comes up; then it answers alone, from its own disk, with every content and
    with 410 for what was deleted. ``node.fenced`` and ``node.rebuilt`` are in its log.
    """
    stage.up(fast(retention_s=NEVER_S))
    kept = stage.create("a1", 100, "to be kept")
    doomed = stage.create("a2", 20, "to be deleted")
    stage.delete("a3", doomed, "the 20 are deleted")
    stage.kill("a3")
    shutil.rmtree(stage.cluster.var.node_directory("a3"))
    stage.say("the directory of a3 is deleted")
    refused = stage.cluster.stele("start", "a3", exit_code=1).stderr.strip()
    stage.check("a3" in refused, f"it is not started without: {refused}")
    stage.cluster.initialise("a3")
    stage.say("a3 gets a new directory (python -m kvnode.storage)")
    stage.start_watched("a3", alive=kept, gone=doomed)
    _check_rebuilt(stage)
    stage.kill("a1", "a2", because="a3 has only its own disk to answer from")
    stage.expect(["a3"], kept, 200, "all 100 documents, byte for byte")
    stage.expect(["a3"], doomed, 410, "the 20 are deleted")


def old_copy(stage: Stage) -> None:
    """A node is started on an old copy of its directory, with documents that were purged since.

    Must be seen: its peers remember a boot that it does not know, so it is fenced before it
    answers, and rebuilt; the purged documents are served by no node at any time, and end in
    quarantine; what was written after the copy is on the node again.
    """
    stage.up(fast())
    kept = stage.create("a1", 20, "to be kept")
    doomed = stage.create("a2", 20, "to be deleted")
    stage.cluster.stele("stop", "a3")
    directory = stage.cluster.var.node_directory("a3")
    copy = directory.with_name("a3-copy")
    shutil.copytree(directory, copy)
    stage.say("a3 is stopped, and its directory copied")
    stage.start("a3")
    stage.cluster.wait_connected()
    kept |= stage.create("a3", 20, "not in the copy")
    stage.delete("a1", doomed, "the 20 are deleted")
    stage.wait("the 20 are purged: 40 records are on each disk", lambda: stage.counts() == [40] * 3)
    stage.kill("a3")
    shutil.rmtree(directory)
    copy.rename(directory)
    stage.say("the copy takes the place of a3's directory")
    stage.start_watched("a3", alive=kept, gone=doomed)
    _check_rebuilt(stage)
    _check_nothing_returned(stage, kept, doomed)


def away_too_long(stage: Stage) -> None:
    """A node is away for longer than deletions are remembered.

    Must be seen: the purge waits for it while there is hope (a veto says why), then goes on without
    it; when it returns with the purged documents on its disk, it is fenced and rebuilt; they are
    served by no node at any time, and end in quarantine; what it missed is on it.
    """
    stage.up(fast(hint_window_s=5.0))
    kept = stage.create("a1", 20, "to be kept")
    doomed = stage.create("a2", 20, "to be deleted")
    stage.kill("a3")
    stage.delete("a1", doomed, "the 20 are deleted, a3 misses that", copies=2)
    kept |= stage.create("a2", 20, "a3 misses them", copies=2)
    stage.wait("the purge is vetoed: it waits for a3", lambda: any(stage.lifecycle("vetoes")))
    vetoes = [veto for one in stage.lifecycle("vetoes") for veto in one]
    reasons = dict.fromkeys(f"{veto['node']}: {veto['reason']}" for veto in vetoes)
    stage.say(f"/admin/lifecycle says so ({', '.join(reasons)})")
    stage.wait("a1 and a2 have purged without it", lambda: stage.counts() == [40] * 2)
    stage.start_watched("a3", alive=kept, gone=doomed)
    _check_rebuilt(stage)
    _check_nothing_returned(stage, kept, doomed)


def _check_rebuilt(stage: Stage) -> None:
    """After a3 became ready: its log says why not at once."""
    fenced = stage.cluster.events("a3", "node.fenced")
    stage.check(fenced, f"a3 was fenced before it answered: {fenced and fenced[0]['reason']}")
    stage.check(stage.cluster.events("a3", "node.rebuilt"), "and rebuilt")


def _check_nothing_returned(stage: Stage, kept: Documents, doomed: Documents) -> None:
    """After a3 came back with documents that were purged."""
    stage.wait("each disk has the 40 that were kept", lambda: stage.counts() == [40] * 3)
    stage.wait(
        "the 20 that a3 brought are orphans in its quarantine",
        lambda: stage.cluster.view("a3", "quarantine")["orphans"] == 20,
    )
    stage.expect(EVERY_NODE, doomed, 404, "nobody has the 20 that were deleted")
    stage.expect(EVERY_NODE, kept, 200, "all 40 documents, byte for byte")
