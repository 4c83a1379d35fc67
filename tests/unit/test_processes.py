"""Node processes: nothing is signalled that is not the node, and a node's last words are heard."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import processes
from cluster.vardir import VarDirectory

#: Says that it is there, then sleeps; its arguments after the script are free.
SLEEPER = "import signal, sys; {}; print('up', flush=True); signal.pause()"
Sleeper = subprocess.Popen[bytes]


@pytest.fixture
def var(tmp_path: Path) -> VarDirectory:
    """With the directory of pid files."""
    (tmp_path / "run").mkdir()
    return VarDirectory(tmp_path)


@pytest.fixture
def started() -> Iterator[list[Sleeper]]:
    """Processes that end with the test."""
    sleepers: list[Sleeper] = []
    yield sleepers
    for sleeper in sleepers:
        sleeper.kill()
        sleeper.communicate()


def _sleeper(
    var: VarDirectory,
    started: list[Sleeper],
    arguments: list[str],
    preparation: str = "pass",
) -> Sleeper:
    command = [sys.executable, "-c", SLEEPER.format(preparation), *arguments]
    sleeper = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert sleeper.stdout
    assert sleeper.stdout.readline() == b"up\n"
    started.append(sleeper)
    var.pid_file("a1").write_text(f"{sleeper.pid}\n")
    return sleeper


def _as_node(var: VarDirectory, node: str = "a1") -> list[str]:
    return processes.run_command(var, node)[3:]


def test_a_process_with_the_command_line_of_the_node_is_found(
    var: VarDirectory, started: list[Sleeper]
) -> None:
    """Also by a later command, which knows nothing but VAR."""
    sleeper = _sleeper(var, started, _as_node(var))

    found = processes.find_node(var, "a1")

    assert found
    assert found.pid == sleeper.pid
    assert found.is_alive()
    assert 0 <= found.age_s() < 3600


@pytest.mark.parametrize("whose", ["another program", "another node", "another VAR"])
def test_a_process_that_is_not_the_node_is_never_found(
    var: VarDirectory, started: list[Sleeper], whose: str
) -> None:
    """Pids are reused: after a reboot the file may name anyone's process."""
    arguments = {
        "another program": ["x"],
        "another node": _as_node(var, "a2"),
        "another VAR": _as_node(VarDirectory(var.root / "other")),
    }
    _sleeper(var, started, arguments[whose])

    assert processes.find_node(var, "a1") is None


@pytest.mark.parametrize("content", ["", "x", "-1", "0", "999999999", "1 2", "\xe9"])
def test_a_damaged_pid_file_names_nobody(var: VarDirectory, content: str) -> None:
    """Above all not the process group 0 or everyone, -1."""
    var.pid_file("a1").write_text(content)

    assert processes.find_node(var, "a1") is None


def test_a_zombie_is_gone(var: VarDirectory, started: list[Sleeper]) -> None:
    """Its ports are free; a parent that never reaps it must not keep the node from starting."""
    sleeper = _sleeper(var, started, _as_node(var))
    found = processes.find_node(var, "a1")
    assert found

    assert processes.stop([found], 10) == []

    assert Path(f"/proc/{sleeper.pid}/stat").read_text().split()[2] == "Z"
    assert not found.is_alive()
    assert processes.find_node(var, "a1") is None


def test_a_process_that_ignores_the_request_to_stop_is_killed_and_named(
    var: VarDirectory, started: list[Sleeper]
) -> None:
    """The operator is told, because a node that had to be killed deserves a look."""
    sleeper = _sleeper(var, started, _as_node(var), "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    found = processes.find_node(var, "a1")
    assert found

    assert processes.stop([found], 0.1) == [found]

    assert sleeper.wait() == -signal.SIGKILL


def test_a_reused_pid_is_not_signalled(var: VarDirectory, started: list[Sleeper]) -> None:
    """Between the look and the signal the node may have ended and its pid be another's."""
    sleeper = _sleeper(var, started, _as_node(var))
    found = processes.find_node(var, "a1")
    assert found
    earlier = processes.NodeProcess(found.pid, found.started_ticks - 1)

    earlier.signal(signal.SIGKILL)

    assert not earlier.is_alive()
    assert found.is_alive()
    assert sleeper.poll() is None


def test_a_spawned_process_is_in_a_session_of_its_own_and_writes_to_its_log(
    var: VarDirectory,
) -> None:
    """Ctrl-C in the terminal reaches the command, not the nodes."""
    log = var.root / "a1.log"
    log.write_text("before\n")

    script = "import os, sys; print(os.getsid(0) == os.getpid()); print('err', file=sys.stderr)"
    with processes.spawn([sys.executable, "-u", "-c", script], log) as process:
        process.wait()

    assert log.read_text() == "before\nTrue\nerr\n"
    assert process.pid != os.getpid()


lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=30)


@given(before=st.lists(lines), after=st.lists(lines), detail=lines)
def test_last_words_are_the_last_line_since_the_start(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str], detail: str
) -> None:
    """The sentence of an event where there is one; never a word from an earlier start."""
    log = tmp_path_factory.mktemp("log") / "a1.log"
    earlier = "".join(f"{line}\n" for line in before)
    refusal = json.dumps({"event": "node.refused", "detail": detail})
    log.write_text(earlier + "".join(f"{line}\n" for line in [*after, refusal]), encoding="utf-8")

    assert processes.last_words(log, len(earlier.encode())) == detail
    assert processes.last_words(log, log.stat().st_size) == ""


def test_last_words_of_a_traceback_are_its_error(tmp_path: Path) -> None:
    """And of no log at all, nothing."""
    log = tmp_path / "a1.log"
    log.write_text("Traceback:\n  File\nModuleNotFoundError: No module named 'x'\n\n")

    assert processes.last_words(log, 0) == "ModuleNotFoundError: No module named 'x'"
    assert processes.last_words(tmp_path / "none", 0) == ""
