import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command_line import DIGITS, IMAGES, Command, listing
from onnx import numpy_helper
from safetensors.torch import load_file

from exporters.errors import FileError
from swin_deploy.evaluate.accuracy import BackendAccuracy, Evaluation, Score, score_answers
from swin_deploy.evaluate.run import progress_text, top_classes
from swin_deploy.report.accuracy import accuracy_sentences
from swin_deploy.report.from_json import read_evaluation
from swin_deploy.report.markdown import render_evaluation
from swin_deploy.report.to_json import to_json

MODEL = ("evaluate", "--model", "notebook-digits")
NUMBERS = np.random.default_rng(0)


def test_parity_has_the_accuracy_of_evaluate_on_some_of_the_classes(
    swin: Command, tmp_path: Path
) -> None:
    for name in ("3", "8"):
        shutil.copytree(IMAGES / name, tmp_path / "some" / name)
    model = ("--model", "notebook-digits", "--json")
    parity = (
        swin("parity", *model, "--images", "some", "--limit", "99", "--batches", "1")
        .assert_done()
        .json
    )
    evaluated = swin("evaluate", *model, "--data", "some").assert_done().json
    assert evaluated["images"] == parity["labelled"] > 60
    assert parity["reference_top1_accuracy"] == evaluated["reference"]["top1"]["accuracy"]


def change_head(source: Path, target: Path, change: Callable[[np.ndarray], None]) -> Path:
    """Change the bias of the classifier in an ONNX file; the metadata stays."""
    graph = onnx.load(source)
    (bias,) = [t for t in graph.graph.initializer if list(t.dims) == [10]]
    values = numpy_helper.to_array(bias).copy()
    change(values)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(graph, target)
    return target


def prefer_seven(bias: np.ndarray) -> None:
    bias[7] += 6


def break_three(bias: np.ndarray) -> None:
    bias[3] = np.nan


def test_bundled_digits_have_the_recorded_accuracy(
    swin: Command, full: Path, half: Path, engine: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    files = ("--onnx", full, "--onnx", half, "--engine", engine)
    outcome = swin(*MODEL, *files, "--json").assert_done()
    values = outcome.json
    assert values["passed"]
    assert values["images"] == 360
    assert values["reference"]["top1"]["right"] == 350  # 97.2 %
    for result in values["candidates"][:3]:
        assert result["top1"]["right"] == 350
        assert result["top1"]["lost"] == result["top1"]["gained"] == 0
        assert result["agreed"] == 360
        assert result["top5"]["accuracy"] > 0.99
    if not torch.cuda.is_available():
        assert values["candidates"][3]["passed"] is None
        assert "needs an NVIDIA GPU" in values["candidates"][3]["not_run"]
    folder = tmp_path / "evaluation" / "notebook-digits"
    written = json.loads((folder / "evaluation.json").read_text())
    assert written == values
    assert to_json(read_evaluation(folder / "evaluation.json")) == values
    table = (folder / "evaluation.md").read_text()
    assert "| ONNX fp16 | pass | 97.2% | 94.9 to 98.5% | -1.06 to +1.06 | 0 | 0 | 100.0% |" in table


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        pytest.param(prefer_seven, (), "ONNX fp32: loss found: difference -", id="bias"),
        pytest.param(break_three, (), "360 images gave NaN or infinity", id="nan"),
        pytest.param(prefer_seven, ("--max-drop", "5"), "is not ruled out", id="max-drop"),
    ],
)
def test_candidate_with_injected_errors_is_status_1(
    change: Callable[[np.ndarray], None],
    options: tuple[str, ...],
    words: str,
    swin: Command,
    full: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxruntime")
    change_head(full, tmp_path / "wrong.onnx", change)
    outcome = swin(*MODEL, "--onnx", "wrong.onnx", *options)
    assert outcome.status == 1, outcome.err
    assert words in " ".join(outcome.out.split())
    assert "error" not in outcome.err
    values = json.loads(Path("evaluation/notebook-digits/evaluation.json").read_text())
    deploy, wrong = values["candidates"]
    assert (deploy["passed"], wrong["passed"], values["passed"]) == (True, False, False)
    assert wrong["top1"]["lost"] > 5
    assert all((IMAGES / path).is_file() for path in wrong["lost_images"])


@pytest.mark.parametrize(
    ("max_drop", "status"),
    [("1.0", 1), ("1.1", 0), ("50", 0)],  # 360 equal answers: -1.06 points
)
def test_max_drop_is_held_against_the_lower_end(max_drop: str, status: int, swin: Command) -> None:
    outcome = swin(*MODEL, "--max-drop", max_drop)
    assert outcome.status == status
    warned = "360 images cannot pass --max-drop 1: even with equal answers that takes 381"
    assert (warned in outcome.err) == (status == 1)
    shown = f"A drop of at most {float(max_drop):g} points is {'not ' * status}shown"
    assert shown in outcome.out


def test_csv_gives_what_the_folders_give(swin: Command) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted(IMAGES.glob("*/*.png"))]
    Path("val.csv").write_text("\n".join(["path,label", *rows]))
    values = swin(*MODEL, "--data", "val.csv", "--json").assert_done().json
    assert values["reference"]["top1"]["right"] == 350
    assert values["classes"] == "labels are the model's indices"


