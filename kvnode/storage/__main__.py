"""``python -m kvnode.storage``: make a node's database, empty and with the node's name on it.

A command of its own, because it needs little of a node: a cluster makes many when it is created.
"""

import argparse
import sys
from pathlib import Path

from cluster.topology import TopologyError, node_named, read_cluster_file
from kvnode.errors import CannotStart
from kvnode.log import process_log
from kvnode.storage.commit import Changes
from kvnode.storage.database import create_database
from kvnode.storage.identity import Identity, Replaced
from kvnode.storage.keys import IDENTITY_KEY, REPLACED_KEY
from kvnode.system import SystemClock


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kvnode.storage", description=__doc__)
    parser.add_argument("--cluster-file", type=Path, required=True)
    parser.add_argument("--node", required=True, help="the node's id in the cluster file")
    parser.add_argument("--directory", type=Path, required=True, help="where it is to be")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="in place of a lost one: the node is rebuilt from its peers first",
    )
    return parser.parse_args(argv)


def _create(arguments: argparse.Namespace) -> None:
    settings = read_cluster_file(arguments.cluster_file)
    node = node_named(settings, arguments.node)
    identity = Identity(settings.cluster_id, node.id, settings.replication.partitions)
    rows: Changes = {IDENTITY_KEY: identity.encode()}
    if arguments.replace:
        now_ms = SystemClock().wall_ms()
        rows[REPLACED_KEY] = Replaced(now_ms, "an operator replaced it", "").encode()
    create_database(arguments.directory, rows)


def main() -> int:
    """The exit code is 0, or 1 with a last line that says why."""
    arguments = _arguments(sys.argv[1:])
    try:
        _create(arguments)
    except (CannotStart, TopologyError, OSError) as error:
        process_log(node=arguments.node).error("node.refused", detail=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
