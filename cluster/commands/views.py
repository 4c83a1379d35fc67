"""Commands that show what is: status, doctor, ring, owners, hints. They change nothing."""

import time
from typing import Annotated, Final

import msgspec
import typer
from rich.live import Live
from rich.text import Text

from cluster import balancer, doctor, operations, report, status
from cluster.answers import Answers, first_answer
from cluster.commands.options import (
    EXIT_DEGRADED,
    IdArgument,
    Output,
    OutputOption,
    UsageError,
    VarOption,
    console,
    print_json,
)
from cluster.examination import examine, owners_of, ring_of
from cluster.findings import Severity
from cluster.ids import parse_document_id
from cluster.launch import say
from cluster.operations import HintsView, OwnersView, ReplicaView, RingView
from cluster.seen import EdgeView, NodeView, moment
from cluster.settings import NodeSettings
from cluster.status import ClusterState
from cluster.vardir import DEFAULT_ROOT, VarDirectory

_WATCH_S: Final = 1.0
_CHECKSUM_DIGITS: Final = 8


def show_status(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second.")] = False,
) -> None:
    """Show every node. Exit code 0: all is well, 1: degraded, 3: no node answers."""
    directory = VarDirectory(var)
    if watch:
        raise typer.Exit(_watch(directory, output).value)
    views, edge, state = _look(directory)
    if output is Output.JSON:
        print_json(report.status_value(directory, views, edge, state))
    else:
        report.print_status(directory, views, edge, state, console())
    raise typer.Exit(state.value)


def _look(directory: VarDirectory) -> tuple[list[NodeView], EdgeView | None, ClusterState]:
    settings = directory.settings()
    views, edge = status.look(directory, settings.node), balancer.look(directory, settings)
    return views, edge, status.judge(views, edge)


def _watch(directory: VarDirectory, output: Output) -> ClusterState:
    """Until Ctrl-C; the state that was seen last."""
    page, state = console(), ClusterState.OK  # not the live one, which would draw itself into it
    with Live(console=console(), auto_refresh=False) as live:
        try:
            while True:
                views, edge, state = _look(directory)
                if output is Output.JSON:
                    print_json(report.status_value(directory, views, edge, state), one_line=True)
                else:
                    with page.capture() as shown:
                        report.print_status(directory, views, edge, state, page)
                    live.update(Text.from_ansi(shown.get()), refresh=True)
                time.sleep(_WATCH_S)
        except KeyboardInterrupt:
            return state


def show_doctor(var: VarOption = DEFAULT_ROOT, output: OutputOption = Output.TABLE) -> None:
    """Look for what is wrong, and say what to do. Exit code 0: nothing, 1: something is."""
    directory = VarDirectory(var)
    settings = directory.settings()
    edge = balancer.look(directory, settings)
    findings = doctor.diagnose(
        directory, settings, examine(directory, settings), edge, owners_of(settings)
    )
    if output is Output.JSON:
        print_json(report.findings_value(findings))
    else:
        report.print_findings(findings, console())
    if any(finding.severity is not Severity.NOTE for finding in findings):
        raise typer.Exit(EXIT_DEGRADED)


def show_ring(
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    partitions: Annotated[
        bool, typer.Option("--partitions", help="List each one's owners too.")
    ] = False,
) -> None:
    """Show who owns what. Exit code 1: an owner is not up, or nodes use different rings."""
    settings = VarDirectory(var).settings()
    rings = Answers(settings.node, operations.ring).given
    regions = {region: ring_of(region, list(rings.values())) for region in settings.region_names}
    others = [
        name
        for name, one in rings.items()
        if any(
            its.epoch == regions[region].epoch and its.digest != regions[region].digest
            for region, its in one.all_regions.items()
        )
    ]
    if output is Output.JSON:
        print_json(
            {
                "regions": {
                    region: msgspec.to_builtins(msgspec.structs.replace(one, other_regions={}))
                    for region, one in regions.items()
                },
                "disagreeing": others,
            }
        )
    else:
        for number, ring in enumerate(regions.values()):
            if number:
                say(console(), "")
            _print_ring(ring, partitions=partitions)
        if others:
            use = f"{', '.join(others)} use another ring: restart them with the same file"
            say(console(), use)
    if others or any(one.under_replicated for one in [*rings.values(), *regions.values()]):
        raise typer.Exit(EXIT_DEGRADED)


