"""One request of the document API, sent to whichever node answers, and what became of it.

Rules
-----
1. Whatever is sent here may be sent again: creates carry an idempotency key, and the other calls
   change nothing twice. So a request goes from node to node while its outcome is unknown, or the
   answer says that another try may end better.
2. Nothing is claimed that is not known. A request that reached a node which did not answer may have
   been carried out, whatever another node says of its own try.
"""

import http.client
import time
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from cluster.settings import NodeSettings

_TIMEOUT_S: Final = 8.0
_AGAIN_AFTER_S: Final = 0.2

Outcome = Literal["not_applied", "unknown", "applied"]


class Problem(msgspec.Struct):
    """What went wrong (RFC 9457), as far as it decides what to do."""

    title: str = ""
    detail: str = ""
    code: str = ""
    retryable: bool = False
    outcome: Outcome = "not_applied"


class Answer(msgspec.Struct):
    """The last node's answer."""

    node: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    #: None: it is a success.
    problem: Problem | None

    @property
    def is_settled(self) -> bool:
        """Whether another try can't end otherwise."""
        problem = self.problem
        return problem is None or not (problem.retryable or problem.outcome == "unknown")


class NotAnswered(Exception):
    """No node has answered. ``outcome``: whether the request may have been carried out."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def send(
    nodes: Sequence[NodeSettings],
    method: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    patience_s: float,
) -> Answer:
    """Send a request until an answer settles it, patience ends, or no node can be reached.

    Raises:
        NotAnswered: see rule 2.
    """
    deadline_s = time.monotonic() + patience_s
    maybe_applied = False
    answer: Answer | None = None
    while True:
        reached = False
        for node in nodes:
            try:
                answer = _send_once(node, method, path, body, headers or {})
            except _Silent as silent:
                reached = reached or silent.sent
                maybe_applied = maybe_applied or silent.sent
                continue
            reached = True
            if answer.is_settled:
                return answer
            assert answer.problem is not None
            maybe_applied = maybe_applied or answer.problem.outcome == "unknown"
        if not reached or time.monotonic() > deadline_s:
            break
        time.sleep(_AGAIN_AFTER_S)
    if answer is None:
        raise NotAnswered("unknown" if maybe_applied else "not_applied")
    if answer.problem is not None and maybe_applied:
        answer.problem.outcome = "unknown"
    return answer


class _Silent(Exception):
    """A node did not answer. ``sent``: it may have got the request all the same."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__(sent)
        self.sent = sent


def _send_once(
    node: NodeSettings, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
) -> Answer:
    connection = http.client.HTTPConnection(node.host, node.http_port, timeout=_TIMEOUT_S)
    try:
        connection.connect()
    except OSError as error:
        raise _Silent(sent=False) from error
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _Silent(sent=True) from error
    finally:
        connection.close()
    problem = None
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        try:
            problem = msgspec.json.decode(content, type=Problem)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            problem = Problem(f"an answer {response.status} that is not Stele's", outcome="unknown")
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(node.id, response.status, found, content, problem)
