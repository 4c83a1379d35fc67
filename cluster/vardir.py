"""VAR: the directory in which one local cluster lives.

    cluster.toml      the topology and every setting       cluster.secret   mode 0600
    nodes/<id>/       a node's database                     log/<id>.log     what it said
    run/<id>.pid      its process, while it runs           nodes/<id>.replaced-<time>/  put aside
    run/edge.json     what the edge was started with       run/edge-nodes-*.json  whom it asks

Rules
-----
1. VAR is a cluster if and only if it has cluster.toml. A new one is prepared beside
   cluster.toml.unfinished, which is renamed to cluster.toml when everything else is in place. A
   start that was interrupted half way leaves that file, and the next one begins again: no node
   can have run yet, so nothing is lost.
2. Only what this page lists is ever removed, and a directory that holds anything else is neither
   created in nor cleaned away. A mistyped VAR must not cost a home directory.
3. Commands that change VAR exclude each other by a lock on the directory itself, which the
   kernel gives back however the holder ends.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.clusterfile import render_cluster_file
from cluster.secret import create_secret
from cluster.settings import ClusterSettings
from cluster.topology import read_cluster_file

_CLUSTER_FILE: Final = "cluster.toml"
_UNFINISHED_FILE: Final = "cluster.toml.unfinished"
_REWRITTEN_FILE: Final = "cluster.toml.rewritten"
DEFAULT_ROOT: Final = Path("var")
_SECRET_FILE: Final = "cluster.secret"  # noqa: S105 (a file's name)
_CONTENTS: Final = (
    *(_CLUSTER_FILE, _UNFINISHED_FILE, _REWRITTEN_FILE, _SECRET_FILE),
    *("nodes", "log", "run"),
)


class VarError(Exception):
    """VAR is not what the command needs. The message is one whole sentence."""


@dataclass(frozen=True, slots=True)
class VarDirectory:
    """Paths and life of one VAR. ``root`` is as the operator typed it, so messages show it so."""

    root: Path

    def command(self, words: str) -> str:
        """How to type ``make up`` or ``stele start a2`` so that it acts on this VAR."""
        if self.root == DEFAULT_ROOT:
            return f"`{words}`"
        option = "VAR=" if words.startswith("make ") else "--var "
        return f"`{words} {option}{self.root}`"

    @property
    def cluster_file(self) -> Path:
        """The topology and every setting."""
        return self.root / _CLUSTER_FILE

    @property
    def secret_file(self) -> Path:
        """Read by ``cluster.secret``."""
        return self.root / _SECRET_FILE

    def node_directory(self, node: str) -> Path:
        """A node's database."""
        return self.root / "nodes" / node

    def put_aside(self, node: str, at: str) -> Path | None:
        """Move a node's directory out of the way; where it is now, None if there was none.

        Args:
            at: The time, for its name.
        """
        directory = self.node_directory(node)
        if not directory.exists() or not any(directory.iterdir()):
            return None
        aside = self.root / "nodes" / f"{node}.replaced-{at}"
        directory.rename(aside)
        return aside

    def replaced(self, node: str) -> list[Path]:
        """Directories of a node that ``put_aside`` moved, oldest first."""
        return sorted((self.root / "nodes").glob(f"{node}.replaced-*"))

    def log_file(self, node: str) -> Path:
        """A node's output, appended to over all its starts."""
        return self.root / "log" / f"{node}.log"

    def pid_file(self, node: str) -> Path:
        """A node's process id in decimal, while it runs."""
        return self.root / "run" / f"{node}.pid"

    def edge_nodes_file(self, region: str) -> Path:
        """Whom the edge sends a region's requests to; it looks whenever there is another file."""
        return self.root / "run" / f"edge-nodes-{region}.json"

    @property
    def edge_file(self) -> Path:
        """The edge's configuration, written anew at each of its starts."""
        return self.root / "run" / "edge.json"

    def with_pid_file(self) -> list[str]:
        """What was started and not stopped, whatever the cluster file says by now."""
        return sorted(path.stem for path in (self.root / "run").glob("*.pid"))

    def has_cluster(self) -> bool:
        """Whether a cluster was created here, in full."""
        return self.cluster_file.exists()

    def settings(self) -> ClusterSettings:
        """The cluster file's content. Raises VarError without one, TopologyError for a bad one."""
        if not self.has_cluster():
            raise VarError(self._no_cluster())
        return read_cluster_file(self.cluster_file)

    def rewrite(self, text: str, wanted: ClusterSettings) -> None:
        """Put another text in the cluster file's place, if it says what is wanted.

        Raises VarError: it does not, because the file is written in a way that is not understood
        line by line. Nothing is changed then.
        """
        draft = self.root / _REWRITTEN_FILE
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            if read_cluster_file(draft) != wanted:
                raise VarError(
                    f"{self.cluster_file} must be edited by hand: its nodes are not "
                    "written as tables of their own."
                )
            draft.rename(self.cluster_file)
        finally:
            draft.unlink(missing_ok=True)

    @contextmanager
    def locked(self, *, make: bool = False) -> Iterator[None]:
        """Exclude other commands. With ``make`` the directory may be new; none is left empty."""
        if not make and not self.root.is_dir():
            raise VarError(self._no_cluster())
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise VarError(f"{self.root} cannot be used ({error.strerror}).") from error
        try:
            self._lock(descriptor)
            try:
                yield
            finally:
                with suppress(OSError):  # not empty, as a rule
                    self.root.rmdir()
        finally:
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise VarError(
                f"another command is at work on {self.root}; wait for it, or press Ctrl-C there."
            ) from error

    def create(self, settings: ClusterSettings, initialise: Callable[[Path], None]) -> None:
        """Make a new cluster here.

        Args:
            settings: Checked.
            initialise: Makes every node's directory, given a cluster file to read. Whatever it
                raises leaves a VAR in which ``create`` can be called again.
        """
        self.refuse_unless_new()
        for name in _CONTENTS:
            _remove(self.root / name)
        unfinished = self.root / _UNFINISHED_FILE
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(render_cluster_file(settings))
            file.flush()
            os.fsync(file.fileno())
        for name in ("nodes", "log", "run"):
            (self.root / name).mkdir(mode=0o700)
        create_secret(self.secret_file)
        initialise(unfinished)
        unfinished.rename(self.cluster_file)

    def refuse_unless_new(self) -> None:
        """Raise VarError unless VAR is empty or holds a creation that was interrupted."""
        assert not self.has_cluster()
        if (self.root / _UNFINISHED_FILE).exists():
            return
        present = [path.name for path in self._present()]
        if present and set(present) <= set(_CONTENTS):
            raise VarError(
                f"{self.root} has {' and '.join(present)} but no {_CLUSTER_FILE}; restore that "
                "file, or remove the directory if its documents may go."
            )
        if present:
            raise VarError(
                f"{self.root} is not empty and holds no cluster; choose an empty or new directory "
                "as VAR."
            )

    def remove(self) -> list[Path]:
        """Remove the cluster and its documents; what Stele did not make stays and is returned.

        Raises VarError when VAR is not a cluster's, finished or not.
        """
        if not self.has_cluster() and not (self.root / _UNFINISHED_FILE).exists():
            raise VarError(
                f"{self.root} holds no cluster (no {_CLUSTER_FILE}), so nothing was removed."
            )
        # The cluster file goes last: an interrupted removal can then be repeated.
        for name in reversed(_CONTENTS):
            _remove(self.root / name)
        return self._present()

    def _no_cluster(self) -> str:
        return (
            f"there is no cluster in {self.root} (no {_CLUSTER_FILE}); {self.command('make up')} "
            "creates one, and VAR=DIR (--var DIR) names another directory."
        )

    def _present(self) -> list[Path]:
        return sorted(self.root.iterdir())


def _remove(path: Path) -> None:
    """A file, a link (not what it points to) or a tree; nothing if there is nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
