"""Pictures of other channels than RGB: grey, with alpha, and arrays of any number."""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
from numpy.typing import NDArray
from photographs import write_photographs
from PIL import Image

from exporters.errors import FileError
from swin_deploy.images.decode import load_image, load_pixels
from swin_deploy.images.labelled import find_images
from swin_deploy.images.preprocessing import Preprocessing, ResizeMode
from swin_deploy.images.sets import extreme_images, load_images, to_pixel_values

Array = NDArray[Any]
MEANS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.2)
DEVIATIONS = (0.2, 0.3, 0.25, 0.5, 0.4, 0.1)


def steps_of(channels: int, **changes: Any) -> Preprocessing:  # noqa: ANN401
    fields: dict[str, Any] = {
        "crop": 28,
        "resize": 32,
        "mean": MEANS[:channels],
        "std": DEVIATIONS[:channels],
    }
    return Preprocessing(**fields | changes)


def noise(channels: int, rows: int = 40, columns: int = 37) -> NDArray[np.uint8]:
    shape = (rows, columns, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def saved(array: Array, path: Path) -> Path:
    np.save(path, array)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_pictures_equal_timms_transform_of_that_mode(mode: str, pictures: list[Path]) -> None:
    """timm's datasets open pictures with ``img.convert(input_img_mode)``."""
    create = peers.import_peer("timm.data").create_transform
    count = {"L": 1, "RGBA": 4}[mode]
    steps = steps_of(count, crop=56, resize=62)
    transform = create(
        (count, 56, 56), mean=steps.mean, std=steps.std, interpolation="bicubic", crop_pct=0.9
    )
    taken = 0
    for path in pictures:
        with Image.open(path) as picture:
            if mode == "L" or "A" in picture.getbands() or "transparency" in picture.info:
                expected = transform(picture.convert(mode)).numpy()
                np.testing.assert_array_equal(load_image(path, steps), expected)
                taken += 1
    assert taken >= (1 if mode == "RGBA" else 16)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "pad", "none"])
def test_array_of_pixels_equals_the_picture(
    channels: int, resize_mode: ResizeMode, tmp_path: Path
) -> None:
    steps = steps_of(channels, resize_mode=resize_mode)
    pixels = noise(channels)
    Image.fromarray(pixels.squeeze()).save(tmp_path / "picture.png")
    expected = load_image(tmp_path / "picture.png", steps)
    first = np.moveaxis(pixels, -1, 0)
    for form in (pixels, first, np.asfortranarray(pixels), pixels[::-1][::-1]):
        path = saved(form, tmp_path / "array.npy")
        np.testing.assert_array_equal(load_image(path, steps), expected)
        np.testing.assert_array_equal(
            load_pixels(path.read_bytes(), steps), load_pixels(form, steps, name="array")
        )


def test_array_of_grey_pixels_needs_no_channel_axis(tmp_path: Path) -> None:
    grey, steps = noise(1), steps_of(1)
    flat = saved(grey[..., 0], tmp_path / "flat.npy")
    np.testing.assert_array_equal(load_pixels(flat, steps), load_pixels(grey, steps, name="a"))


def test_each_channel_of_an_array_is_a_grey_picture_of_its_own(tmp_path: Path) -> None:
    pixels = noise(6)
    images = load_image(saved(pixels, tmp_path / "a.npy"), steps_of(6))
    assert images.shape == (6, 28, 28)
    assert images.dtype == np.float32
    for channel in range(6):
        alone = steps_of(1, mean=(MEANS[channel],), std=(DEVIATIONS[channel],))
        Image.fromarray(pixels[..., channel]).save(tmp_path / "one.png")
        np.testing.assert_array_equal(images[channel], load_image(tmp_path / "one.png", alone)[0])


@pytest.mark.parametrize("kind", ["<u2", ">u2", "<f2", "<f4", ">f4", "<f8"])
def test_array_of_other_types_has_the_values_that_are_written(kind: str, tmp_path: Path) -> None:
    """Not resized: 16 bits are 0 to 1 after 65535, floating point is scaled already."""
    values = np.random.default_rng(1).random((28, 28, 6)).astype(np.float16).astype(np.float64)
    given = np.rint(values * np.float64(65535)) if kind.endswith("u2") else values
    images = load_image(saved(given.astype(kind), tmp_path / "a.npy"), steps_of(6, resize=28))
    scale = 65535.0 if kind.endswith("u2") else 1.0
    expected = (given.astype(np.float64) / scale - MEANS) / DEVIATIONS
    np.testing.assert_allclose(images, np.moveaxis(expected, -1, 0), atol=1e-5)


