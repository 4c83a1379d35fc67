"""``stele`` and the operations listener on real processes: what each shows, and how each ends."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import pytest

from cluster.__main__ import main
from scripts.local_cluster import LocalCluster, call, wait_until

pytestmark = pytest.mark.cluster

CONFIG = '[storage]\nballast_bytes = 0\nfsync = "os"\n[gossip]\ninterval_s = 0.1\n'
#: Every view of the operations listener that the API promises in a cluster of one region.
PATHS = """
    /livez /readyz /readyz?verbose /version /metrics /admin/status /admin/ring /admin/members
    /admin/hints /admin/lifecycle /admin/quarantine /admin/jobs
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three nodes, ready; the last test here takes them down."""
    cluster = LocalCluster(tmp_path_factory.mktemp("commands"), config=CONFIG)
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()


def stele(
    cluster: LocalCluster, *arguments: str, exit_code: int = 0, content: bytes = b""
) -> tuple[str, str]:
    """What a command prints, and what it says besides; in this process, which is much quicker."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["stele", *arguments, "--var", str(cluster.var.root)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(SystemExit) as ended:
            main()
    said = out.getvalue() + err.getvalue()
    assert (ended.value.code or 0) == exit_code, f"{arguments}\n{said}{cluster.logs()}"
    return out.getvalue(), err.getvalue()


def events(cluster: LocalCluster, *options: str, exit_code: int = 0) -> tuple[str, str]:
    """What ``stele events`` prints and says: in a process of its own, for its threads' sake."""
    done = cluster.stele("events", "--no-follow", *options, exit_code=exit_code)
    return done.stdout, done.stderr


def shown(cluster: LocalCluster, *arguments: str, exit_code: int = 0) -> Any:
    """The same for programs."""
    return json.loads(stele(cluster, *arguments, "-o", "json", exit_code=exit_code)[0])


def put(cluster: LocalCluster, content: str, *options: str) -> str:
    """A new document's id."""
    return stele(cluster, "put", *options, content=content.encode())[0].strip()


def test_every_documented_view_is_served(cluster: LocalCluster) -> None:
    """A page that names what is not there costs an operator's trust when it matters most."""
    answers = {path: call("GET", cluster.ops_url("a1") + path).status for path in PATHS.split()}
    assert answers == dict.fromkeys(answers, 200)
    document = put(cluster, "x")
    assert call("GET", f"{cluster.ops_url('a1')}/admin/owners/{document}").status == 200
    assert call("POST", f"{cluster.ops_url('a1')}/admin/repair").status == 202


def test_a_document_is_put_read_and_removed_and_its_owners_say_so(cluster: LocalCluster) -> None:
    """The content as it is on standard output, everything else beside it."""
    text = "Grüße,\n\tnaïve\n"
    document = put(cluster, text, "--consistency", "all", "--ttl", "60")
    assert stele(cluster, "get", document) == (text, "")
    whole = shown(cluster, "get", document)
    assert (whole["content"], whole["status"]) == (text, "ACTIVE")
    owners = shown(cluster, "owners", document)
    assert [one["record"]["checksum"] for one in owners["replicas"]] == [whole["checksum"]] * 3
    assert "content" not in json.dumps(owners)

    stele(cluster, "rm", document, "--consistency", "all")
    said = stele(cluster, "get", document, exit_code=1)[1]
    assert "deleted" in said
    table, _ = stele(cluster, "owners", document)
    assert table.count("owner  deleted, ") == 3


def test_a_repair_tells_programs_what_became_of_it(cluster: LocalCluster) -> None:
    """Its progress is beside, on standard error."""
    out, said = stele(cluster, "repair", "a1", "-o", "json")
    repaired = json.loads(out)
    assert repaired["silent"] == []
    assert (repaired["nodes"]["a1"]["state"], repaired["nodes"]["a1"]["done"]) == ("done", 512)
    assert "a1 compared 512 copies" in said


def test_a_key_makes_one_document_however_often_it_is_put(cluster: LocalCluster) -> None:
    """What the command tells its user to repeat is safe to repeat."""
    first = put(cluster, "one", "--key", "k1")
    again = json.loads(stele(cluster, "put", "--key", "k1", "-o", "json", content=b"one")[0])
    assert (again["id"], again["replayed"], again["key"]) == (first, True, "k1")
    said = stele(cluster, "put", "--key", "k1", exit_code=2, content=b"two")[1]
    assert "another body; nothing was changed" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("get", "1234"), "is no document's id"),
        (("owners", "1234"), "is no document's id"),
        (("put", "no-such-file"), "can't be read (No such file or directory)"),
        (("events", "--since", "soon"), "write 90s, 10m, 2h or 1d"),
        (("get", "00000000-0000-7000-8000-000000000000", "-c", "a/b"), "one, two, quorum or all"),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_sentence(
    cluster: LocalCluster, arguments: tuple[str, ...], says: str
) -> None:
    """With what is right, and exit code 2."""
    out, said = stele(cluster, *arguments, exit_code=2)
    assert out == ""
    assert said.startswith("stele: ")
    assert says in said
    assert said.count("\n") == 1


