"""The query string of a document call.

Rules
-----
1. Every value that is allowed is plain ASCII, so nothing is percent-decoded: one meaning, one
   spelling.
2. What is unknown, empty or repeated is refused, never ignored: a client that asked for ``w=all``
   and was not understood must not believe that it got it.
"""

from typing import Final, get_args

from cluster.settings import Quorum
from docservice.documents import Consistency, Level
from docservice.http.problems import RequestRefused

_LEVELS: Final[dict[str, Level]] = {level: level for level in get_args(Level)}
#: Nine copies are the most that a cluster keeps, so a count has one digit.
_QUORUMS: Final[dict[str, Quorum]] = {
    "one": "one",
    "quorum": "quorum",
    "all": "all",
    **{str(count): count for count in range(10)},
}
_SLOPPY: Final = {"true": True, "false": False}


def parse_query(query: str) -> Consistency:
    """What the part after the question mark asks for.

    Raises:
        RequestRefused: a parameter is unknown, repeated or has a value that is not allowed.
    """
    values: dict[str, str] = {}
    for item in query.split("&"):
        name, _, value = item.partition("=")
        if name in values:
            raise RequestRefused("invalid-query", "a parameter is repeated")
        values[name] = value
    try:
        consistency = Consistency(
            level=_LEVELS[values.pop("consistency")] if "consistency" in values else None,
            read=_QUORUMS[values.pop("r")] if "r" in values else None,
            write=_QUORUMS[values.pop("w")] if "w" in values else None,
            sloppy=_SLOPPY[values.pop("sloppy")] if "sloppy" in values else None,
        )
    except KeyError:
        raise RequestRefused("invalid-query", "a value is not one of those allowed") from None
    if values:
        raise RequestRefused("invalid-query", "a parameter is unknown")
    if consistency.level is not None and (consistency.read, consistency.write) != (None, None):
        raise RequestRefused("invalid-query", "consistency and r or w exclude each other")
    if consistency.level == "each_quorum" and consistency.sloppy:
        raise RequestRefused("invalid-query", "each_quorum takes no stand-ins")
    return consistency
