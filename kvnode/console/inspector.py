"""One document: what each node holds of it, and its life as far as it is known."""

from collections.abc import Sequence
from html import escape
from typing import Any

from cluster.seen import moment
from cluster.traces import TraceView
from kvnode.console.happenings import event_row, trace_tables
from kvnode.console.markup import NONE, table
from kvnode.console.watch import Event


def inspected(
    owners: dict[str, Any], traces: Sequence[TraceView], happened: Sequence[Event]
) -> str:
    """HTML of what ``/admin/owners/ID`` told, its traces, and the events that name it."""
    document_id = owners["id"]
    records = [one["record"] for one in owners["replicas"] if one.get("record")]
    return (
        f"<h4><code>{escape(document_id)}</code></h4>"
        f"<p>Partition {owners['partition']}. {_summary(records)}</p>"
        f"{_timeline(records)}"
        f"{_replicas(owners)}"
        f"{trace_tables(traces)}"
        f"{_events([one for one in happened if document_id in one.fields.values()])}"
    )


def _summary(records: Sequence[dict[str, Any]]) -> str:
    if not records:
        return "No node that answered holds anything of it."
    states = sorted({record["state"] for record in records})
    if len(states) > 1:
        return "Its copies differ; they are levelled in the background."
    return f"Every copy that was found says: {states[0]}."


def _timeline(records: Sequence[dict[str, Any]]) -> str:
    """What any copy knows; copies that know less have missed it so far."""

    def known(field: str) -> list[int]:
        return [record[field] for record in records if record.get(field) is not None]

    moments = [
        (min(known("created_at_ms"), default=None), "created"),
        (min(known("expires_at_ms"), default=None), "expires"),
        (min(known("deleted_at_ms"), default=None), "deleted"),
        (max(known("delete_at_ms"), default=None), "may leave the disks"),
    ]
    told = sorted((at_ms, what) for at_ms, what in moments if at_ms is not None)
    rows = "".join(
        f"<li><b>{what}</b> <time>{moment(at_ms)} UTC</time></li>" for at_ms, what in told
    )
    return f'<ol class="timeline">{rows}</ol>' if rows else ""


def _events(happened: Sequence[Event]) -> str:
    if not happened:
        return ""
    return f'<ol class="events">{"".join(map(event_row, happened))}</ol>'


def _replicas(owners: dict[str, Any]) -> str:
    """What each node holds of a document, as ``/admin/owners`` tells it."""
    rows = []
    for replica in owners["replicas"]:
        record = replica.get("record") or {}
        holds = record.get("state") or ("nothing" if replica["answered"] else "?")
        remarks = []
        if not replica["answered"]:
            remarks.append(f"no answer ({replica.get('reason', '')})")
        if replica.get("doubt"):
            remarks.append(f"not believed: {replica['doubt']}")
        if replica.get("damaged"):
            remarks.append("damaged")
        if replica.get("hints_for"):
            remarks.append(f"hint for {', '.join(replica['hints_for'])}")
        if replica.get("quarantined"):
            remarks.append(f"set aside: {replica['quarantined']}")
        rows.append(
            (
                replica["region"],
                replica["node"],
                "owner" if replica["node"] in owners["owners"] else "other",
                holds,
                (record.get("checksum") or NONE)[:12],
                ", ".join(remarks) or NONE,
            )
        )
    return table(("region", "node", "role", "holds", "checksum", "besides"), rows)
