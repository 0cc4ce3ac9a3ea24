"""Taggers, where any number of classes is right at once: from their folders to scores."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from command_line import Command
from PIL import Image
from taggers import TAGS, tag_names, users_scores, write_tagger, write_tags

from exporters.artifact import manifest_path, read_manifest
from exporters.errors import ConfigError, FileError
from swin_deploy.artifacts.facts import ModelFacts
from swin_deploy.checkpoints.load import load_model
from swin_deploy.config import SwinConfig
from swin_deploy.images.class_names import read_class_names
from swin_deploy.images.decode import load_pixels
from swin_deploy.images.preprocessing import Preprocessing, PreprocessingChoice
from swin_deploy.images.scores import scores_of
from swin_deploy.predict.predictor import Predictor

USERS = ("--channel-order", "bgr", "--resize-mode", "square", "--pad-color", "255,255,255")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture that is no square, with transparent pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (45, 80, 4), dtype=np.uint8)
    pixels[..., 2] //= 4  # little blue
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def tags_of(line: str) -> dict[str, float]:
    return {one["class"]: one["probability"] for one in json.loads(line)["top"]}


def test_predict_tagger_folder_gives_its_users_scores(
    swin: Command, picture: Path, tmp_path: Path
) -> None:
    model = write_tagger(tmp_path / "tagger")
    wanted = users_scores(model, picture)
    done = swin("predict", tmp_path / "tagger", picture, *USERS, "--json").assert_done()
    found = tags_of(done.out)
    assert set(found) == {n for n, s in zip(tag_names(), wanted, strict=True) if s >= 0.35}
    assert 0 < len(found) < TAGS
    for name, score in found.items():
        assert score == pytest.approx(float(wanted[tag_names().index(name)]), abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert "at least 0.35 (--threshold)" in done.err
    assert "channel order: assuming" not in done.err
    rgb = users_scores(model, picture, bgr=False)
    assert (rgb - wanted).abs().max() > 1e-2  # the order of the channels matters


@pytest.mark.skipif(
    "activation" not in SwinConfig.__dataclass_fields__, reason="the MLPs have exact GELU alone"
)
def test_predict_tagger_with_tanh_gelu_gives_its_users_scores(
    swin: Command, picture: Path, tmp_path: Path
) -> None:
    model = write_tagger(tmp_path / "tagger", act_layer="gelu_tanh")
    wanted = users_scores(model, picture)
    done = swin("predict", tmp_path / "tagger", picture, *USERS, "--json", "--threshold", 0)
    found = tags_of(done.assert_done().out)
    assert len(found) == TAGS
    for name, score in found.items():
        assert score == pytest.approx(float(wanted[tag_names().index(name)]), abs=1e-4)


def test_export_tagger_records_scores_tags_and_steps(
    swin: Command, picture: Path, tmp_path: Path
) -> None:
    model = write_tagger(tmp_path / "tagger")
    onnx = tmp_path / "tagger.onnx"
    swin("export", "--checkpoint", tmp_path / "tagger", *USERS, "--output", onnx).assert_done()
    facts = read_manifest(onnx)
    assert facts["scores"] == "sigmoid"
    assert facts["class_names"] == tag_names()
    wanted = users_scores(model, picture)
    found = tags_of(swin("predict", onnx, picture, "--json", "--threshold", 0).assert_done().out)
    assert len(found) == TAGS
    for name, score in found.items():
        assert score == pytest.approx(float(wanted[tag_names().index(name)]), abs=1e-4)
    two = swin("predict", onnx, picture, "--json", "--threshold", 0, "--top", 2).assert_done()
    assert list(tags_of(two.out)) == list(found)[:2]
    # a user may ask for other scores of the same file
    other = swin("predict", onnx, picture, "--json", "--scores", "softmax").assert_done()
    assert len(tags_of(other.out)) == 5
    logits = swin("predict", onnx, picture, "--json", "--scores", "none").assert_done()
    (first, *_) = json.loads(logits.out)["top"]
    assert first["logit"] == pytest.approx(float(torch.logit(wanted.max())), abs=1e-3)


def test_predict_tagger_says_what_its_files_do_not_say(
    swin: Command, picture: Path, tmp_path: Path
) -> None:
    write_tagger(tmp_path / "tagger")
    done = swin("predict", tmp_path / "tagger", picture).assert_done()
    assert "channel order: assuming RGB" in done.err
    assert "--channel-order rgb|bgr settles it" in done.err
    assert "scores: sigmoid, any number of tags at once (selected_tags.csv)" in done.err
    nothing = swin("predict", tmp_path / "tagger", picture, "--threshold", 1).assert_done()
    assert "none reaches 1" in nothing.out


def test_predict_tagger_writes_a_table(swin: Command, picture: Path, tmp_path: Path) -> None:
    write_tagger(tmp_path / "tagger")
    table = tmp_path / "tags.csv"
    command = ("predict", tmp_path / "tagger", picture, "--csv", table)
    swin(*command).assert_done()
    header, row = table.read_text(encoding="utf-8").splitlines()
    assert header.startswith("image,class_1,index_1,probability_1,")
    assert header.endswith("class_50,index_50,probability_50,error")
    assert row.count(",") >= header.count(",")
    assert "threshold" in swin(*command, "--threshold", 0.9).err  # rows of another threshold


def test_evaluate_tagger_is_refused(swin: Command, picture: Path, tmp_path: Path) -> None:
    write_tagger(tmp_path / "tagger")
    (tmp_path / "data" / "general").mkdir(parents=True)
    picture.rename(tmp_path / "data" / "general" / "photo.png")
    done = swin("evaluate", "--checkpoint", tmp_path / "tagger", "--data", tmp_path / "data")
    done.assert_error("accuracy needs one right class a picture")


def test_parity_of_tagger_counts_no_labels(swin: Command, picture: Path, tmp_path: Path) -> None:
    write_tagger(tmp_path / "tagger")
    (tmp_path / "data" / "general").mkdir(parents=True)
    picture.rename(tmp_path / "data" / "general" / "photo.png")
    done = swin(
        "parity", "--checkpoint", tmp_path / "tagger", "--images", tmp_path / "data", "--json"
    ).assert_done()
    assert done.json["reference_top1_accuracy"] is None


@pytest.mark.parametrize(
    ("problem", "scores"),
    [
        ("multi_label_classification", "sigmoid"),
        ("single_label_classification", "softmax"),
        ("regression", "none"),
        (None, "softmax"),
    ],
)
def test_load_huggingface_problem_type_decides_the_scores(
    problem: str | None, scores: str, tmp_path: Path
) -> None:
    model = peers.build_huggingface("swin", problem_type=problem)
    model.save_pretrained(tmp_path)
    assert load_model(None, tmp_path).scores == scores
    asked = load_model(None, tmp_path, scores="sigmoid")
    assert asked.scores == "sigmoid"
    with pytest.raises(ConfigError, match="scores 'exp'"):
        load_model(None, tmp_path, scores="exp")  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["logits", "features", None])
def test_load_one_class_has_a_sigmoid_which_is_said(output: str | None, tmp_path: Path) -> None:
    model = peers.build_timm("swin", num_classes=1)
    path = peers.saved(model.state_dict(), tmp_path / "binary.pth")
    loaded = load_model(None, path, output=output)  # type: ignore[arg-type]
    said = [one for one in loaded.assumptions if one.subject == "scores"]
    assert loaded.scores == ("softmax" if output == "features" else "sigmoid")
    assert len(said) == (output != "features")
    for scores in ("softmax", "none"):
        asked = load_model(None, path, scores=scores)
        assert asked.scores == scores
        assert not any(one.subject == "scores" for one in asked.assumptions)
    two = peers.saved(peers.build_timm("swin", num_classes=2).state_dict(), tmp_path / "two.pth")
    assert load_model(None, two).scores == "softmax"


def test_predict_one_class_is_not_sure_of_every_picture(
    swin: Command, picture: Path, tmp_path: Path
) -> None:
    model = peers.trained_like(peers.build_timm("swin", num_classes=1)).eval()
    path = peers.saved(model.state_dict(), tmp_path / "binary.pth")
    done = swin("predict", path, picture, "--json", "--threshold", "0").assert_done()
    (share,) = tags_of(done.out).values()
    assert 0.01 < share < 0.99
    assert "scores: assuming sigmoid of the one class" in done.err
    onnx = tmp_path / "binary.onnx"
    swin("export", "--checkpoint", path, "--output", onnx).assert_done()
    told = swin("predict", onnx, picture, "--scores", "none").assert_done()
    assert "scores: assuming" not in told.err


def test_huggingface_multi_label_scores_equal_the_pipelines(picture: Path, tmp_path: Path) -> None:
    library = peers.import_peer("transformers")
    model = peers.build_huggingface("swin", problem_type="multi_label_classification")
    model.config.id2label = dict(enumerate("abcdefghij"))
    model.save_pretrained(tmp_path)
    processor = library.ViTImageProcessorPil(size={"height": 64, "width": 64}, resample=3)
    processor.save_pretrained(tmp_path)
    Image.open(picture).convert("RGB").save(picture)
    pipeline = library.pipeline("image-classification", model=model, image_processor=processor)
    wanted = {one["label"]: one["score"] for one in pipeline(str(picture), top_k=10)}
    with Predictor(tmp_path, threshold=0) as predictor:
        (answer,) = predictor(picture)
    assert {one.name for one in answer.top} == set(wanted)
    for one in answer.top:
        assert one.probability == pytest.approx(wanted[one.name], abs=1e-4)


def test_scores_of_large_logits_are_finite() -> None:
    logits = np.array([[-1e4, 0.0, 1e4]], np.float32)
    np.testing.assert_allclose(scores_of(logits, "sigmoid"), [[0.0, 0.5, 1.0]])
    np.testing.assert_array_equal(scores_of(logits, "none"), logits)
    some = np.linspace(-20, 20, 41, dtype=np.float32)
    wanted = torch.from_numpy(some).double().sigmoid().numpy()
    np.testing.assert_allclose(scores_of(some, "sigmoid"), wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tag_id,category\n1,0\n", "has no column name"),
        ("tag_id,name\n1,\n", "has no name in row 2"),
        ("", "has no column name"),
        ('name\n"a\n', "names 1 classes"),
        ("name\na\nb\n", "names 2 classes, the model gives 12"),
    ],
)
def test_read_class_names_of_a_wrong_csv_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "tags.csv").write_text(text)
    with pytest.raises((FileError, ConfigError), match=message):
        read_class_names(tmp_path / "tags.csv", TAGS)


def test_classes_option_takes_a_tag_list(tmp_path: Path) -> None:
    path = write_tags(tmp_path / "other.csv", tag_names())
    assert read_class_names(path, TAGS).shown == tuple(tag_names())


def test_load_pixels_square_refuses_what_becomes_too_large(tmp_path: Path) -> None:
    Image.new("RGB", (30_000, 2)).save(tmp_path / "line.png")
    steps = Preprocessing(crop=64, resize=64, resize_mode="square")
    with pytest.raises(FileError, match="padded to a square"):
        load_pixels(tmp_path / "line.png", steps)


@pytest.mark.parametrize(
    "choice", [{"channel_order": "gbr"}, {"pad_color": (0, 0, 300)}], ids=["order", "colour"]
)
def test_preprocessing_choice_that_cannot_be_done_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"channel order|pad colour"):
        PreprocessingChoice(**choice).apply(Preprocessing(crop=64, resize=64))


def test_facts_of_an_earlier_version_have_softmax(swin: Command, tmp_path: Path) -> None:
    onnx = tmp_path / "digits.onnx"
    swin("export", "--model", "notebook-digits", "--output", onnx).assert_done()
    values = json.loads(manifest_path(onnx).read_text())
    del values["scores"]
    facts = ModelFacts.from_dict(values, where="x")
    assert facts is not None
    assert facts.scores == "softmax"
    assert dataclasses.replace(facts, scores="sigmoid") != facts
