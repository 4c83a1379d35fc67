"""Asking a node's operations listener, for commands that run beside the cluster."""

import http.client
from typing import Final, TypeVar

import msgspec

from cluster.layoutviews import LayoutView
from cluster.regionpairs import RegionSeen
from cluster.settings import NodeSettings
from cluster.stage import Stage
from cluster.traces import TracesView

_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_DECLINES: Final = (http.HTTPStatus.BAD_REQUEST, http.HTTPStatus.CONFLICT)
_Answer = TypeVar("_Answer")


class Readiness(msgspec.Struct):
    """Answer of ``GET /readyz``."""

    ready: bool
    reasons: list[str] = []
    takes_part: bool = True  #: in its region, as a member that is let in


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
    stage: Stage = Stage.SERVING
    layout: LayoutView | None = None
    documents_estimate: int | None = None
    #: What is wrong and does not make it unready.
    warnings: list[str] = []
    #: One of these: it has too much to do.
    late: str = ""
    #: The other ones.
    regions: dict[str, RegionSeen] = {}
    #: Regions that an operator has said to be gone.
    gone: list[str] = []
    #: Nodes that are not known to have heard the same.
    unaware: list[str] = []


class HintsKept(msgspec.Struct):
    """Of ``HintsView``, for one node."""

    count: int
    bytes: int
    #: Age of the oldest.
    oldest_s: float
    #: Until delivery is tried again; 0: now.
    left_alone_s: float = 0.0


class HintsView(msgspec.Struct):
    """Answer of ``GET /admin/hints``."""

    #: By the id of the node that they are kept for.
    targets: dict[str, HintsKept]
    #: By node, partitions that are compared with it: hints for it were lost.
    comparisons_owed: dict[str, int]


class RegionsView(msgspec.Struct):
    """Answer of ``GET /admin/regions``."""

    #: Those that an operator has said to be gone.
    gone: list[str] = []
    #: Nodes that are not known to have heard the same.
    unaware: list[str] = []


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
    tombstones: int = 0
    purged: int = 0
    expired: int = 0
    verified: int = 0


class QuarantineView(msgspec.Struct):
    """Answer of ``GET /admin/quarantine``."""

    asked: int
    orphans: int


class ConflictsView(msgspec.Struct):
    """Answer of ``GET /admin/conflicts``."""

    #: Keys that were given two bodies, of those that this node has met with.
    held: int


class NodeShare(msgspec.Struct):
    """A node's part of the ring."""

    id: str
    zone: str
    weight: float
    #: Partitions of which it keeps a copy.
    owned: int


class RingView(msgspec.Struct):
    """Answer of ``GET /admin/ring``."""

    region: str
    epoch: int
    digest: str
    partitions: int
    copies: int
    nodes: list[NodeShare]
    #: Partitions of which some owner is not up.
    under_replicated: int
    #: Share of the partitions of which a majority of the owners is up.
    quorum_share: float
    #: By partition, in preference order.
    owners: list[list[str]]
    #: As this node sees them.
    other_regions: dict[str, "RingView"] = {}

    @property
    def all_regions(self) -> dict[str, "RingView"]:
        """This node's own one first."""
        return {self.region: self, **self.other_regions}


class MemberView(msgspec.Struct):
    """Of ``MembersView``: one node as another one sees it."""

    id: str
    state: str
    connected: bool
    #: How far its clock is ahead, give or take the error; None while nothing is known.
    clock_ahead_s: float | None = None
    clock_error_s: float | None = None


class MembersView(msgspec.Struct):
    """Answer of ``GET /admin/members``."""

    members: list[MemberView]


class RecordView(msgspec.Struct):
    """A record on a replica, without its content."""

    state: str
    created_at_ms: int | None
    expires_at_ms: int | None
    checksum: str | None
    size_bytes: int | None
    deleted_at_ms: int | None
    delete_at_ms: int | None


class ReplicaView(msgspec.Struct):
    """What one node holds of a document, or why that is not known."""

    node: str
    region: str
    answered: bool
    reason: str = ""
    owner: bool = False
    doubt: str | None = None
    record: RecordView | None = None
    damaged: bool = False
    hints_for: list[str] = []
    quarantined: str | None = None


class OwnersView(msgspec.Struct):
    """Answer of ``GET /admin/owners/ID``."""

    id: str
    partition: int
    owners: list[str]
    replicas: list[ReplicaView]


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
    #: Of a drain: writes that are left to hand on, for how long no client has asked anything.
    writes: int = 0
    quiet_s: float = 0.0


class Declined(Exception):
    """The node answers that it won't; the message says why, without a full stop."""


class NoAnswer(Exception):
    """The listener is not there, too slow, or did not say what was asked."""


