"""Taking notes of how a request from another node is answered: the far end of a span there."""

from collections.abc import Sequence

from kvnode.rpc.connection import Answers
from kvnode.rpc.operations import Fields
from kvnode.tracing import OpenSpan


class NotedAnswers:
    """``kvnode.rpc.connection.Answers`` that ends spans."""

    def __init__(self, connection: Answers, spans: Sequence[OpenSpan]) -> None:
        self._connection = connection
        self._spans = spans

    def reply(self, request_id: int, fields: Fields, size_bytes: int) -> None:
        """See ``Answers``."""
        self._end("")
        self._connection.reply(request_id, fields, size_bytes)

    def fail(self, request_id: int, code: str, detail: str, *extra: object) -> None:
        """See ``Answers``."""
        self._end(code)
        self._connection.fail(request_id, code, detail, *extra)

    def abort(self, reason: str) -> None:
        """See ``Answers``."""
        self._end("aborted")
        self._connection.abort(reason)

    def _end(self, error: str) -> None:
        for span in self._spans:
            span.end(error)
