"""Running scenarios over seeds, and saying how to see a failure again.

STELE_SEED=17 runs only that seed, STELE_SEEDS=200 runs 200 of them instead of each test's own few.
"""

import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from cluster.ids import DocumentId
from cluster.settings import ClusterSettings
from scripts.checker import history
from scripts.checker.checks import judge
from scripts.checker.evidence import Violation
from tests.simulation.cluster import SimCluster, settings_of
from tests.simulation.ladder import ladder
from tests.simulation.loop import Order, SimLoop

Scenario = Callable[[SimCluster], Coroutine[Any, Any, None]]

_EVENTS_SHOWN: Final = 40


def seeds(count: int) -> pytest.MarkDecorator:
    """Run a test with seeds 0..count-1, or with those that the environment names."""
    only, many = os.environ.get("STELE_SEED"), os.environ.get("STELE_SEEDS")
    chosen = [int(only)] if only else list(range(int(many) if many else count))
    return pytest.mark.parametrize("seed", chosen)


def simulate(
    scenario: Scenario,
    seed: int,
    settings: ClusterSettings | None = None,
    *,
    order: Order = Order.PROCESSES,
) -> SimCluster:
    """Run a scenario on a started cluster, then judge its history.

    Returns:
        The cluster as the scenario left it; its loop is closed.

    Raises:
        Violation: an invariant was broken; its notes hold the document's timeline.
    """
    loop = SimLoop(seed, order=order)
    cluster = SimCluster(loop, settings or settings_of())

    async def main() -> None:
        await cluster.start()
        await scenario(cluster)

    with contextlib.closing(loop):
        try:
            loop.run(main())
            name_the_unnamed(cluster)
            cluster.watch.violations += judge(cluster.history, cluster.watch)
            _raise_first(cluster.watch.violations)
        except BaseException as error:
            for note in report(cluster, error):
                error.add_note(note)
            raise
    return cluster


def _raise_first(violations: list[Violation]) -> None:
    if violations:
        raise violations[0]


def name_the_unnamed(cluster: SimCluster) -> None:
    """Give creates that nobody answered the id that their client never heard of."""
    for operation in cluster.history:
        if operation.document_id is None and operation.content is not None:
            operation.document_id = cluster.watch.contents.get(operation.content.encode())


def report(cluster: SimCluster, error: BaseException) -> list[str]:
    """What to read when a run failed. What was broken first may well be the cause of the rest."""
    loop, settings = cluster.loop, cluster.settings
    configuration = [
        ", ".join(f"{node.id} in {node.zone}" for node in settings.node),
        f"callbacks in the order {loop.order.name}",
        *map(str, (settings.replication, settings.hints)),
        *map(str, (settings.antientropy, settings.lifecycle)),
    ]
    notes = ["\n".join(["configuration:", *configuration])]
    if not isinstance(error, Violation):  # of which the timeline tells more
        notes.append("\n".join(["last events:", *loop.trace.recent[-_EVENTS_SHOWN:]]))
    test = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0].split("[")[0]
    if test:
        notes.insert(0, f"replay: STELE_SEED={loop.seed} .venv/bin/pytest '{test}'")
    violations = cluster.watch.violations
    notes += [f"broken: {violation}" for violation in violations]
    for violation in [error, *violations]:
        if isinstance(violation, Violation) and violation.document_id is not None:
            notes.append(timeline(cluster, violation.document_id))
            until_s = _seen_s(cluster, violation)
            notes.append(ladder(cluster, violation.document_id, until_s))
            break
    else:
        faults = [f"{fault.at_s:.4f} {fault.what}" for fault in cluster.faults]
        notes.append("\n".join(["faults:", *faults]))
    return notes


def _seen_s(cluster: SimCluster, violation: Violation) -> float:
    """When it was seen, or when the last of the operations that it names had its answer."""
    if violation.at_s is not None:
        return violation.at_s
    named = [op.answered_s for op in cluster.history if str(op) in str(violation)]
    return max([at_s for at_s in named if at_s is not None], default=cluster.loop.time())


def timeline(cluster: SimCluster, document_id: bytes) -> str:
    """All that was asked about a document, and all that reached a disk of it, in order."""
    commits = cluster.watch.commits.get(DocumentId(document_id), [])
    events = [(commit.at_s, f"{commit.machine} commits {commit.what}") for commit in commits]
    events += [(fault.at_s, fault.what) for fault in cluster.faults]
    owners = ", ".join(cluster.owners(document_id))
    head = f"timeline of {document_id.hex()}, owned by {owners}:"
    return history.timeline(head, document_id, cluster.history, events)
