"""Structs that the garbage collector does not see hold nothing that could lead back to them."""

import asyncio
import enum
import gc
import importlib
import pkgutil
import typing
import weakref
from collections.abc import Iterator
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Any

import msgspec
import pytest

import cluster
import docservice
import kvnode
import scripts
from docservice.documents import Creation

_LEAVES = (bytes, int, str, float, bool, NoneType, enum.Enum, PurePath)


def unseen_structs() -> Iterator[type[msgspec.Struct]]:
    """Every struct with ``gc=False`` of every module."""
    for package in (cluster, docservice, kvnode, scripts):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for one in vars(importlib.import_module(module.name)).values():
                if not (isinstance(one, type) and issubclass(one, msgspec.Struct)):
                    continue
                if one.__module__ == module.name and one.__struct_config__.gc is False:
                    yield one


def is_plain(hint: Any) -> bool:
    """Whether nothing of a type can be part of a cycle."""
    hint = getattr(hint, "__supertype__", hint)
    arguments = [one for one in typing.get_args(hint) if one is not Ellipsis]
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return is_plain(arguments[0])
    if origin is typing.Literal:
        return True
    if origin in (UnionType, typing.Union, tuple):
        return all(map(is_plain, arguments))
    if origin is not None or not isinstance(hint, type):
        return False
    if issubclass(hint, msgspec.Struct):
        return hint.__struct_config__.gc is False
    if issubclass(hint, tuple):
        return all(map(is_plain, typing.get_type_hints(hint).values()))
    return issubclass(hint, _LEAVES)


@pytest.mark.parametrize("struct", list(unseen_structs()), ids=lambda struct: struct.__name__)
def test_what_the_collector_does_not_see_is_plain(struct: type[msgspec.Struct]) -> None:
    """One held a future, that its failure, that a traceback, and that the struct: for ever."""
    hints = typing.get_type_hints(struct, include_extras=True)
    assert [name for name in struct.__struct_fields__ if not is_plain(hints[name])] == []


async def test_a_create_that_failed_leaves_nothing_behind() -> None:
    """The frame that awaited the answer knows the create, and the create the answer."""
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    gone = weakref.ref(answer)

    async def fails(creation: Creation) -> None:
        await creation.answer

    nothing: Any = None
    creation = Creation(nothing, nothing, answer, nothing)
    answer.set_exception(ValueError("in vain"))
    with pytest.raises(ValueError, match="in vain"):
        await fails(creation)
    del answer, creation
    gc.collect()
    assert gone() is None
