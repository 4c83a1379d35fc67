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


class NoAnswer(Exception):
    """The listener is not there, too slow, or did not say what was asked."""


def readiness(node: NodeSettings, timeout_s: float) -> Readiness:
    """Whether the node serves requests. Raises NoAnswer."""
    return _ask(node, "/readyz", timeout_s, Readiness)


def node_status(node: NodeSettings, timeout_s: float) -> NodeStatus:
    """The node's view of itself and of the others. Raises NoAnswer."""
    return _ask(node, "/admin/status", timeout_s, NodeStatus)


def _ask(node: NodeSettings, path: str, timeout_s: float, answer: type[_Answer]) -> _Answer:
    connection = http.client.HTTPConnection(node.host, node.ops_port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        body = connection.getresponse().read(_ANSWER_BYTES_MAX)
        return msgspec.json.decode(body, type=answer)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAnswer(f"{path} on port {node.ops_port}: {error}") from error
    finally:
        connection.close()
