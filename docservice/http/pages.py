"""The pages of this server itself: the API described for people and for programs.

Rules
-----
1. A page is complete in itself: no script, style, font or picture comes from anywhere else, and its
   Content-Security-Policy holds it to that. Scripts and styles in it are named by their hashes.
2. Everything here is built once, when the listener starts.
"""

import base64
import hashlib
import html
import re
from importlib.resources import files
from string import Template
from typing import Final

from docservice.http.headers import Headers, prefers_html
from docservice.http.metrics import PROBLEM, UNMATCHED
from docservice.http.openapi import openapi_json
from docservice.http.problems import CATALOGUE, TYPE_PREFIX, ProblemKind, RequestRefused
from docservice.http.replies import Reply, ReplyWriter

ROOT: Final = "/"
DOCS: Final = "/docs"
OPENAPI: Final = "/openapi.json"
_HTML: Final = "text/html; charset=utf-8"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class Pages:
    """Everything that is not a document."""

    def __init__(self, replies: ReplyWriter) -> None:
        self._replies = replies
        problem = _template("problem.html")
        docs = _template("docs.html").replace("<!-- problems -->", _problem_rows())
        self._docs = docs.encode()
        self._docs_headers = _html_headers(docs)
        self._problem = Template(problem)
        self._problem_headers = _html_headers(problem)
        self._openapi = openapi_json()

    def route(self, target: str) -> str:
        """The label of a path for the metrics."""
        if target in {ROOT, DOCS, OPENAPI}:
            return target
        return PROBLEM if target.startswith(TYPE_PREFIX) else UNMATCHED

    def answer(self, method: str, target: str, headers: Headers) -> Reply:
        """The page at a path.

        Raises:
            RequestRefused: there is none, or the method is not for reading.
        """
        kind = CATALOGUE.get(target.removeprefix(TYPE_PREFIX))
        if kind is None and target not in {ROOT, DOCS, OPENAPI}:
            raise RequestRefused("no-such-page")
        if method not in {"GET", "HEAD"}:
            raise RequestRefused("method-not-allowed", headers="Allow: GET, HEAD\r\n")
        if kind is not None:
            return self._explain(kind, headers)
        if target == OPENAPI:
            return self._replies.ok(self._openapi, "application/json")
        if target == DOCS:
            return self._replies.ok(self._docs, _HTML, self._docs_headers)
        return self._replies.found(DOCS)

    def _explain(self, kind: ProblemKind, headers: Headers) -> Reply:
        facts = {
            "status": str(kind.status),
            "code": kind.code,
            "title": kind.title,
            "explanation": kind.explanation,
            "retryable": "yes" if kind.retryable else "no",
            "outcome": kind.outcome.replace("_", " "),
        }
        if prefers_html(headers):
            escaped = {name: html.escape(fact) for name, fact in facts.items()}
            page = self._problem.substitute(escaped)
            return self._replies.ok(page.encode(), _HTML, self._problem_headers)
        text = (
            f"{kind.status} {kind.code}: {kind.title}\n\n{kind.explanation}\n\n"
            f"Retry unchanged: {facts['retryable']}\nOutcome: {facts['outcome']}\n"
        )
        return self._replies.ok(text.encode(), "text/plain; charset=utf-8")


def _template(name: str) -> str:
    return files("docservice.http").joinpath(name).read_text(encoding="utf-8")


def _problem_rows() -> str:
    """The catalogue as rows of a table."""
    return "\n".join(
        f'<tr><td>{kind.status}</td><td><a href="{TYPE_PREFIX}{kind.code}">{kind.code}</a></td>'
        f"<td>{html.escape(kind.title)}</td><td>{'yes' if kind.retryable else ''}</td></tr>"
        for kind in sorted(CATALOGUE.values(), key=lambda kind: kind.status)
    )


def _html_headers(page: str) -> str:
    """Header lines that keep a page to itself."""
    sources: dict[str, list[str]] = {"script": [], "style": []}
    for element, text in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        sources[element].append(f"'sha256-{digest}'")
    directives = "; ".join(
        f"{element}-src {' '.join(hashes)}" for element, hashes in sources.items() if hashes
    )
    return (
        f"Content-Security-Policy: default-src 'none'; {directives}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
        "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    )
