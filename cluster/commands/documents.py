"""Commands that act on documents as any client does: put, get, rm, load."""

import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import msgspec
import typer

from cluster import report, requests
from cluster.commands.options import (
    EXIT_DEGRADED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    IdArgument,
    Output,
    OutputOption,
    UsageError,
    VarOption,
    note,
    print_json,
)
from cluster.ids import parse_document_id
from cluster.requests import Answer, NotAnswered, Outcome
from cluster.vardir import DEFAULT_ROOT, VarDirectory

_JSON: Final = {"Content-Type": "application/json"}
#: See the API's ``Stele-Acks``.
_ACKS: Final = re.compile(
    r"(?P<acknowledged>\d+)/(?P<required>\d+); n=(?P<copies>\d+); hints=(?P<hints>\d+)"
)
_KEY_BYTES: Final = 16
#: What a client did wrong, as opposed to what became of the document.
_AT_FAULT: Final = (400, 413, 415, 422)
_OUTCOMES: Final[Mapping[Outcome, str]] = {
    "not_applied": "nothing was changed",
    "unknown": "it may or may not have been done",
    "applied": "it was done",
}

ConsistencyOption = Annotated[
    str | None,
    typer.Option(
        "--consistency", "-c", help="one, two, quorum or all; the cluster's default otherwise."
    ),
]
PatienceOption = Annotated[
    float, typer.Option("--patience", help="Seconds for trying again while it may help.")
]


def put(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Standard input otherwise.")
    ] = None,
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    ttl: Annotated[int | None, typer.Option(metavar="SECONDS", help="How long it lives.")] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: repeating it makes no second document.")
    ] = None,
    consistency: ConsistencyOption = None,
    patience_s: PatienceOption = 10.0,
) -> None:
    """Create a document, and print its id."""
    body: dict[str, object] = {"content": _content(file)}
    if ttl is not None:
        body["ttl_seconds"] = ttl
    key = key or secrets.token_hex(_KEY_BYTES)
    answer = _send(
        var,
        "POST",
        f"/documents{_query(consistency)}",
        msgspec.json.encode(body),
        patience_s=patience_s,
        headers=_JSON | {"Idempotency-Key": key},
        again=f"the same command with --key {key} can't make a second one",
    )
    created: dict[str, Any] = msgspec.json.decode(answer.body)
    if output is Output.JSON:
        replayed = answer.headers.get("idempotency-replayed") == "true"
        print_json(created | {"key": key, "acks": _acks(answer), "replayed": replayed})
    else:
        typer.echo(created["id"])
        note(f"created by {answer.node}: {_replicas(answer)}")


def get(
    document: IdArgument,
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    consistency: ConsistencyOption = None,
    patience_s: PatienceOption = 10.0,
) -> None:
    """Read a document, and print its content; with -o json all of it."""
    path = f"/documents/{_checked(document)}{_query(consistency)}"
    answer = _send(var, "GET", path, patience_s=patience_s)
    found: dict[str, Any] = msgspec.json.decode(answer.body)
    if output is Output.JSON:
        print_json(found)
    else:
        typer.echo(found["content"], nl=sys.stdout.isatty())


def rm(
    documents: Annotated[list[str], typer.Argument(metavar="ID...", help="Documents' ids.")],
    var: VarOption = DEFAULT_ROOT,
    output: OutputOption = Output.TABLE,
    consistency: ConsistencyOption = None,
    patience_s: PatienceOption = 10.0,
) -> None:
    """Delete documents. It is no error if one is unknown or deleted already."""
    for document in documents:
        _checked(document)
    for document in documents:
        path = f"/documents/{document}{_query(consistency)}"
        answer = _send(
            var, "DELETE", path, patience_s=patience_s, again="the same command may be repeated"
        )
        if output is Output.JSON:
            value = {"id": document, "deleted": True, "acks": _acks(answer)}
            print_json(value, one_line=True)
        else:
            note(f"{document} deleted by {answer.node}: {_replicas(answer)}")


