"""What a client has seen, as the tokens of the answers that showed it.

Rules
-----
1. The token of an answer is kept for the documents that the answer was about, and sent with the
   next request about one of them. So tokens stay small, and requests that run at the same time
   do not take each other's away.
   A token takes the place of those that its request had brought: it knows what they knew of that
   document.
2. The DOCUMENTS_MAX documents asked for last are remembered.
3. A token is opaque: it is never looked into.
"""

from collections.abc import Iterable, Mapping
from typing import Final

DOCUMENTS_MAX: Final = 1024
#: What a server takes in one header, by count and, with some room, by length.
TOKENS_MAX: Final = 32
HEADER_CHARS_MAX: Final = 6000
#: Requests about one document, under way at once, whose answers are all remembered.
AT_ONCE_MAX: Final = 16
#: Of how many documents the answer to a bulk request knows.
BULK_KNOWN: Final = 32


class Session:
    """Reads never show less than earlier requests of the session have.

    Args:
        token: What another session, of another process perhaps, gave as its ``token``.
    """

    def __init__(self, token: str = "") -> None:
        self._inherited = [part.strip() for part in token.split(",") if part.strip()]
        #: By document; more than one when requests about it ran at the same time.
        self._tokens: dict[str, tuple[str, ...]] = {}

    @property
    def token(self) -> str:
        """What this session has seen, for another one to go on with: the newest that fits."""
        return self._header(reversed(self._tokens), HEADER_CHARS_MAX // 2)

    def header(self, document_ids: Iterable[str]) -> str:
        """The tokens to send with a request about these documents; empty when there are none."""
        return self._header(document_ids, HEADER_CHARS_MAX)

    def _header(self, document_ids: Iterable[str], chars_max: int) -> str:
        chosen = dict.fromkeys(self._inherited)
        for document_id in document_ids:
            wider = {**chosen, **dict.fromkeys(self._tokens.get(document_id, ()))}
            if not _fits(wider, chars_max):
                break
            chosen = wider
        return ",".join(chosen)

    def has_room_for(self, document_ids: Iterable[str]) -> bool:
        """Whether one request can bring what is known of all these documents."""
        known = [token for one in document_ids for token in self._tokens.get(one, ())]
        return _fits(dict.fromkeys([*self._inherited, *known]))

    def note(self, document_ids: Iterable[str], token: str, brought: str) -> None:
        """Keep the token of an answer about these documents, whose request brought others."""
        known = brought.split(",")
        for document_id in document_ids:
            before = self._tokens.pop(document_id, ())
            besides = [one for one in before if one not in known]
            self._tokens[document_id] = (*besides[1 - AT_ONCE_MAX :], token)
        while len(self._tokens) > DOCUMENTS_MAX:
            del self._tokens[next(iter(self._tokens))]


def _fits(tokens: Mapping[str, None], chars_max: int = HEADER_CHARS_MAX) -> bool:
    return len(tokens) <= TOKENS_MAX and sum(len(token) + 1 for token in tokens) <= chars_max
