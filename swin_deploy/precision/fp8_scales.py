"""The scales at which a deploy model would be stored in FP8, for the noise of its parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from exporters.arrays import plain_array
from exporters.quantisation import fp8_scale
from exporters.spec import Precision
from swin_deploy.calibration.fp8 import stored_layers
from swin_deploy.checkpoints.load import LoadedModel
from swin_deploy.precision.ranges import CHUNK, Images
from swin_deploy.runners.emulated import Stored


@torch.inference_mode()
def fp8_scales(loaded: LoadedModel, images: Images, precision: Precision) -> dict[str, Stored]:
    """Measure what linear layers read over images; return the rounding that a file would have.

    Args:
        loaded: The model.
        images: Images to calibrate on, [n, in_channels, H, W].
        precision: ``fp8``, or ``fp8-weights``.

    Returns:
        The rounding of each linear layer that reads FP8, by its path in the deploy model.
    """
    model = loaded.deploy
    linear = {path: one for path, one in model.named_modules() if isinstance(one, nn.Linear)}
    weights = stored_layers(linear, loaded.config, precision)
    largest = dict.fromkeys(weights, 0.0)

    def watch(path: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest[path] = max(largest[path], float(inputs[0].abs().max()))

        return layer.register_forward_pre_hook(read)

    hooks = [watch(path, linear[path]) for path in weights]
    try:
        for start in range(0, len(images), CHUNK):
            model(torch.from_numpy(plain_array(images[start : start + CHUNK], np.float32)))
    finally:
        for hook in hooks:
            hook.remove()
    return {path: Stored(fp8_scale(largest[path]), scales) for path, scales in weights.items()}
