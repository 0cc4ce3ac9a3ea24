"""A source that is new: one file with a ``Dialect``, and its place in the list."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import seeded_images
from families import loaded

import swin_deploy
from swin_deploy.checkpoints.known import SOURCES
from swin_deploy.checkpoints.timm import DIALECT
from swin_deploy.config import SwinConfig

PACKAGE = Path(swin_deploy.__file__).parent
KEYS = {"layers.": "levels.", "attn.": "mixer.", "head.fc.": "classify."}
# All of it is the dialect's: names, hints, habits, rules of windows and pictures, class names.
TOY = """
from swin_deploy.checkpoints import timm
from swin_deploy.checkpoints.dialect import CheckpointHints, Dialect
from swin_deploy.checkpoints.resize import TableResize
from swin_deploy.config.windows import offsets
from swin_deploy.images.class_names import class_names_of
from swin_deploy.images.rules import centre_crop_rule, squash_rule

KEYS = {KEYS}

def source_keys(ours):
    name = timm.DIALECT.source_keys(ours)[0]
    for theirs, toys in KEYS.items():
        name = name.replace(theirs, toys)
    head, qkv, leaf = name.partition(".qkv.")
    return tuple(f"{head}.{part}.{leaf}" for part in "qkv") if qkv else (name,)

def hints(config_json, *, where):
    return CheckpointHints(origin=where, img_size=config_json.get("toy_size"), remarks=("a toy",))

def steps_rule(values, where):
    return squash_rule(origin=where, interpolation="box") if "toy_steps" in values else None

def class_names(files, num_classes):
    names = files.config_json.get("toy_names", ())
    return class_names_of({i: (n,) for i, n in enumerate(names)}, num_classes, source="the toy")

DIALECT = Dialect(
    "toy",
    "levels.0.blocks.0.mixer.",
    source_keys,
    lambda config, name: centre_crop_rule(0.5, origin=f"the toy's {name}"),
    summary="what toys are made of",
    prepare=lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()},
    unused=("toy_token",),
    hints=hints,
    usual_weights=lambda key, averaged: f"as toys do, averaged {averaged}",
    window_rules=("torchvision", "timm"),
    pads=("pad-then-roll", "none"),
    remainder="crop",
    table_resize=TableResize(
        "all zeros",
        lambda table, before, after: table.new_zeros(offsets(after).area, table.shape[1]),
    ),
    library="timm",
    file_rule=lambda files: steps_rule(files.config_json, "config.json"),
    steps_rule=steps_rule,
    class_names=class_names,
)
""".replace("{KEYS}", str(KEYS))
USE = """
import dataclasses, json, sys, torch
from click.testing import CliRunner
from pathlib import Path
from swin_deploy.cli import cli
from swin_deploy.checkpoints.load import load_model
from swin_deploy.images.preprocessing import PreprocessingChoice
from swin_deploy.original.build import original_library

def told(path, **asked):
    loaded = load_model(None, Path(path), **asked)
    return {
        "config": loaded.config.to_dict(), "source": loaded.source, "notes": loaded.notes,
        "assumptions": [dataclasses.asdict(one) for one in loaded.assumptions],
        "steps": loaded.preprocessing.text, "origin": loaded.preprocessing.origin,
        "names": loaded.class_names.names if loaded.class_names else None,
        "library": original_library(loaded, "auto"),
    }

def refused(path, **asked):
    try:
        return told(path, **asked)["config"]
    except Exception as err:
        return f"{type(err).__name__}: {err}"

def said(*words):
    return CliRunner().invoke(cli, words).output

with torch.inference_mode():
    logits = load_model(None, Path("folder")).reference(torch.load("images.pt"))
