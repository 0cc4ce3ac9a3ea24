"""The form of ``report.json``, published as a JSON Schema, and the check of a document against it.

The check knows the keywords that the schema uses, and no others; the tests hold it against a
complete validator.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA_FILE = Path(__file__).parent.parent / "assets" / "report.schema.json"
Schema = dict[str, Any]
Values = Any  # of a JSON document
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


def load_schema() -> Schema:
    """Return the published schema (draft 2020-12)."""
    schema: Schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return schema


def first_problem(values: Values, part: str = "") -> str:
    """Return where a document first departs from the schema, and how; empty if nowhere.

    Args:
        values: The document.
        part: The part of a report that it is alone; empty for a whole report.
    """
    schema = load_schema()
    form = schema["$defs"][part] if part else schema
    return next(_problems(values, form, "", schema["$defs"]), "")


def _problems(values: Values, schema: Schema, place: str, defs: Schema) -> Iterator[str]:
    if "anyOf" in schema:  # of one form, or null
        if values is not None:
            yield from _problems(values, schema["anyOf"][0], place, defs)
        return
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    wrong = _wrong_value(values, schema)
    if wrong:
        yield f"{place or 'the document'}: {wrong}"
    elif isinstance(values, dict):
        yield from _wrong_members(values, schema, place, defs)
    elif isinstance(values, list):
        for index, item in enumerate(values):
            yield from _problems(item, schema["items"], f"{place}[{index}]", defs)


def _wrong_value(values: Values, schema: Schema) -> str:
    """What is wrong with a value itself, whatever it holds."""
    if "const" in schema or "enum" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        same = any(values == one and type(values) is type(one) for one in allowed)
        return "" if same else f"{_short(values)} is none of {', '.join(map(str, allowed))}"
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(_is_type(values, name) for name in types):
        return f"{_short(values)} is not of type {' or '.join(types)}"
    if isinstance(values, str) and not re.search(schema.get("pattern", ""), values):
        return f"{_short(values)} does not match {schema['pattern']}"
    if isinstance(values, list):
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        count = len(values)
        return "" if least <= count <= most else f"{count} entries, from {least} to {most} fit"
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if isinstance(values, int | float) and not low <= values <= high:
        return f"{_short(values)} is not in the range {low:g} to {high:g}"
    return ""


def _is_type(values: Values, name: str) -> bool:
    if isinstance(values, bool):  # an int, for Python
        return name == "boolean"
    if isinstance(values, float) and name == "number":
        return math.isfinite(values)
    return isinstance(values, TYPES[name])


def _wrong_members(
    values: dict[str, Values], schema: Schema, place: str, defs: Schema
) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema["additionalProperties"]
    for name in schema.get("required", ()):
        if name not in values:
            yield f"{place or 'the document'}: {name} is missing"
    for name, value in values.items():
        inner = known.get(name, others)
        if inner is False:
            yield f"{place or 'the document'}: {_short(name)} is not known"
        else:
            yield from _problems(value, inner, f"{place}.{name}".removeprefix("."), defs)


def _short(values: Values) -> str:
    text = repr(values)
    return text if len(text) <= 40 else f"{text[:39]}…"
