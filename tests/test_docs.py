import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from swin_deploy.cli import cli

ROOT = Path(__file__).parent.parent
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
def test_links_in_the_docs_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing


def test_module_map_is_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `((?:exporters|swin_deploy)/[^`]+)`", text, re.MULTILINE))
    for row in rows:
        assert (ROOT / row).exists(), row
    for package in ("exporters", "swin_deploy"):
        for path in (ROOT / package).rglob("*.py"):
            module = path.relative_to(ROOT).as_posix()
            covered = any(
                module == row or (row.endswith("/") and module.startswith(row)) for row in rows
            )
            assert covered or path.name in ("__init__.py", "__main__.py"), module


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
