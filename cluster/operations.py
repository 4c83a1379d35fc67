"""Asking a node's operations listener, for commands that run beside the cluster."""

import http.client
from typing import Final, TypeVar

import msgspec

from cluster.settings import NodeSettings

_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_Answer = TypeVar("_Answer")


class Readiness(msgspec.Struct):
    """Answer of ``GET /readyz``."""

    ready: bool
    reasons: list[str] = []


class RingShare(msgspec.Struct):
    """What a node says of the ring."""

    epoch: int
    partitions: int
    #: Partitions of which the node keeps a copy.
    owned: int


class MemberSeen(msgspec.Struct):
    """What a node thinks of another one."""

    id: str
    zone: str
    state: str


class HintsHeld(msgspec.Struct):
    """Writes a node keeps for another one."""

    count: int
    bytes: int


class StorageState(msgspec.Struct):
    """A node's disk."""

    disk_free_bytes: int
    disk_low: bool


class NodeStatus(msgspec.Struct):
    """Answer of ``GET /admin/status``."""

    node: str
    region: str
    zone: str
    version: str
    incarnation: int
    ready: bool
    reasons: list[str]
    ring: RingShare
    members: list[MemberSeen]
    #: By the id of the node that they are kept for.
    hints: dict[str, HintsHeld]
    storage: StorageState
    documents_estimate: int | None = None


class HintsKept(msgspec.Struct):
    """Of ``HintsView``, for one node."""

    count: int
    bytes: int
    #: Age of the oldest.
    oldest_s: float


class HintsView(msgspec.Struct):
    """Answer of ``GET /admin/hints``."""

    #: By the id of the node that they are kept for.
    targets: dict[str, HintsKept]
    #: By node: partitions that are compared with it because hints for it were lost.
    comparisons_owed: dict[str, int]


class Veto(msgspec.Struct):
    """Why a partition's deleted documents can't leave the disks yet."""

    partition: int
    node: str
    reason: str
    for_s: float


class Comparison(msgspec.Struct):
    """Anti-entropy with one peer."""

    last_complete_s: float | None
    partitions_left: int
    partitions: int


class Scrubbed(msgspec.Struct):
    """Records read against their checksums."""

    corrupt: int
    healed: int


class LifecycleView(msgspec.Struct):
    """Answer of ``GET /admin/lifecycle``."""

    contradicted: int
    vetoes: list[Veto]
    vetoed_partitions: int
    #: Partitions whose copy here is not to be believed.
    fenced: list[int]
    #: By peer.
    comparisons: dict[str, Comparison]
    scrub: Scrubbed
    up_s: float


class QuarantineView(msgspec.Struct):
    """Answer of ``GET /admin/quarantine``."""

    asked: int
    orphans: int


class JobView(msgspec.Struct):
    """Answer of ``POST /admin/NAME`` and ``GET /admin/jobs/ID``."""

    id: str
    state: str
    done: int
    total: int
    eta_s: float | None = None
    #: Of a repair: peers that it has yet to finish with, and documents sent and fetched.
    peers: list[str] = []
    pushed: int = 0
    pulled: int = 0


class NoAnswer(Exception):
    """The listener is not there, too slow, or did not say what was asked."""


def readiness(node: NodeSettings, timeout_s: float) -> Readiness:
    """Whether the node serves requests. Raises NoAnswer."""
    return _ask(node, "/readyz", timeout_s, Readiness)


def node_status(node: NodeSettings, timeout_s: float) -> NodeStatus:
    """The node's view of itself and of the others. Raises NoAnswer."""
    return _ask(node, "/admin/status", timeout_s, NodeStatus)


def hints(node: NodeSettings, timeout_s: float) -> HintsView:
    """What the node keeps for others. Raises NoAnswer."""
    return _ask(node, "/admin/hints", timeout_s, HintsView)


def lifecycle(node: NodeSettings, timeout_s: float) -> LifecycleView:
    """What ends on the node, and what is being repaired. Raises NoAnswer."""
    return _ask(node, "/admin/lifecycle", timeout_s, LifecycleView)


def quarantine(node: NodeSettings, timeout_s: float) -> QuarantineView:
    """Copies that the node does not merge. Raises NoAnswer."""
    return _ask(node, "/admin/quarantine", timeout_s, QuarantineView)


def begin(node: NodeSettings, action: str, timeout_s: float) -> JobView:
    """Have the node begin something: ``repair`` or ``trust``. Raises NoAnswer."""
    return _ask(node, f"/admin/{action}", timeout_s, JobView, method="POST")


def job(node: NodeSettings, job_id: str, timeout_s: float) -> JobView:
    """How far something has come. Raises NoAnswer."""
    return _ask(node, f"/admin/jobs/{job_id}", timeout_s, JobView)


def _ask(
    node: NodeSettings,
    path: str,
    timeout_s: float,
    answer: type[_Answer],
    *,
    method: str = "GET",
) -> _Answer:
    connection = http.client.HTTPConnection(node.host, node.ops_port, timeout=timeout_s)
    try:
        connection.request(method, path)
        body = connection.getresponse().read(_ANSWER_BYTES_MAX)
        return msgspec.json.decode(body, type=answer)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAnswer(f"{path} on port {node.ops_port}: {error}") from error
    finally:
        connection.close()
