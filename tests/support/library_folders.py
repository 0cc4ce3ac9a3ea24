"""Folders that transformers and timm write, of tiny models with any of their arguments."""

from pathlib import Path
from typing import Any

import peers
from torch import nn

TINY: dict[str, Any] = {"embed_dim": 16, "depths": (2, 1), "num_heads": (1, 2)}
TIMM_NAMES = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_window8_256"}


def huggingface(folder: Path, family: str, **fields: Any) -> nn.Module:  # noqa: ANN401
    """A folder of transformers with trained-like weights, and its model."""
    sizes = {**TINY, "image_size": 32, **fields}
    model = peers.build_huggingface(family, **sizes)
    model.save_pretrained(folder)
    return model


def timm(folder: Path, family: str, **fields: Any) -> nn.Module:  # noqa: ANN401
    """A folder of timm with trained-like weights, and its model."""
    library = peers.import_peer("timm")
    sizes = {"img_size": 32, "window_size": 4, "num_classes": 10, **TINY, **fields}
    model = peers.trained_like(library.create_model(TIMM_NAMES[family], **sizes))
    library.models.save_for_hf(model, str(folder), model_args=sizes)
    return model
