"""For how long a node may believe its disk: what other owners' answers are worth.

Rules
-----
1. Others purge without a node that was silent for longer than tombstones are kept, and only with a
   majority of a partition's owners (``kvnode.services.purge``, rules 4 and 5). So nothing is
   purged without a node which so many have heard that the others are no majority.
2. The lease that an answer gives runs from when the question was sent, and is shorter than
   tombstones are kept: no two clocks run at the same rate.
3. The first lease of a boot takes at least one answer, however few owners there are: without
   any, nobody has said whose disk this is. An owner without others needs nobody's word.

Source of leases: Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed
file cache consistency", SOSP 1989.
"""

from collections.abc import Iterable
from math import inf
from typing import Final

#: Of the time for which tombstones are kept. Clocks' rates differ by far less than the rest.
LEASE_SHARE: Final = 0.99


def lease_end_s(answered_s: Iterable[float | None], lease_s: float) -> float:
    """Until when what is held of a partition may be believed, on the clock of ``answered_s``.

    Args:
        answered_s: Of each other owner, when the latest question that it answered was sent; None
            while it has answered none in this boot.
        lease_s: What one answer is good for.

    Returns:
        -inf when there is no lease yet, inf when it can't end.
    """
    others = list(answered_s)
    if not others:
        return inf
    latest_first = sorted((sent_s for sent_s in others if sent_s is not None), reverse=True)
    #: Of the others; together with this node they leave no majority.
    heard_by = len(others) // 2
    if len(latest_first) < max(heard_by, 1):
        return -inf
    return latest_first[heard_by - 1] + lease_s if heard_by else inf
