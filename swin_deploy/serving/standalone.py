"""Functions of this package as one Python file that imports nothing of it.

A server gets the very code that prepares pictures here, and not a second one that is to be kept
equal: the definitions that a module needs are copied from their modules, with all that they need.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OURS = ("swin_deploy", "exporters")
LATER = "from __future__ import annotations"
PYTHON = (3, 10)  # the oldest in a Triton container that runs these engines
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


@dataclass
class _File:
    """What is copied so far.

    Attributes:
        imports: Lines that import other packages.
        picked: Names picked from each module, the modules in the order of their first need.
    """

    imports: set[str] = field(default_factory=set)
    picked: dict[str, set[str]] = field(default_factory=dict)


def standalone(module: str, name: str, *, leave_out: tuple[str, ...] = ()) -> str:
    """Return a definition and all that it needs of this package as one file.

    Args:
        module: Name of the module that has the definition.
        name: Name of the definition.
        leave_out: Methods that are not copied, such as ``Size.of``.

    Returns:
        Source of a file that imports the standard library and third packages alone.

    Raises:
        ValueError: If two modules have different definitions of one name.
    """
    file = _File()
    _pick(module, name, file, leave_out)
    parts = [_texts(one, names, leave_out) for one, names in _in_order(file.picked)]
    homes: dict[str, str] = {}
    for one, names in file.picked.items():
        for each in names:
            if homes.setdefault(each, one) != one:
                raise ValueError(f"{each} is defined in {homes[each]} and in {one}: rename one")
    body = "\n\n\n".join(text for texts in parts for text in texts)
    text = "\n".join([LATER, "", *sorted(file.imports), "", "", body]) + "\n"
    ast.parse(text, feature_version=PYTHON)
    return text


def _pick(module: str, name: str, file: _File, leave_out: tuple[str, ...]) -> None:
    """Pick a name of a module, and what its definition needs."""
    names = file.picked.setdefault(module, set())
    if name in names:
        return
    scope = _scope(module)
    if name in scope.definitions:
        names.add(name)
        for used in _used(scope.definitions[name], leave_out):
            _pick(module, used, file, leave_out)
    elif name in scope.imported:
        source, original, line = scope.imported[name]
        if source.partition(".")[0] in OURS:
            _pick(source, original, file, leave_out)
        else:
            file.imports.add(line)


@dataclass(frozen=True)
class _Scope:
    """The top level of a module: definitions, and names from elsewhere with module and line."""

    source: str
    definitions: dict[str, Definition]
    imported: dict[str, tuple[str, str, str]]


@functools.cache
def _scope(module: str) -> _Scope:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    definitions: dict[str, Definition] = {}
    imported: dict[str, tuple[str, str, str]] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= _names_of(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            definitions |= {
                one.id: node for target in targets for one in ast.walk(target)
                if isinstance(one, ast.Name)
            }  # fmt: skip
    return _Scope(source, definitions, imported)


def _names_of(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str, str]]:
    """Return the names that an import binds, each with its module, its name there and a line."""
    found = {}
    for alias in node.names:
        shown = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
        name = alias.asname or alias.name
        if isinstance(node, ast.Import):
            found[name] = (alias.name, "", f"import {shown}")
        elif node.module != "__future__":
            found[name] = (str(node.module), alias.name, f"from {node.module} import {shown}")
    return found


def _used(node: Definition, leave_out: tuple[str, ...]) -> Iterator[str]:
    """Yield the names that a definition mentions; none of methods that are left out."""
    for one in ast.iter_child_nodes(node):
        if isinstance(node, ast.ClassDef) and _is_left_out(node, one, leave_out):
            continue
        yield from (each.id for each in ast.walk(one) if isinstance(each, ast.Name))


def _is_left_out(owner: ast.ClassDef, node: ast.AST, leave_out: tuple[str, ...]) -> bool:
    return isinstance(node, ast.FunctionDef) and f"{owner.name}.{node.name}" in leave_out


def _in_order(picked: dict[str, set[str]]) -> list[tuple[str, set[str]]]:
    """Return the modules that something is picked from, those that others import first."""
    done: dict[str, set[str]] = {}

    def add(module: str) -> None:
        if module in done or module not in picked:
            return
        for source, _, _ in _scope(module).imported.values():
            add(source)
        done[module] = picked[module]

    for module in picked:
        add(module)
    return [(module, names) for module, names in done.items() if names]


def _texts(module: str, names: set[str], leave_out: tuple[str, ...]) -> list[str]:
    """Return the source of the definitions picked from a module, in its order."""
    scope = _scope(module)
    nodes = {id(scope.definitions[name]): scope.definitions[name] for name in names}
    lines = scope.source.splitlines()
    found = []
    for node in sorted(nodes.values(), key=lambda one: one.lineno):
        skipped: set[int] = set()
        if isinstance(node, ast.ClassDef):
            for one in node.body:
                if _is_left_out(node, one, leave_out):
                    skipped |= set(range(_first(one), (one.end_lineno or 0) + 1))
        kept = [
            lines[number - 1]
            for number in range(_first(node), (node.end_lineno or 0) + 1)
            if number not in skipped
        ]
        found.append("\n".join(kept).rstrip())
    return found


def _first(node: ast.AST) -> int:
    """Return the number of a definition's first line, that of a decorator if it has one."""
    assert isinstance(node, ast.stmt)
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])
