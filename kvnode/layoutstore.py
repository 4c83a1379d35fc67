"""The newest layout of each region that a node knows, on its disk (``kvnode.services.layouts``)."""

from cluster.layout import Rings
from cluster.ringchange import Layout, decode_layout
from kvnode.ports import Engine
from kvnode.storage.keys import LAYOUT_PREFIX, layout_key
from kvnode.storage.ranges import all_with


class LayoutStore:
    """One row a region; none for the layout that follows from the cluster file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def put(self, layout: Layout) -> None:
        """Keep a layout in the place of the last one, in the batch that is being gathered."""
        self._engine.put(layout_key(layout.region), layout.encode())


def restore_layouts(engine: Engine, rings: Rings) -> None:
    """Take up those that are on the disk; at start, before anything is derived from rings."""
    for _, encoded in all_with(engine, LAYOUT_PREFIX):
        layout = decode_layout(encoded)
        known = rings.layouts.get(layout.region)
        if known is not None and layout.order() > known.order():
            rings.adopt(layout)
