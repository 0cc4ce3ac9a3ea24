"""What was shipped, asked about pictures: the libraries' own answers, and what else is said."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from command_line import DIGITS, IMAGES, Command
from photographs import write_photographs
from PIL import Image

from exporters.errors import ComparisonError, ConfigError, FileError
from swin_deploy.images.labelled import find_images
from swin_deploy.images.scores import scores_of
from swin_deploy.predict.pictures import NamedPicture
from swin_deploy.predict.predictor import Prediction, Predictor
from swin_deploy.predict.table import PredictionTable

NAMES = [f"kind {letter}" for letter in "fcadbegjhi"]  # in no order
Answers = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder)
    return folder


# The libraries' own answers ------------------------------------------------------------------


def with_timm(folder: Path, pictures: list[Path]) -> Answers:
    """timm's model and transform of a folder, as its ``inference.py`` runs them."""
    timm = peers.import_peer("timm")
    data = peers.import_peer("timm.data")
    arguments = {"img_size": 64, "window_size": 4, "num_classes": 10, **peers.SIZES}
    model = peers.trained_like(timm.create_model("swin_tiny_patch4_window7_224", **arguments))
    timm.models.save_for_hf(model, str(folder), model_args=arguments)
    config = json.loads((folder / "config.json").read_text())
    config |= {"label_names": NAMES}
    config["pretrained_cfg"] |= {"crop_pct": 0.85, "mean": [0.4, 0.5, 0.6]}
    (folder / "config.json").write_text(json.dumps(config))
    settings = {"input_size": (3, 64, 64), **config["pretrained_cfg"]}
    transform = data.create_transform(**data.resolve_data_config(pretrained_cfg=settings))
    return _answers(model, pictures, transform)


def with_torchvision(folder: Path, pictures: list[Path]) -> Answers:
    """torchvision's model of a file, and the transforms of its preset."""
    presets = peers.import_peer("torchvision.transforms._presets")
    functional = peers.import_peer("torchvision.transforms.functional")
    model = peers.build_torchvision("swin")
    folder.mkdir()
    peers.saved(model.state_dict(), folder / "swin.pth")
    bicubic = functional.InterpolationMode.BICUBIC
    transform = presets.ImageClassification(crop_size=64, resize_size=80, interpolation=bicubic)
    return _answers(model, pictures, transform)


def _answers(
    model: torch.nn.Module,
    pictures: list[Path],
    transform: Callable[[Image.Image], torch.Tensor],
) -> Answers:
    found = {}
    for path in pictures:
        with Image.open(path) as picture:
            images = transform(picture.convert("RGB"))[None]
        shares, indices = peers.logits_of(model, images)[0].softmax(0).topk(5)
        found[str(path)] = list(zip(indices.tolist(), shares.tolist(), strict=True))
    return found


def with_huggingface(folder: Path, pictures: list[Path]) -> Answers:
    """transformers' image-classification pipeline."""
    library = peers.import_peer("transformers")
    labels = dict(enumerate(NAMES))
    model = peers.build_huggingface("swin", id2label=labels)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    processor = library.ViTImageProcessorPil(size=size, resample=3)
    processor.save_pretrained(folder)
    pipeline = library.pipeline("image-classification", model=model, image_processor=processor)
    return {
        str(path): [
            (NAMES.index(one["label"]), one["score"]) for one in pipeline(str(path), top_k=5)
        ]
        for path in pictures
    }


LIBRARIES = {
    "timm": (with_timm, ()),
    "torchvision": (
        with_torchvision,
        ("--image-size", 64, "--crop-ratio", 0.8, "--interpolation", "bicubic"),
    ),
    "huggingface": (with_huggingface, ()),
}


