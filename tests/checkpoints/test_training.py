"""Hints of training scripts: what is used, what the weights contradict, and where it is said."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gone
import peers
import pytest
import torch
from command_line import Command
from conftest import FLOAT32_TOLERANCE, rms_error, seeded_images
from original_files import TINY
from torch import nn

from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.images.preprocessing import IMAGENET_MEAN

Named = Callable[[Any], dict[str, Any]]  # the package of gone classes to what is saved


def namespace(**values: object) -> dict[str, Any]:
    return {"args": argparse.Namespace(**values)}


def saved(folder: Path, beside: dict[str, Any], *, family: str = "swin", **sizes: Any) -> Path:  # noqa: ANN401
    """timm's weights, small, and what stands next to them."""
    model = peers.build_timm(family, **TINY, **sizes)
    torch.save({"state_dict": model.state_dict(), "epoch": 3, **beside}, folder / "w.pth.tar")
    return folder / "w.pth.tar"


def load(path: Path) -> LoadedModel:
    return load_model(checkpoint=path)


def subjects(loaded: LoadedModel) -> set[str]:
    return {one.subject for one in loaded.assumptions}


YACS = {"DATA": {"IMG_SIZE": 128}, "MODEL": {"TYPE": "swin"}}
SIZES: dict[str, tuple[Named, str]] = {
    "timm": (lambda _: namespace(img_size=128), "args.img_size"),
    "timm-input": (lambda _: namespace(img_size=None, input_size=[3, 128, 128]), "args.input_size"),
    "deit": (lambda _: namespace(input_size=128), "args.input_size"),
    "torchvision": (lambda _: namespace(val_crop_size=128), "args.val_crop_size"),
    "authors": (lambda p: {"config": p.CfgNode(YACS)}, "config.DATA.IMG_SIZE"),
    "authors-as-dict": (lambda _: {"config": YACS}, "config.DATA.IMG_SIZE"),
    "lightning": (
        lambda p: {"hyper_parameters": p.AttributeDict(img_size=128)},
        "hyper_parameters.img_size",
    ),
    "omegaconf": (lambda p: {"cfg": p.DictConfig({"image_size": 128})}, "cfg.image_size"),
    "dict-of-args": (lambda _: {"args": {"img_size": (128, 128)}}, "args.img_size"),
}


@pytest.mark.parametrize("name", SIZES)
def test_load_model_takes_the_image_size_of_training(name: str, tmp_path: Path) -> None:
    make, place = SIZES[name]
    with gone.package() as package:
        path = saved(tmp_path, make(package))
    loaded = load(path)
    assert loaded.config.img_size == 128
    assert f"img_size 128: {place} of w.pth.tar" in loaded.notes
    assert "image size" not in subjects(loaded)


@pytest.mark.parametrize(
    "value",
    [None, "large", "128px", 0, -1, 1.5, True, [0, 0], [1, 2, 3, 4], [], 10**30, {"a": 1},
     float("nan")],
)  # fmt: skip
def test_load_model_ignores_an_image_size_that_is_none(value: object, tmp_path: Path) -> None:
    loaded = load(saved(tmp_path, namespace(img_size=value)))
    assert loaded.config.img_size == 32
    assert subjects(loaded) == {"image size", "preprocessing"}
    assert (value not in (None, [])) == any(
        note.startswith("img_size ") and note.endswith(": not used, not a value of it")
        for note in loaded.notes
    )


@pytest.mark.parametrize(
    ("value", "size"),
    [("128", 128), (" 128 ", 128), ("(128, 128)", 128), ("64x128", (64, 128)), (128.0, 128),
     ("3 128 128", 128), ([64, 128], (64, 128)), ([3, 64, 128], (64, 128)),
     ((64, 128, 3), (64, 128)), (torch.tensor(128), 128), (torch.tensor([64.0, 128.0]), (64, 128))],
    ids=str,
)  # fmt: skip
def test_load_model_takes_an_image_size_in_any_form(
    value: object, size: object, tmp_path: Path
) -> None:
    loaded = load(saved(tmp_path, namespace(img_size=value)))
    assert loaded.config.img_size == size
    text = "64x128" if isinstance(size, tuple) else "128"
    assert f"img_size {text}: args.img_size of w.pth.tar" in loaded.notes
    assert "image size" not in subjects(loaded)


@pytest.mark.parametrize(
    ("beside", "place"),
    [
        ({"img_size": 128}, "img_size"),
        ({"hps": {"img_size": 128}}, "hps.img_size"),
        ({"cfg": {"data": {"img_size": 128}, "model": {"img_size": "128"}}}, ""),
        ({"cfg": {"data": {"img_size": 128}, "model": {"img_size": 128}}}, "cfg.data.img_size"),
        ({"cfg": {"train": {"img_size": 128}, "test": {"img_size": 64}}}, ""),
        ({"hps": {"img_size": 64}, "args": {"img_size": 128}}, "args.img_size"),
        ({"hps": {"img_size": 64, "shadow": torch.ones(3)}}, ""),
        ({"img_size": torch.tensor(128)}, ""),
    ],
    ids=str,
)
def test_load_model_takes_fields_of_any_dict_without_tensors(
    beside: dict[str, Any], place: str, tmp_path: Path
) -> None:
    loaded = load(saved(tmp_path, beside))
    assert loaded.config.img_size == (128 if place else 32)
    assert (f"img_size 128: {place} of w.pth.tar" in loaded.notes) == bool(place)


