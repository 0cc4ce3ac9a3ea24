"""Hostile images, labels and class files."""

import functools
import io
import random
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from command_line import IMAGES
from hostile_json import SPECIAL, TEXTS, VALUES, make_special, text_of
from hostile_run import ANY, Case, Write, writing
from PIL import Image

MODEL = ("evaluate", "--model", "notebook-digits", "--limit", "20", "--output", "out")
SIZES = ((1, 10_000), (1, 60_000), (60_000, 1), (40_000_000, 1), (1, 1_000_000), (12_000, 12_000),
         (30_000, 30_000), (65_535, 65_535), (0, 0), (1, 1))  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(width: int, height: int, *, rows: int | None = None) -> bytes:
    """A black picture of a size, with so many rows of it."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    pixels = b"".join(packer.compress(row) for _ in range(height if rows is None else rows))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", pixels + packer.flush())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def image_case(name: str, write: Write, *, file: str = "bad.png") -> Case:
    """A tree of class folders, one image in it hostile."""

    def make(folder: Path) -> tuple[object, ...]:
        for digit in "01":
            (folder / "data" / digit).mkdir(parents=True)
            shutil.copy(sorted((IMAGES / digit).iterdir())[0], folder / "data" / digit)
        write(folder / "data" / "0" / file)
        return ("-q", *MODEL, "--data", "data")

    return Case(f"image {name}", make, ANY, names=file)


def predict_case(name: str, write: Write, *, file: str = "bad.png") -> Case:
    """A hostile image that is predicted alone."""

    def make(folder: Path) -> tuple[object, ...]:
        write(folder / file)
        return ("-q", "predict", "notebook-digits", file)

    return Case(f"predict {name}", make, ANY, names=file)


def image_cases(seed: int) -> Iterator[Case]:
    for width, height in SIZES:
        data = png(width, height, rows=min(height, 200_000_000 // max(1, width)))
        yield image_case(f"{width} x {height}", writing(data))
        yield predict_case(f"{width} x {height}", writing(data))
    for kind in SPECIAL:
        yield predict_case(kind, functools.partial(make_special, kind))
        yield image_case(kind, functools.partial(make_special, kind))
    whole: dict[str, bytes] = {}
    for suffix in ("png", "jpeg", "bmp", "webp", "tiff"):
        stream = io.BytesIO()
        Image.effect_mandelbrot((64, 48), (-2, -1, 1, 1), 30).convert("RGB").save(stream, suffix)
        whole[suffix] = stream.getvalue()
    picked = random.Random(seed)
    for index in range(100):
        suffix = picked.choice(list(whole))
        changed = bytearray(whole[suffix])
        for _ in range(picked.choice((1, 4, 16))):
            end = min(len(changed), 400) if index % 2 else len(changed)
            changed[picked.randrange(end)] ^= 0xFF
        if index % 5 == 0:
            del changed[picked.randrange(len(changed)) :]
        yield image_case(
            f"{suffix} flip {index}",
            writing(bytes(changed)),
            file=f"bad.{suffix}",
        )


ROWS = {
    "empty": "", "no rows": "path,label\n", "one column": "a.png\n", "NUL": "a\0b,1\n",
    "quote without end": 'a.png,"1\n' * 3, "long field": "x" * 200_000 + ",1\n",
    "outside": "../../../etc/passwd,1\n", "absolute": "/dev/zero,1\n", "itself": "bad.csv,1\n",
    "not a number": "a.png,one\n", "negative": "a.png,-1\n", "2^70": f"a.png,{1 << 70}\n",
    "million rows": "a.png,1\n" * 1_000_000, "10 million rows": "a.png,1\n" * 10_000_000,
    "absent": "absent.png,1\n", "name of 300 letters": "x" * 300 + ".png,1\n",
    "escapes": "\x1b[31m,1\n",
}  # fmt: skip


def table_cases() -> Iterator[Case]:
    """CSV files of labels, and files of class names."""
    writes: dict[str, Write] = {name: writing(text) for name, text in ROWS.items()}
    writes |= {kind: functools.partial(make_special, kind) for kind in SPECIAL}
    for name, write in writes.items():

        def make(folder: Path, write: Write = write) -> tuple[object, ...]:
            write(folder / "bad.csv")
            return ("-q", *MODEL, "--data", "bad.csv")

        yield Case(f"labels {name}", make, ANY)  # the line names the file, or the image in it
    texts = TEXTS | {f"of {name}": text_of({"0": value}) for name, value in VALUES.items()}
    texts |= {f"list of {name}": text_of([value] * 10) for name, value in VALUES.items()}
    classes = {
        name: lambda path, text=text: path.write_text(text) for name, text in texts.items()
    } | {kind: functools.partial(make_special, kind) for kind in SPECIAL}
    for name, write in classes.items():

        def make_classes(folder: Path, write: Write = write) -> tuple[object, ...]:
            write(folder / "bad.json")
            return ("-q", *MODEL, "--classes", "bad.json")

        yield Case(f"classes {name}", make_classes, ANY, names="bad.json")


def cases(_: Path, seed: int) -> Iterator[Case]:
    """Every hostile image and table."""
    yield from image_cases(seed)
    yield from table_cases()
