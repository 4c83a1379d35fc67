"""Free space, and the ballast that keeps deletes possible on a full disk.

A write that meets a full disk costs LevelDB its handle, and to open it again takes room for what is
in its logs (``leveldb``). So creates are refused (507) while there is still room, and when the disk
fills up nevertheless, by others, the ballast is given back so that deletes can still be written.

Rules
-----
1. Free space below ``low_bytes``: creates are refused; reads and deletes go on. They are taken
   again with a quarter more than that, so that it does not flap.
2. Free space below half of the ballast: the ballast is released.
3. The ballast is taken again only when that leaves more than ``low_bytes`` free, and enough for
   rule 2 not to release it at the next check.
"""

import errno
import os
from pathlib import Path

from kvnode.errors import CannotStart

BALLAST_NAME = "ballast"


class DiskGuard:
    """Watches the file system of one node's directory; ``check`` is called once a second."""

    def __init__(self, directory: Path, *, ballast_bytes: int, low_bytes: int) -> None:
        self._directory = directory
        self._ballast = directory / BALLAST_NAME
        self._ballast_bytes = ballast_bytes
        self._low_bytes = low_bytes
        self.free_bytes = 0
        self.low = False

    def check(self) -> None:
        """Measure, then release or retake the ballast as the rules say.

        Raises:
            CannotStart: the directory can't be measured or written.
        """
        try:
            self.free_bytes = self._measure()
            held = self._ballast.exists()
            if held and self.free_bytes < self._ballast_bytes // 2:
                self._ballast.unlink()
                self.free_bytes = self._measure()
            elif not held and self.free_bytes - self._ballast_bytes > max(
                self._low_bytes, self._ballast_bytes // 2
            ):
                self._allocate()
                self.free_bytes = self._measure()
        except OSError as error:
            msg = f"cannot keep watch over the disk of {self._directory}: {error}"
            raise CannotStart(msg) from error
        enough_bytes = self._low_bytes + (self._low_bytes // 4 if self.low else 0)
        self.low = self.free_bytes < enough_bytes

    def release(self) -> None:
        """Give the ballast back: a write has met a full disk. Raises OSError."""
        self._ballast.unlink(missing_ok=True)

    def _measure(self) -> int:
        found = os.statvfs(self._directory)
        return found.f_bavail * found.f_frsize

    def _allocate(self) -> None:
        if self._ballast_bytes == 0:
            return
        descriptor = os.open(self._ballast, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._ballast_bytes)
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._ballast.unlink()  # others were faster: it is taken when there is room again
        finally:
            os.close(descriptor)