def _print_ring(ring: RingView, *, partitions: bool) -> None:
    table = report.new_table("node", "zone", right=("weight", "partitions", "share"))
    for node in ring.nodes:
        share = f"{node.owned / (ring.partitions * ring.copies):.1%}"
        table.add_row(node.id, node.zone, f"{node.weight:g}", f"{node.owned:,}", share)
    screen = console()
    screen.print(table)
    if partitions:
        owners = report.new_table("owners", right=("partition",))
        for partition, names in enumerate(ring.owners):
            owners.add_row(", ".join(names), str(partition))
        say(screen, "")
        screen.print(owners)
    say(
        screen,
        f"\nregion {ring.region}, ring {ring.epoch} ({ring.digest}): {ring.partitions} partitions "
        f"in {ring.copies} copies; {ring.quorum_share:.0%} have a quorum up",
    )
    if ring.under_replicated:
        say(screen, f"{ring.under_replicated} partitions have an owner that is not up")


def show_owners(
    document: IdArgument, var: VarOption = DEFAULT_ROOT, output: OutputOption = Output.TABLE
) -> None:
    """Show what each node holds of a document. Exit code 1: its owners differ, or one is silent."""
    if parse_document_id(document) is None:
        raise UsageError(f"{document} is no document's id; ids are UUIDs in lower case.")
    nodes = VarDirectory(var).settings().node

    def ask(node: NodeSettings, timeout_s: float) -> OwnersView:
        return operations.owners(node, timeout_s, document)

    found = first_answer(nodes, ask)
    if output is Output.JSON:
        print_json(msgspec.to_builtins(found))
    else:
        _print_owners(found)
    owners = [replica for replica in found.replicas if replica.node in found.owners]
    alike = all(owner.answered and owner.record == owners[0].record for owner in owners)
    if not alike or any(owner.doubt or owner.damaged for owner in owners):
        raise typer.Exit(EXIT_DEGRADED)


def _print_owners(found: OwnersView) -> None:
    table = report.new_table(
        "node", "region", "role", "holds", "created", "deleted", "leaves the disk", "checksum"
    )
    table.add_column("besides")
    for replica in found.replicas:
        role = "owner" if replica.node in found.owners else "other"
        record = replica.record
        if record is None:
            cells = ["?" if not replica.answered or replica.damaged else "nothing"] + [""] * 4
        else:
            cells = [
                f"{record.state}, {record.size_bytes} B" if record.size_bytes else record.state,
                *map(_time, (record.created_at_ms, record.deleted_at_ms, record.delete_at_ms)),
                (record.checksum or "")[:_CHECKSUM_DIGITS],
            ]
        table.add_row(replica.node, replica.region, role, *cells, ", ".join(_remarks(replica)))
    screen = console()
    screen.print(table)
    say(screen, f"\n{found.id} is in partition {found.partition}; times are UTC")


def _remarks(replica: ReplicaView) -> list[str]:
    """What else is to be known of a node's answer."""
    remarks = [] if replica.answered else [f"no answer ({replica.reason})"]
    if replica.doubt:
        remarks.append(f"not believed: {replica.doubt}")
    if replica.damaged:
        remarks.append("its record is damaged")
    if replica.hints_for:
        remarks.append(f"hint for {', '.join(replica.hints_for)}")
    if replica.quarantined:
        remarks.append(f"a copy is set aside: {replica.quarantined}")
    return remarks


def _time(wall_ms: int | None) -> str:
    return "" if wall_ms is None else moment(wall_ms)


def show_hints(var: VarOption = DEFAULT_ROOT, output: OutputOption = Output.TABLE) -> None:
    """Show the writes that nodes keep for others. Exit code 1: a node that keeps some is silent."""
    nodes = VarDirectory(var).settings().node
    answers = Answers(nodes, operations.hints)
    if output is Output.JSON:
        print_json({"nodes": msgspec.to_builtins(answers.given), "silent": list(answers.missing)})
    else:
        _print_hints(answers)
    if answers.missing:
        raise typer.Exit(EXIT_DEGRADED)


def _print_hints(answers: Answers[HintsView]) -> None:
    table = report.new_table("kept by", "for", right=("writes", "size", "oldest", "next try"))
    owed: dict[str, int] = {}
    for holder, view in answers.given.items():
        for target, kept in view.targets.items():
            table.add_row(
                holder,
                target,
                f"{kept.count:,}",
                report.size(kept.bytes),
                report.duration(kept.oldest_s),
                f"in {kept.left_alone_s:.0f}s" if kept.left_alone_s else "now",
            )
        for target, count in view.comparisons_owed.items():
            owed[target] = owed.get(target, 0) + count
    screen = console()
    if table.row_count:
        screen.print(table)
    else:
        say(screen, "no hints are held")
    for target, count in owed.items():
        say(
            screen, f"{target} is owed a comparison of {count} partitions, for hints that were lost"
        )
    for name in answers.missing:
        say(screen, f"{name} does not answer")
