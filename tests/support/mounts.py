"""Small file systems that really fill up."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_CHUNK_BYTES: Final = 64 * 1024


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[None]:
    """A file system of its own in an existing directory. Skips the test where it can't be had."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily: a process that a failed test left behind may still have it open.
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(path: Path, leave_bytes: int = 0) -> None:
    """Append to a file until so much of its file system is free, or nothing."""
    with path.open("ab", buffering=0) as filler:
        try:
            while True:
                free_bytes = _free_bytes(path.parent) - leave_bytes
                if free_bytes <= 0:
                    return
                filler.write(bytes(min(_CHUNK_BYTES, free_bytes)))
        except OSError:  # full to the last byte
            return


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
