"""Two sides prove to each other that they know the secret, and to nobody else."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import parse_document_id
from cluster.layout import Version
from kvnode import rpc
from kvnode.rpc.frames import Message, ProtocolError, encode_frame
from kvnode.rpc.handshake import NONCE_BYTES, PROTOCOL_VERSION, Handshake
from kvnode.rpc.operations import FetchResult, Op
from tests.support.pages import example_bytes

SECRET = b"s" * 32
CLUSTER = "0" * 32
LAYOUTS: Sequence[Version] = [("a", 1, b"digest 1")]


def side(
    name: str = "a1",
    *,
    dialer: bool,
    nonce: bytes,
    secret: bytes = SECRET,
    cluster_id: str = CLUSTER,
    layouts: Sequence[Version] = LAYOUTS,
) -> Handshake:
    """One side, as a test wants it to differ."""
    return Handshake(
        secret=secret,
        cluster_id=cluster_id,
        name=name,
        layouts=layouts,
        dialer=dialer,
        nonce=nonce,
    )


def nonce(number: int) -> bytes:
    """A nonce of its own for each number."""
    return number.to_bytes(NONCE_BYTES, "big")


def hello_of(one: Handshake) -> Message:
    """Its first message, as it arrives at the other side."""
    return [int(Op.HELLO), *one.hello()]


def proof_of(one: Handshake, other_hello: Message) -> Message:
    """Its second message."""
    return [int(Op.PROOF), one.receive_hello(other_hello)]


def introduce(dialer: Handshake, acceptor: Handshake) -> tuple[str, str]:
    """All four messages; the names that each side has proved to the other."""
    proof_of_dialer = proof_of(dialer, hello_of(acceptor))
    proof_of_acceptor = proof_of(acceptor, hello_of(dialer))
    return acceptor.receive_proof(proof_of_dialer), dialer.receive_proof(proof_of_acceptor)


names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)


@given(names, names, st.integers(1, 9), st.integers(1, 9))
def test_two_sides_that_know_the_secret_learn_each_others_names(
    one: str, other: str, one_epoch: int, other_epoch: int
) -> None:
    """Also while one of them has a newer ring: gossip brings the other up to date."""
    dialer = side(one, dialer=True, nonce=nonce(1), layouts=[("a", one_epoch, bytes([one_epoch]))])
    acceptor = side(
        other, dialer=False, nonce=nonce(2), layouts=[("a", other_epoch, bytes([other_epoch]))]
    )
    assert introduce(dialer, acceptor) == (one, other)
    assert (dialer.peer, acceptor.peer) == (other, one)


def test_a_wrong_secret_is_refused_by_both_sides() -> None:
    """Each for itself: a side that lies about having checked gains nothing."""
    dialer = side(dialer=True, nonce=nonce(1), secret=b"x" * 32)
    acceptor = side("a2", dialer=False, nonce=nonce(2))
    proofs = proof_of(dialer, hello_of(acceptor)), proof_of(acceptor, hello_of(dialer))
    for checks, proof in ((acceptor, proofs[0]), (dialer, proofs[1])):
        with pytest.raises(ProtocolError, match="cluster secret differs"):
            checks.receive_proof(proof)
        assert checks.peer is None


@given(st.binary(max_size=40))
def test_no_made_up_proof_is_accepted(proof: bytes) -> None:
    """Of any length, the empty one included."""
    acceptor = side(dialer=False, nonce=nonce(2))
    acceptor.receive_hello(hello_of(side("a2", dialer=True, nonce=nonce(1))))
    with pytest.raises(ProtocolError):
        acceptor.receive_proof([Op.PROOF, proof])


def test_another_cluster_is_refused_before_a_proof_is_made() -> None:
    """A node with a wrong file must not join, whatever secret it has."""
    stranger = side(dialer=True, nonce=nonce(1), cluster_id="f" * 32)
    with pytest.raises(ProtocolError, match="cluster id differs"):
        side(dialer=False, nonce=nonce(2)).receive_hello(hello_of(stranger))


def test_another_protocol_version_is_refused_by_name() -> None:
    """Before anything that a later version may have changed is looked at."""
    hello = hello_of(side(dialer=True, nonce=nonce(1)))
    hello[1] = PROTOCOL_VERSION + 1
    with pytest.raises(ProtocolError, match=f"this side speaks {PROTOCOL_VERSION}"):
        side(dialer=False, nonce=nonce(2)).receive_hello(hello)


def test_different_rings_of_one_epoch_are_refused() -> None:
    """They come from different cluster files: each side would look where the other never wrote."""
    other = side(dialer=True, nonce=nonce(1), layouts=[("a", 1, b"digest 2")])
    with pytest.raises(ProtocolError, match="layouts of region a differ at epoch 1"):
        side(dialer=False, nonce=nonce(2)).receive_hello(hello_of(other))


@pytest.mark.parametrize("dialer", [True, False])
def test_own_messages_sent_back_prove_nothing(dialer: bool) -> None:
    """Reflection: without the role in it, a proof would answer its own challenge."""
    victim = side(dialer=dialer, nonce=nonce(1))
    proof = proof_of(victim, hello_of(victim))
    with pytest.raises(ProtocolError, match="secret differs"):
        victim.receive_proof(proof)


def test_a_proof_made_for_one_role_does_not_serve_in_the_other() -> None:
    """Reflection over two connections: one's answer to a challenge is no challenge's answer."""
    dialer = side("a1", dialer=True, nonce=nonce(1))
    acceptor = side("a2", dialer=False, nonce=nonce(2))
    of_dialer = proof_of(dialer, hello_of(acceptor))
    swapped = side("a2", dialer=True, nonce=nonce(2))
    proof_of(swapped, hello_of(dialer))
    with pytest.raises(ProtocolError, match="secret differs"):
        swapped.receive_proof(of_dialer)


@given(st.integers(3, 1 << 64))
def test_a_recorded_handshake_does_not_work_again(fresh: int) -> None:
    """Replay: a side's nonce is new each time, and the proof covers it."""
    dialer = side("a1", dialer=True, nonce=nonce(1))
    acceptor = side("a2", dialer=False, nonce=nonce(2))
    hello, proof = hello_of(dialer), proof_of(dialer, hello_of(acceptor))
    later = side("a2", dialer=False, nonce=nonce(fresh))
    later.receive_hello(hello)
    with pytest.raises(ProtocolError, match="secret differs"):
        later.receive_proof(proof)


