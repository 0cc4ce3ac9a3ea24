import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from exporters.errors import ConfigError, FileError
from swin_deploy.config import SwinConfig
from swin_deploy.images.decode import preprocess
from swin_deploy.images.preprocessing import Preprocessing
from swin_deploy.images.sets import extreme_images, load_images, seeded_images

PLAIN = Preprocessing(crop=28, resize=28, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CONFIG = SwinConfig(img_size=28, embed_dim=16, depths=(2,), num_heads=(2,))


def write_image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (28, 28), (level, level, level)).save(path)


def levels(images: NDArray[np.float32]) -> list[int]:
    return [round(float(image.mean()) * 255) for image in images]


def test_seeded_images_same_seed_repeats() -> None:
    first, second = (seeded_images(CONFIG, count=3, seed=7) for _ in range(2))
    assert first.name == "seeded"
    assert "normal" in first.description
    assert "seed 7" in first.description
    assert first.images.shape == (3, 3, 28, 28)
    assert first.images.dtype == np.float32
    assert len(set(first.names)) == 3
    assert first.labels is None
    np.testing.assert_array_equal(first.images, second.images)


def test_seeded_images_other_seed_differs() -> None:
    first, second = (seeded_images(CONFIG, count=1, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.images, second.images)


def test_seeded_images_are_standard_normal() -> None:
    images = seeded_images(CONFIG, count=16).images
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02


def test_preprocess_normalises_each_channel() -> None:
    steps = dataclasses.replace(PLAIN, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    actual = preprocess(Image.new("RGB", (28, 28), (255, 51, 0)), steps)
    expected = ((1 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0 - 0.3) / 2.0)
    assert actual.shape == (3, 28, 28)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual[:, 5, 9], expected, atol=1e-6)


def test_preprocess_keeps_rows_and_columns_apart() -> None:
    pixels = np.zeros((28, 28, 3), dtype=np.uint8)
    pixels[3, 20, 1] = 255
    actual = preprocess(Image.fromarray(pixels), PLAIN)
    assert np.argwhere(actual).tolist() == [[1, 3, 20]]


@pytest.mark.parametrize("size", [(84, 28), (28, 84)], ids=["wide", "high"])
def test_preprocess_oblong_takes_the_centre(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    left, top = ((side - 28) // 2 for side in size)
    image.paste((255, 255, 255), (left, top, left + 28, top + 28))
    assert preprocess(image, PLAIN).min() == 1.0


def test_preprocess_larger_resize_enlarges_before_the_crop() -> None:
    steps = dataclasses.replace(PLAIN, interpolation="nearest", resize=56)
    image = Image.new("RGB", (28, 28))
    image.paste((255, 255, 255), (7, 7, 21, 21))  # the centre half, which fills the crop
    assert preprocess(image, steps).min() == 1.0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_preprocess_any_mode_becomes_rgb(mode: str) -> None:
    assert preprocess(Image.new(mode, (30, 40)), PLAIN).shape == (3, 28, 28)


def test_preprocess_interpolations_differ() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    made = {
        preprocess(image, dataclasses.replace(PLAIN, interpolation=name)).tobytes()
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len(made) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "cubist"}, "'cubist' is not known; use one of nearest"),
        ({"resize_mode": "stretch"}, "'stretch' is not known; use one of shortest"),
        ({"resize": 0}, "resize 0 and crop 28 are not both from 1"),
        ({"crop": 1 << 20}, "crop 1048576 are not both"),
        ({"std": (1.0, 0.0, 1.0)}, "none of std zero"),
        ({"mean": (0.5,)}, "one number for each channel"),
        ({"rescale": float("nan")}, "not all finite"),
    ],
    ids=["interpolation", "mode", "resize", "crop", "zero", "channels", "nan"],
)
def test_preprocessing_that_cannot_be_done_is_rejected(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(PLAIN, **changes)


def test_load_images_of_unknown_steps_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    steps = dataclasses.replace(PLAIN, refusal="do_pad is not supported; say --resize-mode")
    with pytest.raises(ConfigError, match="do_pad is not supported"):
        load_images(tmp_path, steps)


def test_load_images_is_recursive_and_sorted(tmp_path: Path) -> None:
    names = ("a.PNG", "b/c.jpg", "b/d/e.bmp", "f.jpeg", "g.webp")
    for index, name in enumerate(reversed(names)):
        write_image(tmp_path / name, 40 * (len(names) - 1 - index))
    (tmp_path / "notes.txt").write_text("not an image")
    loaded = load_images(tmp_path, PLAIN)
    assert loaded.name == "images"
    assert loaded.names == names
    assert loaded.labels is None
    assert loaded.images.shape == (5, 3, 28, 28)
    assert loaded.images.dtype == np.float32
    assert loaded.description == f"5 of 5 image files in {tmp_path.name}"
    np.testing.assert_allclose(levels(loaded.images), [0, 40, 80, 120, 160], atol=3)


@pytest.mark.parametrize("hidden", ["._a.png", ".cache/a.png"])
def test_load_images_hidden_file_is_passed_over(tmp_path: Path, hidden: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_bytes(b"resource fork")
    assert load_images(tmp_path, PLAIN).names == ("a.png",)


def test_load_images_uses_preprocess(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    steps = Preprocessing(crop=28, resize=32)
    loaded = load_images(tmp_path, steps)
    np.testing.assert_array_equal(loaded.images[0], preprocess(Image.fromarray(noise), steps))


def test_load_images_class_folders_give_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/deeper/2.png", "eel/1.png"):
        write_image(tmp_path / name)
    loaded = load_images(tmp_path, PLAIN, num_classes=3)
    assert loaded.names == ("cat/1.png", "cat/deeper/2.png", "dog/1.png", "eel/1.png")
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("names", "num_classes"),
    [
        (("a/1.png", "b/1.png"), 3),
        (("a/1.png", "b/1.png"), 0),
        (("a/1.png", "b/1.png", "1.png"), 2),
    ],
    ids=["other_number_of_classes", "no_classes", "image_outside_the_folders"],
)
def test_load_images_other_folders_give_no_labels(
    tmp_path: Path, names: tuple[str, ...], num_classes: int
) -> None:
    for name in names:
        write_image(tmp_path / name)
    assert load_images(tmp_path, PLAIN, num_classes=num_classes).labels is None


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1, ["0/0.png"]),
        (3, ["0/0.png", "1/0.png", "2/0.png"]),
        (4, ["0/0.png", "0/3.png", "1/2.png", "2/1.png"]),
        (99, [f"{folder}/{index}.png" for folder in range(3) for index in range(4)]),
    ],
)
def test_load_images_limit_spreads_over_the_classes(
    tmp_path: Path, limit: int, expected: list[str]
) -> None:
    for folder in range(3):
        for index in range(4):
            write_image(tmp_path / str(folder) / f"{index}.png", 10 * folder + index)
    loaded = load_images(tmp_path, PLAIN, num_classes=3, limit=limit)
    assert list(loaded.names) == expected
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [int(name[0]) for name in expected]
    assert levels(loaded.images) == [10 * int(name[0]) + int(name[2]) for name in expected]


