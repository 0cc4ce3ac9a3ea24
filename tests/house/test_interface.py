"""What users rely on and scripts read: nothing of it goes away unnoticed.

``tests/data/interface.json`` was written before the modules moved into rooms; its definitions have
since got the names of their classes. Whatever is taken out of it needs a line in CHANGELOG.md that
names its successor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import swin_deploy
from swin_deploy.cli import cli
from swin_deploy.report.schema import load_schema

BEFORE = Path(__file__).parent.parent / "data" / "interface.json"


def json_keys(schema: dict[str, Any], at: str = "") -> Iterator[str]:
    """The keys of a JSON schema, those of objects inside with the way there."""
    for name, one in (schema.get("properties") or {}).items():
        yield f"{at}{name}"
        yield from json_keys(one, f"{at}{name}.")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from json_keys(schema[word], at)
    for word in ("anyOf", "oneOf"):
        for one in schema.get(word) or ():
            yield from json_keys(one, at)


def interface() -> dict[str, Any]:
    """Commands with their options, keys of the report, and public Python names."""
    schema = load_schema()
    return {
        "commands": {
            name: {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
            for name, command in cli.commands.items()
        },
        "report": set(json_keys(schema)),
        "definitions": {name: set(json_keys(one)) for name, one in schema["$defs"].items()},
        "python": set(swin_deploy.__all__),
    }


def gone(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What was there before and is not now, one line each."""
    lost = [f"{kind} {name}" for kind in ("report", "python") for name in before[kind] - now[kind]]
    for kind in ("commands", "definitions"):
        for place, names in before[kind].items():
            lost += [f"{kind} {place} {name}" for name in names - now[kind].get(place, set())]
    return sorted(lost)


def as_sets(value: Any) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, dict):
        return {name: as_sets(one) for name, one in value.items()}
    return set(value)


def test_nothing_that_users_rely_on_is_gone() -> None:
    before = as_sets(json.loads(BEFORE.read_text(encoding="utf-8")))
    assert len(before["commands"]) > 10
    assert gone(before, interface()) == []


def test_what_is_gone_is_found() -> None:
    now = interface()
    before = interface()
    before["commands"]["run"].add("--once")
    before["commands"]["removed"] = {"--json"}
    before["definitions"]["Hop"].add("once")
    before["report"].add("once")
    before["python"].add("once")
    assert gone(before, now) == [
        "commands removed --json", "commands run --once", "definitions Hop once", "python once",
        "report once",
    ]  # fmt: skip
