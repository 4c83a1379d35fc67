"""Documents as JSON: the bytes written by hand are those that the types describe."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cluster.ids import format_document_id
from docservice.http.representation import CreatedDocument, Document, Representation
from kvnode.record import NEVER_MS, Create

#: Up to 9999, the last year that RFC 3339 can write.
times_ms = st.integers(0, 253_402_300_799_999)
creates = st.builds(
    Create,
    content=st.text(st.characters(exclude_categories=["Cs"]), max_size=50).map(str.encode),
    created_at_ms=times_ms,
    expires_at_ms=st.just(NEVER_MS) | times_ms.filter(bool),
    checksum=st.binary(min_size=32, max_size=32),
)
ids = st.binary(min_size=16, max_size=16).map(format_document_id)


def text_of(wall_ms: int) -> str:
    """RFC 3339, by the slow and sure way."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=wall_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@given(ids, creates)
def test_a_document_is_written_as_its_type_says(id_text: str, create: Create) -> None:
    """To the byte what encoding the whole object would give."""
    expected = Document(
        id=id_text,
        content=create.content.decode(),
        status="ACTIVE",
        created_at=text_of(create.created_at_ms),
        delete_at=None if create.expires_at_ms == NEVER_MS else text_of(create.expires_at_ms),
        checksum=create.checksum.hex(),
    )

    assert Representation().document(id_text, create) == msgspec.json.encode(expected)


@given(ids, creates)
def test_what_a_create_answers_is_the_document_without_its_content(
    id_text: str, create: Create
) -> None:
    """Field for field the same, so that a client can keep either."""
    writer = Representation()
    document = msgspec.json.decode(writer.document(id_text, create), type=dict[str, object])
    created = writer.created(id_text, create)

    del document["content"]
    assert created == msgspec.json.encode(msgspec.convert(document, CreatedDocument))