torch.save(logits, "logits.pt")
print(json.dumps({
    "folder": told("folder"),
    "file": told("two.pt"),
    "wide": told("two.pt", window_size=14, img_size=112),
    "padded": refused("two.pt", window_size=14),
    "asked": told("two.pt", source="toy", preprocessing=PreprocessingChoice(source="toy")),
    "by file": told("two.pt", preprocessing=PreprocessingChoice(source="folder")),
    "wrong": refused("two.pt", source="timm"),
    "foreign": refused("foreign.pt"),
    "models": json.loads(said("models", "--json"))["sources"],
    "help": said("run", "--help"),
}))
"""


def write_toys(folder: Path) -> None:
    """Toy checkpoints: a folder, a file with two sets of weights, and one of nobody."""
    state = {"toy_token": torch.zeros(1)}
    for ours, value in loaded("swin").reference.named_parameters():
        name = DIALECT.source_keys(ours)[0]
        for theirs, toys in KEYS.items():
            name = name.replace(theirs, toys)
        parts = "qkv" if ".qkv." in name else " "
        chunks = zip(parts, value.detach().chunk(len(parts)), strict=True)
        state |= {name.replace(".qkv.", f".{part}."): chunk / 2 for part, chunk in chunks}
    (folder / "folder").mkdir()
    torch.save(state, folder / "folder" / "pytorch_model.bin")
    config = {"toy_size": 56, "toy_steps": True, "toy_names": [f"toy {i}" for i in range(10)]}
    (folder / "folder" / "config.json").write_text(json.dumps(config))
    torch.save({"mine": state, "mine_ema": state}, folder / "two.pt")
    torch.save({f"x{name}": value for name, value in state.items()}, folder / "foreign.pt")
    torch.save(seeded_images(loaded("swin").config), folder / "images.pt")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a copy of the package tells of toys, which has one file and one line more."""
    folder = tmp_path_factory.mktemp("toys")
    copy = folder / "swin_deploy"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "checkpoints" / "toy.py").write_text(TOY)
    known = copy / "checkpoints" / "known.py"
    text = known.read_text().replace("    huggingface,\n", "    huggingface,\n    toy,\n", 1)
    text = text.replace("    timm.DIALECT,\n", "    timm.DIALECT,\n    toy.DIALECT,\n", 1)
    known.write_text(text)
    write_toys(folder)
    run = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{PACKAGE.parent}", "COLUMNS": "300"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout), logits=torch.load(folder / "logits.pt"))


def test_load_model_of_a_new_dialect_equals_ours(toys: dict[str, Any]) -> None:
    found, ours = toys["folder"], loaded("swin")
    with torch.inference_mode():
        assert torch.equal(toys["logits"], ours.reference(seeded_images(ours.config)))
    assert found["source"] == "toy"
    rules: Any = {"window_rule": "torchvision", "pads": "pad-then-roll", "remainder": "crop"}
    assert SwinConfig.from_dict(found["config"]) == dataclasses.replace(ours.config, **rules)
    assert found["assumptions"] == []
    assert {"a toy", "ignored what only training uses: toy_token"} <= set(found["notes"])
    assert found["names"] == [[f"toy {index}"] for index in range(10)]
    assert "resize to 56 x 56, box" in found["steps"]
    assert found["library"] == "timm"


def test_new_dialect_decides_what_its_library_does(toys: dict[str, Any]) -> None:
    assumed = {one["subject"]: one for one in toys["file"]["assumptions"]}
    assert assumed["weights"]["reason"] == "as toys do, averaged True"
    assert "as toy does for Swin models" in assumed["preprocessing"]["reason"]
    assert "resize the shorter side to 112" in assumed["preprocessing"]["value"]
    tables = "position bias tables of 13 x 13 interpolated to 27 x 27, all zeros"
    assert tables in toys["wide"]["notes"]
    padded = SwinConfig.from_dict(toys["padded"])
    assert [stage.has_pads for stage in padded.stages] == [False, True]
    assert (toys["asked"]["origin"], toys["by file"]["origin"]) == (
        "the toy's Swin models",
        "config.json",
    )


def test_new_dialect_is_in_messages_and_commands(toys: dict[str, Any]) -> None:
    assert "no checkpoint of timm" in toys["wrong"]
    assert "its keys are those of toy" in toys["wrong"]
    sources = ("notebook", "microsoft", "timm", "toy", "torchvision", "huggingface", "openmmlab")
    assert f"no Swin checkpoint of {', '.join(sources)}:" in toys["foreign"]
    assert toys["models"]["toy"] == "what toys are made of"
    assert tuple(toys["models"]) == sources
    assert "|".join(sources) in toys["help"]
    assert "auto|none|timm|torchvision|huggingface]" in toys["help"]
    assert "timm, torchvision, huggingface, microsoft, toy, openmmlab, or a" in " ".join(
        toys["help"].split()
    )


def asks_for_a_source(text: str) -> list[int]:
    """Lines of Python that compare something called a source with the name of one."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            names = {one.id for one in sides if isinstance(one, ast.Name)}
            names |= {one.attr for one in sides if isinstance(one, ast.Attribute)}
            values = {one.value for part in sides for one in ast.walk(part)
                      if isinstance(one, ast.Constant)}  # fmt: skip
            if names & {"source", "found", "dialect"} and values & set(SOURCES):
                found.append(node.lineno)
    return found


def test_no_code_asks_for_one_source_by_name() -> None:
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").rglob("*.py")]
    assert {path.name: asks_for_a_source(path.read_text()) for path in files} == {
        path.name: [] for path in files
    }
    assert asks_for_a_source('if reading.source == "timm":\n    pass') == [1]
    assert asks_for_a_source('x = 1\nif source in ("timm", "toy"):\n    pass') == [2]
