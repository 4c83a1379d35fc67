"""The API described by the server itself, for programs and for people."""

import json
import re
from typing import Any

import msgspec
import pytest

from docservice.http.metrics import BULK, DOCUMENT, DOCUMENTS
from docservice.http.openapi import openapi_json
from docservice.http.problems import CATALOGUE
from kvnode import errors
from kvnode.errors import StoreError
from tests.support.http import Served, one_loop

OPENAPI = json.loads(openapi_json())
METHODS = ("get", "head", "post", "delete", "put", "patch", "options", "trace")


def references(value: Any) -> list[str]:
    """Every $ref in a JSON value."""
    if isinstance(value, dict):
        found = [value["$ref"]] if "$ref" in value else []
        return found + [ref for item in value.values() for ref in references(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in references(item)]
    return []


def operations() -> list[tuple[str, str, Any]]:
    """Every operation of the OpenAPI document as (method, path, object)."""
    return [
        (method, path, item[method])
        for path, item in OPENAPI["paths"].items()
        for method in METHODS
        if method in item
    ]


async def test_the_openapi_document_is_served(served: Served) -> None:
    """As JSON, complete, to any method that reads."""
    got = await served.call("GET", "/openapi.json")
    head = await served.call("HEAD", "/openapi.json")

    assert got.json(dict)["openapi"].startswith("3.1.")
    assert got.body == openapi_json()
    assert head.headers["content-length"] == str(len(got.body))


def test_every_reference_in_the_openapi_document_leads_somewhere() -> None:
    """A dangling one breaks every generator of clients."""
    assert references(OPENAPI)
    for reference in references(OPENAPI):
        node = OPENAPI
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_operation_is_named_once_and_says_how_it_fails() -> None:
    """Names become functions of generated clients."""
    names = [operation["operationId"] for _, _, operation in operations()]

    assert len(set(names)) == len(names) == 5
    assert {path for _, path, _ in operations()} == {DOCUMENTS, DOCUMENT, BULK}
    for _, _, operation in operations():
        assert {"400", "405", "429", "503"} <= set(operation["responses"])
        assert all(response["description"] for response in operation["responses"].values())


def test_every_problem_is_a_response_of_some_operation() -> None:
    """Apart from those of another path, of the edge, and of what never became a request."""
    described = " ".join(
        response["description"]
        for _, _, operation in operations()
        for response in operation["responses"].values()
    )
    missing = {code for code in CATALOGUE if f"`{code}`" not in described}

    assert missing == {
        "no-such-page",
        "not-implemented",
        "http-version-not-supported",
        "corrupt-record",
        "node-lost",
        "no-answer",
    }


async def test_only_the_methods_that_are_described_are_allowed(served: Served) -> None:
    """The document and the routes are written apart; here they meet."""
    for path in OPENAPI["paths"]:
        target = path.replace("{id}", "01890a5d-ac96-774b-bcce-b302099a8057")
        described = {method.upper() for method, known, _ in operations() if known == path}
        refused = await served.call("PATCH", target)
        assert set(refused.headers["allow"].split(", ")) == described


def test_the_examples_of_the_page_are_what_is_read() -> None:
    """Schemas come from the types, so what they require is what is required."""
    schemas = OPENAPI["components"]["schemas"]

    assert schemas["CreateRequest"]["required"] == ["content"]
    assert schemas["CreateRequest"]["additionalProperties"] is False
    assert set(schemas["Problem"]["required"]) == {
        "type", "title", "status", "detail", "instance", "code", "retryable", "outcome", "acks",
        "required", "trace_id",
    }  # fmt: skip


async def test_the_root_leads_to_the_page(served: Served) -> None:
    """Whoever opens the address that was printed wants to see something."""
    root = await served.call("GET", "/")

    assert (root.status, root.headers["location"]) == (302, "/docs")


async def test_the_page_asks_nothing_of_anyone_else(served: Served) -> None:
    """No address but its own in it, and a policy that would stop it from asking."""
    page = await served.call("GET", "/docs")
    text = page.body.decode()
    policy = page.headers["content-security-policy"]

    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert re.findall(r"https?://|//[a-z]|src=|@import|url\(", text) == []
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert len(re.findall(r"'sha256-[^']{44}'", policy)) == 2
    assert re.findall(r"\son[a-z]+=|\sstyle=", text) == []


async def test_the_page_lists_every_problem(served: Served) -> None:
    """With a link to its explanation."""
    text = (await served.call("GET", "/docs")).body.decode()

    assert set(re.findall(r'href="/problems/([a-z0-9-]+)"', text)) == set(CATALOGUE)


@one_loop
@pytest.mark.parametrize("code", sorted(CATALOGUE))
async def test_the_type_of_a_problem_leads_to_its_explanation(served: Served, code: str) -> None:
    """For a person as a page, for a terminal as text."""
    kind = CATALOGUE[code]
    page = await served.call("GET", f"/problems/{code}", Accept="text/html,*/*;q=0.8")
    text = await served.call("GET", f"/problems/{code}")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert kind.code in page.body.decode()
    assert "$" not in page.body.decode()
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.body.decode().startswith(f"{kind.status} {kind.code}: {kind.title}\n")
    assert kind.explanation in text.body.decode()


def test_the_catalogue_says_what_the_errors_say_of_themselves() -> None:
    """Two places that must not drift apart: the store's errors and their explanations."""
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, StoreError) and error.code in CATALOGUE:
            kind = CATALOGUE[error.code]
            if error is not StoreError:
                assert (kind.retryable, kind.outcome) == (error.retryable, error.outcome), error


def test_every_error_that_a_request_can_meet_is_in_the_catalogue() -> None:
    """All but what stops a node from starting, and what replicas tell only each other."""
    codes = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, StoreError)
    }

    assert codes - set(CATALOGUE) == {"cannot-start", "fenced", "late-copy", "not-owner"}


def test_the_catalogue_speaks_in_whole_sentences() -> None:
    """A title is a heading; an explanation is read by someone in trouble."""
    for kind in CATALOGUE.values():
        assert re.fullmatch("[a-z][a-z0-9-]*", kind.code)
        assert 400 <= kind.status < 600
        assert not kind.title.endswith(".")
        assert kind.explanation.endswith(".")
    assert msgspec.json.encode(CATALOGUE)
