"""Sixteen pictures through our preprocessing and through the libraries': the same pixels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
from command_line import Command
from numpy.typing import NDArray
from photographs import write_photographs
from PIL import Image

from exporters.errors import ConfigError, DeployError
from swin_deploy.checkpoints.image_processors import huggingface_rule
from swin_deploy.checkpoints.load import LoadedModel, load_model
from swin_deploy.checkpoints.preprocessors import library_rule
from swin_deploy.checkpoints.processors import DEFAULTS, PROCESSORS
from swin_deploy.checkpoints.timm_steps import timm_rule
from swin_deploy.config import VARIANTS, Size
from swin_deploy.images.decode import load_image
from swin_deploy.images.pages import Page
from swin_deploy.images.preprocessing import Preprocessing

Pixels = NDArray[np.float32]
Library = Callable[[Path], Pixels]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = write_photographs(tmp_path_factory.mktemp("photographs"))
    assert len(paths) == 16
    return paths


def differences(pictures: list[Path], steps: Preprocessing, theirs: Library) -> dict[str, float]:
    """The largest difference of each picture that is not the same to the bit."""
    found = {}
    for path in pictures:
        ours, expected = load_image(path, steps), theirs(path)
        assert ours.shape == expected.shape
        if not np.array_equal(ours, expected):
            found[path.name] = float(np.abs(ours - expected).max())
    return found


def opened(path: Path) -> Image.Image:
    """A picture as torchvision's ``ImageFolder`` and timm's datasets open it."""
    with Image.open(path) as image:
        return image.convert("RGB")


# timm --------------------------------------------------------------------------------------------

TIMM: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {},
    "swin_base_patch4_window12_384": {},
    "swinv2_tiny_window8_256": {},
    "swinv2_base_window12_192": {},
}


def timm_transform(name: str, **changes: Any) -> Library:  # noqa: ANN401 - timm's settings
    timm = peers.import_peer("timm")
    data = peers.import_peer("timm.data")
    settings = data.resolve_data_config(pretrained_cfg=_timm_settings(timm, name) | changes)
    transform = data.create_transform(**settings, is_training=False)
    return lambda path: transform(opened(path)).numpy()


def _timm_settings(timm: Any, name: str) -> dict[str, Any]:  # noqa: ANN401 - a module
    return dict(timm.get_pretrained_cfg(name).to_dict())


@pytest.mark.parametrize("name", TIMM)
def test_published_timm_model_equals_create_transform(name: str, pictures: list[Path]) -> None:
    steps = library_rule("timm", VARIANTS[name]).steps(VARIANTS[name].image)
    assert differences(pictures, steps, timm_transform(name)) == {}


def test_every_timm_variant_has_timms_settings() -> None:
    timm = peers.import_peer("timm")
    for name, config in VARIANTS.items():
        if config.family == "notebook":
            continue
        settings = _timm_settings(timm, name)
        steps = library_rule("timm", config).steps(config.image)
        side = settings["input_size"][-1]
        assert (steps.crop, steps.resize) == (side, int(side / settings["crop_pct"]))
        assert steps.interpolation == settings["interpolation"]
        assert (steps.mean, steps.std) == (settings["mean"], settings["std"])


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_pct": 0.8, "interpolation": "bilinear"},
        {"crop_pct": 0.95, "crop_mode": "squash"},
        {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "lanczos"},
        {"crop_pct": 0.9, "crop_mode": "border"},
        {"crop_pct": 1.0, "crop_mode": "border", "mean": (0.1, 0.5, 0.9)},
        {"crop_pct": None, "mean": None, "interpolation": ""},
        {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 1.0), "interpolation": "nearest"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_timm_folder_equals_create_transform(
    changes: dict[str, Any], pictures: list[Path], tmp_path: Path
) -> None:
    loaded = timm_folder(tmp_path, **changes)
    their_settings = {"input_size": (3, 64, 64), **changes}
    theirs = timm_transform("swin_tiny_patch4_window7_224", **their_settings)
    assert differences(pictures, loaded.preprocessing, theirs) == {}
    assert not [one for one in loaded.assumptions if one.subject == "preprocessing"]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [Size(48, 96), Size(96, 48), Size(64, 57)], ids=str)
def test_timm_rule_of_a_rectangle_equals_create_transform(
    mode: str, size: Size, pictures: list[Path]
) -> None:
    settings = {"crop_pct": 0.9, "crop_mode": mode, "interpolation": "bicubic"}
    steps = timm_rule(settings, where="config.json").steps(size)
    changes = {"input_size": (3, *size), **settings}
    theirs = timm_transform("swin_tiny_patch4_window7_224", **changes)
    assert differences(pictures, steps, theirs) == {}
    other = timm_rule(settings | {"crop_pct": 0.7}, where="config.json").steps(size)
    assert differences(pictures, other, theirs)


def timm_folder(folder: Path, **settings: Any) -> LoadedModel:  # noqa: ANN401 - timm's settings
    timm = peers.import_peer("timm")
    arguments = {"img_size": 64, "window_size": 4, "num_classes": 3, **peers.SIZES}
    model = timm.create_model("swin_tiny_patch4_window7_224", **arguments)
    timm.models.save_for_hf(model, str(folder), model_args=arguments)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= settings
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(None, folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interpolation": "random"}, "asks for interpolation random"),
        ({"crop_mode": "corner"}, "asks for crop_mode corner"),
        ({"crop_pct": "0.9"}, "crop_pct: expected float"),
        ({"mean": [0.5, "x", 0.5]}, r"mean\[1\]: expected float"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "have 2 numbers, the model takes 3 channels"),
        ({"std": [0, 0, 0]}, "none of std zero"),
    ],
    ids=["random", "mode", "text", "list", "channels", "zero"],
)
def test_timm_settings_that_cannot_be_done_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DeployError, match=message):
        timm_folder(tmp_path, **settings)


def test_fine_tuned_timm_file_has_timms_crop_and_says_that_it_is_a_guess(
    pictures: list[Path], tmp_path: Path
) -> None:
    timm = peers.import_peer("timm")
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=37)
    path = peers.saved(model.state_dict(), tmp_path / "pets37.pth")
    loaded = load_model(None, path)
    theirs = timm_transform("swin_tiny_patch4_window7_224")
    assert differences(pictures, loaded.preprocessing, theirs) == {}
    (assumed,) = [one for one in loaded.assumptions if one.subject == "preprocessing"]
    assert "shorter side to 248, bicubic, centre crop 224" in assumed.value
    assert "mean 0.485 0.456 0.406" in assumed.value
    assert "--preprocessing" in assumed.option


# torchvision -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["Swin_T", "Swin_S", "Swin_B", "Swin_V2_T", "Swin_V2_S", "Swin_V2_B"]
)
def test_torchvision_equals_the_transforms_of_its_weights(name: str, pictures: list[Path]) -> None:
    models = peers.import_peer("torchvision.models")
    transform = getattr(models, f"{name}_Weights").IMAGENET1K_V1.transforms()
    version = "swinv2" if "V2" in name else "swin"
    size = {"T": "tiny", "S": "small", "B": "base"}[name[-1]]
    variant = f"{version}_{size}_" + (
        "window8_256" if version == "swinv2" else "patch4_window7_224"
    )
    config = VARIANTS[variant]
    steps = library_rule("torchvision", config).steps(config.image)
    assert differences(pictures, steps, lambda path: transform(opened(path)).numpy()) == {}


# The authors' code -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [28, 192, 224, 256, 384])
def test_microsoft_equals_the_authors_transform(side: int, pictures: list[Path]) -> None:
    """The authors' code is no package: their ``build_transform``, spelt with torchvision."""
    transforms = peers.import_peer("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    first = {
        28: [transforms.CenterCrop(28)],  # too small for their resize
        384: [transforms.Resize((384, 384), interpolation=bicubic)],  # TEST.CROP: False
    }.get(
        side,
        [
            transforms.Resize(int((256 / 224) * side), interpolation=bicubic),
            transforms.CenterCrop(side),
        ],
    )
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    transform = transforms.Compose([*first, transforms.ToTensor(), transforms.Normalize(mean, std)])
    steps = library_rule("microsoft", VARIANTS["swin_tiny_patch4_window7_224"]).at(side)
    assert differences(pictures, steps, lambda path: transform(opened(path)).numpy()) == {}