@pytest.mark.parametrize("source", LIBRARIES)
def test_top_five_equal_the_librarys_own(
    source: str, swin: Command, pictures: Path, tmp_path: Path
) -> None:
    theirs, options = LIBRARIES[source]
    folder = tmp_path / source
    expected = theirs(folder, sorted(pictures.iterdir()))
    checkpoint = folder if source != "torchvision" else folder / "swin.pth"
    swin("export", "--checkpoint", checkpoint, *options, "--output", "model.onnx").assert_done()
    for command in (
        ("predict", checkpoint, pictures, *options),
        ("predict", "model.onnx", pictures),
    ):
        outcome = swin(*command, "--json").assert_done()
        answers = [json.loads(line) for line in outcome.out.splitlines()]
        assert [one["image"] for one in answers] == list(expected)
        for answer in answers:
            ours = [(one["index"], one["probability"]) for one in answer["top"]]
            assert_same_top(ours, expected[answer["image"]])
            if source != "torchvision":
                assert [one["class"] for one in answer["top"]] == [NAMES[i] for i, _ in ours]


def assert_same_top(ours: list[tuple[int, float]], theirs: list[tuple[int, float]]) -> None:
    assert [index for index, _ in ours] == [index for index, _ in theirs]
    np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], atol=1e-4)


