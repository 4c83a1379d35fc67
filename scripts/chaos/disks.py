"""What is on the disk of a node that does not run."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from cluster.ids import DocumentId
from kvnode.codec import decode
from kvnode.errors import CorruptRecord
from kvnode.hints import decode_hint
from kvnode.record import Record
from kvnode.storage.database import open_database
from kvnode.storage.keys import document_id_of


class DiskContents(msgspec.Struct):
    """By document."""

    records: dict[DocumentId, Record]
    #: Kept for other nodes.
    hints: dict[DocumentId, list[Record]]
    #: Documents under whose key this node has voted.
    votes: dict[DocumentId, None]

    def documents(self) -> Iterator[DocumentId]:
        """All that anything is there of."""
        return iter(dict.fromkeys([*self.records, *self.hints, *self.votes]))


def read_disk(directory: Path) -> DiskContents:
    """All documents in a node's directory, which is left as it was.

    A record that is damaged is not there. Raises DatabaseDamaged, CannotStart.
    """
    contents = DiskContents({}, {}, {})
    with _copy(directory) as copy, closing(open_database(copy)) as database:
        for key, value in database:
            try:
                match key[:1]:
                    case b"r":
                        document_id = document_id_of(key)
                        contents.records[document_id] = decode(document_id, value)
                    case b"h":
                        document_id = document_id_of(key)
                        held = decode(document_id, decode_hint(value)[1])
                        contents.hints.setdefault(document_id, []).append(held)
                    case b"v":
                        contents.votes[document_id_of(key)] = None
            except CorruptRecord:
                continue
    return contents


@contextmanager
def _copy(directory: Path) -> Iterator[Path]:
    """Opening a database changes its files."""
    with tempfile.TemporaryDirectory(prefix="stele-disk-") as temporary:
        copy = Path(temporary) / "copy"
        copy.mkdir()
        for path in directory.iterdir():
            if path.is_file() and path.name != "ballast":
                shutil.copyfile(path, copy / path.name)
        yield copy