# Hugging Face ------------------------------------------------------------------------------------

BOX = 4  # of PIL.Image.Resampling
HALVES = (0.5, 0.5, 0.5)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HUGGINGFACE: dict[str, tuple[str, dict[str, Any]]] = {
    "swin on the hub": ("ViT", {"size": {"height": 64, "width": 64}, "resample": 3, **IMAGENET}),
    "all defaults": ("ViT", {}),
    "size of one number": ("ViT", {"size": 64, "resample": 2}),
    "no normalize": ("ViT", {"size": 64, "do_normalize": False}),
    "no rescale": ("ViT", {"size": 64, "do_rescale": False, "image_mean": [100.0] * 3}),
    "rescale to -1 .. 1": ("ViT", {"size": 64, "rescale_factor": 1 / 127.5, "image_mean": [1] * 3}),
    "neither": ("ViT", {"size": 64, "do_rescale": False, "do_normalize": False}),
    "lanczos": ("ViT", {"size": 64, "resample": 1}),
    "nearest": ("ViT", {"size": 64, "resample": 0}),
    "box": ("ViT", {"size": 64, "resample": 4}),
    "shortest edge and crop": (
        "CLIP",
        {"size": {"shortest_edge": 71}, "crop_size": {"height": 64, "width": 64}},
    ),
    "odd margins": ("CLIP", {"size": {"shortest_edge": 75}, "crop_size": 64, "resample": 2}),
    "crop beyond the picture": ("CLIP", {"size": {"shortest_edge": 50}, "crop_size": 64}),
    "crop alone": ("CLIP", {"do_resize": False, "crop_size": 64}),
    "squash and crop": ("DeiT", {"size": {"height": 73, "width": 73}, "crop_size": 64}),
    "crop below 384": ("ConvNext", {"size": {"shortest_edge": 64}, "crop_pct": 0.9}),
    "crop below 384, default": ("ConvNext", {"size": {"shortest_edge": 64}}),
    "squash from 384 up": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "beit": ("Beit", {"size": 64, "do_center_crop": True, "crop_size": 56}),
    "siglip": ("Siglip", {"size": {"height": 64, "width": 64}}),
    "bit": ("Bit", {"size": {"shortest_edge": 70}, "crop_size": {"height": 64, "width": 64}}),
    "mobilenet": ("MobileNetV2", {}),
    "segformer": ("Segformer", {"size": 64}),
    "dpt": ("DPT", {"size": {"height": 64, "width": 64}}),
    "dpt in multiples": ("DPT", {"size": {"height": 64, "width": 64}, "ensure_multiple_of": 32}),
    "maskformer, square": ("MaskFormer", {"size": {"height": 64, "width": 64}}),
    "mask2former, square": ("Mask2Former", {"size": {"height": 64, "width": 64}}),
    "grounding dino, square": ("GroundingDino", {"size": {"height": 64, "width": 64}}),
    "rt-detr": ("RTDetr", {}),
    "rt-detr, padded": ("RTDetr", {"size": {"height": 64, "width": 64}, "do_pad": True}),
    "rectangle": ("ViT", {"size": {"height": 64, "width": 97}}),
    "rectangle as a list": ("ViT", {"size": [97, 64], "resample": 3}),
    "rectangular crop": (
        "CLIP",
        {"size": {"shortest_edge": 71}, "crop_size": {"height": 53, "width": 70}},
    ),
    "rectangular crop beyond the picture": (
        "Bit",
        {"size": {"shortest_edge": 50}, "crop_size": {"height": 48, "width": 81}},
    ),
    "squash to a rectangle and crop another": (
        "DeiT",
        {"size": {"height": 73, "width": 60}, "crop_size": {"height": 64, "width": 48}},
    ),
    "rectangular crop alone": (
        "ViT",
        {"do_resize": False, "do_center_crop": True, "crop_size": {"height": 64, "width": 49}},
    ),
    "pad without a size": ("ViT", {"size": 64, "do_pad": True}),
    "pad after all": (
        "ViT",
        {"size": 64, "do_pad": True, "pad_size": {"height": 64, "width": 96}},
    ),
    "crop, then pad": (
        "CLIP",
        {"size": {"shortest_edge": 71}, "crop_size": 60, "do_pad": True, "pad_size": 64},
    ),
    "edges, then pad": (
        "ViT",
        {
            "size": {"shortest_edge": 64, "longest_edge": 107},
            "do_pad": True,
            "pad_size": {"height": 107, "width": 110},
        },
    ),
    "segformer, rectangle": ("Segformer", {"size": {"height": 40, "width": 64}}),
    "maskformer, rounded up": ("MaskFormer", {"size": {"height": 50, "width": 70}}),
    "mask2former, not rounded": (
        "Mask2Former",
        {"size": {"height": 50, "width": 70}, "size_divisor": 0},
    ),
    "grounding dino reads no crop": (
        "GroundingDino",
        {"size": {"height": 64, "width": 48}, "do_center_crop": True, "crop_size": 32},
    ),
    "rt-detr, padded to a size": (
        "RTDetr",
        {
            "size": {"height": 64, "width": 48},
            "do_pad": True,
            "pad_size": {"height": 96, "width": 64},
        },
    ),
}
DETECTOR_SIZES: dict[str, dict[str, Any]] = {
    "edges": {"size": {"shortest_edge": 64, "longest_edge": 107}, "do_pad": True},
    "rectangle": {"size": {"height": 64, "width": 107}, "do_pad": True},
}
SEGMENTER_SIZES: dict[str, dict[str, Any]] = {
    "edges": {"size": {"shortest_edge": 64, "longest_edge": 107}},
    "no divisor": {"size": {"shortest_edge": 64, "longest_edge": 107}, "size_divisor": 0},
    "divisor": {"size": {"shortest_edge": 60, "longest_edge": 120}, "size_divisor": 20},
}
DETECTED: dict[str, tuple[str, dict[str, Any]]] = {
    f"{kind}, {name}": (kind, {"pad_size": {"height": 128, "width": 160}, **values})
    for kind in ("Detr", "DeformableDetr", "ConditionalDetr", "GroundingDino", "RTDetr")
    for name, values in DETECTOR_SIZES.items()
}
DETECTED |= {
    f"{kind}, {name}": (kind, {"pad_size": {"height": 128, "width": 160}, **values})
    for kind in ("MaskFormer", "Mask2Former")
    for name, values in SEGMENTER_SIZES.items()
}
PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "donut": ("Donut", {"size": {"height": 128, "width": 96}}),
    "donut, lying": ("Donut", {"size": {"height": 96, "width": 130}}),
    "donut, width first": ("Donut", {"size": [96, 128], "resample": 3}),
    "donut, nearest": ("Donut", {"size": {"height": 50, "width": 71}, "resample": 0}),
    "donut, turned": ("Donut", {"size": [96, 128], "do_align_long_axis": True}),
    "donut, turned, square": ("Donut", {"size": [96, 96], "do_align_long_axis": True}),
    "nougat": ("Nougat", {"size": {"height": 128, "width": 96}}),
    "nougat, with its margin": ("Nougat", {"size": [131, 97], "do_crop_margin": False}),
    "nougat, turned": ("Nougat", {"size": [64, 96], "do_align_long_axis": True, "resample": 3}),
}
HUGGINGFACE |= DETECTED | PAGES


