"""A multi-label tagger as timm folders hold them, small, and its users' own way to run it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import peers
import torch
from PIL import Image
from torch import Tensor, nn

TAGS = 12
CATEGORIES = (9, 9, 9, 9, *[0] * 6, 4, 4)


def tag_names() -> list[str]:
    """Names such as tags have: brackets, commas, quotes and other scripts among them."""
    odd = ["general", "explicit", "smile_(expression)", 'a, "b"', "^_^", "猫"]
    return odd + [f"tag_{number}" for number in range(len(odd), TAGS)]


def write_tagger(folder: Path, **arguments: Any) -> nn.Module:  # noqa: ANN401 - timm's arguments
    """Write ``config.json``, weights and ``selected_tags.csv``; returns timm's model."""
    module = peers.import_peer("timm.models.swin_transformer_v2")
    own = {"img_size": 64, "window_size": 8, "embed_dim": 32, "depths": [2, 2], "num_heads": [1, 2]}
    fields: dict[str, Any] = {**own, **arguments}
    model = peers.trained_like(module.SwinTransformerV2(num_classes=TAGS, **fields))
    folder.mkdir(parents=True, exist_ok=True)
    peers.saved(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "swinv2_base_window8_256",
        "num_classes": TAGS,
        "num_features": 64,
        "global_pool": "avg",
        "model_args": fields,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, 64, 64],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": TAGS,
            "pool_size": None,
            "first_conv": None,
            "classifier": None,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tags(folder / "selected_tags.csv", tag_names())
    return model


def write_tags(path: Path, names: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["tag_id", "name", "category", "count"])
        for number, name in enumerate(names):
            rows.writerow([9_999_999 - number, name, CATEGORIES[number % TAGS], 1000 - number])
    return path


@torch.no_grad()
def users_scores(model: nn.Module, picture: Path, *, bgr: bool = True) -> Tensor:
    """The scores [classes] as users get them: on white, padded to a square, resized, BGR."""
    with Image.open(picture) as opened:
        layer = opened.convert("RGBA")
    canvas = Image.new("RGBA", layer.size, (255, 255, 255))
    canvas.alpha_composite(layer)
    side = max(canvas.size)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(canvas.convert("RGB"), ((side - canvas.width) // 2, (side - canvas.height) // 2))
    data = peers.import_peer("timm.data")
    settings = {"input_size": (3, 64, 64), "interpolation": "bicubic", "crop_pct": 1.0}
    half = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    images = data.create_transform(**settings, **half)(square)[None]
    return torch.sigmoid(model(images[:, [2, 1, 0]] if bgr else images))[0]
