"""The whole of BiRefNet with Swin-T, random weights: two factories for ``export-model``.

    export BIREFNET=a/clone
    swin-deploy export-model benchmarks.birefnet_whole:build --image-size 1024 --image-size 512
    swin-deploy export-model benchmarks.birefnet_whole:build_sampled ...

``build`` is BiRefNet as it is, for ``--opset 19`` or later. ``build_sampled`` has its deformable
convolutions as samples of a grid and a convolution of 1 x 1, for every opset and for TensorRT.
Where kornia is not installed, its Laplacian, which only training calls, is left out; where
torchvision's operators do not load, its deformable convolution is ``by_grid_sample`` under the
operator's name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import peers

# torch.library removes the operators of a library object that is collected.
LIBRARIES: list[torch.library.Library] = []
SCHEMA = (
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt "
    "stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor"
)


def build() -> nn.Module:
    """Return BiRefNet as it is, with trained-like weights."""
    return _birefnet(_as_operator())


def build_sampled() -> nn.Module:
    """Return BiRefNet with its deformable convolutions by ``by_grid_sample``."""
    return _birefnet(by_grid_sample)


def by_grid_sample(  # noqa: PLR0913 - the arguments of torchvision's function
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = 0,
    mask: Tensor | None = None,
) -> Tensor:
    """Return a modulated deformable convolution, without dilation and groups.

    Each of the k places of the kernel takes a sample of the images, moved by its offset; zeros lie
    around them, as in torchvision's operator.

    Args:
        input: Images [B, C, H, W].
        offset: Rows and columns of each place's move, [B, 2 * k, h, w], in pixels.
        weight: Kernel [D, C, kh, kw].
        bias: Bias [D], or None.
        stride: Rows and columns between two outputs.
        padding: Rows and columns of zeros around the images.
        mask: Factor of each place, [B, k, h, w].

    Returns:
        Images [B, D, h, w].
    """
    (channels, *kernel), (rows, columns) = weight.shape[1:], input.shape[-2:]
    (height, width), (high, wide) = offset.shape[-2:], kernel
    above, left = (padding, padding) if isinstance(padding, int) else padding
    count = high * wide
    # Floating point from the start: an exporter may leave a cast of whole numbers in the graph.
    along = functools.partial(torch.arange, dtype=offset.dtype)
    down = along(high).repeat_interleave(wide)[:, None, None]  # [k, 1, 1]
    across = along(wide).repeat(high)[:, None, None]
    row = down + (along(height) * stride[0] - above)[None, :, None]  # [k, h, 1]
    column = across + (along(width) * stride[1] - left)[None, None]  # [k, 1, w]
    moves = offset.reshape(-1, count, 2, height, width)
    at_row = (row + moves[:, :, 0]) * (2 / max(rows - 1, 1)) - 1  # [B, k, h, w], -1 to 1
    at_column = (column + moves[:, :, 1]) * (2 / max(columns - 1, 1)) - 1
    # [B, k, h, w, 2] -> [B, k * h, w, 2]
    grid = torch.stack((at_column, at_row), -1).reshape(-1, count * height, width, 2)
    taken = F.grid_sample(input, grid, align_corners=True)  # [B, C, k * h, w]
    taken = taken.reshape(-1, channels, count, height, width)
    taken = taken if mask is None else taken * mask[:, None]
    flat = taken.reshape(-1, channels * count, height, width)  # -> [B, C * k, h, w]
    return F.conv2d(flat, weight.reshape(len(weight), channels * count, 1, 1), bias)


def _birefnet(deformable: Any) -> nn.Module:  # noqa: ANN401 - a function
    """Return a clone's BiRefNet with Swin-T, its deformable convolution given."""
    folder = Path(os.environ.get("BIREFNET", ""))
    if not (folder / "models" / "birefnet.py").is_file():
        raise FileNotFoundError("BIREFNET must name a clone of BiRefNet")
    sys.path.insert(0, str(folder))
    peers.import_peer("torchvision")
    _leave_out("kornia", "kornia.filters")
    sys.modules.setdefault("dataset", types.ModuleType("dataset"))
    vars(sys.modules["dataset"]).setdefault("class_labels_TR_sorted", [])
    config = importlib.import_module("config")
    _use_swin_t(config)
    module: Any = importlib.import_module("models.modules.deform_conv")
    module.deform_conv2d = deformable
    model: nn.Module = importlib.import_module("models.birefnet").BiRefNet(bb_pretrained=False)
    return peers.trained_like(model)


def _use_swin_t(module: Any) -> None:  # noqa: ANN401 - a module found at run time
    """Make every config of BiRefNet that of its Swin-T."""

    class Config(module.Config):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            super().__init__()
            self.bb, channels = "swin_v1_t", [768, 384, 192, 96]
            self.lateral_channels_in_collection = [2 * one for one in channels]
            self.cxt = self.lateral_channels_in_collection[1:][::-1][-self.cxt_num :]

    module.Config = Config


def _leave_out(*names: str) -> None:
    if importlib.util.find_spec(names[0]) is None:
        for name in names:
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name])["laplacian"] = None


@functools.cache
def _as_operator() -> Any:  # noqa: ANN401 - a function
    """Return torchvision's ``deform_conv2d``, or a call of an operator of its name."""
    if peers.ensure_torchvision_importable() == "native":
        return importlib.import_module("torchvision.ops").deform_conv2d
    library = torch.library.Library("torchvision", "FRAGMENT")
    LIBRARIES.append(library)
    library.define(SCHEMA)
    library.impl("deform_conv2d", _run, "CPU")
    torch.library.register_fake("torchvision::deform_conv2d", _shape, lib=library)
    return _call


def _run(images: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401 - numbers
    bias, down, across, above, left, *_ = rest
    sides = {"stride": (down, across), "padding": (above, left)}
    return by_grid_sample(images, offset, weight, bias, mask=mask, **sides)


def _shape(images: Tensor, weight: Tensor, offset: Tensor, *_: object) -> Tensor:
    return images.new_empty(images.shape[0], weight.shape[0], *offset.shape[-2:])


def _call(  # noqa: PLR0913 - the arguments of torchvision's function
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = 0,
    mask: Tensor | None = None,
) -> Tensor:
    pads = (padding, padding) if isinstance(padding, int) else padding
    added = weight.new_zeros(len(weight)) if bias is None else bias
    sides = (*stride, *pads, 1, 1, 1, 1)
    return torch.ops.torchvision.deform_conv2d(input, weight, offset, mask, added, *sides, True)