def test_subset_of_the_folders_is_known_by_its_numbers(swin: Command) -> None:
    for name in ("3", "8"):
        shutil.copytree(IMAGES / name, Path("few") / name)
    outcome = swin(*MODEL, "--data", "few", "--json").assert_done()
    assert outcome.json["reference"]["top1"]["accuracy"] > 0.85
    assert outcome.json["classes"] == "class names as listed in the metadata swin_deploy_config"


def test_classes_in_another_order_are_inconclusive(swin: Command) -> None:
    for place, name in enumerate("zyxwvutsrq"):
        shutil.copytree(IMAGES / str(place), Path("named") / name)
    Path("classes.txt").write_text("\n".join("zyxwvutsrq"))
    wrong = swin(*MODEL, "--data", "named", "--limit", "60")
    assert wrong.status == 1
    assert "Inconclusive: the reference itself is not better than guessing" in wrong.out
    said = " ".join(wrong.err.split())
    assert "class order: assuming q = 0, r = 1" in said
    assert "which guessing may reach too" in said
    right = swin(*MODEL, "--data", "named", "--limit", "60", "--classes", "classes.txt")
    assert "guessing" not in right.assert_done().err
    assert "takes over 60 of 60" in right.err  # labels decide nothing about predictions


def test_unreadable_images_are_skipped_and_counted(swin: Command) -> None:
    shutil.copytree(IMAGES / "4", "few/4")
    torn = sorted(Path("few/4").iterdir())[5]
    torn.write_bytes(torn.read_bytes()[:60])
    swin(*MODEL, "--data", "few").assert_error(f"image {torn} cannot be read")
    outcome = swin(*MODEL, "--data", "few", "--skip-unreadable", "--json").assert_done()
    assert outcome.json["skipped"] == 1
    assert outcome.json["images"] == len(list(Path("few/4").iterdir())) - 1
    assert (
        "1 image could not be read" in Path("evaluation/notebook-digits/evaluation.md").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param("--data nowhere", "nowhere does not exist", id="no-data"),
        pytest.param("--data other.pt", "other.pt is not UTF-8", id="no-csv"),
        pytest.param("--data all-torn --skip-unreadable", "none of all 1 images", id="all-torn"),
        pytest.param("--classes nowhere", "nowhere does not exist", id="no-classes"),
        pytest.param("--outputs stages", "accuracy needs class logits", id="no-logits"),
        pytest.param("--onnx other.pt", "is not a whole ONNX file", id="no-onnx"),
        pytest.param("--checkpoint other.pt --onnx {full}", "was made from", id="other-weights"),
        pytest.param("--onnx narrow.onnx", "expected logits with logits of shape", id="classes"),
        pytest.param("--output other.pt", "cannot write in other.pt", id="output-is-a-file"),
    ],
)
def test_evaluate_that_cannot_be_done_is_status_3(
    arguments: str, message: str, swin: Command, full: Path
) -> None:
    pytest.importorskip("onnxruntime")
    state = load_file(DIGITS)
    torch.save({**state, "head.bias": state["head.bias"] + 1}, "other.pt")
    Path("all-torn/0").mkdir(parents=True)
    Path("all-torn/0/x.png").write_bytes(b"no image")
    keep_nine_logits(full, Path("narrow.onnx"))
    given = arguments.format(full=full).split()
    swin(*MODEL, "--limit", "4", *given).assert_error(message)
    assert "evaluation/notebook-digits/evaluation.json" not in listing(Path())


def keep_nine_logits(source: Path, target: Path) -> None:
    """An ONNX file of another tool, without facts, that gives nine classes."""
    graph = onnx.load(source)
    graph.ClearField("metadata_props")
    last = graph.graph.output[0].name
    ends = [numpy_helper.from_array(np.array([n]), f"end{n}") for n in (0, 9, 1)]
    graph.graph.initializer.extend(ends)
    graph.graph.node.append(
        onnx.helper.make_node("Slice", [last, "end0", "end9", "end1"], ["nine"])
    )
    graph.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("nine", onnx.TensorProto.FLOAT, ["batch", 9])
    )
    onnx.save(graph, target)


@pytest.mark.parametrize(
    "arguments",
    ["--max-drop 0", "--max-drop nan", "--max-drop 100", "--limit 0", "--batch 0"],
)
def test_evaluate_wrong_usage_is_status_2(arguments: str, swin: Command) -> None:
    assert swin(*MODEL, *arguments.split()).status == 2


