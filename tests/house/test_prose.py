"""The prose rule: an argument's description starts with a noun, no sentence with a loose end."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ROOMS = ("swin_deploy", "exporters", "benchmarks")
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Note)s?:$")
ITEM = re.compile(r"^    (\*{0,2}\w+): (\w+)")
LOOSE = {
    "Also", "As", "At", "Behind", "Beside", "By", "For", "From", "How", "In", "Of", "On", "Said",
    "Taken", "Told", "To", "What", "When", "Where", "Which", "Why", "With", "Without",
}  # fmt: skip


def loose_ends(docstring: str) -> Iterator[str]:
    """Yield the name of each argument whose description does not start with a noun."""
    section = ""
    for line in docstring.splitlines():
        if found := SECTION.match(line):
            section = found[1]
        elif line and not line.startswith(" "):
            section = ""
        item = ITEM.match(line)
        if section in ("Args", "Attributes") and item and item[2] in LOOSE:
            yield item[1]


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, ast.get_docstring(node) or ""


@pytest.mark.parametrize("room", ROOMS)
def test_descriptions_of_arguments_start_with_a_noun(room: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line, text in docstrings(path)
        for name in loose_ends(text)
    ]
    assert found == []


def test_loose_ends_are_found() -> None:
    lines = ("Do it.", "", "Args:", "    one: Of the model.", "    two: Number of images.", "")
    docstring = "\n".join((*lines, "Returns:", "    Of: By row."))
    assert list(loose_ends(docstring)) == ["one"]
