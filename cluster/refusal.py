"""Why a value was refused, in words: the key, what is allowed there, and what was found.

msgspec says where a value is wrong, in its own terms ("Expected `int` <= 9 - at
`$.replication.copies`"). Only the place is taken from it. What is allowed is read off the type, so
nothing here changes when a setting is added.
"""

import difflib
import json
import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import inspect

_VALUE_LENGTH_MAX: Final = 60
_PLACE = re.compile(r" - at `\$(?P<path>.*)`$")
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+)\]")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<key>.*?)`")
_MISSING = re.compile(r"^Object missing required field `(?P<key>.*?)`")
_PATTERNS: Final = {
    r"^[0-9a-f]{32}\Z": "32 lower-case hexadecimal digits",
    r"^[a-z0-9][a-z0-9-]{0,31}\Z": "1 to 32 lower-case letters, digits and inner hyphens",
    r"^(https?://\S+)?\Z": 'a URL as "http://host:port", or empty',
}


def explain(error: msgspec.ValidationError, raw: object, root: type) -> str:
    """One sentence, without the file's name.

    Args:
        error: What ``msgspec.convert(raw, root)`` raised.
        raw: The value that was refused.
        root: A struct type.
    """
    message = str(error)
    place = _PLACE.search(message)
    path = _steps(place["path"]) if place else []
    if unknown := _UNKNOWN.match(message):
        return _unknown_key(path, unknown["key"], _type_at(root, path))
    if missing := _MISSING.match(message):
        key = missing["key"]
        wanted = allowed(_type_at(root, [*path, key]))
        where = f"{_name(path)} has" if path else "there is"
        return f"{where} no {key}; add it: {wanted}."
    return f"{_name(path)} must be {allowed(_type_at(root, path))}, not {_shown(_at(raw, path))}."


def allowed(wanted: inspect.Type) -> str:
    """What a type admits, as the end of "must be ..."."""
    match wanted:
        case inspect.BoolType():
            words = "true or false"
        case inspect.IntType():
            words = "a whole number" + _bounds(wanted)
        case inspect.FloatType():
            words = "a number" + _bounds(wanted)
        case inspect.StrType(pattern=None):
            words = "text"
        case inspect.StrType(pattern=str(pattern)):
            words = _PATTERNS[pattern]
        case inspect.LiteralType(values=values):
            words = " or ".join(json.dumps(value) for value in values)
        case inspect.UnionType(types=types):
            words = " or ".join(allowed(one) for one in types)
        case inspect.VarTupleType():
            words = "a list of tables"
        case inspect.StructType():
            words = "a table"
        case _:
            raise AssertionError(f"no words for {wanted}")
    return words


def _bounds(number: inspect.IntType | inspect.FloatType) -> str:
    if number.ge is not None and number.le is not None:
        return f" from {number.ge} to {number.le}"
    above = None if number.gt is None else f"above {number.gt}"
    least = None if number.ge is None else f"of at least {number.ge}"
    most = None if number.le is None else f"at most {number.le}"
    words = " and ".join(word for word in (above, least, most) if word)
    return f" {words}" if words else ""


def _unknown_key(path: Sequence[str | int], key: str, table: inspect.Type) -> str:
    assert isinstance(table, inspect.StructType)
    known = [field.encode_name for field in table.fields]
    near = difflib.get_close_matches(key, known, n=1)
    meant = f"did you mean {near[0]}" if near else f"known are {', '.join(known)}"
    where = _name(path) if path else "the top level"
    return f"{where} has an unknown key {key} ({meant}?); correct or remove it."


def _steps(path: str) -> list[str | int]:
    return [
        int(step["index"]) if step["index"] else str(step["key"]) for step in _STEP.finditer(path)
    ]


def _name(path: Sequence[str | int]) -> str:
    """``replication.copies``, ``zone of node number 2``: items count from 1, as a reader does."""
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f" number {step + 1}"
        elif " " in name:
            name = f"{step} of {name}"
        else:
            name += f".{step}" if name else step
    return name


def _type_at(root: type, path: Sequence[str | int]) -> inspect.Type:
    found = inspect.type_info(root)
    for step in path:
        if isinstance(step, int):
            assert isinstance(found, inspect.VarTupleType)
            found = found.item_type
        else:
            assert isinstance(found, inspect.StructType)
            found = next(field.type for field in found.fields if field.encode_name == step)
    return found


def _at(raw: object, path: Sequence[str | int]) -> object:
    for step in path:
        raw = raw[step]  # type: ignore[index]
    return raw


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _VALUE_LENGTH_MAX else f"{text[:_VALUE_LENGTH_MAX]}..."
