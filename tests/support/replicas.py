"""A replica over any engine, with the defaults that a test does not care about."""

from collections.abc import Callable, Sequence

from cluster.settings import HintSettings, LifecycleSettings
from kvnode.hints import HintBook
from kvnode.lifecycle import Lifecycle
from kvnode.ports import Clock, Engine
from kvnode.replica import Replica


def new_replica(
    engine: Engine,
    clock: Clock,
    *,
    hints: HintSettings | None = None,
    owned: Callable[[int], bool] = lambda _: True,
    partitions: int = 1,
    lifecycle: LifecycleSettings | None = None,
    region: str = "",
    regions: Sequence[str] = (),
) -> Replica:
    """As ``kvnode.node`` puts it together."""
    return Replica(
        engine,
        clock,
        HintBook(hints or HintSettings()),
        owned,
        partitions,
        Lifecycle(clock, lifecycle or LifecycleSettings(), partitions),
        region=region,
        regions=regions,
    )