def test_a_proof_covers_the_name() -> None:
    """Whoever is between two sides can't make one of them take the other for a third."""
    dialer = side("a1", dialer=True, nonce=nonce(1))
    acceptor = side("a2", dialer=False, nonce=nonce(2))
    proof = proof_of(dialer, hello_of(acceptor))
    renamed = hello_of(dialer)
    renamed[3] = "a3"
    acceptor.receive_hello(renamed)
    with pytest.raises(ProtocolError, match="secret differs"):
        acceptor.receive_proof(proof)


def test_a_proof_before_a_hello_is_refused() -> None:
    """There is no challenge yet that it could answer."""
    with pytest.raises(ProtocolError, match="not a proof"):
        side(dialer=False, nonce=nonce(2)).receive_proof([Op.PROOF, bytes(32)])


def test_a_second_hello_is_refused() -> None:
    """It would replace the nonce that the first proof is about."""
    acceptor = side(dialer=False, nonce=nonce(2))
    hello = hello_of(side(dialer=True, nonce=nonce(1)))
    acceptor.receive_hello(hello)
    with pytest.raises(ProtocolError, match="not a hello"):
        acceptor.receive_hello(hello)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.binary(max_size=20) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.integers(1, 5), _anything)
def test_a_hello_with_a_field_of_another_kind_raises_nothing_but_protocol_errors(
    field: int, value: object
) -> None:
    """Strangers write these fields. Most are refused; none may raise anything else."""
    hello = hello_of(side(dialer=True, nonce=nonce(1)))
    hello[field] = value
    acceptor = side("a2", dialer=False, nonce=nonce(2))
    try:
        acceptor.receive_hello(hello)
    except ProtocolError:
        return
    assert 0 < len(hello[3].encode()) <= 64
    assert hello[1:3] == [PROTOCOL_VERSION, CLUSTER]


@given(st.lists(_anything, max_size=8), st.lists(_anything, max_size=3))
def test_arbitrary_fields_are_refused(hello: list[object], proof: list[object]) -> None:
    """Of any number and kind."""
    with pytest.raises(ProtocolError):
        side(dialer=False, nonce=nonce(2)).receive_hello([Op.HELLO, *hello])
    acceptor = side(dialer=False, nonce=nonce(2))
    acceptor.receive_hello(hello_of(side(dialer=True, nonce=nonce(1))))
    with pytest.raises(ProtocolError):
        acceptor.receive_proof([Op.PROOF, *proof])


def test_the_example_of_the_protocol_page_is_what_the_code_sends() -> None:
    """Whoever reads a capture with the page in hand must not be misled."""
    cluster_id, layouts = "0" * 31 + "1", [("a", 1, bytes(range(8)))]
    dialer = side("a1", dialer=True, nonce=nonce(1), cluster_id=cluster_id, layouts=layouts)
    acceptor = side("a2", dialer=False, nonce=nonce(2), cluster_id=cluster_id, layouts=layouts)
    document_id = parse_document_id("019b76da-a800-7abc-9def-0123456789ab")
    page = Path(rpc.__file__).with_name("PROTOCOL.md")
    assert example_bytes(page, "### Example") == [
        encode_frame([hello_of(dialer)]),
        encode_frame([proof_of(dialer, hello_of(acceptor))]),
        encode_frame([[Op.FETCH, 1, 500, document_id, None]]),
        encode_frame([[Op.REPLY, 1, FetchResult.ABSENT, None]]),
    ]