def test_load_images_limit_zero_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit 0"):
        load_images(tmp_path, PLAIN, limit=0)


def make_missing(folder: Path) -> Path:
    return folder / "missing"


def make_file(folder: Path) -> Path:
    path = folder / "file.png"
    write_image(path)
    return path


def make_empty(folder: Path) -> Path:
    (folder / "notes.txt").write_text("no image here")
    return folder


def make_text(folder: Path) -> Path:
    write_image(folder / "a.png")
    (folder / "bad.png").write_text("not an image")
    return folder


def make_truncated(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "bad.png")
    content = (folder / "bad.png").read_bytes()
    (folder / "bad.png").write_bytes(content[: len(content) // 2])
    return folder


def make_damaged(folder: Path) -> Path:
    write_image(folder / "bad.png")
    content = bytearray((folder / "bad.png").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (folder / "bad.png").write_bytes(content)
    return folder


def make_zero_bytes(folder: Path) -> Path:
    (folder / "bad.jpg").touch()
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_missing, r"missing does not exist; give the folder"),
        (make_file, r"file\.png is not a folder; give the folder"),
        (make_empty, r"holds no images; expected files ending in \.bmp"),
        (make_text, r"bad\.png cannot be read \(.*\); replace or remove"),
        (make_truncated, r"bad\.png cannot be read \(.*\); replace or remove"),
        (make_damaged, r"bad\.png cannot be read \(.*\); replace or remove"),
        (make_zero_bytes, r"bad\.jpg cannot be read \(.*\); replace or remove"),
    ],
    ids=["missing", "file", "empty", "text", "truncated", "damaged", "zero_bytes"],
)
def test_load_images_unusable_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(FileError, match=message) as caught:
        load_images(make(tmp_path), PLAIN)
    assert "\n" not in str(caught.value)


