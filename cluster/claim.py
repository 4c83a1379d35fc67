"""Which node should own what: balanced, in distinct zones, and moving as little as can be.

Theory
------
Nodes may own a partition together when at most d of them share a host and at most c a zone. d is
the lowest bound under which ``copies`` nodes can be found at all, then c the lowest for that d:
where there are enough zones c is 1; with fewer zones but enough hosts d is 1 and no zone holds
more than it must; and so on down. Such groups are the independent sets of a laminar matroid,
which splits the problem into parts that can be solved exactly, one after the other:

1. *Quotas*, the partitions each node gets. One replica after another goes to the node whose load
   per weight stays lowest, while its host and zone have room (D'Hondt's method). Greedy is
   optimal here, so the most loaded node is as little loaded as in any assignment that keeps the
   zones apart: within 1.05 of the mean whenever that is possible. Who of several gets the last
   replica at the same price is left open.
2. *Owners.* Every node keeps what it may of what it had, and the places left empty are filled
   along cheapest paths: an empty place goes to a node that has its quota, one of that node's
   places to another, and so on until a node is reached that lacks something. A replica in a new
   place costs 1, one moved back home gains 1, so this is a minimum-cost flow by successive
   shortest paths: no assignment of this balance moves less. (Of the cheapest paths one with the
   fewest steps is taken, which leaves every partition that it touches valid.) In N zones exactly
   the leaver's replicas or the newcomer's share move; in more zones some direct moves are
   barred, and the way around them costs a little.
3. *First owners* are spread in the same way, each partition choosing among its owners: every
   node is first in one N-th of its partitions, rounded up or down. No data moves.

Rules
-----
1. The answer depends on the arguments alone, and not on the order of the candidates.
2. Where zones and weights conflict zones win: balance is paid for safety. With N = 3 in three
   zones each zone holds one copy of everything, whatever it weighs, and weights only divide that
   copy among the zone's nodes.
3. A host is part of a zone: the same host named in two zones counts as two.
4. With fewer nodes than copies every node owns everything.

Source: DeCandia et al., "Dynamo", SOSP 2007, section 6.2 (the problem); Balinski and Young, "Fair
Representation", 1982 (quotas); Schrijver, "Combinatorial Optimization", 2003, sections 41.3 and
42 (weighted matroid intersection and union by shortest paths).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import accumulate
from math import inf
from typing import Final

import msgspec

from cluster.ids import NodeId
from cluster.ring import Owners, scatter


class Candidate(msgspec.Struct, frozen=True):
    """A node that can own partitions; ``weight`` > 0 is its share relative to the others."""

    node: NodeId
    zone: str
    host: str
    weight: float = 1.0


class _Room(msgspec.Struct, frozen=True):
    """How many owners one partition has, and how many of them may be in one place."""

    owners: int
    zone_max: int
    host_max: int


def claim(
    candidates: Sequence[Candidate],
    partitions: int,
    copies: int,
    previous: Owners | None = None,
) -> Owners:
    """Assign every partition to ``copies`` nodes (to all of them, where there are fewer).

    Args:
        candidates: The nodes of one region. A node that leaves is left out.
        previous: The owners until now, under any candidates and any number of copies. None for a
            new cluster.

    Returns:
        By partition its owners, in preference order.

    Raises:
        ValueError: no candidates, one named twice, a weight that is not positive and finite, no
            partitions or copies, or ``previous`` for another number of partitions.
    """
    nodes = {each.node: each for each in sorted(candidates, key=lambda each: each.node)}
    _check(candidates, nodes)
    if partitions < 1 or copies < 1:
        raise ValueError(f"partitions = {partitions} and copies = {copies} must be at least 1")
    if previous is not None and len(previous) != partitions:
        raise ValueError(f"previous owners of {len(previous)} partitions, not {partitions}")
    before: Owners = ((),) * partitions
    if previous is not None:
        before = tuple(tuple(owner for owner in owners if owner in nodes) for owners in previous)
    room = _room(nodes, min(copies, len(nodes)))
    low, high = _quotas(nodes, partitions, room)

    def has_room(_: int, node: NodeId, others: Sequence[NodeId]) -> bool:
        zone, host = nodes[node].zone, nodes[node].host
        hosts = [nodes[other].host for other in others if nodes[other].zone == zone]
        return len(hosts) < room.zone_max and hosts.count(host) < room.host_max

    owners = _Shares(before, room.owners, low, has_room)
    owners.fill(low)
    owners.fill(high)

    def is_owner(partition: int, node: NodeId, others: Sequence[NodeId]) -> bool:
        return not others and node in owners.holders[partition]

    low = {node: load // room.owners for node, load in owners.loads.items()}
    high = {node: -(-load // room.owners) for node, load in owners.loads.items()}
    firsts = _Shares(tuple(kept[:1] for kept in before), 1, low, is_owner)
    firsts.fill(low)
    firsts.fill(high)
    return tuple(
        (first, *_in_order(old, [owner for owner in new if owner != first]))
        for (first,), old, new in zip(firsts.holders, before, owners.holders, strict=True)
    )


def _in_order(old: Sequence[NodeId], new: Sequence[NodeId]) -> list[NodeId]:
    """Who was an owner already, in the order of then; behind them who was not."""
    return [owner for owner in old if owner in new] + [owner for owner in new if owner not in old]


def _check(candidates: Sequence[Candidate], nodes: Mapping[NodeId, Candidate]) -> None:
    if not nodes or len(nodes) != len(candidates):
        raise ValueError(f"candidates must be distinct, and at least one: {candidates}")
    for each in candidates:
        if not 0 < each.weight < inf:
            raise ValueError(f"{each.node}: weight = {each.weight} is not positive and finite")


def _room(nodes: Mapping[NodeId, Candidate], owners: int) -> _Room:
    """The tightest bounds under which ``owners`` nodes can be found; hosts are spread first."""
    nodes_by_host = Counter((node.zone, node.host) for node in nodes.values())

    def places(zone_max: int, host_max: int) -> int:
        by_zone = Counter[str]()
        for (zone, _), count in nodes_by_host.items():
            by_zone[zone] += min(host_max, count)
        return sum(min(zone_max, count) for count in by_zone.values())

    bounds = range(1, owners + 1)
    host_max = next(bound for bound in bounds if places(owners, bound) >= owners)
    zone_max = next(bound for bound in bounds if places(bound, host_max) >= owners)
    return _Room(owners, zone_max, host_max)


def _quotas(
    nodes: Mapping[NodeId, Candidate], partitions: int, room: _Room
) -> tuple[dict[NodeId, int], dict[NodeId, int]]:
    """Partitions by node, at least and at most: the most loaded per weight is as low as can be.

    The two differ by one where a node's last replica could as well be another node's.
    """

    def bid(node: NodeId, load: int) -> float:
        return load / nodes[node].weight

    groups = {each.node: ((each.zone, each.host), (each.zone,), ()) for each in nodes.values()}
    left = dict[tuple[str, ...], int]()
    for host, zone, _ in groups.values():
        left |= {host: room.host_max * partitions, zone: room.zone_max * partitions}
    left[()] = room.owners * partitions
    quotas = dict.fromkeys(nodes, 0)
    bids = [(bid(node, 1), node) for node in nodes]
    heapify(bids)
    while left[()]:
        _, node = bids[0]
        if quotas[node] == partitions or not all(left[group] for group in groups[node]):
            heappop(bids)  # what is full stays full
            continue
        quotas[node] += 1
        for group in groups[node]:
            left[group] -= 1
        heapreplace(bids, (bid(node, quotas[node] + 1), node))

    def full(node: NodeId) -> tuple[str, ...]:
        """The smallest group that keeps a node from one more replica."""
        return next(group for group in groups[node] if not left[group])

    won = {(group, bid(node, quotas[node])) for node in nodes for group in groups[node]}
    lost = {
        node: (full(node), bid(node, quota + 1))
        for node, quota in quotas.items()
        if quota < partitions
    }
    at_par = set(lost.values())
    low, high = dict(quotas), dict(quotas)
    for node, quota in quotas.items():
        low[node] -= any((group, bid(node, quota)) in at_par for group in groups[node])
        high[node] += lost.get(node) in won
    return low, high


#: Where a node's place in a partition can come from: from another node, or it is empty.
_Source = NodeId | None
_EMPTY: Final = None

#: Partitions. A dict serves as a set that keeps its order.
_Partitions = dict[int, None]


class _Shares:
    """Places in partitions, and the nodes that hold them."""

    def __init__(
        self,
        before: Owners,
        places: int,
        quotas: Mapping[NodeId, int],
        may_join: Callable[[int, NodeId, Sequence[NodeId]], bool],
    ) -> None:
        """Let each node keep what it may of what it held before.

        Args:
            before: By partition its holders until now.
            places: How many holders each partition shall have.
            quotas: How many partitions a node keeps at most.
            may_join: Whether a node may hold a partition beside these others.
        """
        self._before = before
        self._places = places
        self._may_join = may_join
        self.loads = dict.fromkeys(quotas, 0)
        self.holders: list[list[NodeId]] = [[] for _ in before]
        #: By source, node and cost + 1: where the node may take over the source's place. Cost -1
        #: moves a replica back home, 0 one that has moved anyway, 1 one that was at home.
        self._steps: dict[_Source, dict[NodeId, tuple[_Partitions, _Partitions, _Partitions]]] = {
            source: {node: ({}, {}, {}) for node in quotas} for source in (_EMPTY, *quotas)
        }
        for partition, nodes in enumerate(before):
            holders = self.holders[partition]
            for node in nodes:
                fits = len(holders) < places and may_join(partition, node, holders)
                if fits and self.loads[node] < quotas[node]:
                    holders.append(node)
                    self.loads[node] += 1
            for step in self._steps_in(partition):
                step[partition] = None

    def fill(self, quotas: Mapping[NodeId, int]) -> None:
        """Fill empty places until there are none, or every node has its quota.

        Some assignment must have these loads; then there is a path as long as one is needed.
        """
        empty = self._places * len(self.holders) - sum(self.loads.values())
        cost = 0
        for _ in range(empty):
            sinks = [node for node, quota in quotas.items() if self.loads[node] < quota]
            if not sinks:
                return
            # Costs never fall from one path to the next, so a single step at the last cost is a
            # cheapest path. Most are found in this way.
            found = [node for node in sinks if cost < 2 and self._steps[_EMPTY][node][cost + 1]]
            came: dict[NodeId, tuple[_Source, _Partitions]] = {
                node: (_EMPTY, self._steps[_EMPTY][node][cost + 1]) for node in found
            }
            if not found:
                labels, came = self._cheapest_paths()
                best = min(labels[node] for node in sinks if node in labels)
                found = [node for node in sinks if labels.get(node) == best]
                cost = best[0]
            self._follow(came, _draw(found, [quotas[node] - self.loads[node] for node in found]))

    def _cheapest_paths(
        self,
    ) -> tuple[dict[_Source, tuple[int, int]], dict[NodeId, tuple[_Source, _Partitions]]]:
        """From the empty place to every node: (cost, steps), and the last step (Bellman, Ford)."""
        labels: dict[_Source, tuple[int, int]] = {_EMPTY: (0, 0)}
        came: dict[NodeId, tuple[_Source, _Partitions]] = {}
        turn: list[_Source] = [_EMPTY]
        for _ in self._steps:  # as many rounds as places: a cheapest path visits none twice
            improved: dict[_Source, None] = {}
            for source in turn:
                cost, steps = labels[source]
                for node, by_cost in self._steps[source].items():
                    for step, partitions in enumerate(by_cost, start=-1):
                        label = cost + step, steps + 1
                        if partitions and (node not in labels or label < labels[node]):
                            labels[node], came[node] = label, (source, partitions)
                            improved[node] = None
            turn = list(improved)
        assert not turn, "moving in a circle gains something: the paths so far were not cheapest"
        return labels, came

    def _follow(self, came: Mapping[NodeId, tuple[_Source, _Partitions]], end: NodeId) -> None:
        """Make every step of the path to ``end``. Steps are picked before the first is made."""
        path: list[tuple[int, _Source, NodeId]] = []
        node: _Source = end
        while node is not _EMPTY:
            source, partitions = came[node]
            path.append((next(iter(partitions)), source, node))
            node = source
        for partition, source, node in path:
            for step in self._steps_in(partition):
                del step[partition]
            if source is not _EMPTY:
                self.holders[partition].remove(source)
                self.loads[source] -= 1
            self.holders[partition].append(node)
            self.loads[node] += 1
            for step in self._steps_in(partition):
                step[partition] = None

    def _steps_in(self, partition: int) -> Iterator[_Partitions]:
        """The entries of ``_steps`` in which a partition belongs, as it is held now."""
        holders, before = self.holders[partition], self._before[partition]
        for node in self.loads:
            if node in holders:
                continue
            away = node not in before
            # Who may join all holders may also take the place of any (the matroid's exchange).
            free = self._may_join(partition, node, holders)
            if free and len(holders) < self._places:
                yield self._steps[_EMPTY][node][1 + away]
            for source in holders:
                if free or self._may_join(partition, node, [h for h in holders if h != source]):
                    yield self._steps[source][node][1 + away - (source not in before)]


def _draw(nodes: Sequence[NodeId], missing: Sequence[int]) -> NodeId:
    """One of the nodes, each as likely as replicas are missing there: a draw from an urn.

    Always to serve the neediest would deal the same few groups of nodes over and over, and a node
    that fails would be backed by two others instead of by all.
    """
    ticket = scatter(sum(missing), "urn") % sum(missing)
    return next(
        node for node, upto in zip(nodes, accumulate(missing), strict=True) if ticket < upto
    )