def test_array_of_floating_point_is_resized_without_rounding(tmp_path: Path) -> None:
    """The same picture in levels and in floats differs by the rounding of levels, not by more."""
    pixels = noise(6)
    whole = load_image(saved(pixels, tmp_path / "u.npy"), steps_of(6, interpolation="bilinear"))
    real = load_image(
        saved((pixels / 255).astype(np.float32), tmp_path / "f.npy"),
        steps_of(6, interpolation="bilinear"),
    )
    step = np.array(DEVIATIONS)[:, None, None] * 255
    assert 0 < np.abs((whole - real) * step).max() < 1.5


def test_smaller_array_is_padded_with_black_or_with_the_mean(tmp_path: Path) -> None:
    ones = saved(np.ones((20, 28, 6), np.float32), tmp_path / "a.npy")
    black = load_image(ones, steps_of(6, resize=28, resize_mode="none"))
    np.testing.assert_allclose(black[:, 0, 0], -np.array(MEANS) / DEVIATIONS, rtol=1e-6)
    mean = load_image(ones, steps_of(6, resize=28, resize_mode="pad"))
    np.testing.assert_allclose(mean[:, 0, 0], 0, atol=1e-6)


def test_picture_of_16_bits_is_clipped_for_grey_models_too(tmp_path: Path) -> None:
    Image.fromarray(np.full((28, 28), 300, np.uint16)).save(tmp_path / "a.png")
    told: list[str] = []
    assert load_pixels(tmp_path / "a.png", steps_of(1), tell=told.append).min() == 255
    assert told == ["16 bits a channel, clipped to 8 as Pillow does"]


@pytest.mark.parametrize(
    ("mode", "channels", "message"),
    [
        (
            "RGB",
            4,
            "has bands R, G, B, and the model takes 4 channels; give pictures with an alpha",
        ),
        ("CMYK", 4, "has bands C, M, Y, K, and the model takes 4 channels"),
        ("L", 4, "has bands L, and the model takes 4 channels"),
        ("RGB", 6, r"takes 6 channels; give arrays \[height, width, 6\] in .npy files"),
        ("LA", 2, r"takes 2 channels; give arrays \[height, width, 2\] in .npy files"),
    ],
)
def test_picture_of_other_bands_is_refused(
    mode: str, channels: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (30, 30)).save(path)
    with pytest.raises(FileError, match=message):
        load_image(path, steps_of(channels))


def header(shape: object, kind: object = "|u1", more: str = "") -> bytes:
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, {more}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def numpy_bytes(array: Array) -> bytes:
    memory = io.BytesIO()
    np.save(memory, array)
    return memory.getvalue()


