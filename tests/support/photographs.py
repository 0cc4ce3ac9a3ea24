"""Sixteen pictures as people have them: odd sizes and shapes, every mode, EXIF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def _scene(width: int, height: int, seed: int) -> Image.Image:
    """A picture with slopes, edges and texture, where every resize rounds differently."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    layers = []
    for _ in range(3):
        angle, step = rng.uniform(0, np.pi), rng.uniform(0.02, 0.4)
        wave = np.sin((np.cos(angle) * rows + np.sin(angle) * columns) * step)
        edge = ((rows - height * rng.random()) * (columns - width * rng.random())) > 0
        layers.append(90 * wave + 70 * edge + rng.normal(0, 18, (height, width)) + 90)
    return Image.fromarray(np.clip(np.stack(layers, axis=-1), 0, 255).astype(np.uint8))


def write_photographs(folder: Path) -> list[Path]:
    """Write the pictures; returns their paths, in order of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    scenes = {
        "01-landscape.jpg": _scene(640, 427, 1),
        "02-portrait.jpg": _scene(427, 640, 2),
        "03-odd.png": _scene(333, 251, 3),
        "04-odd-the-other-way.png": _scene(251, 333, 4),
        "05-square.png": _scene(300, 300, 5),
        "06-small.png": _scene(61, 47, 6),
        "07-tall.png": _scene(97, 511, 7),
        "08-wide.png": _scene(743, 89, 8),
        "09-one-more.png": _scene(225, 257, 9),
        "10-grey.png": _scene(320, 213, 10).convert("L"),
        "11-palette.png": _scene(287, 219, 11).quantize(64),
        "12-alpha.png": _scene(400, 267, 12).convert("RGBA"),
        "13-cmyk.jpg": _scene(301, 401, 13).convert("CMYK"),
        "14-sixteen-bits.png": Image.fromarray(
            np.random.default_rng(14).integers(0, 600, (240, 301), dtype=np.uint16)
        ),
        "15-turned.jpg": _scene(500, 333, 15),
        "16-bitmap.webp": _scene(219, 341, 16),
    }
    for name, scene in scenes.items():
        options: dict[str, Any] = {"exif": turned} if "turned" in name else {}
        scene.save(folder / name, **options)
    return sorted(folder.iterdir())
