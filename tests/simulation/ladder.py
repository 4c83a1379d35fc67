"""Who told whom what of a document, and when: read off the wire once a run has failed.

    s          a1        a2        a3        docs
    16.3192    ?         |         |         |         #389 create 2 'document 7'
    16.3193    |-------->|         |         |         MERGE, 1.2 ms
    16.3193    |------------------x|         |         MERGE, never came
    16.3201    |         *         |         |         record b'document 7' of 1767225616319
    16.3213    |<--------|         |         |         answer to MERGE, 0.4 ms
    16.3214    !         |         |         |         #389 created, 2 acked

``?`` a client asks, ``!`` it hears; ``*`` a commit reached the disk; ``~`` a fault. Messages are
those that name the document, or are about a purge of its partition, and the answers to these.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Final

from cluster.ids import DocumentId, partition_of
from kvnode.rpc.frames import FRAME_BYTES_MAX, FrameDecoder, Message
from kvnode.rpc.operations import Op
from scripts.checker.history import Operation
from tests.simulation.cluster import SimCluster
from tests.simulation.flow import Flow, Sent

_COLUMN: Final = 8
_TIME: Final = 10
_WIDTH: Final = 120
#: Enough to see how it came about; the timeline has the rest.
_ROWS_MAX: Final = 80
_OF_A_PARTITION: Final = (Op.PROMISE, Op.FLOOR)
#: Of an answer, whose operation is told beside it.
_ANSWERS: Final = (Op.REPLY, Op.FAILED)

_Row = tuple[float, str]


def ladder(cluster: SimCluster, document_id: bytes, until_s: float) -> str:
    """The last rows before a time, about a document."""
    places = {name: _COLUMN * place for place, name in enumerate(cluster.machines)}
    rows = [
        *_requests(cluster, document_id, places),
        *((fault.at_s, "".join(_lines(places)) + f"~ {fault.what}") for fault in cluster.faults),
        *_commits(cluster, document_id, places),
        *_messages(cluster, document_id, places),
    ]
    rows = sorted((row for row in rows if row[0] <= until_s), key=itemgetter(0))
    names = "".join(name.ljust(_COLUMN) for name in places)
    head = [f"messages about {document_id.hex()}:", f"{'s':<{_TIME}}{names}".rstrip()]
    lines = [f"{at_s:<{_TIME}.4f}{text}"[:_WIDTH] for at_s, text in rows[-_ROWS_MAX:]]
    return "\n".join([*head, *lines])


def _lines(places: dict[str, int]) -> list[str]:
    canvas = [" "] * (_COLUMN * len(places))
    for place in places.values():
        canvas[place] = "|"
    return canvas


def _marked(places: dict[str, int], name: str, mark: str, what: str) -> str:
    canvas = _lines(places)
    canvas[places[name]] = mark
    return "".join(canvas) + what


def _arrow(places: dict[str, int], source: str, target: str, what: str, *, came: bool) -> str:
    canvas = _lines(places)
    left, right = sorted((places[source], places[target]))
    canvas[left + 1 : right] = "-" * (right - left - 1)
    rightwards = places[target] == right
    canvas[right - 1 if rightwards else left + 1] = (">" if rightwards else "<") if came else "x"
    return "".join(canvas) + what


def _requests(cluster: SimCluster, document_id: bytes, places: dict[str, int]) -> Iterator[_Row]:
    for operation in cluster.history:
        if operation.document_id == document_id:
            asked, heard = _told(operation)
            yield operation.invoked_s, _marked(places, operation.via, "?", asked)
            if operation.answered_s is not None:
                yield operation.answered_s, _marked(places, operation.via, "!", heard)


def _told(operation: Operation) -> tuple[str, str]:
    _, _, said = str(operation).partition(" ")
    asked, _, heard = said.partition(": ")
    return asked, f"#{operation.number} {heard}"


def _commits(cluster: SimCluster, document_id: bytes, places: dict[str, int]) -> Iterator[_Row]:
    for commit in cluster.watch.commits.get(DocumentId(document_id), []):
        yield commit.at_s, _marked(places, commit.machine, "*", commit.what)


def _messages(cluster: SimCluster, document_id: bytes, places: dict[str, int]) -> Iterator[_Row]:
    partition = partition_of(document_id, cluster.ring.partitions)
    #: Requests that concern the document, by where they came from and their number.
    asked: dict[tuple[Flow, object], str] = {}
    for sent, message in _decoded(cluster.loop.network.sent):
        op = Op(message[0])
        if op in _ANSWERS:
            what = asked.get((sent.flow.back, message[1]))
            if what is None:
                continue
            what = f"answer to {what}" if op is Op.REPLY else f"{what} failed: {message[2]}"
        else:
            about = op in _OF_A_PARTITION and message[3:4] == [partition]
            if not about and not _mentions(message, document_id):
                continue
            what = asked[sent.flow, message[1]] = op.name
        came = sent.arrived_s is not None
        took = f"{(sent.arrived_s - sent.at_s) * 1000:.1f} ms" if sent.arrived_s else "never came"
        damage = "" if sent.sound else ", damaged"
        yield (
            sent.at_s,
            _arrow(
                places, sent.flow.source, sent.flow.target, f"{what}, {took}{damage}", came=came
            ),
        )


def _decoded(everything: list[Sent]) -> Iterator[tuple[Sent, Message]]:
    """Every message, with what brought its last byte."""
    decoders: dict[Flow, FrameDecoder] = {}
    for sent in everything:
        if not isinstance(sent.part, bytes):
            continue
        decoder = decoders.setdefault(sent.flow, FrameDecoder(FRAME_BYTES_MAX))
        decoder.feed(sent.part)
        while (messages := decoder.next_frame()) is not None:
            for message in messages:
                yield sent, message


def _mentions(fields: Any, document_id: bytes) -> bool:
    if isinstance(fields, list):
        return any(_mentions(field, document_id) for field in fields)
    return bool(fields == document_id)