# The digits ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model in half precision."""
    from swin_deploy.artifacts.onnx_file import export_spec, write_onnx
    from swin_deploy.checkpoints.load import load_model

    loaded = load_model("notebook-digits")
    path = tmp_path_factory.mktemp("digits") / "digits-fp16.onnx"
    write_onnx(loaded, export_spec(loaded, precision="fp16"), path)
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_same_rows(ours: list[dict[str, str]], theirs: list[dict[str, str]]) -> None:
    """The same answers; another batch rounds them otherwise."""
    assert [row["image"] for row in ours] == [row["image"] for row in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert one["class_1"] == other["class_1"]
        assert float(one["probability_1"]) == pytest.approx(float(other["probability_1"]), abs=1e-4)


@pytest.mark.parametrize("form", ["checkpoint", "onnx"])
def test_table_of_the_digits_is_as_right_as_evaluate_says(
    form: str, swin: Command, exported: Path
) -> None:
    artifact = "notebook-digits" if form == "checkpoint" else exported
    outcome = swin("predict", artifact, IMAGES, "--csv", "out/table.csv").assert_done()
    assert "out/table.csv: 360 pictures, 0 without an answer" in outcome.out
    rows = read_rows(Path("out/table.csv"))
    right = sum(row["image"].split("/")[-2] == row["class_1"] for row in rows)
    evaluated = swin("evaluate", "--model", "notebook-digits", "--onnx", exported, "--json").json
    models = [evaluated["reference"], *evaluated["candidates"]]
    stage = {"checkpoint": "reference", "onnx": "onnx"}[form]
    (model,) = [one for one in models if one["stage"] == stage]
    assert (right, len(rows)) == (model["top1"]["right"], 360)
    assert right / 360 == pytest.approx(0.972, abs=0.01)


def test_table_is_gone_on_with(swin: Command, exported: Path) -> None:
    command = ("predict", exported, IMAGES, "--csv", "table.csv")
    swin(*command).assert_done()
    data, rows = Path("table.csv").read_bytes(), read_rows(Path("table.csv"))
    Path("table.csv").write_bytes(data[: len(data) // 2])  # amid a row
    outcome = swin(*command).assert_done()
    assert "of them already" in outcome.err
    assert_same_rows(read_rows(Path("table.csv")), rows)
    data = Path("table.csv").read_bytes()
    assert "0 pictures" in swin(*command).assert_done().out
    assert Path("table.csv").read_bytes() == data


def test_table_of_another_run_is_kept(swin: Command, exported: Path) -> None:
    swin("predict", exported, IMAGES / "3", "--csv", "table.csv").assert_done()
    before = Path("table.csv").read_bytes()
    swin("predict", "notebook-digits", IMAGES / "3", "--csv", "table.csv").assert_error(
        "has predictions of another run (not the same: artifact, sha256"
    )
    assert Path("table.csv").read_bytes() == before
    Path("mine.csv").write_text("important\n")
    command = ("predict", exported, IMAGES / "3", "--csv", "mine.csv")
    swin(*command).assert_error("was not made by swin-deploy")
    assert Path("mine.csv").read_text() == "important\n"
    swin(*command, "--force").assert_done()
    assert len(read_rows(Path("mine.csv"))) == len(list((IMAGES / "3").iterdir()))
    swin("predict", "notebook-digits", IMAGES / "3", "--csv", "table.csv", "--force").assert_done()
    assert json.loads(Path("table.csv.json").read_text())["artifact"] == "notebook-digits"


def test_table_has_names_with_quotes_and_line_breaks(swin: Command, exported: Path) -> None:
    folder = Path("odd")
    folder.mkdir()
    names = ['a "quoted", one.png', "two\nlines.png", "plain.png"]
    for name in names:
        (folder / name).write_bytes((IMAGES / "3" / "1770.png").read_bytes())
    command = ("predict", exported, folder, "--csv", "table.csv")
    swin(*command).assert_done()
    data, rows = Path("table.csv").read_bytes(), read_rows(Path("table.csv"))
    assert {row["image"] for row in rows} == {f"odd/{name}" for name in names}
    for cut in range(0, len(data), 25):
        Path("table.csv").write_bytes(data[:cut])
        swin(*command).assert_done()
        assert_same_rows(read_rows(Path("table.csv")), rows)


def test_unreadable_pictures_are_rows_and_status_1(swin: Command, exported: Path) -> None:
    Path("mixed").mkdir()
    Path("mixed/bad.png").write_bytes(b"no picture")
    Path("mixed/good.png").write_bytes((IMAGES / "3" / "1770.png").read_bytes())
    outcome = swin("predict", exported, "mixed", "--csv", "table.csv")
    assert outcome.status == 1
    assert "warning: image mixed/bad.png cannot be read" in outcome.err
    bad, good = read_rows(Path("table.csv"))
    assert bad["error"].startswith("image mixed/bad.png cannot be read")
    assert (bad["class_1"], good["class_1"], good["error"]) == ("", "3", "")
    outcome = swin("predict", exported, "mixed", "--json")
    assert outcome.status == 1
    first, second = map(json.loads, outcome.out.splitlines())
    assert first.keys() == {"image", "error"}
    assert second["top"][0]["class"] == "3"
    swin("predict", exported, "mixed/bad.png").assert_error("image mixed/bad.png cannot be read")
    swin("predict", exported, "mixed/bad.png", "mixed/bad.png").assert_error("none of the 2")


def test_picture_on_standard_input(
    swin: Command, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    send((IMAGES / "3" / "1770.png").read_bytes())
    answer = swin("predict", exported, "-", "--json").json
    assert (answer["image"], answer["top"][0]["class"]) == ("-", "3")
    send(b"")
    swin("predict", exported, "-").assert_error("standard input holds nothing")
    send(b"x")
    swin("predict", exported, "-").assert_error("image - cannot be read")
    swin("predict", exported, "-", "-").assert_error("give - once")


def test_text_names_the_best_classes(swin: Command, exported: Path) -> None:
    path = IMAGES / "3" / "1770.png"
    outcome = swin("predict", exported, path, "--top", "2").assert_done()
    first, *rest = outcome.out.splitlines()
    assert first == str(path)
    assert [line.split()[-1] for line in rest] == ["3", "2"]
    Path("names.txt").write_text("".join(f"digit {index}\n" for index in range(10)))
    outcome = swin("predict", exported, path, "--classes", "names.txt").assert_done()
    assert "digit 3" in outcome.out


# Outputs without classes -----------------------------------------------------------------------


@pytest.mark.parametrize("outputs", ["features", "stages", "tokens"])
def test_features_equal_the_reference(outputs: str, swin: Command) -> None:
    Path("some").mkdir()
    for name in find_images(IMAGES)[:3]:
        Path("some", name.replace("/", "-")).write_bytes((IMAGES / name).read_bytes())
    Path("some/zz.png").write_bytes(b"no picture")
    Path("some/!.png").write_bytes(b"no picture")
    options = ("--outputs", outputs)
    swin("export", "--model", "notebook-digits", *options, "--output", "m.onnx").assert_done()
    assert swin("predict", "m.onnx", "some", "--features", "onnx.npz").status == 1
    command = ("predict", "notebook-digits", "some", "--features", "torch.npz")
    assert swin(*command, *(() if outputs == "features" else options)).status == 1
    with np.load("onnx.npz") as ours, np.load("torch.npz") as theirs:
        assert ours.files == theirs.files
        assert ours["images"][0] == "some/!.png"
        assert [bool(error) for error in ours["errors"]] == [True, False, False, False, True]
        wanted = {"stages": {"stage1", "stage2"}}.get(outputs, {outputs})
        assert set(ours.files) == {"images", "errors", *wanted}
        for name in wanted:
            assert len(ours[name]) == 5
            assert np.isnan(ours[name][[0, 4]]).all()
            np.testing.assert_allclose(ours[name][1:4], theirs[name][1:4], atol=1e-4, rtol=1e-4)


def test_what_a_model_cannot_give_is_refused(swin: Command, exported: Path) -> None:
    path = IMAGES / "3" / "1770.png"
    swin("predict", exported, path, "--features", "f.npz").assert_error("--outputs features")
    swin("predict", exported, path, "--image-size", "28").assert_error("has its img size from")
    features = ("--outputs", "features")
    swin("predict", "notebook-digits", path, *features).assert_error("write them with --features")
    swin("predict", "nothing.onnx", path).assert_error("nothing.onnx does not exist")
    swin("predict", exported, "nothing.png").assert_error("image nothing.png does not exist")
    assert not list(Path().iterdir())


def test_file_of_another_tool_is_refused(swin: Command, exported: Path) -> None:
    import onnx

    graph = onnx.load(exported)
    del graph.metadata_props[:]
    onnx.save(graph, "theirs.onnx")
    swin("predict", "theirs.onnx", IMAGES / "3" / "1770.png").assert_error(
        "was not exported by swin-deploy"
    )


def test_engine_says_that_it_needs_a_gpu(swin: Command, exported: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds engines without a GPU")
    swin("build-trt", exported, "--fp16", "--output", "digits.engine").assert_done()
    manifest = json.loads(Path("digits.engine.json").read_text())
    assert manifest["class_names"] == [str(index) for index in range(10)]
    if torch.cuda.is_available():
        swin("predict", "digits.engine", IMAGES / "3" / "1770.png").assert_done()
    else:
        outcome = swin("predict", "digits.engine", IMAGES / "3" / "1770.png")
        outcome.assert_error("needs an NVIDIA GPU")


# In Python -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(exported: Path) -> Iterator[Predictor]:
    with Predictor(exported, top=3) as opened:
        yield opened


def indices_of(answer: Prediction) -> list[tuple[int, float]]:
    return [(one.index, one.probability) for one in answer.top]


def forms(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "Pillow": rgb,
        "pixels": np.asarray(rgb),
    }


@pytest.mark.parametrize("form", ["path", "text", "bytes", "Pillow", "pixels"])
def test_predictor_takes_a_picture_in_any_form(form: str, predictor: Predictor) -> None:
    path = IMAGES / "3" / "1770.png"
    (expected,) = predictor(path)
    (answer,) = predictor(forms(path)[form])
    assert_same_top(indices_of(answer), indices_of(expected))
    assert len(answer.top) == 3
    first, second = predictor([forms(path)[form], path])
    assert_same_top(indices_of(first), indices_of(second))


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((8, 8, 3), 255, np.float32),
        np.zeros((8, 8, 3), np.int64),
        np.zeros((8, 8), np.uint8),
        np.zeros((4, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        b"nothing",
        "nothing.png",
    ],
)
def test_predictor_refuses_what_is_no_picture(wrong: Any, predictor: Predictor) -> None:  # noqa: ANN401
    with pytest.raises(FileError):
        predictor(wrong)


def test_predictor_asks_for_pictures_as_it_needs_them(exported: Path) -> None:
    """Memory does not grow with their number: a few batches are under way at most."""
    path, asked = IMAGES / "3" / "1770.png", 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield path

    with Predictor(exported, batch=2) as predictor:
        stream = predictor.stream(endless())
        for _ in range(10):
            assert next(stream).top[0].name == "3"
        stream.close()
    assert asked <= 20


def test_answer_that_is_no_number_is_an_error(exported: Path) -> None:
    with Predictor(exported) as predictor:
        shape = (1, predictor.facts.config.num_classes)
        rows = predictor._rows((np.full(shape, np.nan, np.float32),))
        answer = predictor._answer(NamedPicture("x.png", Path("x.png")), next(rows))
        assert "no number" in answer.error
        assert not answer.top
        with pytest.raises(ComparisonError, match="its facts say"):
            next(predictor._rows((np.zeros((1, 3), np.float32),)))


def test_wrong_numbers_are_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Predictor(exported, top=0)


def test_softmax_of_large_logits() -> None:
    shares = scores_of(np.array([[1e4, 1e4 - 1, -1e4]], np.float32), "softmax")
    np.testing.assert_allclose(shares, [[0.7310586, 0.2689414, 0.0]], atol=1e-6)


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = PredictionTable(tmp_path / "table.csv", {}, top=1)
    with table, Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(table, "_stream", full)
        with pytest.raises(FileError, match=r"cannot keep predictions .* run again to go on"):
            table.add(Prediction("x.png"))


def test_bundled_digits_have_names() -> None:
    with Predictor(DIGITS) as predictor:
        assert predictor.facts.class_names == tuple(map(str, range(10)))
        assert dataclasses.is_dataclass(predictor.facts)


def test_predict_takes_the_current_folder_as_a_checkpoint(swin: Command) -> None:
    Path("model.safetensors").write_bytes(DIGITS.read_bytes())
    picture = IMAGES / find_images(IMAGES)[0]
    out = swin("predict", ".", picture, "--top", 1).assert_done().out
    assert out.split()[-2:] == ["%", "0"]
    Path("model.safetensors").unlink()
    swin("predict", ".", picture).assert_error("holds none of model.safetensors")


def test_predictor_is_shared_by_threads(exported: Path) -> None:
    paths = sorted((IMAGES / "3").iterdir())[:8]
    with Predictor(exported, batch=2) as predict:
        alone = [predict(path)[0].top for path in paths]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                together = pool.map(lambda path: predict(path)[0].top, paths)
                assert list(together) == alone


def test_predictor_that_is_closed_says_so(exported: Path) -> None:
    predict = Predictor(exported)
    predict.close()
    with pytest.raises(ConfigError, match="is closed"):
        predict(next((IMAGES / "3").iterdir()))


def test_picture_of_no_known_form_has_an_error_of_its_own(exported: Path) -> None:
    good = next((IMAGES / "3").iterdir())
    with Predictor(exported) as predict:
        answers = list(predict.stream([None, good, np.zeros((0, 5, 3), np.uint8)]))  # type: ignore[list-item]
        assert ["" if one.error == "" else "error" for one in answers] == ["error", "", "error"]
        with pytest.raises(ConfigError, match="is no picture"):
            predict(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"top": "3"}, {"top": 2.5}, {"batch": 0}])
def test_predictor_refuses_counts_that_are_none(wrong: dict[str, Any], exported: Path) -> None:
    with pytest.raises(ConfigError, match="a whole number of at least 1"):
        Predictor(exported, **wrong)
    with pytest.raises(ConfigError, match="neither a path nor a model"):
        Predictor(5)  # type: ignore[arg-type]


def test_features_of_a_backbone_are_its_stages(swin: Command, tmp_path: Path) -> None:
    backbone = peers.build_huggingface("swin", "Backbone", out_features=["stage1", "stage2"])
    backbone.save_pretrained(tmp_path / "backbone")
    swin("predict", tmp_path / "backbone", IMAGES / "3", "--features", "maps.npz").assert_done()
    assert set(np.load("maps.npz").files) == {"images", "errors", "stage1", "stage2"}
