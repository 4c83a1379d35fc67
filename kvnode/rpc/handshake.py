"""Who is there: both sides of a new connection prove that they know the cluster's secret.

    both:  [HELLO, protocol version, cluster id, name, [[region, epoch, digest]], nonce]
    both:  [PROOF, HMAC-SHA256(secret, role + own hello + other's hello)]

Rules
-----
1. The proof covers both nonces, so it can't be replayed, and the prover's role (dialer or
   acceptor), so it can't be reflected.
2. Nothing but these two messages is read before the proof is verified, in frames of at most 1 KiB.
3. Two sides with the same epoch and different layouts of a region read different cluster files:
   each would send documents where the other does not look. They don't talk. Different epochs are
   none of this: one of the two will soon know what the other does (``kvnode.services.layouts``).
4. A refusal names its reason to the other side, for an operator to read; it never says more than
   which field differed.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Final

import msgpack
import msgspec

from cluster.layout import Version
from kvnode.rpc.frames import Message, ProtocolError

PROTOCOL_VERSION: Final = 2
NONCE_BYTES: Final = 16
_NAME_BYTES_MAX: Final = 64


class Handshake:
    """One side of one handshake, without IO: messages in, messages out.

    Args:
        secret: The cluster's secret.
        cluster_id: Must be equal on both sides.
        name: A node id, or ``client/...`` for a document service.
        layouts: Of each region, which one this side uses.
        dialer: Whether this side opened the connection.
        nonce: 16 fresh random bytes.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        cluster_id: str,
        name: str,
        layouts: Sequence[Version],
        dialer: bool,
        nonce: bytes,
    ) -> None:
        assert len(nonce) == NONCE_BYTES
        self._secret = secret
        self._cluster_id = cluster_id
        self._epochs = {region: (epoch, digest) for region, epoch, digest in layouts}
        self._dialer = dialer
        self._own_fields = [PROTOCOL_VERSION, cluster_id, name, list(map(list, layouts)), nonce]
        self._peer_fields: list[Any] | None = None
        #: The layouts that the other side uses.
        self.peer_layouts: list[Version] = []
        #: The proven name of the other side; None until then.
        self.peer: str | None = None

    def hello(self) -> list[Any]:
        """This side's fields of HELLO."""
        return self._own_fields

    def receive_hello(self, message: Message) -> bytes:
        """Check the other side's HELLO and return this side's PROOF.

        Raises:
            ProtocolError: another protocol version, another cluster, or not a HELLO.
        """
        fields = message[1:]
        if self._peer_fields is not None or len(fields) != len(self._own_fields):
            msg = "not a hello"
            raise ProtocolError(msg)
        version, cluster_id, name, layouts, nonce = fields
        if version != PROTOCOL_VERSION:
            msg = f"protocol version differs: this side speaks {PROTOCOL_VERSION}"
            raise ProtocolError(msg)
        if cluster_id != self._cluster_id:
            msg = "cluster id differs"
            raise ProtocolError(msg)
        if not (isinstance(name, str) and 0 < len(name.encode()) <= _NAME_BYTES_MAX):
            msg = "name is not a short string"
            raise ProtocolError(msg)
        if not (isinstance(nonce, bytes) and len(nonce) == NONCE_BYTES):
            msg = "not a hello"
            raise ProtocolError(msg)
        self.peer_layouts = self._checked(layouts)
        self._peer_fields = fields
        return self._proof(self._own_fields, fields, dialer=self._dialer)

    def _checked(self, layouts: object) -> list[Version]:
        """Rule 3."""
        try:
            theirs = msgspec.convert(layouts, list[Version])
        except msgspec.ValidationError as error:
            msg = "not a hello"
            raise ProtocolError(msg) from error
        for region, epoch, digest in theirs:
            known = self._epochs.get(region)
            if known is not None and epoch == known[0] and digest != known[1]:
                msg = (
                    f"layouts of region {region} differ at epoch {epoch}: the two sides read "
                    "different cluster files"
                )
                raise ProtocolError(msg)
        return theirs

    def receive_proof(self, message: Message) -> str:
        """Check the other side's PROOF and return its name.

        Raises:
            ProtocolError: no HELLO came before, or the other side does not know the secret.
        """
        if self._peer_fields is None or len(message) != 2 or not isinstance(message[1], bytes):
            msg = "not a proof"
            raise ProtocolError(msg)
        wanted = self._proof(self._peer_fields, self._own_fields, dialer=not self._dialer)
        if not hmac.compare_digest(wanted, message[1]):
            msg = "cluster secret differs"
            raise ProtocolError(msg)
        name: str = self._peer_fields[2]
        self.peer = name
        return name

    def _proof(self, prover: list[Any], other: list[Any], *, dialer: bool) -> bytes:
        role = b"dialer" if dialer else b"acceptor"
        covered: bytes = msgpack.packb([role, prover, other])
        return hmac.new(self._secret, covered, hashlib.sha256).digest()
