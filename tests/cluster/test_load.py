"""Loading files into real nodes: nothing lost, nothing doubled, everything said."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ids import format_document_id, uuid8_of_key
from scripts.local_cluster import LocalCluster, call, wait_until
from scripts.sources import Document, read_documents
from tests.cluster.conftest import QUICK, MakeCluster

pytestmark = pytest.mark.cluster

COUNT = 6_000


@pytest.fixture
def single(shared: MakeCluster) -> LocalCluster:
    """One node, ready."""
    return shared(nodes=1, config=QUICK)


@pytest.fixture
def fortunes(tmp_path: Path) -> Path:
    """Texts enough for a load of a second or two."""
    path = tmp_path / "fortunes"
    path.write_text("".join(f"Saying {n}\n\t-- é{'x' * 500}\n%\n" for n in range(COUNT)))
    return path


def _command(cluster: LocalCluster, *arguments: str | Path) -> list[str]:
    options = ["--var", str(cluster.var.root), "--patience-s", "20"]
    return [sys.executable, "-m", "cluster", "load", *options, *map(str, arguments)]


def _load(
    cluster: LocalCluster, *arguments: str | Path, exit_code: int = 0
) -> tuple[dict[str, int], str]:
    """What the summary counts, and everything that was printed."""
    done = subprocess.run(
        _command(cluster, *arguments), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == exit_code, f"{done.stdout}{done.stderr}{cluster.logs()}"
    return _counts(done.stdout), done.stdout + done.stderr


def _counts(printed: str) -> dict[str, int]:
    lines = re.findall(r"^([a-z][a-z ]*?) +([\d,]+)(?:  .*)?$", printed, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in lines}


def _is_stored(cluster: LocalCluster, document: Document) -> bool:
    cluster_id = bytes.fromhex(cluster.var.settings().cluster_id)
    document_id = uuid8_of_key(cluster_id, "", document.idempotency_key)
    url = f"{cluster.http_url('a1')}/documents/{format_document_id(document_id)}"
    return call("GET", url).status == 200


def test_a_node_that_is_killed_and_comes_back_costs_the_load_nothing(
    cluster: LocalCluster, fortunes: Path
) -> None:
    """Nothing refused, nothing lost, and in a second run nothing doubled."""
    texts = [item for item in read_documents([fortunes]) if isinstance(item, Document)]

    with subprocess.Popen(
        _command(cluster, fortunes), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as load:
        wait_until(lambda: _is_stored(cluster, texts[COUNT // 10]))
        cluster.kill("a2")
        running = load.poll() is None
        cluster.start("a2")
        printed, _ = load.communicate(timeout=120)

    assert running, "the load was over before the node was killed"
    assert load.returncode == 0, printed
    counts = _counts(printed)
    assert counts["created"] + counts["already there"] == COUNT
    assert (counts["refused"], counts["read back"]) == (0, COUNT)
    again, _ = _load(cluster, fortunes)
    assert (again["created"], again["already there"], again["read back"]) == (0, COUNT, COUNT)


def test_an_interrupted_load_says_how_to_go_on_and_can(
    single: LocalCluster, fortunes: Path
) -> None:
    """What was stored before is met again by its key."""
    texts = [item for item in read_documents([fortunes]) if isinstance(item, Document)]

    with subprocess.Popen(
        _command(single, fortunes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as load:
        wait_until(lambda: _is_stored(single, texts[COUNT // 3]))
        load.send_signal(signal.SIGINT)
        _, said = load.communicate(timeout=30)

    assert load.returncode == 1
    stored = re.fullmatch(
        r"stele: interrupted; ([\d,]+) of 6,000 documents are stored, and the same command again "
        r"continues\.\n",
        said,
    )
    assert stored, said
    counts, _ = _load(single, fortunes)
    assert counts["already there"] >= int(stored[1].replace(",", "")) > 0
    assert counts["created"] == COUNT - counts["already there"]
    assert counts["read back"] == COUNT


def test_what_cannot_be_a_document_is_listed_by_file_and_line_and_the_rest_is_loaded(
    single: LocalCluster, tmp_path: Path
) -> None:
    """Refused here or by the cluster, the reader sees one list."""
    directory = tmp_path / "input"
    directory.mkdir()
    (directory / "fortunes").write_bytes(
        b"good\n%\n" + b"x" * 2049 + b"\n%\nna\xefve\n%\ngood\n%\n"
    )
    lines: list[object] = [
        {"content": "also good", "idempotency_key": "my key", "ttl_seconds": 3600},
        {"content": "too short a life", "ttl_seconds": 0},
        {"content": "bad key", "idempotency_key": "é"},
        {"content": 5},
        {"content": "", "idempotency_key": "empty"},
    ]
    (directory / "docs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{\n")

    counts, printed = _load(single, directory)

    assert counts == {
        "created": 3,
        "already there": 0,
        "duplicates": 1,
        "refused": 6,
        "read back": 3,
    }
    line = re.compile(rf"^refused {re.escape(str(directory))}/(\S+): (.+)$", re.MULTILINE)
    assert dict(line.findall(printed)) == {
        "docs.jsonl:2": "the field ttl_seconds has the wrong type or is out of range",
        "docs.jsonl:3": "idempotency_key is not 1 to 255 printable ASCII characters",
        "docs.jsonl:4": "not a document (Expected `str`, got `int` - at `$.content`)",
        "docs.jsonl:6": "not valid JSON (Input data was truncated)",
        "fortunes:3": "2,049 bytes, more than 2,048",
        "fortunes:5": "not valid UTF-8 (byte 3 of the text)",
    }
    _load(single, directory, "--strict", exit_code=1)


def test_a_document_that_was_deleted_is_not_made_again(
    single: LocalCluster, tmp_path: Path
) -> None:
    """Loading the same file again must not bring back what a user deleted since."""
    source = tmp_path / "docs.jsonl"
    source.write_text('{"content": "one"}\n{"content": "two"}\n')
    _load(single, source)
    one, _ = (item for item in read_documents([source]) if isinstance(item, Document))
    cluster_id = bytes.fromhex(single.var.settings().cluster_id)
    document_id = format_document_id(uuid8_of_key(cluster_id, "", one.idempotency_key))
    assert call("DELETE", f"{single.http_url('a1')}/documents/{document_id}").status == 204

    counts, printed = _load(single, source)

    assert (counts["created"], counts["already there"], counts["refused"]) == (0, 1, 1)
    assert f"refused {source}:1: " in printed
    assert call("GET", f"{single.http_url('a1')}/documents/{document_id}").status == 410


def test_without_nodes_or_input_the_load_ends_with_one_sentence(
    single: LocalCluster, tmp_path: Path
) -> None:
    """Soon, and with what to do."""
    source = tmp_path / "docs.jsonl"
    source.write_text('{"content": "one"}\n')

    _, missing = _load(single, tmp_path / "none", exit_code=1)
    assert missing == f"stele: {tmp_path / 'none'} does not exist.\n"
    single.stele("down")
    _, silent = _load(single, source, "--patience-s", "0.5", exit_code=1)
    assert "does not answer (Connection refused); 0 of 1 documents are stored" in silent
