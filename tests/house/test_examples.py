"""The examples, each as its reader runs it, on the model and the pictures in the package."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bulk_libraries
import peers
import pytest
from command_line import IMAGES
from photographs import write_photographs

import swin_deploy
from swin_deploy.images.labelled import find_images

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MOST_LINES = 20
# With what lets timm be imported, see peers; and the same training in every run.
WITH_TIMM = """
import runpy, sys
import peers, torch
peers.ensure_torchvision_importable()
torch.manual_seed(0)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def run_python(*arguments: object) -> subprocess.CompletedProcess[str]:
    folders = (EXAMPLES.parent, Path(__file__).parent.parent / "support")
    paths = os.pathsep.join((*map(str, folders), os.environ.get("PYTHONPATH", "")))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def printed(*arguments: object) -> list[str]:
    """The lines that an example prints; it must end well."""
    done = run_python(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def code_lines(source: str) -> int:
    """Number of lines after the docstring that are neither blank nor comments."""
    lines = source.splitlines()[ast.parse(source).body[0].end_lineno :]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def imported(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The held-out digits in class folders, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(IMAGES, "photos")
    return Path("photos")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example_is_short_and_tested(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert code_lines(source) <= MOST_LINES
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(source)) or "")
    assert f'EXAMPLES / "{path.name}"' in Path(__file__).read_text(encoding="utf-8")


def test_code_lines_counts_code_only() -> None:
    assert code_lines('"""A.\n\nB.\n"""\n\nimport sys  # c\n\n# d\nprint(\n    1\n)\n') == 4


def test_classify_folder_names_every_picture(photos: Path) -> None:
    (photos / "3" / "damaged.png").write_bytes(b"no picture")
    lines = printed(EXAMPLES / "classify_folder.py", "notebook-digits", photos)
    answers = dict(line.split(": ", 1) for line in lines)
    assert "cannot be read" in answers.pop("photos/3/damaged.png")
    assert sorted(answers) == sorted(f"photos/{one}" for one in find_images(IMAGES))
    right = sum(answer.split()[0] == Path(name).parent.name for name, answer in answers.items())
    assert right / len(answers) == pytest.approx(0.972, abs=0.01)  # the model's README


@pytest.mark.slow
def test_export_in_training_gives_a_file_that_knows_its_classes(photos: Path) -> None:
    peers.import_peer("timm")
    lines = printed("-c", WITH_TIMM, EXAMPLES / "export_in_training.py")
    assert lines[-1].startswith("Report('trained', pass: original (timm), deploy model,")
    with swin_deploy.Predictor("trained.onnx") as predict:
        assert predict.facts.class_names == tuple("0123456789")
        assert predict.facts.preprocessing.resize == 62  # 56 over timm's crop ratio 0.9
        answers = predict([photos / one for one in find_images(photos)])
    right = sum(one.top[0].name == Path(one.image).parent.name for one in answers)
    assert right / len(answers) > 0.15  # it has learnt something: chance is 0.1


def test_replace_backbone_writes_a_whole_model(photos: Path) -> None:
    peers.import_peer("timm")
    lines = printed("-c", WITH_TIMM, EXAMPLES / "replace_backbone.py")
    assert lines[0] == "FeatureListNet at swin passed"
    assert Path("whole.onnx").is_file()


def test_search_index_finds_pictures_of_the_same_digit(photos: Path) -> None:
    query = photos / find_images(photos)[-1]
    first, *others = printed(EXAMPLES / "search_index.py", "notebook-digits", photos, query)
    assert first == f"1.000 {query}"
    assert [Path(line.split()[1]).parent.name for line in others] == ["9"] * 4


@pytest.mark.slow
def test_ray_batch_goes_on_where_it_stopped(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in bulk_libraries.ray_environment().items():
        monkeypatch.setenv(name, value)
    (photos / "3" / "damaged.png").write_bytes(b"no picture")
    arguments = (EXAMPLES / "ray_batch.py", "notebook-digits", photos, "answers", "local")
    first, total = printed(*arguments)
    assert first == "361 images, 1 without an answer"
    assert total == "answers: 361 images in 1 files, 1 without an answer"
    assert printed(*arguments) == [total]
    # The command takes the folder for its own, and neither removes another run's answers.
    predict = ("-m", "swin_deploy", "predict", "notebook-digits", "--parquet", "answers")
    assert "answers has 361 of them already" in run_python(*predict, photos).stderr
    refused = run_python(*predict, photos / "3")
    assert refused.returncode == 3
    assert "predictions of another run (not the same: images)" in refused.stderr


@pytest.mark.parametrize(
    "choice",
    [
        swin_deploy.PreprocessingChoice(),
        swin_deploy.PreprocessingChoice(crop_ratio=0.85, mean=(0.4, 0.5, 0.6), std=(0.2,)),
        swin_deploy.PreprocessingChoice(resize_mode="squash", interpolation="bilinear"),
    ],
    ids=["own", "cropped", "squashed"],
)
def test_onnx_only_answers_as_the_predictor_does(
    choice: swin_deploy.PreprocessingChoice, tmp_path: Path
) -> None:
    model = swin_deploy.load("notebook-digits", preprocessing=choice)
    path = model.export(tmp_path / "digits.onnx").path
    pictures = [*write_photographs(tmp_path / "scenes")[:4], IMAGES / find_images(IMAGES)[0]]
    with swin_deploy.Predictor(path, top=1) as predict:
        expected = [one.top[0] for one in predict(pictures)]
    for picture, best in zip(pictures, expected, strict=True):
        found = printed(EXAMPLES / "onnx_only.py", path, picture)
        assert found == [f"{best.name} {best.probability:.1%}"]


def test_onnx_only_refuses_what_it_leaves_out(tmp_path: Path) -> None:
    choice = swin_deploy.PreprocessingChoice(resize_mode="pad")
    model = swin_deploy.load("notebook-digits", preprocessing=choice)
    path = model.export(tmp_path / "digits.onnx").path
    done = run_python(EXAMPLES / "onnx_only.py", path, IMAGES / find_images(IMAGES)[0])
    assert (done.returncode, done.stdout) == (1, "")
    assert "KeyError: 'pad'" in done.stderr


def test_onnx_only_needs_nothing_of_this_project() -> None:
    source = (EXAMPLES / "onnx_only.py").read_text(encoding="utf-8")
    assert imported(source) == {"json", "sys", "numpy", "onnxruntime", "PIL"}