def processor(kind: str, backend: str, values: dict[str, Any]) -> Any:  # noqa: ANN401 - theirs
    library = peers.import_peer("transformers")
    return getattr(library, f"{kind}ImageProcessor{backend}")(**values)


def processed(theirs: Any) -> Library:  # noqa: ANN401 - an image processor
    """A picture as transformers' pipelines open it, and the processor's pixels."""
    utils = peers.import_peer("transformers.image_utils")
    return lambda path: np.asarray(
        theirs(utils.load_image(str(path)), return_tensors="np")["pixel_values"][0], np.float32
    )


def rule_of(theirs: Any, folder: Path) -> Preprocessing:  # noqa: ANN401 - an image processor
    """Our steps from the file that the processor saves, at the size that it gives."""
    theirs.save_pretrained(folder)
    values = json.loads((folder / "preprocessor_config.json").read_text())
    rule = huggingface_rule(values, where="preprocessor_config.json")
    return rule.steps(Size.of(rule.native or 64))


@pytest.mark.parametrize(("kind", "values"), HUGGINGFACE.values(), ids=HUGGINGFACE.keys())
def test_huggingface_equals_the_processor_on_pillow(
    kind: str, values: dict[str, Any], pictures: list[Path], tmp_path: Path
) -> None:
    theirs = processor(kind, "Pil", values)
    assert differences(pictures, rule_of(theirs, tmp_path), processed(theirs)) == {}


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("Detr", {"size": 64, "do_pad": True}),
        ("Detr", {"size": 64, "max_size": 107, "do_pad": True}),
        ("MaskFormer", {"size": 64, "max_size": 107}),
    ],
)
def test_sizes_of_old_files_equal_the_processor_on_pillow(
    kind: str, values: dict[str, Any], pictures: list[Path]
) -> None:
    """A number is the shortest edge, and the longest has a field of its own."""
    side = {"height": 1333, "width": 1333}
    theirs = processor(kind, "Pil", values | {"pad_size": side})
    saved = values | {"feature_extractor_type": f"{kind}FeatureExtractor"}
    steps = huggingface_rule(saved, where="preprocessor_config.json").steps(Size.of(1333))
    assert differences(pictures, steps, processed(theirs)) == {}
    wrong = dataclasses.replace(steps, resize=(31, 106))
    assert differences(pictures, wrong, processed(theirs))