def test_load_model_says_that_a_size_does_not_fit_the_windows(tmp_path: Path) -> None:
    state = peers.microsoft_state(peers.build_timm("swin", **TINY))
    state = {name: one for name, one in state.items() if "attn_mask" not in name}
    path = tmp_path / "w.pth"
    torch.save({"model": state, **namespace(img_size=100)}, path)
    loaded = load(path)
    assert loaded.source == "microsoft"
    assert loaded.config.img_size == 32
    assert any(
        note.startswith("img_size 100: args.img_size of w.pth: not used, image size 100")
        for note in loaded.notes
    )


def test_load_model_takes_a_size_of_training_that_the_library_pads(tmp_path: Path) -> None:
    model = peers.trained_like(peers.build_timm("swin", **TINY | {"img_size": 100})).eval()
    torch.save({"state_dict": model.state_dict(), **namespace(img_size=100)}, tmp_path / "w.pth")
    loaded = load(tmp_path / "w.pth")
    assert loaded.config.img_size == 100
    images = seeded_images(loaded.config, 2)
    with torch.inference_mode():
        assert rms_error(loaded.deploy(images), peers.logits_of(model, images)) < FLOAT32_TOLERANCE


def test_load_model_asked_size_is_taken_over_the_one_of_training(tmp_path: Path) -> None:
    path = saved(tmp_path, namespace(img_size=128))
    loaded = load_model(checkpoint=path, img_size=64)
    assert loaded.config.img_size == 64
    assert loaded.reading is not None
    assert loaded.reading.saved.img_size == 128


def test_load_model_weights_win_over_the_sizes_of_training(tmp_path: Path) -> None:
    loaded = load(
        saved(
            tmp_path,
            namespace(
                model="swin_base_patch4_window7_224", embed_dim=128, num_classes=1000,
                window_size=12, depths=[2, 2],
            ),
        )
    )  # fmt: skip
    assert loaded.config.embed_dim == 16
    where = "of w.pth.tar: not used, the weights have"
    assert f"embed_dim 128: args.embed_dim {where} 16" in loaded.notes
    assert f"num_classes 1000: args.num_classes {where} 10" in loaded.notes
    assert f"window_size 12: args.window_size {where} 4/4" in loaded.notes
    assert any("args.model of w.pth.tar is swin_base_patch4" in note for note in loaded.notes)
    assert not any(note.startswith("depths") for note in loaded.notes)


def test_load_model_takes_the_windows_of_v2_from_training(tmp_path: Path) -> None:
    """timm's V2 files do not show them."""
    path = saved(tmp_path, namespace(window_size=8, img_size=64), family="swinv2",
                 img_size=64, window_size=8)  # fmt: skip
    loaded = load(path)
    assert set(loaded.config.window_sizes) == {(8, 8)}
    assert "window_size 8: args.window_size of w.pth.tar" in loaded.notes
    assert loaded.assumptions[0].subject == "preprocessing"


@pytest.mark.parametrize("section", ["SWINV2", "SWIN"])
def test_load_model_takes_the_section_of_the_authors_type(section: str, tmp_path: Path) -> None:
    """Their config has the defaults of every type; only one section is the model's."""
    sections = {name: {"WINDOW_SIZE": 8 if name == section else 99} for name in ("SWIN", "SWINV2")}
    config = {"MODEL": {"TYPE": section.lower(), **sections}, "DATA": {"IMG_SIZE": 64}}
    family = section.lower()
    path = saved(tmp_path, {"config": config}, family=family, img_size=64, window_size=8)
    loaded = load(path)
    assert loaded.config.img_size == 64
    assert set(loaded.config.window_sizes) == {(8, 8)}
    assert not any("not used" in note for note in loaded.notes)


