"""Honest folders as timm and Hugging Face write them, around one small model."""

import json
from pathlib import Path
from typing import Any

from families import loaded
from safetensors.torch import save_file
from torch import Tensor

from swin_deploy.checkpoints import huggingface, timm
from swin_deploy.checkpoints.dialect import Dialect

Document = dict[str, Any]
TIMM: Document = {
    "architecture": "swin_tiny_patch4_window7_224",
    "num_classes": 10,
    "model_args": {
        "img_size": 56, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 7,
    },
    "pretrained_cfg": {
        "input_size": [3, 56, 56], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center", "num_classes": 10,
        "label_names": [f"class {index}" for index in range(10)],
    },
}  # fmt: skip
HUGGINGFACE: Document = {
    "architectures": ["SwinForImageClassification"], "model_type": "swin", "image_size": 56,
    "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 7,
    "mlp_ratio": 4.0, "qkv_bias": True, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    "use_absolute_embeddings": False, "id2label": {str(index): f"c{index}" for index in range(10)},
}  # fmt: skip
PROCESSOR: Document = {
    "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": True,
    "do_normalize": True, "size": {"height": 56, "width": 56}, "resample": 3,
    "rescale_factor": 1 / 255, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip
FOLDERS: dict[str, tuple[Dialect, dict[str, Document]]] = {
    "timm": (timm.DIALECT, {"config.json": TIMM}),
    "huggingface": (
        huggingface.DIALECTS[0],
        {"config.json": HUGGINGFACE, "preprocessor_config.json": PROCESSOR},
    ),
}


def renamed(dialect: Dialect) -> dict[str, Tensor]:
    """The small model's tensors by another library's names."""
    state: dict[str, Tensor] = {}
    for name, value in loaded("swin").reference.named_parameters():
        names = dialect.source_keys(name)
        parts = value.detach().chunk(len(names))
        state |= {part: one.clone() for part, one in zip(names, parts, strict=True)}
    return state


def write_folder(library: str, folder: Path) -> Path:
    """An honest folder of ``timm`` or ``huggingface``."""
    folder.mkdir()
    dialect, files = FOLDERS[library]
    save_file(renamed(dialect), folder / "model.safetensors")
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values))
    return folder


def write_parts(folder: Path) -> Path:
    """An honest folder whose weights are split over two files."""
    folder.mkdir()
    state = renamed(huggingface.DIALECTS[0])
    names = sorted(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(HUGGINGFACE))
    return folder