def load(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files or directories.")],
    url: Annotated[
        list[str] | None,
        typer.Option(help="A node; may be repeated. All nodes of the cluster otherwise."),
    ] = None,
    var: VarOption = DEFAULT_ROOT,
    patience_s: Annotated[float, typer.Option(help="Give up after this without progress.")] = 60.0,
    consistency: Annotated[
        str, typer.Option(help="Copies on disk before a document counts as created.")
    ] = "quorum",
    strict: Annotated[bool, typer.Option("--strict", help="Refused texts are failures.")] = False,
) -> None:
    """Load JSON lines and fortune files, and read everything back. Safe to repeat.

    JSON lines are {"content": "...", "idempotency_key": "...", "ttl_seconds": 60}, the last two
    optional; a fortune file holds texts separated by lines of %. Exit code 0: every document that
    the files hold is stored and was read back; texts that can't be documents are listed.
    """
    # Its HTTP client takes longer to import than most commands take in all.
    from scripts.bulk import BulkError  # noqa: PLC0415
    from scripts.load import load_files  # noqa: PLC0415
    from scripts.sources import SourceError  # noqa: PLC0415

    urls = url or [report.data_url(node) for node in VarDirectory(var).settings().node]
    try:
        loaded = load_files(files, urls, patience_s=patience_s, consistency=consistency)
    except (BulkError, SourceError) as error:
        note(f"stele: {error}")
        raise typer.Exit(EXIT_DEGRADED) from error
    if not loaded.documents or loaded.lost or (strict and loaded.refused):
        raise typer.Exit(EXIT_DEGRADED)


def _send(
    var: Path,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    patience_s: float,
    headers: Mapping[str, str] | None = None,
    again: str = "",
) -> Answer:
    """A success, or the end of the command. ``again``: what to do when the outcome is unknown."""
    nodes = VarDirectory(var).settings().node
    try:
        answer = requests.send(
            nodes, method, path, body=body, headers=headers, patience_s=patience_s
        )
    except NotAnswered as error:
        why = "no node can be reached" if error.outcome == "not_applied" else "no node answers"
        _fail(why, error.outcome, again, EXIT_UNREACHABLE)
    if answer.problem is not None:
        problem = answer.problem
        wrong = answer.status in _AT_FAULT
        what = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
        _fail(what, problem.outcome, again, EXIT_USAGE if wrong else EXIT_DEGRADED)
    return answer


def _fail(what: str, outcome: Outcome, again: str, code: int) -> NoReturn:
    sentence = f"stele: {what.rstrip('.')}"
    if again:  # of a request that changes something
        sentence += f"; {_OUTCOMES[outcome]}"
    if again and outcome == "unknown":
        sentence += f", and {again}"
    note(f"{sentence}.")
    raise typer.Exit(code)


def _content(file: Path | None) -> str:
    name = "standard input" if file is None else str(file)
    try:
        raw = sys.stdin.buffer.read() if file is None else file.read_bytes()
        return raw.decode()
    except OSError as error:
        raise UsageError(f"{name} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not text in UTF-8 (byte {error.start}).") from error


def _checked(document: str) -> str:
    if parse_document_id(document) is None:
        raise UsageError(f"{document} is no document's id; ids are UUIDs in lower case.")
    return document


def _query(consistency: str | None) -> str:
    if consistency is None:
        return ""
    if not consistency.isalpha():
        raise UsageError(f"--consistency {consistency} is none; write one, two, quorum or all.")
    return f"?consistency={consistency}"


def _acks(answer: Answer) -> dict[str, int]:
    """Of a write: nodes that have it on disk, that were asked for, that should, and hints."""
    found = _ACKS.fullmatch(answer.headers["stele-acks"])
    assert found is not None, answer.headers["stele-acks"]
    return {name: int(count) for name, count in found.groupdict().items()}


def _replicas(answer: Answer) -> str:
    """The same in words."""
    acks = _acks(answer)
    words = f"{acks['acknowledged']} of {acks['copies']} replicas had it on disk"
    words += f", {acks['required']} had to"
    return f"{words}; {acks['hints']} keep it for one that is away" if acks["hints"] else words