def test_segmenter_pads_to_the_image_that_is_asked_for(pictures: list[Path]) -> None:
    """A file without a size to pad to is for any; a picture that is too large is shrunk to it."""
    values = {"image_processor_type": "MaskFormerImageProcessor", "size_divisor": 32}
    edges = {"size": {"shortest_edge": 64, "longest_edge": 107}}
    rule = huggingface_rule(values | edges, where="preprocessor_config.json")
    assert rule.native == (64, 128)
    wide = processor("MaskFormer", "Pil", edges | {"pad_size": {"height": 128, "width": 128}})
    assert differences(pictures, rule.steps(Size(128, 128)), processed(wide)) == {}
    steps = rule.steps(Size(64, 128))
    (tall,) = (path for path in pictures if "07-tall" in path.name)  # 97 x 511
    image = load_image(tall, steps)
    assert image.shape == (3, 64, 128)
    assert image[:, :, :32].all()
    assert not image[:, :, 32:].any()


def test_page_larger_than_the_image_is_refused_as_the_processor_does(
    pictures: list[Path],
) -> None:
    values = {"size": {"height": 128, "width": 96}, "do_thumbnail": False}
    theirs = processor("Donut", "Pil", values)
    saved = values | {"image_processor_type": "DonutImageProcessor"}
    steps = huggingface_rule(saved, where="preprocessor_config.json").steps(Size(128, 96))
    with pytest.raises(ValueError, match="negative"):
        processed(theirs)(pictures[0])
    with pytest.raises(DeployError, match="becomes 96 x 143 pixels, which the page of 128x96"):
        load_image(pictures[0], steps)


