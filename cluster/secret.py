"""The cluster secret: what a node proves in its hello that it belongs here.

32 random bytes, as 64 hexadecimal digits in a file that only its owner may read. A file that
others can read is refused at start, because by then it may have been copied.
"""

import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cluster.topology import TopologyError

SECRET_BYTES: Final = 32


def create_secret(path: Path) -> None:
    """Write a new secret to ``path``, which must not exist, with mode 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_secret(path: Path) -> bytes:
    """The 32 bytes in ``path``. Raises TopologyError when it is missing, public or damaged."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except OSError as error:
        raise TopologyError(
            f"{path}: the cluster secret cannot be read ({error.strerror}); "
            "restore the file that the cluster was created with."
        ) from error
    if mode & 0o077:
        raise TopologyError(
            f"{path}: others may read the cluster secret (mode {mode:04o}); run `chmod 600 {path}`."
        )
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise TopologyError(
            f"{path}: the cluster secret must be {2 * SECRET_BYTES} hexadecimal digits; "
            "restore the file that the cluster was created with."
        )
    return secret
