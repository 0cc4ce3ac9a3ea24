import ast
import importlib
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from swin_deploy.cli import cli

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_has_help_with_examples_and_is_in_the_readme(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"swin-deploy {name}" in result.output
    assert f"`{name}`" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_the_docs_exist(page: Path) -> None:
    for line in re.findall(r"swin-deploy ([^\n`]*)", page.read_text(encoding="utf-8")):
        words = line.split()
        if not words or words[0] not in cli.commands:
            continue
        known = {option for param in cli.commands[words[0]].params for option in param.opts}
        used = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        assert used <= known | {"--help", "--json"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_imports_in_the_docs_exist(page: Path) -> None:
    pattern = r"^(?:>>> )?from ((?:swin_deploy|exporters)[\w.]*) import ([\w, ]+)"
    for module, names in re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE):
        found = importlib.import_module(module)
        missing = [name for name in names.split(", ") if not hasattr(found, name.strip())]
        assert not missing, f"{module}: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


ROOMS = re.findall(
    r"^\| `((?:exporters|swin_deploy)/[^`]*)` \| ",
    (ROOT / "docs" / "architecture.md")
    .read_text(encoding="utf-8")
    .partition("Beside the rooms")[0],
    re.MULTILINE,
)


def room_of(path: str) -> str:
    """The room of a file; the package's own two files stand above all of them."""
    if path in ("swin_deploy/__init__.py", "swin_deploy/__main__.py"):
        return ""
    folder = f"{path.rpartition('/')[0]}/"
    return path if folder == "swin_deploy/" else folder


def imports_of(files: dict[str, str]) -> dict[str, set[str]]:
    """The files that each file imports, inside functions too; files are given by their source."""
    names = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in files
    }
    found: dict[str, set[str]] = {}
    for path, source in files.items():
        targets: set[str] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                # A package runs before a module that is taken from it.
                targets |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        found[path] = {names[name] for name in targets if name in names} - {path}
    return found


def upward(arrows: dict[str, set[str]], rooms: list[str]) -> list[str]:
    """The imports of rooms above, each as a line."""
    floor = {room: place for place, room in enumerate(["", *rooms])}
    return [
        f"{path} -> {target}"
        for path, targets in arrows.items()
        for target in targets
        if floor[room_of(path)] > floor[room_of(target)]
    ]


def ring(arrows: dict[str, set[str]]) -> list[str]:
    """Files that import each other, directly or through others; empty if there are none."""
    left = dict(arrows)
    while left:
        ends = [path for path, targets in left.items() if not targets & set(left)]
        if not ends:
            return sorted(left)
        for path in ends:
            del left[path]
    return []


def sources() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ("exporters", "swin_deploy")
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_rooms_import_only_what_is_below_them() -> None:
    arrows = imports_of(sources())
    assert {room_of(path) for path in arrows} - {""} == set(ROOMS)
    assert len(ROOMS) < 28
    assert not upward(arrows, ROOMS)
    assert not ring(arrows)


def test_no_command_imports_another() -> None:
    files = sources()
    commands = {
        path
        for path, source in files.items()
        if path.startswith("swin_deploy/cli/") and "\n@command(" in source
    }
    assert len(commands) == len(cli.commands)
    arrows = imports_of(files)
    assert not [(path, arrows[path] & commands) for path in commands if arrows[path] & commands]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("swin_deploy/config/swin.py", "from swin_deploy.parity import Hop"),
        ("swin_deploy/bench/timing.py", "def late():\n    from swin_deploy.report import write"),
        ("exporters/spec.py", "import swin_deploy.intervals"),
        ("exporters/plan/read.py", "from exporters.engine import to_engine"),
    ],
)
def test_an_import_of_a_room_above_is_found(path: str, line: str) -> None:
    files = sources()
    files[path] += f"\n{line}\n"
    found = upward(imports_of(files), ROOMS)
    assert found
    assert all(one.startswith(f"{path} -> ") for one in found)


@pytest.mark.parametrize(
    ("path", "line", "other"),
    [
        ("exporters/plan/kernels.py", "from exporters.plan import read", "exporters/plan/read.py"),
        # The package imports its commands, so it is in a ring with one that imports from it.
        (
            "swin_deploy/cli/run.py",
            "from swin_deploy.cli import options",
            "swin_deploy/cli/__init__.py",
        ),
    ],
)
def test_a_ring_of_files_is_found(path: str, line: str, other: str) -> None:
    files = sources()
    files[path] += f"\ndef late():\n    {line}\n"
    assert {path, other} <= set(ring(imports_of(files)))


def test_every_room_lists_its_modules() -> None:
    for path in sorted(
        [*(ROOT / "exporters").rglob("*.py"), *(ROOT / "swin_deploy").rglob("*.py")]
    ):
        if path.name != "__init__.py" or path.parent.name == "swin_deploy":
            continue
        modules = {one.stem for one in path.parent.glob("*.py")} - {"__init__"}
        rooms = {one.parent.name for one in path.parent.glob("*/__init__.py")}
        listed = re.findall(r"^``([a-z_0-9]+)``  ", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert modules <= set(listed) <= modules | rooms, path
        assert len(listed) == len(set(listed)), path


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_options_are_documented() -> None:
    bare = [
        f"{name} {param.opts[0]}"
        for name, command in cli.commands.items()
        for param in command.params
        if isinstance(param, click.Option) and not param.help and not param.show_default
    ]
    assert not bare
