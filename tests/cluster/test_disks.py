"""Real processes on disks that are damaged or full: no wrong byte, and nobody has to repair."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import pytest

from scripts.local_cluster import Answer, LocalCluster, call, wait_until
from tests.cluster.conftest import MakeCluster
from tests.support.mounts import fill, small_disk

pytestmark = pytest.mark.cluster

MIB = 1024 * 1024


def create(cluster: LocalCluster, node: str, count: int, query: str = "") -> dict[str, str]:
    """Documents by id, each acknowledged."""
    documents = {}
    for number in range(count):
        content = f"{node} {number} " * 50
        url = f"{cluster.http_url(node)}/documents{query}"
        answer = call("POST", url, {"content": content})
        assert answer.status == 201, answer
        documents[answer.json["id"]] = content
    return documents


def start(cluster: LocalCluster, node: str) -> None:
    """Ready and connected to all on return, so that ?w=all can be asked for."""
    cluster.start(node)
    cluster.wait_connected()


def check_readable(cluster: LocalCluster, documents: dict[str, str]) -> None:
    """Through every node, with its bytes."""
    for document_id, content in documents.items():
        for node in cluster.nodes:
            url = f"{cluster.http_url(node)}/documents/{document_id}"
            answers: list[Answer] = []
            wait_until(lambda url=url, answers=answers: _answered(url, answers))  # type: ignore[misc]
            assert answers[0].status == 200, (node, answers)
            assert answers[0].json["content"] == content


def _answered(url: str, answers: list[Answer]) -> bool:
    # A node whose compaction meets the damage starts anew, and can't be reached for a moment.
    with suppress(URLError, ConnectionError):
        answers.append(call("GET", url))
    return bool(answers)


def _flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)


def _largest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


#: What is done to the directory of a node that was killed, so that LevelDB refuses to open it.
DAMAGES: dict[str, Callable[[Path], object]] = {
    "log": lambda path: _flip(_largest(path, "*.log"), 0.5),
    "manifest": lambda path: _flip(_largest(path, "MANIFEST-*"), 0.5),
    "current": lambda path: (path / "CURRENT").write_bytes(b"MANI"),
    "missing table": lambda path: _largest(path, "*.ldb").unlink(),
}
#: With these it opens the database, and what fails is a read, or the next compaction.
DAMAGES_READ: dict[str, Callable[[Path], object]] = {
    "table": lambda path: _flip(_largest(path, "*.ldb"), 0.3),
    "index of a table": lambda path: _flip(_largest(path, "*.ldb"), 0.998),
}


def test_a_node_with_damaged_files_comes_up_and_no_document_is_missing_or_wrong(
    cluster: LocalCluster,
) -> None:
    """One file type after the other, of the same node: nobody has to repair anything."""
    documents = create(cluster, "a1", 30, "?w=all")
    directory = cluster.var.node_directory("a3")
    for name, damage in (DAMAGES | DAMAGES_READ).items():
        documents |= create(cluster, "a2", 20, "?w=all")
        cluster.kill("a3")
        if name in DAMAGES_READ:
            start(cluster, "a3")  # what its log held is in a table now
            cluster.kill("a3")
        for path in directory.glob("damaged-*"):
            shutil.rmtree(path)
        damage(directory)
        start(cluster, "a3")
        check_readable(cluster, documents)
        assert list(directory.glob("damaged-*")) or name in DAMAGES_READ, name
    assert '"event": "database.replaced"' in cluster.logs()


@pytest.fixture
def small(make_cluster: MakeCluster) -> Iterator[LocalCluster]:
    """Three nodes, of which a3 has a file system of 64 MB."""
    config = f"[storage]\nballast_bytes = {16 * MIB}\ndisk_low_bytes = {24 * MIB}\n"
    cluster = make_cluster(config=config)
    cluster.up()
    cluster.stele("stop", "a3")
    directory = cluster.var.node_directory("a3")
    whole = directory.rename(directory.with_name("whole"))
    directory.mkdir()
    with small_disk(directory, 64 * MIB):
        for path in whole.iterdir():
            if path.name != "ballast":
                (directory / path.name).write_bytes(path.read_bytes())
        start(cluster, "a3")
        yield cluster
        cluster.close()


def _is_low(cluster: LocalCluster, node: str) -> bool:
    low: bool = cluster.status(node)["storage"]["disk_low"]
    return low


def test_a_full_disk_refuses_creates_takes_deletes_and_recovers_without_a_restart(
    small: LocalCluster,
) -> None:
    """The whole life of it, on one process: low, full to the last byte, freed."""
    documents = create(small, "a1", 30, "?w=all")
    pid = small.running()["a3"]
    url = f"{small.http_url('a3')}/documents"
    others = small.var.node_directory("a3") / "others"

    fill(others, leave_bytes=20 * MIB)
    wait_until(lambda: _is_low(small, "a3"))
    assert call("POST", url, {"content": "no room"}).status == 507
    assert "low on disk" in small.stele("status", exit_code=None).stdout
    unacknowledged = call("POST", f"{small.http_url('a1')}/documents?w=all", {"content": "x"})
    assert unacknowledged.status in (503, 504), "a1 can't make a3 take a create either"
    check_readable(small, documents)

    others.unlink()
    fill(others)
    deleted = list(documents)[:10]
    for document_id in deleted:
        assert call("DELETE", f"{url}/{document_id}?w=all").status == 204
        del documents[document_id]
    for document_id in deleted:
        assert call("GET", f"{url}/{document_id}").status == 410
    check_readable(small, documents)

    others.unlink()
    wait_until(lambda: not _is_low(small, "a3"))
    documents |= create(small, "a3", 10, "?w=all")
    check_readable(small, documents)
    assert small.running()["a3"] == pid


def _delete_ends_the_node(cluster: LocalCluster, document_id: str, others: Path) -> bool:
    # A few may find room in what is left of the log's last page. A file that was removed is gone
    # at once, and its space is free only later.
    fill(others)
    with suppress(URLError, ConnectionError):
        call("DELETE", f"{cluster.http_url('a3')}/documents/{document_id}?w=all")
    return "a3" not in cluster.running()


def test_a_disk_without_any_room_left_ends_the_node_with_a_clear_last_line(
    small: LocalCluster,
) -> None:
    """Nothing is lost: when there is room again it starts, and has what it had."""
    documents = create(small, "a3", 30, "?w=all")
    directory = small.var.node_directory("a3")
    others = directory / "others"
    fill(others)
    wait_until(lambda: not (directory / "ballast").exists())
    document_id = next(iter(documents))
    wait_until(lambda: _delete_ends_the_node(small, document_id, others))
    last = small.var.log_file("a3").read_text().rstrip().rpartition("\n")[2]
    assert "this node ends" in last
    assert "No space left on device" in last

    others.unlink()
    start(small, "a3")
    del documents[document_id]
    check_readable(small, documents)
    assert list(directory.glob("damaged-*")) == []
