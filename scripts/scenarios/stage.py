"""Where a scenario is played: a cluster, clients that know what they were told, and a narrator.

Rules
-----
1. Everything a scenario wants to see is said by ``check``, ``wait`` or ``expect``; what was not
   seen raises Failed, with what the nodes show of themselves.
2. Only acknowledged writes count: a create or delete that is refused is a failure here.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final

from scripts.local_cluster import Answer, ClusterError, LocalCluster, call, wait_until

#: Contents by id.
Documents = dict[str, str]

WITHIN_S: Final = 20.0
#: Size of a document of ``create_many``.
MANY_BYTES: Final = 1_000
_BULK: Final = 500
#: How long a client waits for a node that may still be on its way up.
_IMPATIENT: Final = {"Stele-Timeout-Ms": "500"}


class Failed(Exception):
    """What a scenario must see was not seen. One sentence, then what the nodes show."""


class Stage:
    """One scenario's cluster of three nodes; nothing runs before ``up``.

    Args:
        tell: Takes each line of the narration.
    """

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        self._directory = directory
        self._tell = tell
        self._began_s = time.monotonic()
        self._numbers = count(1)
        self._cluster: LocalCluster | None = None

    @property
    def cluster(self) -> LocalCluster:
        """After ``up``."""
        assert self._cluster is not None, "up first"
        return self._cluster

    @property
    def elapsed_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began_s

    def up(self, config: str) -> None:
        """Start the cluster; all connected on return."""
        self._cluster = LocalCluster(self._directory, config=config)
        self._cluster.up()
        self.say("a cluster of three nodes is up: a1, a2, a3")

    def close(self, *, keep_running: bool = False) -> None:
        """End what runs, or leave it to whoever wants to look at it."""
        if self._cluster is None:
            return
        if keep_running:
            self._cluster.release_ports()
        else:
            self._cluster.close()

    # Telling and seeing -------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """One line."""
        self._tell(f"{self.elapsed_s:6.1f} s  {text}")

    def check(self, seen: object, what: str) -> None:
        """Go on only if it is so."""
        if not seen:
            raise Failed(f"not seen: {what}\n{self._state()}")
        self.say(what)

    def wait(self, what: str, condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
        """Go on once it is so."""
        try:
            wait_until(condition, within_s)
        except ClusterError as error:
            raise Failed(f"not seen {error}: {what}\n{self._state()}") from error
        self.say(what)

    def expect(
        self, nodes: Sequence[str], documents: Iterable[str], status: int, what: str
    ) -> None:
        """Each of these nodes gives this answer for each of these documents.

        A mapping of contents is compared with what is read.
        """
        for document_id in documents:
            for node in nodes:
                answer = self._read(node, document_id)
                if answer is None or answer.status != status:
                    got = "no answer" if answer is None else f"{answer.status} {answer.body!r}"
                    raise Failed(
                        f"not seen: {what}. {node} answered GET {document_id} with {got}\n"
                        f"{self._state()}"
                    )
                if status == 200 and isinstance(documents, dict):
                    self._compare(node, answer, documents[document_id])
        self.say(f"{', '.join(nodes)}: {what}")

    # What clients do ----------------------------------------------------------------------------

    def create(
        self,
        node: str,
        number: int,
        what: str,
        *,
        copies: int = 3,
        ttl_s: int | None = None,
        size: int = 100,
    ) -> Documents:
        """Documents that ``copies`` owners have acknowledged through this node."""
        documents = {}
        url = f"{self.cluster.http_url(node)}/documents?w={copies}&sloppy=false"
        for _ in range(number):
            content = f"document {next(self._numbers)} ".ljust(size, ".")
            body = {"content": content} | ({} if ttl_s is None else {"ttl_seconds": ttl_s})
            answer = call("POST", url, body)
            if answer.status != 201:
                raise Failed(f"a create was answered {answer.status} {answer.body!r}")
            documents[answer.json["id"]] = content
        self.say(f"{node}: {number} documents are created on {copies} nodes: {what}")
        return documents

    def create_many(self, number: int, what: str, *, ttl_s: int | None = None) -> Documents:
        """As ``create``, in bulk through a1, on all three; each has MANY_BYTES of its own."""
        contents = [secrets.token_hex(MANY_BYTES // 2) for _ in range(number)]
        extra: dict[str, object] = {} if ttl_s is None else {"ttl_seconds": ttl_s}
        operations: list[dict[str, object]] = [
            {"op": "create", "content": content} | extra for content in contents
        ]
        results = self._bulk(operations, 201)
        self.say(f"a1: {number:,} documents are created on 3 nodes: {what}")
        return {result["id"]: text for result, text in zip(results, contents, strict=True)}

    def delete_many(self, documents: Iterable[str], what: str) -> None:
        """As ``delete``, in bulk through a1, on all three."""
        self._bulk([{"op": "delete", "id": document_id} for document_id in documents], 204)
        self.say(f"a1: {what} (204, on 3 nodes)")

    def _bulk(self, operations: Sequence[dict[str, object]], status: int) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        url = f"{self.cluster.http_url('a1')}/documents/_bulk?w=3&sloppy=false"
        for start in range(0, len(operations), _BULK):
            body = {"operations": operations[start : start + _BULK]}
            results += call("POST", url, body).json["results"]
        if wrong := [result for result in results if result["status"] != status]:
            raise Failed(f"{len(wrong)} operations failed, the first with {wrong[0]}")
        return results

    def delete(self, node: str, documents: Iterable[str], what: str, *, copies: int = 3) -> None:
        """Delete them through this node; ``copies`` owners have acknowledged it."""
        for document_id in documents:
            url = f"{self.cluster.http_url(node)}/documents/{document_id}"
            answer = call("DELETE", f"{url}?w={copies}&sloppy=false")
            if answer.status != 204:
                raise Failed(f"a delete was answered {answer.status} {answer.body!r}")
        self.say(f"{node}: {what} (204, on {copies} nodes)")

    # What happens to nodes ----------------------------------------------------------------------

    def kill(self, *nodes: str, because: str = "") -> None:
        """SIGKILL."""
        for node in nodes:
            self.cluster.kill(node)
        self.say(f"kill -9 of {' and '.join(nodes)}{because and f': {because}'}")

    def start(self, node: str) -> None:
        """As ``stele start`` does; ready on return."""
        self.cluster.start(node)
        self.say(f"{node} is started and ready")

    def start_watched(self, node: str, *, alive: Documents, gone: Iterable[str]) -> None:
        """Start a node and ask it all the while, until it is ready, for what it must not get wrong.

        Args:
            alive: It may say that it doesn't know, but never that there is no such document.
            gone: It may say that it doesn't know, but never serve it.
        """
        self.cluster.start_at_once(node)
        asked = 0
        pairs = zip(cycle(alive), cycle(gone), strict=False)

        def ready() -> bool:
            nonlocal asked
            one, other = next(pairs)
            answer = self._read(node, one)
            if answer is not None and answer.status in (404, 410):
                raise Failed(f"{node} denied document {one} while it came up: {answer.status}")
            if answer is not None and answer.status == 200:
                self._compare(node, answer, alive[one])
            asked += answer is not None
            answer = self._read(node, other)
            if answer is not None and answer.status == 200:
                raise Failed(f"{node} served {other}, which is gone, while it came up")
            asked += answer is not None
            with suppress(OSError):
                return call("GET", f"{self.cluster.ops_url(node)}/readyz").status == 200
            return False

        self.wait(f"{node} is started and ready", ready)
        self.say(f"it has denied nothing and brought nothing back in {asked} answers on the way")
        self.cluster.wait_connected()

    # What operators see -------------------------------------------------------------------------

    def counts(self) -> list[int]:
        """Records on each running node's disk, deleted ones included."""
        return self.lifecycle("records")

    def directory_bytes(self, node: str) -> int:
        """Of a node's directory."""
        total = 0
        for file in self.cluster.var.node_directory(node).iterdir():
            with suppress(FileNotFoundError):  # a table that was just rewritten
                total += file.stat().st_size
        return total

    def lifecycle(self, name: str) -> list[Any]:
        """A value of ``/admin/lifecycle``, of each running node."""
        return [self.cluster.view(node, "lifecycle")[name] for node in self._running()]

    def hints(self, holder: str, target: str) -> int:
        """How many ``holder`` keeps for ``target``."""
        held: dict[str, Any] = self.cluster.status(holder)["hints"].get(target, {"count": 0})
        return int(held["count"])

    # --------------------------------------------------------------------------------------------

    def _running(self) -> list[str]:
        return sorted(self.cluster.running())

    def _read(self, node: str, document_id: str) -> Answer | None:
        """None from a node that is down, or on its way up."""
        url = f"{self.cluster.http_url(node)}/documents/{document_id}"
        with suppress(OSError):
            return call("GET", url, headers=_IMPATIENT)
        return None

    def _compare(self, node: str, answer: Answer, content: str) -> None:
        if answer.json["content"] != content:
            raise Failed(f"{node} answered with a wrong content: {answer.body!r}")

    def _state(self) -> str:
        """For whoever looks why."""
        if self._cluster is None:
            return ""
        lines = []
        for node in self._running():
            for view in ("status", "lifecycle", "quarantine"):
                try:
                    shown: object = self.cluster.view(node, view)
                except OSError as error:
                    shown = error
                lines.append(f"{node} {view}: {shown}")
        return "\n".join(lines)


def fast(
    *,
    antientropy_s: float = 1.0,
    retention_s: float = 3.0,
    hint_window_s: float = 3600.0,
    hint_bytes_max: int = 1_000_000,
    clock_skew_s: float = 0.2,
) -> str:
    """A cluster file's settings with which days last seconds."""
    return f"""\
[storage]
ballast_bytes = 0
[hints]
window_s = {hint_window_s}
target_bytes_max = {hint_bytes_max}
[antientropy]
interval_s = {antientropy_s}
[lifecycle]
tombstone_retention_s = {retention_s}
purge_bucket_s = 0.5
sweep_interval_s = 0.3
clock_skew_max_s = {clock_skew_s}
[gossip]
interval_s = 0.5
"""


#: An interval at which nothing happens in a scenario: what is seen has another cause.
NEVER_S: Final = 1_000_000.0
EVERY_NODE: Final = ("a1", "a2", "a3")