def test_nougat_cuts_off_the_margin_of_a_page(tmp_path: Path) -> None:
    """As its processor: what is darker than 200 of the page's own levels stays."""
    page = np.full((300, 200, 3), 250, np.uint8)
    page[70:220, 40:170] = 198
    page[100:180, 60:150] = np.random.default_rng(0).integers(0, 120, (80, 90, 3))
    for name, pixels in {"page": page, "even": page[:50], "dark": 255 - page}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    theirs = processor("Nougat", "Pil", {"size": {"height": 96, "width": 64}})
    steps = rule_of(theirs, tmp_path)
    paths = sorted(tmp_path.glob("*.png"))
    assert differences(paths, steps, processed(theirs)) == {}
    whole = dataclasses.replace(steps, page=Page(thumbnail="nougat"))
    assert "page.png" in differences(paths, whole, processed(theirs))


@pytest.mark.parametrize("kind", ["ViT", "CLIP", "Siglip", "Bit"])
@pytest.mark.parametrize("values", [{}, {"do_convert_rgb": True}, {"do_convert_rgb": False}])
def test_a_transparent_colour_is_as_the_processor_has_it(
    kind: str, values: dict[str, Any], tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    path = tmp_path / "palette.png"
    Image.fromarray(noise).convert("P").save(path, transparency=3)
    theirs = processor(kind, "Pil", {"size": {"height": 64, "width": 64}, **values})
    if kind in ("CLIP", "Bit"):
        theirs = processor(kind, "Pil", {"size": 64, "crop_size": 64, **values})
    assert differences([path], rule_of(theirs, tmp_path), processed(theirs)) == {}


@pytest.mark.parametrize(("kind", "values"), HUGGINGFACE.values(), ids=HUGGINGFACE.keys())
def test_huggingface_is_near_the_processor_on_torchvision(
    kind: str, values: dict[str, Any], pictures: list[Path], tmp_path: Path
) -> None:
    """torchvision resizes tensors, and rounds once where Pillow rounds, and clips, between passes.

    Most values are the same, the others one level of 255 apart; where a filter overshoots, a few.
    """
    if "do_resize" in values or values.get("size") == {"shortest_edge": 50}:
        pytest.skip("where the picture is smaller than the crop, the two processors pad elsewhere")
    if values.get("resample") == BOX:
        pytest.skip("torchvision has no box filter")
    if kind == "Donut" and values.get("resample") == 0:
        pytest.skip("on torchvision it shrinks with the nearest pixel, too")
    if kind == "Nougat":
        pytest.skip(
            "on torchvision it shrinks in one step, up to 16 levels away, and cuts elsewhere"
        )
    theirs = processor(kind, "", values)
    steps = rule_of(theirs, tmp_path)
    mean, largest = apart(pictures, steps, processed(theirs))
    assert mean < 0.3
    assert largest < 7.5


def apart(pictures: list[Path], steps: Preprocessing, theirs: Library) -> tuple[float, float]:
    """The worst mean difference of a picture, and the largest of all, in levels of 255."""
    level = steps.rescale / max(steps.std)
    found = [np.abs(load_image(path, steps) - theirs(path)) / level for path in pictures]
    return max(float(one.mean()) for one in found), max(float(one.max()) for one in found)


@pytest.mark.parametrize(
    "changes",
    [{"resize_mode": "shortest"}, {"interpolation": "nearest"}, {"mean": (0.49,) * 3}],
    ids=["crop", "filter", "mean"],
)
def test_other_steps_are_not_near(changes: dict[str, Any], pictures: list[Path]) -> None:
    """The check above rejects what is wrong."""
    theirs = processor("ViT", "", {"size": 64, "resample": 3})
    steps = Preprocessing(crop=64, resize=64, resize_mode="squash", mean=HALVES, std=HALVES)
    wrong = dataclasses.replace(steps, turn=True, **changes)
    assert apart(pictures, wrong, processed(theirs))[0] > 0.3


def test_defaults_of_each_processor_are_transformers() -> None:
    """A file that is silent means the class's defaults, in the installed version."""
    for kind, ours in PROCESSORS.items():
        theirs = processor(kind, "Pil", {})
        for field, value in (DEFAULTS | ours).items():
            have = getattr(theirs, field, None)
            if field in ("size", "crop_size"):
                assert {k: v for k, v in dict(have or {}).items() if v} == (value or {}), (
                    kind,
                    field,
                )
            elif field == "max_size":
                continue  # of an old form of ``size`` alone
            else:
                assert (tuple(have) if isinstance(have, list) else have or False) == (
                    value or False
                ), (
                    kind,
                    field,
                )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pad": ({"image_processor_type": "DPTImageProcessor", "do_pad": True}, "do_pad true"),
    "two edges": (
        {"size": {"shortest_edge": 64, "longest_edge": 99}},
        "size shortest_edge 64, longest_edge 99 without do_pad",
    ),
    "two edges, cropped": (
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 64, "longest_edge": 99},
        },
        "longest_edge 99 with do_center_crop",
    ),
    "detector without pad": (
        {"image_processor_type": "DetrImageProcessor", "do_pad": False},
        "longest_edge 1333 without do_pad",
    ),
    "detector of any size": (
        {"image_processor_type": "DetrImageProcessor", "do_resize": False},
        "do_resize false with padding",
    ),
    "segmenter of any size": (
        {"image_processor_type": "OneFormerImageProcessor", "do_resize": False},
        "do_resize false with padding",
    ),
    "crop of no size": ({"do_center_crop": True}, "do_center_crop with crop_size None"),
    "crop of one side": (
        {"do_center_crop": True, "crop_size": {"height": 64}},
        "do_center_crop with crop_size {'height': 64}",
    ),
    "one side": ({"size": {"height": 64}}, "size height 64"),
    "pad of one edge": (
        {"do_pad": True, "size": 64, "pad_size": {"shortest_edge": 64}},
        "pad_size {'shortest_edge': 64}",
    ),
    "pad below the picture": (
        {"do_pad": True, "size": 64, "pad_size": {"height": 80, "width": 32}},
        "pad_size 80x32, smaller than the 64x64 that it pads",
    ),
    "pad of any picture": (
        {"do_pad": True, "do_resize": False, "pad_size": 64},
        "do_resize false with padding",
    ),
    "longest": ({"size": {"longest_edge": 64}}, "size longest_edge 64"),
    "no crop": ({"size": {"shortest_edge": 64}}, "shortest_edge 64 without do_center_crop"),
    "ratio": ({"keep_aspect_ratio": True}, "keep_aspect_ratio true"),
    "multiple": ({"ensure_multiple_of": 30}, "ensure_multiple_of 30"),
    "offset": ({"rescale_offset": True}, "rescale_offset true"),
    "unknown": ({"do_solarize": True}, "the fields do_solarize"),
    "donut without": (
        {"image_processor_type": "DonutImageProcessor", "do_pad": False},
        "do_pad false, with which every page has a size of its own",
    ),
    "nougat with a crop": (
        {"image_processor_type": "NougatImageProcessor", "do_center_crop": True, "crop_size": 9},
        "do_center_crop true",
    ),
    "donut of one edge": (
        {"image_processor_type": "DonutImageProcessor", "size": {"shortest_edge": 64}},
        "size shortest_edge 64",
    ),
    "thumbnail": ({"do_thumbnail": True, "size": 64}, "do_thumbnail true"),
    "sam": ({"image_processor_type": "SamImageProcessor", "size": "any"}, "SamImageProcessor"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_place_is_refused_by_name_with_the_image(
    values: dict[str, Any], message: str, pictures: list[Path]
) -> None:
    steps = huggingface_rule(values, where="preprocessor_config.json").at(64)
    with pytest.raises(ConfigError, match=message) as info:
        load_image(pictures[0], steps)
    assert "--resize-mode or --preprocessing" in str(info.value)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"size": "64"}, "size: expected"),
    "empty": ({"size": []}, "size: expected array of length >= 1"),
    "three": ({"crop_size": [1, 2, 3]}, "crop_size: expected array of length <= 2"),
    "divisor": ({"size_divisor": -1}, "size_divisor: expected int >= 0"),
    "pad": ({"pad_size": "64"}, "pad_size: expected"),
    "huge": ({"size": 10**12}, "size: expected"),
    "resample": ({"resample": 17}, "resample: expected int <= 5"),
    "mean": ({"image_mean": "0.5"}, "image_mean: expected"),
    "switch": ({"do_normalize": "no"}, "do_normalize: expected"),
    "ratio": ({"crop_pct": 0}, "crop_pct: expected float > 0"),
    "infinite": ({"rescale_factor": float("inf")}, "not all finite"),
    "zero": ({"rescale_factor": 0.0}, "rescale must not be zero"),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG.keys())
