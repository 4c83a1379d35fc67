"""The edge: one address for clients, in front of all nodes.

What it does, whichever program does it; ``cluster.envoy`` and ``cluster.haproxy`` say it in the
words of each.

Rules
-----
1. A request goes to the nodes of its region, and to another region's only when none of its own
   can take it. The region is the one that ``Stele-Region`` names, or else the listener's.
2. Whether a node can take requests, it says itself: ``/readyz``, asked often. What it does not
   need to say is found out from requests: one whose connections fail is left out for a moment.
   Answers never count against a node: 503 is a word about the cluster, and one that is cut off
   from the others says so on ``/readyz``.
3. Nothing is done twice unless twice is as good as once. A create without an idempotency key is
   tried again only when no byte of it can have reached a node. Reads, deletes and creates with a
   key are tried again on another node: when the connection broke, when the node answered 503,
   and when it has said nothing for a while.
4. Retries are a share of the traffic, so that a cluster in trouble is not met with more.
5. Whoever decides about time is the node: the edge gives up later than any node does.
6. What the edge has to say itself, it says as the nodes do: a problem with its outcome.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from cluster.settings import ClusterSettings, NodeSettings

#: Name of the edge among the processes of a local cluster; no node may have it.
EDGE: Final = "edge"
#: Of ``/readyz``. A node that says no is out at once, one that says nothing after so many times.
CHECK_INTERVAL_S: Final = 0.5
CHECK_TIMEOUT_S: Final = 0.3
CHECKS_UNANSWERED_MAX: Final = 2

CONNECT_TIMEOUT_S: Final = 0.5
#: A request that may be repeated is sent to a second node as well after this silence of the first.
SILENCE_S: Final = 0.5
RETRIES_MAX: Final = 2
RETRY_SHARE_PERCENT: Final = 25
#: Retries under way that are always allowed: a quiet edge must be able to retry at all.
RETRIES_ALLOWED_MIN: Final = 64
#: Connections of a node that fail in a row before it is left out, and for how long.
FAILURES_MAX: Final = 5
LEFT_OUT_S: Final = 3.0
#: Of all nodes. When all are slow, leaving out most would make it worse.
LEFT_OUT_PERCENT_MAX: Final = 50
#: The edge gives up this much later than a node.
PATIENCE_S: Final = 1.0

#: What says to the edge that it may repeat a create, and where a client wants to be.
KEY_HEADER: Final = "idempotency-key"
REGION_HEADER: Final = "stele-region"
#: Answered by the edge itself: whether any node can take requests. For DNS, or an edge before it.
READY_PATH: Final = "/readyz"
PROBLEM_TYPE: Final = "application/problem+json"


class Listener(msgspec.Struct, frozen=True):
    """Where clients connect, and which region's nodes come first there."""

    name: str
    port: int
    region: str


class EdgeProblem(msgspec.Struct, frozen=True):
    """What the edge answers when no node does; ``code`` and the rest as in the API's catalogue."""

    code: str
    status: int
    title: str
    detail: str
    outcome: Literal["not_applied", "unknown"]
    retryable: bool = True


UNAVAILABLE: Final = EdgeProblem(
    "unavailable",
    503,
    "Too few replicas can take part",
    "No node could be reached. Nothing was written. Send it again after a moment.",
    "not_applied",
)
#: The same for a write that may be repeated: an attempt before the last may have reached a node.
UNAVAILABLE_AT_LAST: Final = msgspec.structs.replace(
    UNAVAILABLE,
    detail="No node can be reached any more. Whether anything was written is not known.",
    outcome="unknown",
)
OVERLOADED: Final = EdgeProblem(
    "overloaded",
    429,
    "The node has too much to do",
    "The nodes have as many requests as they take. Nothing was started; send it again later.",
    "not_applied",
)
NODE_LOST: Final = EdgeProblem(
    "node-lost",
    502,
    "The connection to the node was lost",
    "Whether anything was written is not known. Repeat a create with its idempotency key.",
    "unknown",
)
NO_ANSWER: Final = EdgeProblem(
    "no-answer",
    504,
    "No node answered in time",
    "Whether anything was written is not known. Repeat a create with its idempotency key.",
    "unknown",
)
MALFORMED: Final = EdgeProblem(
    "malformed-request",
    400,
    "The request is not valid HTTP",
    "The bytes do not follow HTTP/1.1 (RFC 9112). Nothing was done.",
    "not_applied",
    retryable=False,
)
TOO_SLOW: Final = EdgeProblem(
    "request-timeout",
    408,
    "The request did not arrive in time",
    "The header or the body took longer than the edge waits. Nothing was done.",
    "not_applied",
)
HEADERS_TOO_LARGE: Final = EdgeProblem(
    "headers-too-large",
    431,
    "The request headers are too large",
    "The header lines are longer than any node would read. Nothing was done.",
    "not_applied",
    retryable=False,
)
PROBLEMS: Final = (
    UNAVAILABLE,
    UNAVAILABLE_AT_LAST,
    OVERLOADED,
    NODE_LOST,
    NO_ANSWER,
    MALFORMED,
    TOO_SLOW,
    HEADERS_TOO_LARGE,
)


def problem_body(problem: EdgeProblem) -> dict[str, object]:
    """The JSON of an answer; what only a node can know of a request is null."""
    return {
        "type": f"/problems/{problem.code}",
        **msgspec.structs.asdict(problem),
        "instance": None,
        "acks": None,
        "required": None,
        "trace_id": None,
    }


def regions(settings: ClusterSettings) -> list[str]:
    """Every region, in the file's order."""
    return list(dict.fromkeys(node.region for node in settings.node))


def cluster_of(region: str) -> str:
    """What a balancer calls a region's nodes with, behind them, all others."""
    return f"from-{region}"


def nearest_first(settings: ClusterSettings, region: str) -> Iterator[NodeSettings]:
    """All nodes, those of ``region`` before the others."""
    yield from settings.region_nodes(region)
    yield from (node for node in settings.node if node.region != region)


def listeners(settings: ClusterSettings) -> list[Listener]:
    """The one for everybody, whose region is the file's first; on the next ports one a region."""
    port, names = settings.edge.port, regions(settings)
    return [
        Listener(EDGE, port, names[0]),
        *(
            Listener(f"{EDGE}-{region}", port + number, region)
            for number, region in enumerate(names, start=1)
        ),
    ]


def patience_s(settings: ClusterSettings) -> float:
    """How long the edge waits for an answer."""
    return settings.http.request_timeout_ms / 1000 + PATIENCE_S


def idle_upstream_s(settings: ClusterSettings) -> float:
    """When the edge closes an idle connection to a node.

    Before the node does: a create without a key must not be sent into one that is being closed.
    """
    return settings.http.idle_timeout_s * 0.8


def clients_max(settings: ClusterSettings) -> int:
    """Connections of clients to the edge: idle ones are cheap, so twice what the nodes serve."""
    return 2 * len(settings.node) * connections_per_node(settings)


def connections_per_node(settings: ClusterSettings) -> int:
    """What the edge takes of a node's connections; the rest is for who comes by itself."""
    return max(1, settings.http.connections_max * 9 // 10)