def readiness(node: NodeSettings, timeout_s: float) -> Readiness:
    """Whether the node serves requests. Raises NoAnswer."""
    return ask(node, "/readyz", timeout_s, Readiness)


def node_status(node: NodeSettings, timeout_s: float) -> NodeStatus:
    """The node's view of itself and of the others. Raises NoAnswer."""
    return ask(node, "/admin/status", timeout_s, NodeStatus)


def hints(node: NodeSettings, timeout_s: float) -> HintsView:
    """What the node keeps for others. Raises NoAnswer."""
    return ask(node, "/admin/hints", timeout_s, HintsView)


def lifecycle(node: NodeSettings, timeout_s: float) -> LifecycleView:
    """What ends on the node, and what is being repaired. Raises NoAnswer."""
    return ask(node, "/admin/lifecycle", timeout_s, LifecycleView)


def quarantine(node: NodeSettings, timeout_s: float) -> QuarantineView:
    """Copies that the node does not merge. Raises NoAnswer."""
    return ask(node, "/admin/quarantine", timeout_s, QuarantineView)


def conflicts(node: NodeSettings, timeout_s: float) -> ConflictsView:
    """Keys that were given two bodies. Raises NoAnswer."""
    return ask(node, "/admin/conflicts", timeout_s, ConflictsView)


def ring(node: NodeSettings, timeout_s: float) -> RingView:
    """Who owns what. Raises NoAnswer."""
    return ask(node, "/admin/ring", timeout_s, RingView)


def members(node: NodeSettings, timeout_s: float) -> MembersView:
    """What the node thinks of the others. Raises NoAnswer."""
    return ask(node, "/admin/members", timeout_s, MembersView)


def owners(node: NodeSettings, timeout_s: float, document_id: str) -> OwnersView:
    """What every node holds of a document. Raises NoAnswer."""
    return ask(node, f"/admin/owners/{document_id}", timeout_s, OwnersView)


def traces(node: NodeSettings, timeout_s: float, which: str) -> TracesView:
    """Traces: ``which`` is what follows the path (``kvnode.traceviews``). Raises NoAnswer."""
    return ask(node, f"/admin/traces{which}", timeout_s, TracesView)


def begin(node: NodeSettings, action: str, timeout_s: float) -> JobView:
    """Have the node begin ``repair``, ``trust``, ``nodes/ID/drain``. Raises NoAnswer, Declined."""
    return ask(node, f"/admin/{action}", timeout_s, JobView, method="POST")


def regions(node: NodeSettings, timeout_s: float) -> RegionsView:
    """What the node has heard of regions. Raises NoAnswer."""
    return ask(node, "/admin/regions", timeout_s, RegionsView)


def speak_of_region(
    node: NodeSettings, region: str, timeout_s: float, *, gone: bool
) -> RegionsView:
    """Tell the node that a region is gone, or back. Raises NoAnswer, Declined."""
    path = f"/admin/{'gone' if gone else 'back'}/{region}"
    return ask(node, path, timeout_s, RegionsView, method="POST")


def end_drain(node: NodeSettings, timeout_s: float) -> Readiness:
    """Have the node take part in service again. Raises NoAnswer."""
    return ask(node, f"/admin/nodes/{node.id}/drain", timeout_s, Readiness, method="DELETE")


def job(node: NodeSettings, job_id: str, timeout_s: float) -> JobView:
    """How far something has come. Raises NoAnswer."""
    return ask(node, f"/admin/jobs/{job_id}", timeout_s, JobView)


def metrics(node: NodeSettings, timeout_s: float) -> str:
    """All of its metrics, in Prometheus' text format. Raises NoAnswer."""
    try:
        return _fetch(node, "GET", "/metrics", timeout_s).decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
        raise NoAnswer(f"/metrics on port {node.ops_port}: {error}") from error


def ask(
    node: NodeSettings,
    path: str,
    timeout_s: float,
    answer: type[_Answer],
    *,
    method: str = "GET",
    body: object = None,
) -> _Answer:
    """Any of its answers. Raises NoAnswer, Declined."""
    sent = None if body is None else msgspec.json.encode(body)
    try:
        return msgspec.json.decode(_fetch(node, method, path, timeout_s, sent), type=answer)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAnswer(f"{path} on port {node.ops_port}: {error}") from error


def _fetch(
    node: NodeSettings, method: str, path: str, timeout_s: float, body: bytes | None = None
) -> bytes:
    connection = http.client.HTTPConnection(node.host, node.ops_port, timeout=timeout_s)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read(_ANSWER_BYTES_MAX)
        if response.status in _DECLINES:
            raise Declined(answer.decode(errors="replace").strip())
        return answer
    finally:
        connection.close()
