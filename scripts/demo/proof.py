"""Whether both regions hold the same: every document, as each region's API shows it."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from docservice.client import AsyncClient, Document, How, SteleError
from docservice.client.errors import Deleted

Shown = Document | SteleError


class Comparison(msgspec.Struct, frozen=True):
    """Of all documents; ids of those that differ, or that some region can't show."""

    alive: int
    deleted: int
    differing: list[str]


def compare(document_ids: Sequence[str], shown: Sequence[Sequence[Shown]]) -> Comparison:
    """What several regions show of the same documents, each in the same order."""
    alive = deleted = 0
    differing = []
    for document_id, *one in zip(document_ids, *shown, strict=True):
        if all(isinstance(its, Deleted) for its in one):
            deleted += 1
        elif all(isinstance(its, Document) and its == one[0] for its in one):
            alive += 1
        else:
            differing.append(document_id)
    return Comparison(alive, deleted, differing)


async def read_everywhere(
    nodes: Mapping[str, Sequence[str]], document_ids: Sequence[str]
) -> Comparison:
    """Read all of them at quorum in each region, from its nodes themselves.

    Args:
        nodes: URLs by region.
    """

    async def read(urls: Sequence[str]) -> list[Shown]:
        async with AsyncClient(urls, how=How("local_quorum")) as client:
            return await client.get_many(document_ids)

    shown = await asyncio.gather(*(read(urls) for urls in nodes.values()))
    return compare(document_ids, shown)
