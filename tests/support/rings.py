"""Small rings for tests, from owners by partition."""

from collections.abc import Mapping, Sequence

from cluster.ids import NodeId
from cluster.layout import Rings
from cluster.ringchange import Layout, Phase
from cluster.settings import NodeSettings


def member(name: str, region: str = "a", zone: str = "z1", number: int = 1) -> NodeSettings:
    """A node that listens nowhere."""
    return NodeSettings(
        id=name, region=region, zone=zone, http_port=number, rpc_port=number, ops_port=number
    )


def rings_with(owners: Mapping[str, Sequence[tuple[NodeId, ...]]]) -> Rings:
    """Rings of these regions; whoever owns something is a member, and nobody else."""
    layouts: list[Layout] = []
    region_of: dict[NodeId, str] = {}
    for region, by_partition in owners.items():
        nodes = dict.fromkeys(node for own in by_partition for node in own)
        members = tuple(member(node, region) for node in nodes)
        held = tuple(by_partition)
        copies = max(map(len, held))
        layouts.append(Layout(region, 1, Phase.STABLE, copies, members, held, held, held))
        region_of |= dict.fromkeys(nodes, region)
    return Rings(layouts, region_of)