FULL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "interpolation": "bilinear"}
PICTURES: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "timm": (namespace(**FULL, crop_pct=0.95), FULL | {"resize": 33}, False),
    "mean-alone": (
        namespace(mean=[0.5]), {"mean": (0.5, 0.5, 0.5), "interpolation": "bicubic"}, True
    ),
    "nothing": (
        namespace(mean=None, crop_pct=None, interpolation="", std="x"), {"resize": 35}, True
    ),
    "one-number": (namespace(mean=0.5, std=0.25), {"mean": (0.5,) * 3, "std": (0.25,) * 3}, True),
    "texts": (
        namespace(mean="[0.5]", std="0.2 0.3 0.4", crop_pct="1.0"),
        {"mean": (0.5,) * 3, "std": (0.2, 0.3, 0.4), "resize": 32},
        True,
    ),
    "tensors": (
        namespace(mean=torch.full((3, 1, 1), 0.5), std=torch.tensor(0.25)),
        {"mean": (0.5,) * 3, "std": (0.25,) * 3},
        True,
    ),
    "levels": (
        namespace(mean=[51, 102, 0], std=[51.0]),
        {"mean": (0.2, 0.4, 0.0), "std": (0.2,) * 3},
        True,
    ),
    "levels-that-are-not-divided": (
        namespace(mean=[51, 102, 0], std=[1, 1, 1]), {"std": (1 / 255,) * 3}, True
    ),
    "unit": (namespace(mean=[0, 0, 0], std=[1, 1, 1]), {"std": (1.0,) * 3}, True),
    "std-of-zero": (namespace(mean=0.5, std=[0, 0, 0]), {"mean": (0.5,) * 3}, True),
    "other-channels": (namespace(mean=[0.5] * 4), {"mean": IMAGENET_MEAN}, True),
    "numbers-that-disagree": (
        namespace(mean=[0.5] * 2, std=[0.5] * 3), {"mean": IMAGENET_MEAN}, True
    ),
    "own-keys": ({"mean": [0.5] * 3, "std": [0.5] * 3}, {"mean": (0.5,) * 3}, True),
    "unknown-filter": (namespace(interpolation="random"), {"interpolation": "bicubic"}, True),
    "authors-crop": (
        {"config": {"TEST": {"CROP": True}, "DATA": {"INTERPOLATION": "bilinear"}}},
        {"resize": 36, "interpolation": "bilinear", "resize_mode": "shortest"},
        False,
    ),
    "authors-whole": (
        {"config": {"TEST": {"CROP": False}, "DATA": {"INTERPOLATION": "bicubic"}}},
        {"resize": 32, "resize_mode": "squash"},
        False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_load_model_prepares_pictures_as_training_did(name: str, tmp_path: Path) -> None:
    beside, wanted, guess = PICTURES[name]
    loaded = load(saved(tmp_path, beside))
    found = {field: getattr(loaded.preprocessing, field) for field in wanted}
    assert found == wanted
    assert ("preprocessing" in subjects(loaded)) == guess
    if not guess:
        place = next(iter(beside))
        assert loaded.preprocessing.origin == f"{place} of w.pth.tar"


NAMES = [f"class {index}" for index in range(10)]
CLASSES: dict[str, dict[str, Any]] = {
    "class_names": {"class_names": NAMES},
    "meta": {"meta": {"CLASSES": tuple(NAMES)}},
    "dataset_meta": {"dataset_meta": {"classes": NAMES}},
    "idx_to_class": {"idx_to_class": dict(enumerate(NAMES))},
    "idx-as-text": {"idx_to_class": {str(index): name for index, name in enumerate(NAMES)}},
    "class_to_idx": {"class_to_idx": {name: index for index, name in enumerate(NAMES)}},
    "digits": {"class_to_idx": {str(9 - index): index for index in range(10)}},
    "in-args": namespace(class_names=NAMES),
}


@pytest.mark.parametrize("name", CLASSES)
def test_load_model_takes_the_class_names_of_training(name: str, tmp_path: Path) -> None:
    found = load(saved(tmp_path, CLASSES[name])).class_names
    assert found is not None
    names = [str(9 - index) for index in range(10)] if name == "digits" else NAMES
    assert list(found.shown) == names
    assert found.source.endswith("of w.pth.tar")


@pytest.mark.parametrize(
    "names",
    [
        NAMES[:9],
        [*NAMES, "more"],
        [1] * 10,
        {"a": "b"},
        {10**5000: "a"},
        {"٣" * 40: "a"},
        "text",
        3,
    ],
)
def test_load_model_ignores_names_that_are_not_of_the_classes(
    names: object, tmp_path: Path
) -> None:
    assert load(saved(tmp_path, {"class_names": names})).class_names is None


def test_load_model_whole_timm_module_tells_its_size_and_pictures(tmp_path: Path) -> None:
    model = peers.build_timm("swin", **TINY, img_size=128)
    model.pretrained_cfg = {  # type: ignore[assignment]
        "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop_pct": 1.0,
        "interpolation": "bicubic", "input_size": (3, 224, 224),
    }  # fmt: skip
    torch.save({"model": nn.DataParallel(model)}, tmp_path / "whole.pt")
    loaded = load(tmp_path / "whole.pt")
    assert loaded.config.img_size == 128
    assert "img_size 128: module.img_size of whole.pt" in loaded.notes
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert loaded.preprocessing.resize == 128
    assert loaded.assumptions == ()


def test_main_says_where_a_hint_is_from(swin: Command, tmp_path: Path) -> None:
    """Through the command line: no assumption about the size, and its origin."""
    with gone.package() as package:
        saved(tmp_path, {"config": package.CfgNode({**YACS, "TEST": {"CROP": True}})})
    done = swin("export", "--checkpoint", "w.pth.tar", "--output", "x.onnx").assert_done()
    assert "img_size 128: config.DATA.IMG_SIZE of w.pth.tar" in done.err
    assert "left aside objects of gone_package.CfgNode: not imported" in done.err
    assert "assuming 32 px" not in done.err
    assert "centre crop 128" in done.err
