"""On what it was measured: numbers without that mean nothing."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

_LIBRARIES: Final = ("aiohttp", "uvloop", "msgspec", "msgpack", "plyvel", "crc32c")
_MEMORY_FILE_SYSTEMS: Final = ("tmpfs", "ramfs")


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware, system and libraries."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    #: Of the directory that the nodes wrote to.
    file_system: str
    python: str
    libraries: dict[str, str]
    #: Processes that wanted to run before anything was started here, as a mean over one minute.
    load_average: float

    @property
    def fsync_is_free(self) -> bool:
        """Whether the nodes' files were in memory, so that durable writes look too cheap."""
        return self.file_system in _MEMORY_FILE_SYSTEMS


def this_machine(directory: Path) -> Machine:
    """``directory`` is where the nodes will write."""
    return Machine(
        cpu=cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        file_system=file_system_of(
            directory.resolve(), Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        ),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        libraries={name: version(name) for name in _LIBRARIES},
        load_average=os.getloadavg()[0],
    )


def cpu_model(cpuinfo: str) -> str:
    """The first processor's name in /proc/cpuinfo; some architectures have none there."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system_of(path: Path, mounts: Iterable[str]) -> str:
    """The type of the file system that ``path`` is on, given the lines of /proc/mounts."""
    found, longest = "unknown", -1
    for line in mounts:
        _, mount_point, kind, *_ = line.split()
        # The last of several mounts on one point hides the others.
        if path.is_relative_to(mount_point) and len(mount_point) >= longest:
            found, longest = kind, len(mount_point)
    return found
