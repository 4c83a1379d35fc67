"""``/admin/nodes/ID/drain``: a node is taken out of service by itself, as it is told by itself."""

from typing import TYPE_CHECKING

from kvnode.errors import Refused
from kvnode.jobs import Job

if TYPE_CHECKING:
    from kvnode.node import Node


def drain(node: "Node", name: str) -> Job:
    """Begin. Raises Refused: it is another one, or about to stop."""
    _check(node, name)
    return node.background.draining.begin()


def end_drain(node: "Node", name: str) -> None:
    """Take it back. Raises Refused: it is another one."""
    _check(node, name)
    node.background.draining.end()


def _check(node: "Node", name: str) -> None:
    if name == node.own.id:
        return
    members = (one for layout in node.rings.layouts.values() for one in layout.members)
    known = {one.id: one for one in (*members, *node.settings.node)}
    if name not in known:
        raise Refused(f"there is no node {name!r}; there are {', '.join(known)}")
    url = f"http://{known[name].host}:{known[name].ops_port}/admin/nodes/{name}/drain"
    raise Refused(f"this is {node.own.id}; {name} is told at {url}")