class _Armed:
    """An object whose pickle writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return open, ("armed.txt", "w")


def changed(value: float) -> Array:
    array = np.zeros((30, 30, 6), np.float32)
    array[3, 4, 5] = value
    return array


WRONG: dict[str, tuple[bytes, str]] = {
    "channels": (numpy_bytes(noise(4)), r"\[40, 37, 4\], and the model takes 6 channels: give \[h"),
    "flat": (numpy_bytes(noise(6)[..., 0]), r"of shape \[40, 37\], and the model takes 6"),
    "batch": (numpy_bytes(noise(6)[None]), r"of shape \[1, 40, 37, 6\]"),
    "scalar": (numpy_bytes(np.array(3, np.uint8)), r"of shape \[\]"),
    "empty": (numpy_bytes(np.zeros((0, 30, 6), np.uint8)), r"of shape \[0, 30, 6\]"),
    "ambiguous": (numpy_bytes(noise(6, 6, 6)), "may be first or last; make its height or width"),
    "ambiguous-rows": (numpy_bytes(noise(6, 6, 30)), "may be first or last"),
    "int64": (numpy_bytes(np.zeros((30, 30, 6), np.int64)), "array of int64; give uint8"),
    "int16": (numpy_bytes(np.zeros((30, 30, 6), np.int16)), "array of int16; give uint8"),
    "bool": (numpy_bytes(np.zeros((30, 30, 6), bool)), "array of bool; give uint8"),
    "complex": (numpy_bytes(np.zeros((30, 30, 6), np.complex64)), "array of complex64"),
    "object": (numpy_bytes(np.array([_Armed()], object)), "array of object; give uint8"),
    "text": (numpy_bytes(np.array(["a"])), "array of <U1"),
    "fields": (numpy_bytes(np.zeros((30, 30, 6), [("a", "u1")])), "array of"),
    "nan": (numpy_bytes(changed(np.nan)), "values that are not finite"),
    "infinite": (numpy_bytes(changed(-np.inf)), "values that are not finite"),
    "too-large-for-float32": (
        numpy_bytes(changed(0).astype(np.float64) + 1e300),
        "values that are not finite in float32",
    ),
    "not-scaled": (numpy_bytes(noise(6).astype(np.float32)), "from 0 to 255, and floating point"),
    "cut": (numpy_bytes(noise(6))[:-1], "ends after 8,879 of 8,880 bytes"),
    "no-data": (header((30, 30, 6)), "ends after 0 of 5,400 bytes"),
    "huge": (header((1 << 40, 1 << 40, 6)), "more than the 360,000,000 values"),
    "huge-negative": (header((-5, 30, 6)), r"of shape \[-5, 30, 6\]"),
    "no-header": (b"\x93NUMPY", "is not a .npy file that can be read"),
    "version": (b"\x93NUMPY\x09\x00" + b" " * 90, "is not a .npy file that can be read"),
    "no-shape": (header("x"), "is not a .npy file that can be read"),
    "more-keys": (header((30, 30, 6), more="'more': 1"), "is not a .npy file that can be read"),
    "no-type": (header((30, 30, 6), kind="??"), "is not a .npy file that can be read"),
    "code": (b"\x93NUMPY\x01\x00\x20\x00" + b"open('armed.txt', 'w')".ljust(32), "can be read"),
    "nested": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"[" * 9000, "that can be read"),
    "long-header": (
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 4 << 20) + b" " * 100,
        "that can be read",
    ),
    "letters": (b"nothing", "is not a .npy file that can be read"),
    "nothing": (b"", "is not a .npy file that can be read"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG.keys())
def test_array_that_does_not_fit_is_one_line(
    data: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(FileError, match=message) as refusal:
        load_image(path, steps_of(6))
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert not Path("armed.txt").exists()  # nothing is unpickled


def test_folder_of_arrays_is_one_only_without_pictures(tmp_path: Path) -> None:
    for name in ("b/1.NPY", "a/2.npy"):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_bytes(numpy_bytes(noise(6)))
    assert find_images(tmp_path) == ["a/2.npy", "b/1.NPY"]
    images = load_images(tmp_path, steps_of(6), num_classes=2)
    assert images.images.shape == (2, 6, 28, 28)
    assert images.labels is not None
    Image.new("L", (9, 9)).save(tmp_path / "a" / "look.png")
    assert find_images(tmp_path) == ["a/look.png"]


def test_arrays_of_floating_point_become_pixels_for_a_file_that_takes_them(tmp_path: Path) -> None:
    saved(np.random.default_rng(1).random((28, 28, 6), np.float32), tmp_path / "a.npy")
    steps = steps_of(6, resize=28)
    images = load_images(tmp_path, steps)
    snapped = to_pixel_values(images, steps)
    assert 0 < np.abs(snapped.images - images.images).max() <= 0.51 / 255 / min(DEVIATIONS)
    assert to_pixel_values(snapped, steps) is snapped


def test_extreme_images_have_the_channels_of_the_steps() -> None:
    images = extreme_images(steps_of(6)).images
    assert images.shape == (6, 6, 28, 28)
    np.testing.assert_allclose(images[0, :, 0, 0], -np.array(MEANS) / DEVIATIONS, rtol=1e-6)
    np.testing.assert_allclose(images[1, :, 0, 0], (1 - np.array(MEANS)) / DEVIATIONS, rtol=1e-6)


def test_values_of_floating_point_that_the_mean_explains_are_taken(tmp_path: Path) -> None:
    """Reflectances of up to 10,000 with their own mean, and levels without any scale."""
    array = noise(6).astype(np.float32)
    path = saved(array * 40, tmp_path / "a.npy")
    load_image(path, steps_of(6, mean=(1000.0,) * 6, std=(500.0,) * 6))
    path = saved(array, tmp_path / "b.npy")
    load_image(path, steps_of(6, mean=(0.0,) * 6, std=(1.0,) * 6, rescale=1.0))
    with pytest.raises(FileError, match="white at 1"):
        load_image(path, dataclasses.replace(steps_of(6)))
