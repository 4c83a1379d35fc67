"""What a node shows of a change of owners, and what operators can have it do about one."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from cluster.layoutviews import LayoutView, shown
from kvnode.health import membership
from kvnode.jobs import Job

if TYPE_CHECKING:
    from kvnode.node import Node


def layout(node: "Node") -> dict[str, Any]:
    """``/admin/layout``."""
    layouts, moving, changing = node.layouts, node.background.moving, node.changing
    done, total = moving.progress()
    view = LayoutView(
        node=node.own.id,
        region=node.region,
        begins_at=layouts.own.ids[0],
        outside=membership(node),
        regions={region: shown(one) for region, one in node.rings.layouts.items()},
        moves_total=changing.moves_total,
        phase_s=round(layouts.phase_s, 3),
        done=done,
        total=total,
        waits_for={str(name): why for name, why in layouts.waits_for().items()},
        held_back=moving.held_back(),
        unaware=[str(name) for name in layouts.unaware()],
        still_s=round(changing.still_s, 3),
        staged=changing.staged,
    )
    words: dict[str, Any] = msgspec.to_builtins(view)
    return words


def layout_deeds(node: "Node") -> dict[str, Callable[[bytes], Job | msgspec.Struct]]:
    """``POST /admin/layout/stage|plan|commit|revert``."""
    changing = node.changing
    return {
        "stage": changing.stage,
        "plan": lambda _: changing.plan(),
        "commit": changing.commit,
        "revert": lambda _: changing.revert(),
    }
