from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from exporters.errors import ConfigError, FileError
from swin_deploy.config import Preprocessing, SwinConfig
from swin_deploy.inputs import extreme_images, load_images, preprocess, seeded_images

PLAIN = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_ratio=1.0)


def make_config(preprocessing: Preprocessing = PLAIN, num_classes: int = 0) -> SwinConfig:
    return SwinConfig(
        img_size=28,
        embed_dim=16,
        depths=(2,),
        num_heads=(2,),
        num_classes=num_classes,
        preprocessing=preprocessing,
    )


def write_image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (28, 28), (level, level, level)).save(path)


def levels(images: NDArray[np.float32]) -> list[int]:
    return [round(float(image.mean()) * 255) for image in images]


def test_seeded_images_same_seed_repeats() -> None:
    first, second = (seeded_images(make_config(), count=3, seed=7) for _ in range(2))
    assert first.name == "seeded"
    assert "normal" in first.description
    assert "seed 7" in first.description
    assert first.images.shape == (3, 3, 28, 28)
    assert first.images.dtype == np.float32
    assert len(set(first.names)) == 3
    assert first.labels is None
    np.testing.assert_array_equal(first.images, second.images)


def test_seeded_images_other_seed_differs() -> None:
    first, second = (seeded_images(make_config(), count=1, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.images, second.images)


def test_seeded_images_are_standard_normal() -> None:
    images = seeded_images(make_config(), count=16).images
    assert abs(images.mean()) < 0.02
    assert abs(images.std() - 1) < 0.02


def test_preprocess_normalises_each_channel() -> None:
    steps = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0), crop_ratio=1.0)
    actual = preprocess(Image.new("RGB", (28, 28), (255, 51, 0)), make_config(steps))
    expected = ((1 - 0.1) / 0.5, (0.2 - 0.2) / 0.25, (0 - 0.3) / 2.0)
    assert actual.shape == (3, 28, 28)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual[:, 5, 9], expected, atol=1e-6)


def test_preprocess_keeps_rows_and_columns_apart() -> None:
    pixels = np.zeros((28, 28, 3), dtype=np.uint8)
    pixels[3, 20, 1] = 255
    actual = preprocess(Image.fromarray(pixels), make_config())
    assert np.argwhere(actual).tolist() == [[1, 3, 20]]


@pytest.mark.parametrize("size", [(84, 28), (28, 84)], ids=["wide", "high"])
def test_preprocess_oblong_takes_the_centre(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    left, top = ((side - 28) // 2 for side in size)
    image.paste((255, 255, 255), (left, top, left + 28, top + 28))
    assert preprocess(image, make_config()).min() == 1.0


def test_preprocess_crop_ratio_enlarges_before_the_crop() -> None:
    steps = Preprocessing(
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="nearest", crop_ratio=0.5
    )
    image = Image.new("RGB", (28, 28))
    image.paste((255, 255, 255), (7, 7, 21, 21))  # the centre half, which fills the crop
    assert preprocess(image, make_config(steps)).min() == 1.0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_preprocess_any_mode_becomes_rgb(mode: str) -> None:
    assert preprocess(Image.new(mode, (30, 40)), make_config()).shape == (3, 28, 28)


def test_preprocess_interpolations_differ() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    made = {
        preprocess(image, make_config(Preprocessing(interpolation=name))).tobytes()
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    }
    assert len(made) == 4


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Preprocessing(interpolation="cubist"), "'cubist' is not known; use one of nearest"),
        (Preprocessing(crop_ratio=0.0), "crop_ratio 0.0"),
        (Preprocessing(crop_ratio=1.5), "crop_ratio 1.5"),
    ],
    ids=["interpolation", "ratio_zero", "ratio_above_one"],
)
def test_preprocess_impossible_step_is_rejected(steps: Preprocessing, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preprocess(Image.new("RGB", (28, 28)), make_config(steps))


def test_load_images_is_recursive_and_sorted(tmp_path: Path) -> None:
    names = ("a.PNG", "b/c.jpg", "b/d/e.bmp", "f.jpeg", "g.webp")
    for index, name in enumerate(reversed(names)):
        write_image(tmp_path / name, 40 * (len(names) - 1 - index))
    (tmp_path / "notes.txt").write_text("not an image")
    loaded = load_images(tmp_path, make_config())
    assert loaded.name == "images"
    assert loaded.names == names
    assert loaded.labels is None
    assert loaded.images.shape == (5, 3, 28, 28)
    assert loaded.images.dtype == np.float32
    assert str(tmp_path) in loaded.description
    np.testing.assert_allclose(levels(loaded.images), [0, 40, 80, 120, 160], atol=3)


@pytest.mark.parametrize("hidden", ["._a.png", ".cache/a.png"])
def test_load_images_hidden_file_is_passed_over(tmp_path: Path, hidden: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_bytes(b"resource fork")
    assert load_images(tmp_path, make_config()).names == ("a.png",)


def test_load_images_uses_preprocess(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    config = make_config(Preprocessing())
    loaded = load_images(tmp_path, config)
    np.testing.assert_array_equal(loaded.images[0], preprocess(Image.fromarray(noise), config))


def test_load_images_class_folders_give_labels(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/1.png", "cat/deeper/2.png", "eel/1.png"):
        write_image(tmp_path / name)
    loaded = load_images(tmp_path, make_config(num_classes=3))
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
    assert load_images(tmp_path, make_config(num_classes=num_classes)).labels is None


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
    loaded = load_images(tmp_path, make_config(num_classes=3), limit=limit)
    assert list(loaded.names) == expected
    assert loaded.labels is not None
    assert loaded.labels.tolist() == [int(name[0]) for name in expected]
    assert levels(loaded.images) == [10 * int(name[0]) + int(name[2]) for name in expected]


def test_load_images_limit_zero_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit 0"):
        load_images(tmp_path, make_config(), limit=0)


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
        (make_missing, r"missing does not exist; give a folder"),
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
        load_images(make(tmp_path), make_config())
    assert "\n" not in str(caught.value)


def test_extreme_images_are_what_their_names_say() -> None:
    config = make_config(Preprocessing(mean=(0.4, 0.4, 0.4)))
    images = extreme_images(config)
    by_name = dict(zip(images.names, images.images, strict=True))
    mean, std = np.float32(0.4), np.array(config.preprocessing.std, np.float32)[:, None, None]
    pixels = {name: one * std + mean for name, one in by_name.items()}
    assert images.images.shape == (6, 3, config.img_size, config.img_size)
    assert images.images.dtype == np.float32
    for name, level in (("black", 0.0), ("white", 1.0), ("grey", 0.4)):
        np.testing.assert_allclose(pixels[name], level, atol=1e-6)
    assert np.count_nonzero(pixels["pixel"].round(4)) == 3
    assert set(np.unique(pixels["saturated"].round(4))) == {0.0, 1.0}
    assert 0 < np.abs(by_name["faint"]).max() < 1e-2
    np.testing.assert_array_equal(images.images, extreme_images(config).images)