def test_events_of_all_nodes_come_by_time_and_a_copied_log_goes_on(cluster: LocalCluster) -> None:
    """A log that logrotate has copied and cut off begins anew at its start."""
    log = cluster.var.log_file("a1")
    os.truncate(log, 0)
    document = put(cluster, "told")
    told = [json.loads(line) for line in events(cluster, "-o", "json")[0].splitlines()]
    times = [event["timestamp"] for event in told]
    assert times == sorted(times)
    assert {event["node"] for event in told} == {"a1", "a2", "a3"}
    (created,) = [event for event in told if event.get("document") == document]
    assert log.read_text().startswith("{")
    assert created in [json.loads(line) for line in log.read_text().splitlines()]
    table, _ = events(cluster, "--since", "1h")
    assert f"a1   document.created     document={document}" in table


@pytest.mark.parametrize(
    ("command", "shows", "ends"),
    [
        ("top", b"deletes", b"q"),
        ("status --watch", b"3 of 3 nodes are ready", b"\x03"),
        ("events", b"node.started", b"\x03"),
    ],
)
def test_what_goes_on_in_a_terminal_ends_at_a_key_and_leaves_the_terminal_as_it_was(
    cluster: LocalCluster, command: str, shows: bytes, ends: bytes
) -> None:
    """With exit code 0, whatever was being waited for; a terminal without echo is of no use."""
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with subprocess.Popen(
        ["setsid", "--ctty", *cluster.command(*command.split())],
        cwd=cluster.directory,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        shown, deadline_s = b"", time.monotonic() + 20
        while shows not in shown and time.monotonic() < deadline_s:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65_536)
        os.write(ours, ends)
        try:
            assert process.wait(20) == 0, shown.decode()
        finally:
            process.kill()
    assert shows in shown, shown.decode()
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


def test_a_node_that_is_down_is_seen_by_every_command(cluster: LocalCluster) -> None:
    """Within seconds, and with another exit code; and so is a cluster that is down."""
    documents = [put(cluster, f"text {number}") for number in range(3)]
    assert shown(cluster, "ring")["regions"]["a"]["under_replicated"] == 0
    assert stele(cluster, "hints")[0] == "no hints are held\n"
    measured = shown(cluster, "top", "--once", "--interval", "0.1")
    assert [node["errors_per_s"] for node in measured["nodes"]] == [0, 0, 0]

    cluster.kill("a3")
    documents.append(put(cluster, "while a3 is away", "--consistency", "two"))
    (hint,) = wait_until_held(cluster)
    assert hint["count"] >= 1
    assert "a3 does not answer" in stele(cluster, "hints", exit_code=1)[0]
    table, _ = stele(cluster, "owners", documents[-1], exit_code=1)
    assert "no answer (unreachable)" in table
    assert "hint for a3" in table
    wait_until(lambda: call("GET", f"{cluster.ops_url('a1')}/admin/ring").json["under_replicated"])
    assert "have an owner that is not up" in stele(cluster, "ring", exit_code=1)[0]
    measured = shown(cluster, "top", "--once", "--interval", "0.1", exit_code=1)
    assert ["errors_per_s" in node for node in measured["nodes"]] == [True, True, False]
    out, said = events(cluster, exit_code=1)
    assert "peer.disconnected    peer=a3" in out
    assert said == "a3 does not answer (Connection refused)\n"

    stele(cluster, "down")
    events(cluster, exit_code=3)
    for command in (["ring"], ["hints"], ["top"], ["owners", documents[0]]):
        out, said = stele(cluster, *command, exit_code=3)
        assert (out, "no node answers" in said) == ("", True), command
    said = stele(cluster, "rm", documents[0], exit_code=3)[1]
    assert said == "stele: no node can be reached; nothing was changed.\n"


def wait_until_held(cluster: LocalCluster) -> list[dict[str, Any]]:
    """Hints for a3, of all that hold some."""

    def held() -> list[dict[str, Any]]:
        views = [cluster.view(node, "hints")["targets"] for node in ("a1", "a2")]
        return [view["a3"] for view in views if "a3" in view]

    wait_until(held)
    return held()
