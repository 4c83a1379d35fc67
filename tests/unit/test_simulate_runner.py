"""The runner of the simulation, with workers that only say what became of a case.

What they say depends on the seed: 13 fails, 66 ends the process, 77 hangs.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from scripts.simulate.__main__ import INTERRUPTED, command, simulate
from scripts.simulate.case import Case, Failure, Outcome
from scripts.simulate.checkpoint import Chosen, Keeper, OtherCode, Progress, load
from scripts.simulate.corpus import entries
from scripts.simulate.pool import ROOT, Worker, sweep, workers
from scripts.simulate.tally import MANY_SEEDS, Tally

_DEADLINE_S: Final = 20.0
_PLAYS: Final = """
import json, os, sys, time
for line in sys.stdin:
    kind, seed, *only = line.strip().split(":")
    only = [name for name in only[0].split("+") if name] if only else None
    outcome = {"case": {"kind": kind, "seed": int(seed), "only": only}, "simulated_s": 30.0}
    outcome["met"] = {"by hash seed " + os.environ["PYTHONHASHSEED"]: 1, "pid": os.getpid()}
    if seed == "13":
        outcome["failure"] = {"broken": "I4", "faults": ["n0.0"], "report": "I4: it is back"}
    if seed == "66":
        os._exit(3)
    if seed == "77":
        os.write(2, f"waits {os.getpid()}\\n".encode())
        time.sleep(600)
    print(json.dumps(outcome), flush=True)
"""
_COMMAND: Final = (sys.executable, "-c", _PLAYS)


def _cases(*seeds: int) -> list[Case]:
    return [Case("histories", seed) for seed in seeds]


def _keeper(directory: Path) -> Keeper:
    return Keeper(directory / "run.json", Chosen("histories", 0, 100, "this code"))


def _simulate(directory: Path, *seeds: int, before: Progress | None = None) -> int:
    return simulate(_cases(*seeds), 2, _keeper(directory), before, _COMMAND)


def _swept(cases: list[Case], processes: int = 2, hung_s: float = _DEADLINE_S) -> list[Outcome]:
    outcomes: list[Outcome] = []

    async def main() -> None:
        async with workers(processes, _COMMAND, hung_s) as crew:
            await sweep(crew, cases, outcomes.append)

    asyncio.run(main())
    return outcomes


def test_a_run_in_which_all_held_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """How many seeds, how much time of theirs, and nothing else to read."""
    assert _simulate(tmp_path, 1, 2, 3) == 0
    told = capsys.readouterr()
    assert "passed: 3 of 3 seeds, 0 failed" in told.out
    assert "1 min 30 s simulated" in told.out
    assert "seeds/s" in told.err


def test_a_seed_that_fails_is_told_and_fails_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The others are played all the same, and then a smaller plan of it is looked for."""
    assert _simulate(tmp_path, 12, 13, 14) == 1
    told = capsys.readouterr().out
    assert "I4: it is back" in told
    assert "FAILED: 3 of 3 seeds, 1 failed" in told
    assert "histories:13: leaving out faults" in told
    (kept,) = entries(tmp_path / "found").items()
    assert kept[0] == "histories-13"
    assert kept[1].case == Case("histories", 13, ()), "it fails without any fault"
    assert str(tmp_path / "found" / "histories-13.toml") in told