def test_values_of_another_type_are_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DeployError, match=message) as info:
        huggingface_rule(values, where="preprocessor_config.json").at(64)
    assert "\n" not in str(info.value)


def test_null_fields_mean_the_default() -> None:
    values = dict.fromkeys(("size", "crop_pct", "resample", "image_mean", "do_resize"))
    assert huggingface_rule(values, where="x").at(224) == huggingface_rule({}, where="x").at(224)


def test_huggingface_folder_at_the_command_line(
    swin: Command, pictures: list[Path], tmp_path: Path
) -> None:
    """The steps of a folder's own file are in the manifest, and those of options in their place."""
    model = peers.build_huggingface("swin", num_labels=3)
    model.save_pretrained(tmp_path / "folder")
    values = {"size": {"height": 64, "width": 64}, "do_normalize": False}
    processor("ViT", "Pil", values).save_pretrained(tmp_path / "folder")
    done = swin("export", "--checkpoint", "folder", "--output", "a.onnx", "--json").assert_done()
    steps = done.json["preprocessing"]
    assert (steps["resize_mode"], steps["mean"], steps["origin"]) == (
        "squash",
        [0.0] * 3,
        "preprocessor_config.json",
    )
    options = ("--mean", "0.5", "--std", "0.5,0.5,0.25", "--crop-ratio", "0.8")
    modes = ("--resize-mode", "shortest", "--interpolation", "bicubic")
    done = swin(
        "export", "--checkpoint", "folder", "--output", "a.onnx", "--json", *options, *modes
    )
    steps = done.assert_done().json["preprocessing"]
    assert (steps["resize_mode"], steps["resize"], steps["crop"]) == ("shortest", 80, 64)
    assert (steps["mean"], steps["std"]) == ([0.5] * 3, [0.5, 0.5, 0.25])
    assert "changed by --mean, --std, --crop-ratio" in steps["origin"]
    for source, resize in (
        ("timm", 71),
        ("huggingface", 64),
        ("microsoft", 73),
        ("a.onnx.json", 80),
    ):
        done = swin(
            "export", "--checkpoint", "folder", "--output", "b.onnx", "--json",
            "--preprocessing", source,
        )  # fmt: skip
        assert done.assert_done().json["preprocessing"]["resize"] == resize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "a"), "'a' is not a list of numbers"),
        (("--std", "nan"), "'nan' is not a list of numbers"),
        (("--crop-ratio", "1.5"), "1.5 is not in the range 0<x<=1"),
        (("--crop-ratio", "nan"), "nan is not in the range"),
        (("--resize-mode", "stretch"), "'stretch' is not one of"),
    ],
)
def test_options_that_cannot_be_are_wrong_usage(
    options: tuple[str, str], message: str, swin: Command
) -> None:
    outcome = swin("export", "--model", "notebook-digits", *options)
    assert outcome.status == 2
    assert message in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.5,0.5"), "--mean has 2 numbers, the model takes 3 channels"),
        (("--std", "0"), "none of std zero"),
        (("--preprocessing", "absent.json"), "absent.json does not exist"),
        (("--preprocessing", "."), "holds none of preprocessor_config.json"),
        (("--preprocessing", "other.json"), "other.json says nothing of preprocessing"),
        (("--preprocessing", "list.json"), "list.json is not a JSON object"),
        (("--preprocessing", "timm.json"), "timm.json: pretrained_cfg: expected object"),
        (
            ("--preprocessing", "ours.json"),
            "ours.json prepares images of 112 px, the model takes 56",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    options: tuple[str, str], message: str, swin: Command
) -> None:
    Path("other.json").write_text('{"hidden_size": 3}')
    Path("list.json").write_text("[]")
    Path("timm.json").write_text('{"pretrained_cfg": [1], "crop_pct": 0.9}')
    Path("ours.json").write_text(json.dumps(Preprocessing(crop=112, resize=128).to_dict()))
    swin("export", "--model", "notebook-digits", *options).assert_error(message)