def test_evaluate_without_images_is_status_2(swin: Command) -> None:
    outcome = swin("evaluate", "--checkpoint", DIGITS, "--model", "notebook-swin-t")
    assert outcome.status == 3  # the checkpoint is of another model
    shutil.copy(DIGITS, "mine.safetensors")
    swin_t = swin("evaluate", "--model", "swin_tiny_patch4_window7_224")
    assert swin_t.status == 2
    assert "give --data" in swin_t.err


def test_fixed_batch_gets_its_rows(swin: Command) -> None:
    pytest.importorskip("onnxruntime")
    swin("-q", "export", "--model", "notebook-digits", "--batch", "7").assert_done()
    (path,) = Path("engines").glob("*.onnx")
    options = ("--onnx", path, "--limit", "16", "--batch", "3", "--json")
    values = swin(*MODEL, *options).assert_done().json
    assert values["candidates"][1]["agreed"] == values["images"] == 16


def test_top_classes_are_stable_and_refuse_what_is_no_number() -> None:
    logits = np.array([[0, 3, 3, 1], [0, np.nan, 9, 1], [np.inf, 0, 0, 0]], np.float32)
    assert top_classes(logits) == [(1, 2, 3, 0), (), ()]
    wide = NUMBERS.standard_normal((4, 1000)).astype(np.float32)
    expected = torch.from_numpy(wide).topk(5).indices.tolist()
    assert [list(row) for row in top_classes(wide)] == expected


def test_score_answers_counts_pairs() -> None:
    labels = [0, 1, 2, 3, 4]
    reference = [(0, 1), (1, 0), (0, 2), (3, 0), (9, 8)]
    answers = [(0, 1), (0, 1), (2, 0), (), (9, 4)]
    assert score_answers(answers, reference, labels, top=1) == Score(5, 2, lost=2, gained=1)
    assert score_answers(answers, reference, labels, top=2) == Score(5, 4, lost=1, gained=1)


def result(
    lost: int, gained: int, images: int = 360, max_drop: float | None = None
) -> BackendAccuracy:
    score = Score(images, images - lost, lost, gained)
    return BackendAccuracy(
        "ONNX fp16", "onnx", "fp16", "a.onnx", "ONNX Runtime", score, max_drop=max_drop
    )


@pytest.mark.parametrize(
    ("lost", "gained", "images", "max_drop", "passed"),
    [
        (0, 0, 360, None, True),
        (3, 0, 360, None, True),
        (4, 0, 360, None, False),
        (0, 9, 360, None, True),
        (4, 0, 360, 0.03, True),  # a loss that is small enough
        (3, 0, 360, 0.01, False),
        (30, 25, 50_000, 0.001, True),
    ],
)
def test_passed_follows_the_interval(
    lost: int, gained: int, images: int, max_drop: float | None, passed: bool
) -> None:
    assert result(lost, gained, images, max_drop).passed is passed


def test_result_that_is_no_number_fails_whatever_it_lost() -> None:
    assert dataclasses.replace(result(0, 0, max_drop=0.5), not_finite=1).passed is False


def make_evaluation(**changes: object) -> Evaluation:
    values = Evaluation(
        "m", "w", "2026", "data", "sorted", 360, 0, 10, None, result(0, 0), (result(3, 1),)
    )
    return dataclasses.replace(values, **changes)  # type: ignore[arg-type]


def test_evaluation_of_nothing_that_ran_does_not_pass() -> None:
    not_run = dataclasses.replace(result(0, 0), top1=None, not_run="no GPU")
    assert not make_evaluation(candidates=(not_run,)).passed
    assert make_evaluation(candidates=(not_run, result(0, 0))).passed
    assert "nothing is shown" in accuracy_sentences(make_evaluation(candidates=(not_run,)))[0]


def test_markdown_escapes_foreign_text() -> None:
    text = render_evaluation(make_evaluation(model="a|b", data="<b>\udcff"))
    assert "a\\|b" in text
    assert "&lt;b&gt;" in text
    text.encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("reference"),
        lambda values: values.update(schema=1),
        lambda values: values.update(more=1),
        lambda values: values["candidates"][0]["top1"].pop("lost"),
        lambda values: values.update(candidates=None),
    ],
)
def test_damaged_evaluation_is_rejected(
    change: Callable[[dict[str, object]], None], tmp_path: Path
) -> None:
    values, path = to_json(make_evaluation()), tmp_path / "evaluation.json"
    path.write_text(json.dumps(values))
    assert read_evaluation(path) == make_evaluation()
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(FileError, match="evaluate again"):
        read_evaluation(path)


def test_progress_has_rate_and_time_left() -> None:
    # 640 of 1,280 were there before; 320 more took 10 s.
    text = progress_text(960, 1280, 320, 10.0)
    assert text == "960 of 1,280 images, 32.0 images/s, 0:00:10 left"