def test_a_run_goes_on_where_it_was_broken_off(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nothing is played twice (66 would fail), and the verdict is on all of it."""
    before = Progress([66, 1], [], {"by hash seed 1": 2, "rare": 1}, 60.0, 100.0)
    assert _simulate(tmp_path, 1, 2, 66, before=before) == 0
    told = capsys.readouterr().out
    assert "passed: 3 of 3 seeds" in told
    assert "1 min 30 s simulated in 1 min 4" in told
    assert "        1  rare" in told
    progress = load(tmp_path / "run.json", "this code").progress
    assert sorted(progress.done) == [1, 2, 66]
    assert progress.took_s > before.took_s
    assert sum(count for name, count in progress.met.items() if name.startswith("by")) == 3


@given(
    done=st.lists(st.integers(0, 10**6), unique=True),
    met=st.dictionaries(st.text(), st.integers(0, 10**9)),
    times_s=st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)),
    failed=st.booleans(),
)
def test_what_is_kept_of_a_run_is_all_that_it_has_come_to(
    done: list[int],
    met: dict[str, int],
    times_s: tuple[float, float],
    failed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """A failure of yesterday is one of the run."""
    keeper = _keeper(tmp_path_factory.mktemp("runs") / "new")
    failures = [Outcome(Case("lifetimes", 3, ("s.1",)), failure=Failure("I4", ("s.1",), "it is"))]
    progress = Progress(done, failures * failed, met, *times_s)
    keeper.save(Progress([], [], {}, 0.0, 0.0))
    keeper.save(progress)
    assert load(keeper.path, "this code").progress == progress
    assert Tally(10, before=progress).progress_made().failures == progress.failures
    assert Tally(len(done), before=progress).passed == (not failed and len(done) < MANY_SEEDS)


def test_a_run_does_not_go_on_with_other_code(tmp_path: Path) -> None:
    """Its seeds would be other histories: half of a run of each is a run of neither."""
    keeper = _keeper(tmp_path)
    keeper.save(Progress([1], [], {}, 30.0, 1.0))
    with pytest.raises(OtherCode, match="this code"):
        load(keeper.path, "other code")
    with pytest.raises(typer.BadParameter, match="remove it to begin again"):
        command(resume=keeper.path)
    keeper.path.write_text("{")
    with pytest.raises(typer.BadParameter, match="remove it to begin again"):
        command(resume=keeper.path)


def test_every_case_is_played_once_and_each_worker_has_a_hash_seed_of_its_own() -> None:
    """An order that comes from hashing shows only where hashes differ."""
    outcomes = _swept(_cases(*range(40)), processes=3)
    assert sorted(outcome.case.seed for outcome in outcomes) == list(range(40))
    seen = {name for outcome in outcomes for name in outcome.met if name != "pid"}
    assert seen == {f"by hash seed {number}" for number in (1, 2, 3)}


def test_a_worker_that_dies_fails_its_case_and_no_other() -> None:
    """Another takes its place; the report says how to see it again."""
    outcomes = {outcome.case.seed: outcome for outcome in _swept(_cases(1, 66, 2), processes=1)}
    failure = outcomes[66].failure
    assert failure is not None
    assert "ended with 3" in failure.report
    assert "python -m scripts.simulate --replay histories:66" in failure.report
    assert outcomes[1].failure is outcomes[2].failure is None
    assert outcomes[1].met["pid"] != outcomes[2].met["pid"]


def test_a_worker_that_hangs_fails_its_case_and_is_killed() -> None:
    """A loop that never comes back to the event loop would hold up the run for ever."""
    outcomes = {one.case.seed: one for one in _swept(_cases(77, 2), processes=1, hung_s=0.5)}
    assert outcomes[77].failure is not None
    assert outcomes[2].failure is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_ends_at_once_and_leaves_no_worker(
    number: int, tmp_path: Path
) -> None:
    """It says what was done until then, and how to go on; that is kept."""
    program = (
        "from pathlib import Path\n"
        "from tests.unit.test_simulate_runner import _simulate\n"
        f"raise SystemExit(_simulate(Path({str(tmp_path)!r}), 1, 77, 2, 77, 3))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        hanging = [line.split() for line in _until(running, "waits", times=2)]
        running.send_signal(number)
        out, _ = running.communicate(timeout=_DEADLINE_S)
        assert running.returncode == INTERRUPTED
    assert "interrupted: 2 of 5 seeds, 0 failed" in out
    assert f"to go on: python -m scripts.simulate --resume {tmp_path}/run.json" in out
    assert sorted(load(tmp_path / "run.json", "this code").progress.done) == [1, 2]
    for _, pid in hanging:
        _wait_gone(int(pid))


def _until(running: "subprocess.Popen[str]", word: str, times: int) -> list[str]:
    assert running.stderr is not None
    found: list[str] = []
    while len(found) < times:
        line = running.stderr.readline()
        assert line, "the run ended"
        if line.startswith(word):
            found.append(line)
    return found


def _wait_gone(pid: int) -> None:
    give_up_s = time.monotonic() + _DEADLINE_S
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < give_up_s, f"worker {pid} still runs"
        os.sched_yield()


def test_what_was_never_met_fails_a_long_run_and_no_short_one() -> None:
    """A path that nothing takes any more is a check that checks nothing."""
    tally = Tally(MANY_SEEDS)
    for outcome in [Outcome(Case("histories", 1), met={"hint": 1, "orphan": 0})] * MANY_SEEDS:
        assert tally.never_met == []
        tally.add(outcome)
    assert tally.never_met == ["orphan"]
    assert not tally.passed
    assert tally.verdict().startswith("FAILED: ")
    assert tally.verdict().endswith("never met: orphan")


def test_a_run_that_met_everything_passes_if_it_did_all() -> None:
    """And not when it was broken off."""
    tally = Tally(2)
    tally.add(Outcome(Case("histories", 1), met={"hint": 1}))
    assert tally.verdict().startswith("FAILED: 1 of 2 seeds")
    tally.add(Outcome(Case("histories", 2), met={"hint": 0}))
    assert tally.passed
    assert "        1  hint" in tally.counters()


def test_progress_says_when_the_run_will_be_over() -> None:
    """From how long it took so far."""
    now_s = 0.0
    tally = Tally(40, clock=lambda: now_s)
    tally.add(Outcome(Case("histories", 1), simulated_s=61.0))
    now_s = 2.0
    expected = "1 of 40 seeds, 0 failed, 0.50 seeds/s, 1 min 01 s simulated, 1 min 18 s to go"
    assert tally.progress() == expected


async def test_a_worker_is_started_only_when_it_is_needed() -> None:
    """And can be killed before that."""
    worker = Worker(_COMMAND, 1)
    await worker.stop()
    assert (await worker.play(Case("histories", 1))).failure is None
    await worker.stop()
