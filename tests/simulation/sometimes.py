"""What histories must meet now and then: a checker sees only what happens.

A count of zero over many seeds says that the checks of that path check nothing any more.
"""

from collections import Counter
from typing import Final

from cluster.ringchange import Phase
from docservice.documents import DocumentDeleted, DocumentNotFound, Found
from kvnode.errors import KeyDeleted, KeyReused, ReadTimeout, Unavailable, WriteTimeout
from kvnode.quarantine import State
from scripts.checker.history import NoAnswer, Operation
from tests.simulation.cluster import SimCluster
from tests.simulation.machine import NodeMachine

_ERRORS: Final = (
    NoAnswer,
    WriteTimeout,
    ReadTimeout,
    Unavailable,
    KeyReused,
    KeyDeleted,
    DocumentNotFound,
    DocumentDeleted,
)
#: By what it is called, some words of a fault's note.
_FAULTS: Final = {
    "process killed": " is killed",
    "power lost": " loses power",
    "process stopped": " is asked to stop",
    "process paused": " is paused",
    "link cut": "cut ",
    "link flapped": " flaps",
    "connection reset": "reset ",
    "disk slowed": "a slow disk",
    "reader slowed": "reads slowly",
    "wall clock moved": "jumps",
}
_STRIKES: Final = {
    "disk wiped": " is wiped",
    "disk put back to a copy": " is put back",
    "record damaged": " damaged",
    "disk filled": " fills up",
    "disks swapped": " are swapped",
}

_APART: Final = {"regions far apart": " far from all others"}
_GIVEN_UP: Final = {
    "region said to be gone": " is gone",
    "region said to be back": " is back",
    "region said to be gone wrongly": "nothing ails region ",
}


def met_in_history(cluster: SimCluster) -> Counter[str]:
    """What any history can meet, with a zero for what this one did not."""
    answers = Counter(type(operation.answer) for operation in cluster.history)
    met = Counter({f"answered {error.__name__}": answers[error] for error in _ERRORS})
    met.update(_faults(cluster, _FAULTS))
    network = cluster.loop.network
    met["bytes changed on the wire"] = network.damaged_count
    met["frame broken off"] = network.broken_off_count
    met["window full"] = network.full_window_count
    met["acknowledged by hints"] = sum(operation.hints > 0 for operation in cluster.history)
    for machine in cluster.nodes.values():
        coordinator, replica = machine.serving.coordinator, machine.serving.replica
        met["damaged frame refused"] += machine.serving.transport.protocol_errors
        met["commit failed"] += machine.failed_commits
        met["hint delivered"] += replica.hints.delivered
        met["hint superseded"] += replica.hints.superseded
        met["hint over the cap"] += replica.hints.dropped["overflow"]
        met["read repaired"] += coordinator.counts.read_repairs
        met["read hedged"] += coordinator.counts.hedged_reads
        met["key replayed"] += coordinator.counts.replays
        met["bodies in conflict"] += replica.conflicts.count
    return met


def met_in_sessions(cluster: SimCluster) -> Counter[str]:
    """The same, and how often a token decided."""
    met = met_in_history(cluster)
    met.update(met_with_tokens(cluster))
    return met


def met_with_tokens(cluster: SimCluster) -> Counter[str]:
    """What takes a token, alone."""
    met: Counter[str] = Counter()
    of_sessions = [op for op in cluster.history if op.session is not None]
    met["session answered without a read"] = sum(
        isinstance(op.answer, DocumentDeleted) and op.answer.required is None for op in of_sessions
    )
    met["session read again"] = sum(
        isinstance(op.answer, Found) and op.document_id in _known(op) for op in of_sessions
    )
    met["session answered from another region"] = sum(
        machine.serving.elsewhere.found_count for machine in cluster.nodes.values()
    )
    met["session refused an older answer"] = sum(
        isinstance(op.answer, Unavailable) and op.document_id in _known(op) for op in of_sessions
    )
    return met


def met_in_lifetimes(cluster: SimCluster) -> Counter[str]:
    """The same, and what only histories with ends and lost disks can meet."""
    met = met_in_history(cluster)
    met.update(_faults(cluster, _STRIKES))
    for machine in cluster.nodes.values():
        background, quarantined = machine.serving.background, machine.serving.replica.quarantine
        met["purged"] += background.sweep.purged_count
        met["expired"] += background.sweep.expired_count
        met["purge verified"] += background.verify.verified_count
        met["repaired by comparing"] += background.antientropy.totals.pulled
        met["record healed"] += _logged(machine, "record.healed")
        met["node fenced"] += _logged(machine, "node.fenced")
        met["node rebuilt"] += _logged(machine, "node.rebuilt")
        met["foreign disk refused"] += len(machine.refusals)
        met["late copy asked about"] += sum(quarantined.counts.values())
        met["orphan"] += quarantined.counts[State.ORPHAN]
        met["hint over its age"] += sum(
            line.fields["reason"] == "expired" for line in machine.events("hint.dropped")
        )
    return met