def test_extreme_images_are_what_their_names_say() -> None:
    steps = Preprocessing(crop=28, resize=28, mean=(0.4, 0.4, 0.4))
    images = extreme_images(steps)
    by_name = dict(zip(images.names, images.images, strict=True))
    mean, std = np.float32(0.4), np.array(steps.std, np.float32)[:, None, None]
    pixels = {name: one * std + mean for name, one in by_name.items()}
    assert images.images.shape == (6, 3, 28, 28)
    assert images.images.dtype == np.float32
    for name, level in (("black", 0.0), ("white", 1.0), ("grey", 0.4)):
        np.testing.assert_allclose(pixels[name], level, atol=1e-6)
    assert np.count_nonzero(pixels["pixel"].round(4)) == 3
    assert set(np.unique(pixels["saturated"].round(4))) == {0.0, 1.0}
    assert 0 < np.abs(by_name["faint"]).max() < 1e-2
    np.testing.assert_array_equal(images.images, extreme_images(steps).images)


def test_extreme_images_of_other_scales_are_black_and_white_too() -> None:
    steps = Preprocessing(crop=28, resize=28, mean=(1.0,) * 3, std=(1.0,) * 3, rescale=1 / 127.5)
    images = extreme_images(steps).images
    np.testing.assert_allclose([images[0].min(), images[1].max()], [-1.0, 1.0], atol=1e-6)


def make_thin(folder: Path) -> Path:
    Image.new("RGB", (1, 70_000)).save(folder / "bad.png")
    return folder


def make_vast(folder: Path) -> Path:
    Image.new("1", (12_001, 10_000)).save(folder / "bad.png")
    return folder


def make_long_name(folder: Path) -> Path:
    return folder / ("a" * 300)


def make_link_round(folder: Path) -> Path:
    (folder / "bad.png").symlink_to("bad.png")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_thin, r"bad\.png of 1 x 70,000 pixels becomes 28 x 1,960,000 before the crop"),
        (make_vast, r"bad\.png has 12,001 x 10,000 pixels, more than the 120,000,000"),
        (make_long_name, r"does not exist|cannot be read"),
        (make_link_round, r"holds no images"),
    ],
    ids=["thin", "vast", "long_name", "link_round"],
)
def test_load_images_of_absurd_shape_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(FileError, match=message) as caught:
        load_images(make(tmp_path), dataclasses.replace(PLAIN, resize=28))
    assert "\n" not in str(caught.value)


def test_load_images_passes_over_pipes_and_folders_that_lead_round(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "a.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    assert load_images(tmp_path, PLAIN).names == ("a/a.png",)


def test_load_images_says_what_is_odd(tmp_path: Path) -> None:
    deep = np.full((28, 28), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (28, 28)).save(tmp_path / "turned.jpg", exif=exif)
    write_image(tmp_path / "plain.png")
    assert load_images(tmp_path, PLAIN).notes == (
        "16 bits a channel, clipped to 8 as Pillow does: deep.png",
        "EXIF orientation, not applied: turned.jpg",
    )
    turning = dataclasses.replace(PLAIN, turn=True)
    assert len(load_images(tmp_path, turning).notes) == 1
