"""What Prometheus has to be told of a cluster: where its nodes are."""

from typing import Any

from cluster.settings import ClusterSettings


def prometheus_targets(settings: ClusterSettings) -> list[dict[str, Any]]:
    """Every node's operations listener, in the form of ``file_sd_configs``.

    A node's region is ``node_region``: ``region`` is the label of metrics about another one.
    """
    return [
        {
            "targets": [f"{node.host}:{node.ops_port}"],
            "labels": {"node": node.id, "node_region": node.region, "zone": node.zone},
        }
        for node in settings.node
    ]