def met_in_regions(cluster: SimCluster) -> Counter[str]:
    """The same, and what takes several regions."""
    met = met_in_lifetimes(cluster)
    met.update(_faults(cluster, _APART))
    everywhere = [op for op in cluster.history if op.quorums.each_region]
    met["acknowledged in each region"] = sum(op.acknowledged for op in everywhere)
    met["refused for a region"] = sum("region" in str(op.answer) for op in everywhere if op.refused)
    met.update(met_with_words(cluster))
    for machine in cluster.nodes.values():
        background, outbox = machine.serving.background, machine.serving.replica.outbox
        met["shipped"] += sum(one.shipped_count for one in background.shipping.values())
        met["shipping postponed"] += _logged(machine, "shipping.postponed")
        met["outbox overflowed"] += _logged(machine, "outbox.overflowed")
        met["region's debt paid"] += outbox.repaid_count
        met["watermark known"] += any(map(machine.serving.watermarks.of, outbox.regions))
    return met


def met_with_words(cluster: SimCluster) -> Counter[str]:
    """What takes an operator who says that a region is gone, alone."""
    watch, answered = cluster.watch, [op for op in cluster.history if op.acknowledged]
    written_s = [op.answered_s for op in answered if op.stored is not None]
    met = _faults(cluster, _GIVEN_UP)
    met["purged without a region"] = sum(
        bool(watch.away_between(at_s, at_s)) for at_s in watch.gone_s.values()
    )
    met["answered by a region that did not know"] = sum(
        watch.is_misled(op.via, op.invoked_s) for op in answered
    )
    met["refused as its region is gone"] = sum(
        f"region {watch.bounds.region_of[op.via]} is gone" in str(op.answer)
        for op in cluster.history
    )
    met["region rebuilt while clients wrote"] = 0
    for machine in cluster.nodes.values():
        back_s = [
            line.at_s
            for line in machine.events("region.back")
            if line.fields["region"] == machine.region
        ]
        for line in machine.events("node.rebuilt"):
            since_s = max((at_s for at_s in back_s if at_s < line.at_s), default=line.at_s)
            met["region rebuilt while clients wrote"] += any(
                at_s is not None and since_s < at_s < line.at_s for at_s in written_s
            )
    return met


def met_in_layouts(cluster: SimCluster) -> Counter[str]:
    """As in lifetimes, and what takes a change of owners, or a token."""
    met = met_in_lifetimes(cluster)
    met.update(met_in_changes(cluster))
    met.update(met_with_tokens(cluster))
    return met


def met_in_changes(cluster: SimCluster) -> Counter[str]:
    """What takes a change of owners, alone."""
    met: Counter[str] = Counter()
    for phase in Phase:
        met[f"acknowledged in {phase.name}"] = met[f"crash in {phase.name}"] = 0
        met[f"elected in {phase.name}"] = 0
    for op in cluster.history:
        if op.stored is not None and op.answered_s is not None:
            phase = _phase_at(cluster, op.answered_s)
            met[f"acknowledged in {phase.name}"] += 1
            met[f"elected in {phase.name}"] += op.key is not None and op.quorums.write > 1
    for fault in cluster.faults:
        if " is killed" in fault.what or " loses power" in fault.what:
            met[f"crash in {_phase_at(cluster, fault.at_s).name}"] += 1
    for machine in cluster.nodes.values():
        met["partition handed over"] += _logged(machine, "partition.handed_over")
        met["hint entrusted to a new owner"] += sum(
            "moved" in line.fields for line in machine.events("hint.delivered")
        )
    changes = [layout for _, layout in cluster.watch.layouts]
    met["change ended"] = sum(layout.is_stable for layout in changes)
    met["node left"] = sum(
        layout.phase is Phase.RETIRE and bool(layout.leaving) for layout in changes
    )
    met["node joined"] = sum(
        layout.phase is Phase.RETIRE and bool(layout.joining) for layout in changes
    )
    return met


def _phase_at(cluster: SimCluster, at_s: float) -> Phase:
    """Of the first region that is being changed then."""
    newest = {layout.region: Phase.STABLE for _, layout in cluster.watch.layouts}
    newest |= {
        layout.region: layout.phase for since_s, layout in cluster.watch.layouts if since_s <= at_s
    }
    return max(newest.values(), default=Phase.STABLE)


def _known(operation: Operation) -> list[bytes | None]:
    return [before.document_id for before in operation.heard_before]


def _faults(cluster: SimCluster, words: dict[str, str]) -> Counter[str]:
    return Counter(
        {name: sum(said in fault.what for fault in cluster.faults) for name, said in words.items()}
    )


def _logged(machine: NodeMachine, event: str) -> int:
    return len(machine.events(event))
