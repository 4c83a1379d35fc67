"""Load on servers: one generator process for each endpoint, side by side.

wrk where there is one, for it takes a quarter of the CPU; else ``scripts.bench.generator``. Both
pick from the same deck and print the same report.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from cluster.interrupts import Interrupts
from scripts.bench.sample import NoSample, Sample, combine, parse_report

_LUA: Final = Path(__file__).with_name("deck.lua")
_POLL_S: Final = 0.05
#: A request that takes longer has failed.
_TIMEOUT_S: Final = 10
#: Beyond the run itself: reading the deck, the last answers, counting.
_GRACE_S: Final = 30.0


class Generator(StrEnum):
    """What sends the requests."""

    WRK = "wrk"
    OWN = "own"


class LoadError(Exception):
    """The load could not be applied, or not everything was answered. One whole sentence."""


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What each generator is to do."""

    deck: Path
    #: Look into answers for operations that failed.
    bulk: bool
    connections: int
    seconds: int


def installed_generator() -> Generator:
    """The cheaper one, if it is there."""
    return Generator.WRK if shutil.which("wrk") else Generator.OWN


def apply_load(
    load: Load,
    endpoints: Sequence[Endpoint],
    *,
    generator: Generator,
    seed: int,
    scratch: Path,
    interrupts: Interrupts,
) -> Sample:
    """Run one generator for each endpoint and return what they saw together.

    Args:
        load: The same for each of them.
        endpoints: One may be named several times.
        generator: Which program.
        seed: Different in each call, or idempotency keys are used again.
        scratch: A directory for what they print.
        interrupts: Asked while they run; they are gone when Interrupted is raised.

    Raises:
        LoadError: a generator failed, a connection broke, or an answer was not a success.
    """
    running: list[tuple[subprocess.Popen[bytes], Path]] = []
    try:
        for number, endpoint in enumerate(endpoints):
            printed = scratch / f"generator-{number}.txt"
            command = _command(generator, load, endpoint, seed * len(endpoints) + number)
            with printed.open("wb") as file:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            running.append((process, printed))
        _wait([process for process, _ in running], load.seconds + _GRACE_S, interrupts)
    finally:
        for process, _ in running:
            if process.poll() is None:
                process.kill()
            process.wait()
    sample = combine([_sample(process, printed) for process, printed in running])
    if sample.refused or sample.broken or not sample.requests:
        raise LoadError(
            f"of {sample.requests} requests {sample.refused} were not answered with success, and "
            f"{sample.broken} connections broke or stayed silent for {_TIMEOUT_S} s."
        )
    return sample


def _command(generator: Generator, load: Load, endpoint: Endpoint, seed: int) -> list[str]:
    deck = [str(load.deck), str(seed), "bulk" if load.bulk else "single"]
    connections, seconds = str(load.connections), str(load.seconds)
    if generator is Generator.OWN:
        return [
            *(sys.executable, "-m", "scripts.bench.generator"),
            *(endpoint.host, str(endpoint.port), *deck),
            *("--connections", connections, "--seconds", seconds),
        ]
    return [
        *("wrk", "--threads", "1", "--connections", connections, "--duration", f"{seconds}s"),
        *("--timeout", f"{_TIMEOUT_S}s", "--script", str(_LUA)),
        *(f"http://{endpoint.host}:{endpoint.port}", "--", *deck),
    ]


def _wait(
    processes: Sequence[subprocess.Popen[bytes]], within_s: float, interrupts: Interrupts
) -> None:
    deadline_s = time.monotonic() + within_s
    while any(process.poll() is None for process in processes):
        interrupts.check()
        if time.monotonic() > deadline_s:
            raise LoadError(f"a load generator did not end within {within_s:g} s.")
        time.sleep(_POLL_S)


def _sample(process: subprocess.Popen[bytes], printed: Path) -> Sample:
    text = printed.read_text(encoding="utf-8", errors="replace")
    try:
        return parse_report(text)
    except NoSample:
        last = text.strip().rpartition("\n")[2]
        raise LoadError(
            f"a load generator ended with code {process.returncode}: {last or 'it said nothing'}."
        ) from None
