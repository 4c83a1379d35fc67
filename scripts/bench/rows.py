"""What is measured, and against what.

Rules
-----
1. The yardstick is a bare handler that does nothing but answer with the same bytes. What a row
   costs beyond it is the price of a replicated, durable store.
2. The rows of a part are measured in turns, once a round, and its bare rows come first. A ratio is
   between two measurements of one round, so a machine that gets slower meanwhile slows both.
3. Reads come before creates: they see the database as it was loaded, at its known size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Final, Literal, NamedTuple

from scripts.bench import deck
from scripts.bench.deck import Request

#: Documents in a bulk request.
BULK_DOCUMENTS: Final = 100
_CREATES: Final = 256
_BULK_CREATES: Final = 32
_BULK_READS: Final = 512
_CONNECTIONS: Final = 16
_BULK_CONNECTIONS: Final = 4


class Material(NamedTuple):
    """What requests are made of."""

    ids: list[str]
    contents: list[str]
    random: Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    name: str
    title: str
    server: Literal["bare", "cluster"]
    #: The requests to choose from at random.
    requests: Callable[[Material], list[Request]]
    #: Documents read or created by one request; an operation is one document.
    documents: int = 1
    #: Held open by each load generator, of which there is one a node.
    connections: int = _CONNECTIONS
    #: The bare row whose answer has the same bytes. Bare rows have none.
    yardstick: str = ""
    #: The most CPU per operation that it may cost, in multiples of the yardstick's.
    ratio_max: float | None = None


def _reads(material: Material, query: str = "") -> list[Request]:
    return [deck.read(document_id, query) for document_id in material.ids]


def _creates(material: Material, query: str = "", *, keyed: bool = False) -> list[Request]:
    contents = material.contents[:_CREATES]
    return [deck.create(content, query, keyed=keyed) for content in contents]


def _bulk_reads(material: Material) -> list[Request]:
    choose = partial(material.random.choices, material.ids, k=BULK_DOCUMENTS)
    return [deck.bulk_read(choose()) for _ in range(_BULK_READS)]


def _bulk_creates(material: Material) -> list[Request]:
    choose = partial(material.random.choices, material.contents, k=BULK_DOCUMENTS)
    return [deck.bulk_create(choose()) for _ in range(_BULK_CREATES)]


BARE_GET: Final = Row(name="bare-get", title="bare GET", server="bare", requests=_reads)
BARE_POST: Final = Row(name="bare-post", title="bare POST", server="bare", requests=_creates)

READS: Final = (
    BARE_GET,
    Row(
        name="read-1",
        title="read, R=1",
        server="cluster",
        requests=_reads,
        yardstick=BARE_GET.name,
        ratio_max=2.0,
    ),
    Row(
        name="read-2",
        title="read, R=2",
        server="cluster",
        requests=partial(_reads, query="?r=2"),
        yardstick=BARE_GET.name,
    ),
    Row(
        name="bulk-read",
        title="bulk read, R=1",
        server="cluster",
        requests=_bulk_reads,
        documents=BULK_DOCUMENTS,
        connections=_BULK_CONNECTIONS,
        yardstick=BARE_GET.name,
    ),
)

CREATES: Final = (
    BARE_GET,
    BARE_POST,
    Row(
        name="create-1",
        title="create, W=1",
        server="cluster",
        requests=_creates,
        yardstick=BARE_POST.name,
        ratio_max=4.0,
    ),
    Row(
        name="create-2",
        title="create, W=2",
        server="cluster",
        requests=partial(_creates, query="?w=2"),
        yardstick=BARE_POST.name,
        ratio_max=5.0,
    ),
    Row(
        name="create-keyed",
        title="create with key, W=1",
        server="cluster",
        requests=partial(_creates, keyed=True),
        yardstick=BARE_POST.name,
    ),
)

#: Apart from the others: what they leave for LevelDB to compact would be charged to the next row.
BULKS: Final = (
    BARE_GET,
    BARE_POST,
    Row(
        name="bulk-create",
        title="bulk create, W=1",
        server="cluster",
        requests=_bulk_creates,
        documents=BULK_DOCUMENTS,
        connections=_BULK_CONNECTIONS,
        yardstick=BARE_POST.name,
        ratio_max=2.0,
    ),
)

PARTS: Final = (READS, CREATES, BULKS)
#: Every row once, in the table's order.
ROWS: Final = (BARE_GET, BARE_POST, *READS[1:], *CREATES[2:], *BULKS[2:])
